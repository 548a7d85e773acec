"""Commands as operations: written down before they start, run beside us, adopted by whichever guestagent is there.

A folder per operation under the component's state: `operation.json` and `launcher` (what was said at the start) are
ours; `started.json`, `command.json`, `exit.json`, `stdout` and `stderr` are the runner's. The same operation asked for
twice is the same folder, hence run once.
"""

import asyncio
import contextlib
import hashlib
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Literal

import msgspec

from guestagent import runner
from guestagent.errors import CommandFailed, CommandTimedOut, GuestAgentError, Interrupted
from ipc.errors import StateError
from ipc.statefile import read_state, write_state

Kind = Literal["install", "enable", "disable", "update", "uninstall"]

TIMEOUTS: dict[Kind, int] = {"install": 900, "enable": 300, "disable": 900, "update": 900, "uninstall": 300}
"""Seconds (protocol: commands)."""
CODES: dict[Kind, int] = {"install": 1007, "enable": 1009, "disable": 1010, "update": 1008, "uninstall": 1000}

# How much of each stream is looked at, and how long the text for the host may be (protocol: output capture).
_CAPTURE = 3200
_SHARE = 1590
_KEPT = 100

logger = logging.getLogger("guestagent")


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One command to be run once."""

    id: str
    handler: str
    version: str
    extension: str
    kind: Kind
    command: str
    """Line for a shell, the handler's folder in front."""
    folder: str
    environment: dict[str, str]
    timeout_seconds: float
    launcher: tuple[str, ...] = ()
    """What starts the runner, its own command line behind it (see Placement)."""
    cgroup: str = ""
    """What the runner enters before it starts the command."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How it ended."""

    code: int | None
    """Exit status; negative is the signal that ended it; None if it could not be started."""
    timed_out: bool
    error: str
    began: float
    ended: float
    outside: str = ""
    """Why it ran elsewhere than in the scope or cgroup it was meant for."""
    output: str = ""
    """Both streams, as the host is told."""


class _Started(msgspec.Struct, frozen=True):
    pid: int
    start_ticks: int
    boot: str


class _Exit(msgspec.Struct, frozen=True):
    code: int | None
    timed_out: bool
    error: str
    began: float
    ended: float
    outside: str = ""


def operation_id(handler: str, version: str, extension: str, kind: Kind, *parts: object) -> str:
    """The same for the same work, also after a restart; `parts` tell attempts and settings apart."""
    text = "\0".join([handler, version, extension, kind, *map(str, parts)])
    return f"{handler}-{version}-{kind}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


