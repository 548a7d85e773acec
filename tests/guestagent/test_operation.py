"""Commands as operations: real children, run once whatever happens to whom in the middle."""

import asyncio
import errno
import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from guestagent import runner
from guestagent.errors import CommandFailed, CommandTimedOut, Interrupted, PlatformError
from guestagent.operation import CODES, TIMEOUTS, Kind, Operation, Operations, Outcome, describe, operation_id

PATIENCE = 30.0
KINDS: list[Kind] = ["install", "enable", "disable", "update", "uninstall"]

# An earlier guestagent, to be killed.
EARLIER = """
import asyncio, sys
from pathlib import Path
import msgspec
from guestagent.operation import Operation, Operations
operation = msgspec.json.decode(sys.stdin.buffer.read(), type=Operation)
asyncio.run(Operations(Path(sys.argv[1])).run(operation))
"""


class Bench:
    """A state folder, a handler's folder, and a gate a command can wait at."""

    def __init__(self, folder: Path) -> None:
        self.state = folder / "state"
        self.handler = folder / "A.B-1.0"
        self.handler.mkdir()
        os.mkfifo(self.handler / "gate")
        self.operations = Operations(self.state)

    def operation(self, command: str, *, number: int = 0, kind: Kind = "enable", **changed: Any) -> Operation:
        fields = {
            "id": operation_id("A.B", "1.0", "", kind, number),
            "handler": "A.B",
            "version": "1.0",
            "extension": "",
            "kind": kind,
            "command": command,
            "folder": str(self.handler),
            "environment": {"PATH": "/usr/bin:/bin"},
            "timeout_seconds": 60.0,
        }
        return Operation(**{**fields, **changed})

    def run(self, command: str, **changed: Any) -> Outcome:
        return asyncio.run(self.operations.run(self.operation(command, **changed)))

    def folder(self, operation: Operation) -> Path:
        return self.state / "operations" / operation.id

    def lines(self, name: str = "log") -> list[str]:
        path = self.handler / name
        return path.read_text().splitlines() if path.exists() else []

    def number(self, name: str) -> int:
        """A pid that was written to a file; 0 while there is none."""
        text = (self.handler / name).read_text() if (self.handler / name).exists() else ""
        return int(text) if text.endswith("\n") else 0

    async def open_gate(self) -> None:
        """Once the command has come to it."""

        def opened() -> bool:
            try:
                os.close(os.open(self.handler / "gate", os.O_WRONLY | os.O_NONBLOCK))
            except OSError as error:
                assert error.errno == errno.ENXIO
                return False
            return True

        await until(opened)

    def earlier(self, operation: Operation) -> subprocess.Popen[bytes]:
        """A guestagent that runs it, in a process group of its own."""
        command = [sys.executable, "-c", EARLIER, str(self.state)]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, process_group=0)
        assert child.stdin is not None
        child.stdin.write(msgspec.json.encode(operation))
        child.stdin.close()
        return child


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def until(condition: Callable[[], Any]) -> Any:
    """The first true value."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if value := condition():
            return value
        await asyncio.sleep(0.01)
    pytest.fail("waited in vain")


def alive(pid: int) -> bool:
    """Whether it runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] != b"Z"
    except FileNotFoundError:
        return False


def started(bench: Bench, operation: Operation) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((bench.folder(operation) / "started.json").read_bytes())
    return found


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


# -- how a command ends ----------------------------------------------------------------------------------------------


def test_success_brings_the_output_of_both_streams(bench: Bench) -> None:
    outcome = bench.run("echo out; echo err >&2")
    assert (outcome.code, outcome.timed_out, outcome.error) == (0, False, "")
    assert outcome.output == "[stdout]\nout\n\n\n[stderr]\nerr\n"
    assert outcome.began <= outcome.ended


