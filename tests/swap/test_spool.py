"""Drill 66: what one release wrote down and could not hand over, another hands over: onward, and after a roll-back."""

import asyncio
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ipc.component import Component
from ipc.contract.telemetry import Entry, Record, Recorded
from ipc.places import Places
from tests.swap.conftest import Trees, importing

EMITTER = Path(__file__).with_name("emitter.py")


@contextmanager
def emitter(tree: Path, *words: str) -> Iterator[None]:
    """Killed in the end."""
    child = subprocess.Popen(
        [sys.executable, "-P", str(EMITTER), *words], env=importing(tree), stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        yield
    finally:
        child.kill()
        child.communicate()


@pytest.mark.parametrize(("wrote", "reads"), [("own", "older"), ("later", "own"), ("later", "older"), ("older", "own")])
def test_entries_survive_a_change_of_release(
    trees: Trees, root: Path, alive: Callable[..., Any], until: Callable[..., Any], wrote: str, reads: str
) -> None:
    with emitter(trees[wrote], "spool", str(root), "1"):
        pass
    spool = Places.under(root).state_of("guestagent") / "entries"
    assert (b"newer_flag" in b"".join(path.read_bytes() for path in spool.iterdir())) == (wrote == "later")
    kept: list[Entry] = []

    async def record(asked: Record) -> Recorded:
        kept.extend(asked.entries)
        return Recorded(count=len(asked.entries))

    async def take() -> None:
        async with alive(Component("telemetry", "1", Places.under(root))) as telemetry:
            telemetry.answer(Record, record)
            with emitter(trees[reads], "deliver", str(root), "2"):
                await until(lambda: len(kept) >= 3)

    asyncio.run(take())
    said = [(one.message, one.ok, one.subject, one.duration_ms, one.version) for one in kept]
    assert said == [(f"of 1, {number}", False, "x", number, "1") for number in range(3)]
