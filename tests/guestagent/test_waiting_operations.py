"""Operations of one handler wait for each other, and waiting costs nothing that stays."""

import asyncio
import logging
import os
from pathlib import Path

import msgspec
import pytest

from guestagent.operation import Operation, Operations


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_waiting_for_another_operation_leaves_no_descriptor_open(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "guestagent")
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    first = Operation(
        id="Contoso.Tools.Greeter-1.0-enable-1",
        handler="Contoso.Tools.Greeter",
        version="1.0",
        extension="",
        kind="enable",
        command=f"read word <{gate}; echo first >>order",
        folder=str(tmp_path),
        environment={"PATH": "/usr/bin:/bin"},
        timeout_seconds=60.0,
    )
    second = msgspec.structs.replace(first, id="Contoso.Tools.Greeter-1.0-enable-2", command="echo second >>order")

    async def both() -> tuple[int, int]:
        before = open_descriptors()
        operations = Operations(tmp_path)
        running = asyncio.create_task(operations.run(first))
        # Opens once the command has opened its end: it runs.
        descriptor = await asyncio.to_thread(os.open, gate, os.O_WRONLY)
        # As after a restart: another guestagent finds it running.
        waiting = asyncio.create_task(Operations(tmp_path).run(second))
        async with asyncio.timeout(30):
            while "waits for" not in caplog.text:
                await asyncio.sleep(0.01)
        os.write(descriptor, b"go\n")
        os.close(descriptor)
        await asyncio.gather(running, waiting)
        return before, open_descriptors()

    before, after = asyncio.run(both())
    assert (tmp_path / "order").read_text() == "first\nsecond\n"
    assert after == before
