"""Processes by identity, and the end of everything a script started.

A script's processes are found three ways, each for what escapes the others: as descendants of the worker (which adopts
orphans), by their session, and by a variable each of them inherits.
"""

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

MARK = "AZVMAGENT_RUN_COMMAND"
"""Variable in the environment of everything a script starts."""

_PR_SET_CHILD_SUBREAPER = 36
_POLL_SECONDS = 0.02
_ROUNDS = 200


class Process(msgspec.Struct, frozen=True):
    """One process of one boot: a pid alone may be somebody else's by now."""

    pid: int
    start_ticks: int
    """Field 22 of /proc/PID/stat (proc_pid_stat(5))."""
    boot: str

    def alive(self) -> bool:
        """Zombies count as ended."""
        found = _stat(self.pid)
        return found is not None and found.start_ticks == self.start_ticks and self.boot == boot_id()

    def signal(self, number: signal.Signals) -> None:
        if self.alive():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def wait(self, seconds: float) -> bool:
        """Whether it has ended by then."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return True
        try:
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            return not self.alive() or bool(poll.poll(seconds * 1000))
        finally:
            os.close(descriptor)


class _Stat(msgspec.Struct, frozen=True):
    parent: int
    session: int
    start_ticks: int


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def process(pid: int) -> Process | None:
    """Who has this pid now; None for nobody and for zombies."""
    found = _stat(pid)
    return Process(pid, found.start_ticks, boot_id()) if found else None


def myself() -> Process:
    found = process(os.getpid())
    if found is None:
        raise RuntimeError("/proc says that we do not exist")
    return found


def adopt_orphans() -> None:
    """From now on what our descendants leave behind becomes our child, not init's (prctl(2)). Raises OSError."""
    import ctypes  # the agent itself imports this module and never needs it

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def descendants(pid: int) -> set[int]:
    """Children, their children, and so on; `pid` itself is not among them."""
    children: dict[int, list[int]] = {}
    for one in _pids():
        found = _stat(one)
        if found is not None:
            children.setdefault(found.parent, []).append(one)
    seen: set[int] = set()
    waiting = [pid]
    while waiting:
        new = [one for one in children.get(waiting.pop(), []) if one not in seen]
        seen.update(new)
        waiting += new
    return seen


def left_of(mark: str, session: int) -> set[int]:
    """What still runs of a script, whoever its parent is now. `session` 0 is none."""
    wanted = f"{MARK}={mark}".encode()
    found = set()
    for pid in _pids():
        if pid == os.getpid():
            continue
        stat = _stat(pid)
        if stat is None:
            continue
        if session and stat.session == session:
            found.add(pid)
            continue
        try:
            variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if wanted in variables:
            found.add(pid)
    return found


def end_all(look: Callable[[], Iterable[int]], grace: float, reap: Callable[[], None]) -> bool:
    """SIGTERM, then after `grace` seconds SIGKILL, until `look` finds nobody any more; whether that came true.

    Looking again after each round meets what was started meanwhile.
    """
    found = set(look())
    _send(found, signal.SIGTERM)
    # A stopped process does not notice the first signal.
    _send(found, signal.SIGCONT)
    until = time.monotonic() + grace
    while found and time.monotonic() < until:
        time.sleep(_POLL_SECONDS)
        reap()
        found = set(look())
    for _ in range(_ROUNDS):
        if not found:
            return True
        _send(found, signal.SIGKILL)
        time.sleep(_POLL_SECONDS)
        reap()
        found = set(look())
    return not found


def _send(pids: Iterable[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)


def _pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]  # noqa: PTH208  # half the time of iterdir


def _stat(pid: int) -> _Stat | None:
    """None for nobody and for zombies."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        if fields[0] in {b"Z", b"X"}:
            return None
        return _Stat(parent=int(fields[1]), session=int(fields[3]), start_ticks=int(fields[19]))
    except (OSError, IndexError, ValueError):
        return None