class Operations:
    """The operations of this VM."""

    def __init__(self, state: Path) -> None:
        self._folder = state / "operations"
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()

    async def run(self, operation: Operation) -> Outcome:
        """Run it, or adopt it if it runs already, or say how it ended.

        Raises CommandFailed, CommandTimedOut, Interrupted.
        """
        folder = self._folder / operation.id
        if not (folder / "operation.json").exists():
            await self._others(operation)
            await asyncio.to_thread(_write_down, folder, operation)
        await self._until_over(folder, operation.launcher)
        return _judge(operation, folder)

    def known(self, operation: str) -> bool:
        """Whether this operation was begun, by us or by an earlier us."""
        return (self._folder / operation / "operation.json").exists()

    def forget_old(self) -> None:
        """Keep the newest operations; running ones always."""
        folders = sorted(self._folder.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in folders[_KEPT:]:
            if not self._runs(path):
                shutil.rmtree(path, ignore_errors=True)

    async def _others(self, operation: Operation) -> None:
        """Wait for what else runs for this handler: an earlier goal state's command, adopted from an earlier us."""
        for path in self._folder.glob(f"{operation.handler}-*"):
            if path.name != operation.id and not (path / "exit.json").exists() and self._runs(path):
                logger.info("%s waits for %s, which still runs", operation.id, path.name)
                await self._until_over(path)

    async def _until_over(self, folder: Path, launcher: tuple[str, ...] = ()) -> None:
        child: subprocess.Popen[bytes] | None = None
        while not (folder / "exit.json").exists():
            if (folder / "started.json").exists():
                descriptor = self._runner(folder)
                if descriptor is None:
                    # It may have finished between the two looks.
                    return
                await _readable(descriptor)
            elif child is None:
                child = await asyncio.to_thread(_start, folder, launcher, "")
                await _readable(os.pidfd_open(child.pid))
            elif launcher:
                # It failed before it came to the runner, or the folder would be claimed: nothing ran yet.
                outside, launcher = await asyncio.to_thread(_last_words, folder, launcher[0]), ()
                logger.warning("%s is started directly: %s", folder.name, outside)
                child = await asyncio.to_thread(_start, folder, launcher, outside)
                await _readable(os.pidfd_open(child.pid))
            else:
                return
            if child is not None:
                await asyncio.to_thread(child.wait)

    def _runs(self, folder: Path) -> bool:
        descriptor = self._runner(folder)
        if descriptor is not None:
            os.close(descriptor)
        return descriptor is not None

    def _runner(self, folder: Path) -> int | None:
        """A pidfd of the runner that claimed the folder; None if it is gone."""
        with contextlib.suppress(StateError, OSError):
            started = read_state(folder / "started.json", _Started)
            if started is not None and started.boot == self._boot:
                descriptor = os.pidfd_open(started.pid)
                if _start_ticks(started.pid) == started.start_ticks:
                    return descriptor
                os.close(descriptor)
        return None


def describe(output_folder: Path) -> str:
    """Both streams' text for the host (protocol: output capture)."""
    out, err = _captured(output_folder / "stdout"), _captured(output_folder / "stderr")
    spare_out, spare_err = max(0, _SHARE - len(err)), max(0, _SHARE - len(out))
    out, err = out[-(_SHARE + spare_out) :], err[-(_SHARE + spare_err) :]
    return f"[stdout]\n{out}\n\n[stderr]\n{err}"


def _judge(operation: Operation, folder: Path) -> Outcome:
    code = CODES[operation.kind]
    try:
        found = read_state(folder / "exit.json", _Exit)
    except StateError as error:
        raise Interrupted(f"{operation.kind}: its outcome is lost: {error.reason}", code) from error
    if found is None:
        raise Interrupted(
            f"{operation.kind} of {operation.handler} was interrupted: the machine or its runner ended", code
        )
    outcome = Outcome(output=describe(folder), **msgspec.structs.asdict(found))
    if outcome.timed_out:
        text = f"{operation.kind} took longer than {operation.timeout_seconds:g} s and was killed: {operation.command}"
        raise CommandTimedOut(f"{text}\n{outcome.output}", 1011)
    if outcome.error:
        raise CommandFailed(f"{operation.kind} could not be started: {outcome.error}", code)
    if outcome.code != 0:
        text = f"{operation.kind} ended with {outcome.code}: {operation.command}"
        raise CommandFailed(f"{text}\n{outcome.output}", code)
    return outcome


def _write_down(folder: Path, operation: Operation) -> None:
    folder.mkdir(mode=0o700, exist_ok=True)
    write_state(folder / "operation.json", operation)


def _start(folder: Path, launcher: tuple[str, ...], outside: str) -> subprocess.Popen[bytes]:
    """Raises GuestAgentError if not even the runner starts."""
    command = [*launcher, sys.executable, "-I", "-S", str(Path(runner.__file__)), str(folder), outside]
    try:
        with (folder / "launcher").open("wb") as said:
            return subprocess.Popen(
                command,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
                start_new_session=True,
            )
    except OSError as error:
        raise GuestAgentError(f"no process can be started: {error}", 1000) from error


def _last_words(folder: Path, launcher: str) -> str:
    lines = _captured(folder / "launcher").strip().splitlines() or ["no reason given"]
    return f"{launcher} failed: {lines[-1]}"


async def _readable(descriptor: int) -> None:
    """Until the process behind a pidfd has ended; closes it."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def _start_ticks(pid: int) -> int | None:
    try:
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19])
    except (OSError, IndexError, ValueError):
        return None


def _captured(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_CAPTURE).decode("utf-8", "backslashreplace")
    except OSError:
        return ""