@pytest.mark.parametrize(("kind", "status"), list(zip(KINDS, [1, 51, 126, 127, 255], strict=True)))
def test_failure_names_status_command_and_output(bench: Bench, kind: Kind, status: int) -> None:
    command = f"echo 'sudo: not found' >&2; exit {status}"
    with pytest.raises(CommandFailed) as caught:
        bench.run(command, kind=kind)
    assert caught.value.code == CODES[kind]
    assert str(caught.value).startswith(f"{kind} ended with {status}: {command}\n[stdout]\n")
    assert "sudo: not found" in str(caught.value)


def test_codes_and_limits_are_the_protocol_s() -> None:
    assert CODES == {"install": 1007, "enable": 1009, "disable": 1010, "update": 1008, "uninstall": 1000}
    assert TIMEOUTS == {"install": 900, "enable": 300, "disable": 900, "update": 900, "uninstall": 300}


def test_a_command_ended_by_a_signal_has_failed(bench: Bench) -> None:
    with pytest.raises(CommandFailed, match="enable ended with -9"):
        bench.run("kill -9 $$")


@pytest.mark.parametrize("changed", [{"folder": "/does/not/exist"}, {"command": "x" * 200_000}])
def test_what_cannot_be_started_says_why(bench: Bench, changed: dict[str, str]) -> None:
    operation = msgspec.structs.replace(bench.operation("true"), **changed)
    with pytest.raises(PlatformError, match="could not be started: .*(No such file|too long)") as caught:
        asyncio.run(bench.operations.run(operation))
    assert caught.value.code == 1009


def test_a_command_has_its_folder_its_environment_a_session_and_no_input(bench: Bench) -> None:
    bench.run("pwd; env; cat; cut -d ' ' -f 1,6 /proc/$$/stat", environment={"ONLY": "this"})
    operation = bench.operation("")
    lines = (bench.folder(operation) / "stdout").read_text().splitlines()
    assert lines[0] == str(bench.handler)
    assert "ONLY=this" in lines
    assert not [line for line in lines if line.startswith(("PATH=", "HOME=", "VIRTUAL_ENV="))]
    pid, session = lines[-1].split()
    assert pid == session


# -- output ----------------------------------------------------------------------------------------------------------


def test_output_goes_to_files_whole_and_to_the_host_in_part(bench: Bench) -> None:
    outcome = bench.run("head -c 3000000 /dev/zero | tr '\\0' x; echo end")
    assert (bench.folder(bench.operation("")) / "stdout").stat().st_size == 3_000_004
    assert len(outcome.output) < 3300


@pytest.mark.parametrize(
    ("out", "err", "kept_out", "kept_err"),
    [
        (b"", b"", "", ""),
        (b"o" * 10, b"e" * 9000, "o" * 10, "e" * 3170),
        (b"o" * 9000, b"e" * 10, "o" * 3170, "e" * 10),
        (b"a" * 3200 + b"lost", b"", "a" * 3180, ""),
        (b"a" * 1700 + b"o" * 1500, b"b" * 1700 + b"e" * 1500, "a" * 90 + "o" * 1500, "b" * 90 + "e" * 1500),
        (b"\xff\xc3\xa9\0", b"\xe2\x82", "\\xff\u00e9\0", "\\xe2\\x82"),
    ],
)
def test_a_short_stream_leaves_its_room_to_the_other(
    tmp_path: Path, out: bytes, err: bytes, kept_out: str, kept_err: str
) -> None:
    (tmp_path / "stdout").write_bytes(out)
    (tmp_path / "stderr").write_bytes(err)
    assert describe(tmp_path) == f"[stdout]\n{kept_out}\n\n[stderr]\n{kept_err}"


def test_output_that_is_not_there_is_empty(tmp_path: Path) -> None:
    assert describe(tmp_path) == "[stdout]\n\n\n[stderr]\n"


# -- children of the command -----------------------------------------------------------------------------------------


