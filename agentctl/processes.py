"""Processes by identity: a pid alone may be somebody else's by now, a pid with its start time never is."""

import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from agentctl.errors import CommandError

_POLL_SECONDS = 0.02


class Process(msgspec.Struct, frozen=True, order=True):
    """One running process of this boot."""

    pid: int
    start_ticks: int
    """Field 22 of /proc/PID/stat (proc_pid_stat(5))."""

    def alive(self) -> bool:
        """Zombies count as ended."""
        return _start_ticks(self.pid) == self.start_ticks

    def signal(self, number: signal.Signals) -> None:
        """Raises CommandError where it is somebody else's."""
        if not self.alive():
            return
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return
        except PermissionError as error:
            reason = f"{error.strerror}. Run it as {self._owner()}"
            raise CommandError(f"process {self.pid} cannot be ended: {reason}") from error

    def _owner(self) -> str:
        try:
            return Path(f"/proc/{self.pid}").owner()
        except (OSError, KeyError):
            return "its owner"


def process(pid: int) -> Process | None:
    """The process that has this pid now."""
    ticks = _start_ticks(pid)
    return Process(pid, ticks) if ticks is not None else None


def with_environment(name: str, value: str) -> set[Process]:
    """All our processes that were started with this variable: whatever a root's group and its extensions left."""
    wanted = os.fsencode(f"{name}={value}")
    found = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            variables = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if wanted in variables and (one := process(int(entry.name))):
            found.add(one)
    return found


def command_line(pid: int) -> list[str]:
    """Its words; none if it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="surrogateescape").split("\0")
    except OSError:
        return []


def end(processes: Iterable[Process], patience: float) -> None:
    """SIGTERM, then SIGKILL for those still there after `patience` seconds (a stopped process takes only that).

    Raises CommandError for one that is not ours to end.
    """
    waiting = set(processes)
    for one in waiting:
        one.signal(signal.SIGTERM)
    if not wait_until(lambda: not any(one.alive() for one in waiting), patience):
        for one in waiting:
            one.signal(signal.SIGKILL)
        wait_until(lambda: not any(one.alive() for one in waiting), patience)


def wait_until(condition: Callable[[], bool], patience: float) -> bool:
    """Whether `condition` came true within `patience` seconds. For what sends no notice when it happens."""
    until = time.monotonic() + patience
    while not condition():
        if time.monotonic() >= until:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def _start_ticks(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    # The command name may hold blanks and parentheses: the fields begin behind the last one.
    fields = stat[stat.rindex(b")") + 2 :].split()
    return None if fields[0] in (b"Z", b"X") else int(fields[19])