def test_a_detached_child_that_keeps_the_output_open_is_not_waited_for_and_lives_on(bench: Bench) -> None:
    outcome = bench.run("sh -c 'echo $$ > pid; cat gate; echo later; rm pid' & echo done")
    assert "done" in outcome.output

    async def follow() -> None:
        pid = await until(lambda: bench.number("pid"))
        assert alive(pid)
        await bench.open_gate()
        await until(lambda: not alive(pid))

    asyncio.run(follow())
    assert (bench.folder(bench.operation("")) / "stdout").read_text() == "done\nlater\n"
    assert not (bench.handler / "pid").exists()


def test_the_time_limit_kills_the_whole_group(bench: Bench) -> None:
    command = "echo began; sh -c 'echo $$ > child; exec sleep 600' & echo $$ > shell; wait"
    with pytest.raises(CommandTimedOut) as caught:
        bench.run(command, timeout_seconds=1.0)
    assert caught.value.code == 1011
    assert str(caught.value).startswith(f"enable took longer than 1 s and was killed: {command}\n[stdout]\nbegan")

    async def gone() -> None:
        for name in ("shell", "child"):
            pid = await until(lambda name=name: bench.number(name))  # type: ignore[misc]  # the loop's own value
            await until(lambda pid=pid: not alive(pid))  # type: ignore[misc]

    asyncio.run(gone())


# -- once ------------------------------------------------------------------------------------------------------------


def test_asked_for_again_it_is_not_run_again(bench: Bench) -> None:
    operation = bench.operation("echo run >> log; exit 3")
    assert not bench.operations.known(operation.id)
    for operations in (bench.operations, bench.operations, Operations(bench.state)):
        with pytest.raises(CommandFailed, match="ended with 3"):
            asyncio.run(operations.run(operation))
    assert bench.operations.known(operation.id)
    assert bench.lines() == ["run"]


def test_asked_for_while_it_runs_it_runs_once(bench: Bench) -> None:
    operation = bench.operation("echo run >> log; cat gate")

    async def twice() -> list[Outcome]:
        first = asyncio.create_task(bench.operations.run(operation))
        await until(bench.lines)
        second = asyncio.create_task(Operations(bench.state).run(operation))
        await bench.open_gate()
        return [await first, await second]

    assert [outcome.code for outcome in asyncio.run(twice())] == [0, 0]
    assert bench.lines() == ["run"]


def test_of_many_runners_for_one_folder_one_runs_the_command(bench: Bench) -> None:
    operation = bench.operation("echo run >> log; exit 4")
    folder = bench.folder(operation)
    folder.mkdir()
    (folder / "operation.json").write_bytes(msgspec.json.encode(operation))
    command = [sys.executable, "-I", "-S", runner.__file__]
    runners = [subprocess.Popen(command, cwd=folder) for _ in range(8)]
    assert [one.wait() for one in runners] == [0] * 8
    assert bench.lines() == ["run"]
    assert started(bench, operation)["pid"] in {one.pid for one in runners}
    with pytest.raises(CommandFailed, match="ended with 4"):
        asyncio.run(bench.operations.run(operation))
    assert sorted(path.name for path in folder.iterdir()) == [
        "command.json",
        "exit.json",
        "operation.json",
        "started.json",
        "stderr",
        "stdout",
    ]


def test_ids_tell_work_apart_and_the_same_work_together() -> None:
    def made(*parts: Any) -> str:
        return operation_id("A.B", "1.0", "", "enable", *parts)

    assert made("digest", 1) == made("digest", 1)
    others = [
        made("digest", 2),
        made("other", 1),
        made("digest1"),
        operation_id("A.B", "1.0", "", "disable", "digest", 1),
    ]
    assert len({made("digest", 1), *others}) == 5
    assert operation_id("A.B", "1.0", "x", "enable") != operation_id("A.B", "1.0", "", "enable")


# -- guestagent, its runner or the machine ends in the middle ---------------------------------------------------------


def killed_in_the_middle(bench: Bench, operation: Operation) -> None:
    """An earlier guestagent starts it and is killed once the command runs."""

    async def kill() -> None:
        child = bench.earlier(operation)
        try:
            await until(bench.lines)
        finally:
            # All of the group, as a terminal or a supervisor may.
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()

    asyncio.run(kill())


def test_a_command_whose_guestagent_was_killed_is_adopted(bench: Bench) -> None:
    operation = bench.operation("echo run >> log; echo before; cat gate; echo after; exit 5")
    killed_in_the_middle(bench, operation)
    assert bench.operations.known(operation.id)

    async def adopt() -> None:
        adopted = asyncio.create_task(bench.operations.run(operation))
        await bench.open_gate()
        with pytest.raises(CommandFailed, match="ended with 5(.|\n)*before\nafter"):
            await adopted

    before = descriptors()
    asyncio.run(adopt())
    assert bench.lines() == ["run"]
    assert descriptors() == before


def test_a_command_that_ended_while_nobody_was_there_is_found(bench: Bench) -> None:
    operation = bench.operation("echo run >> log; cat gate; echo after")
    killed_in_the_middle(bench, operation)

    async def end() -> None:
        await bench.open_gate()
        await until((bench.folder(operation) / "exit.json").exists)

    asyncio.run(end())
    assert "after" in asyncio.run(bench.operations.run(operation)).output
    assert bench.lines() == ["run"]


def test_the_time_limit_holds_while_nobody_is_there(bench: Bench) -> None:
    operation = bench.operation("echo run >> log; exec sleep 600", timeout_seconds=2.0)
    killed_in_the_middle(bench, operation)

    async def over() -> None:
        await until((bench.folder(operation) / "exit.json").exists)

    asyncio.run(over())
    with pytest.raises(CommandTimedOut):
        asyncio.run(bench.operations.run(operation))


def test_written_down_and_never_begun_it_is_run(bench: Bench) -> None:
    operation = bench.operation("echo run >> log")
    folder = bench.folder(operation)
    folder.mkdir()
    (folder / "operation.json").write_bytes(msgspec.json.encode(operation))
    assert asyncio.run(bench.operations.run(operation)).code == 0
    assert bench.lines() == ["run"]


def test_guestagent_killed_at_any_moment_it_is_one_run(bench: Bench) -> None:
    """Wherever the kill falls: before the folder, the runner, the command, or after its end."""
    dice = random.Random(17)

    async def round_(number: int) -> None:
        operation = bench.operation(f"echo {number} >> log", number=number)
        child = bench.earlier(operation)
        folder = bench.folder(operation)
        files = [
            folder,
            folder / "operation.json",
            folder / "started.json",
            folder / "command.json",
            folder / "exit.json",
        ]
        await until(dice.choice(files).exists)
        child.kill()
        child.wait()
        assert (await bench.operations.run(operation)).code == 0

    for number in range(8):
        asyncio.run(round_(number))
    assert bench.lines() == [str(number) for number in range(8)]


OURS = {"pid": os.getpid(), "start_ticks": int(Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()[19])}


@pytest.mark.parametrize(
    "change",
    [
        {"boot": "another"},
        # A process that is there, and is another one.
        {**OURS, "boot": "another"},
        {**OURS, "start_ticks": 1},
        {"pid": 2**22 + 1},
    ],
)
def test_begun_before_a_reboot_or_by_a_process_that_is_no_more_it_is_interrupted(
    bench: Bench, change: dict[str, Any]
) -> None:
    operation = bench.operation("echo run >> log", kind="install")
    asyncio.run(bench.operations.run(operation))
    folder = bench.folder(operation)
    (folder / "exit.json").unlink()
    (folder / "started.json").write_text(json.dumps({**started(bench, operation), **change}))
    with pytest.raises(Interrupted, match="install of A.B was interrupted") as caught:
        asyncio.run(Operations(bench.state).run(operation))
    assert caught.value.code == 1007
    assert bench.lines() == ["run"]


def test_a_killed_runner_is_an_interruption_and_nothing_runs_again(bench: Bench) -> None:
    operation = bench.operation("echo run >> log; echo $$ > pid; cat gate")

    async def kill() -> None:
        running = asyncio.create_task(bench.operations.run(operation))
        await until((bench.folder(operation) / "command.json").exists)
        await until(lambda: bench.number("pid"))
        os.kill(started(bench, operation)["pid"], signal.SIGKILL)
        with pytest.raises(Interrupted, match="its runner ended"):
            await running
        # The command is in a session of its own and goes on.
        await bench.open_gate()
        await until(lambda: not alive(bench.number("pid")))

    asyncio.run(kill())
    with pytest.raises(Interrupted):
        asyncio.run(Operations(bench.state).run(operation))
    assert bench.lines() == ["run"]


@pytest.mark.parametrize("content", [b"", b"{half", b"{}"])
@pytest.mark.parametrize("name", ["exit.json", "started.json", "operation.json"])
def test_a_damaged_file_is_an_interruption_and_nothing_runs_again(bench: Bench, name: str, content: bytes) -> None:
    operation = bench.operation("echo run >> log")
    asyncio.run(bench.operations.run(operation))
    folder = bench.folder(operation)
    if name != "exit.json":
        (folder / "exit.json").unlink()
    if name == "operation.json":
        (folder / "started.json").unlink()
    (folder / name).write_bytes(content)
    with pytest.raises(Interrupted) as caught:
        asyncio.run(Operations(bench.state).run(operation))
    assert caught.value.code == 1009
    assert bench.lines() == ["run"]


# -- side by side ----------------------------------------------------------------------------------------------------


def test_a_handler_s_commands_never_overlap_also_after_a_kill(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    first = bench.operation("echo first >> log; cat gate; echo over >> log", number=1)
    second = bench.operation("echo second >> log", number=2, kind="disable")
    killed_in_the_middle(bench, first)

    async def follow() -> None:
        with caplog.at_level(logging.INFO, "guestagent"):
            waiting = asyncio.create_task(bench.operations.run(second))
            await until(lambda: f"waits for {first.id}" in caplog.text)
        assert not bench.operations.known(second.id)
        await bench.open_gate()
        assert (await waiting).code == 0

    before = descriptors()
    asyncio.run(follow())
    assert bench.lines() == ["first", "over", "second"]
    assert descriptors() == before


def test_another_handler_s_commands_are_not_waited_for(bench: Bench) -> None:
    """Not even those of one whose name begins with ours."""
    first = bench.operation("echo first >> log; cat gate", id=operation_id("A.BC", "1.0", "", "enable"), handler="A.BC")
    second = bench.operation("true")

    async def both() -> None:
        running = asyncio.create_task(bench.operations.run(first))
        await until(bench.lines)
        await bench.operations.run(second)
        await bench.open_gate()
        await running

    asyncio.run(both())


def test_old_operations_are_forgotten_running_and_new_ones_kept(bench: Bench) -> None:
    running = bench.operation("echo first >> log; cat gate", number=1)
    folders = bench.state / "operations"

    async def follow() -> None:
        task = asyncio.create_task(bench.operations.run(running))
        await until(bench.lines)
        for number in range(120):
            folder = folders / f"C.D-1.0-enable-{number}"
            folder.mkdir()
            (folder / "operation.json").write_bytes(b"{}")
            os.utime(folder, (1000 + number, 1000 + number))
        os.utime(bench.folder(running), (1, 1))
        before = descriptors()
        bench.operations.forget_old(kept=100)
        assert descriptors() == before
        await bench.open_gate()
        await task

    asyncio.run(follow())
    kept = {path.name for path in folders.iterdir()}
    assert kept == {running.id, *(f"C.D-1.0-enable-{number}" for number in range(20, 120))}
    bench.operations.forget_old(kept=100)
    assert {path.name for path in folders.iterdir()} == kept - {f"C.D-1.0-enable-{20}"}
