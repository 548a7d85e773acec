"""The lock of a component, also when a process holds it that supervisord left behind.

A supervisord that was killed leaves the four running, and systemd starts the next one; a version may fork a child that
outlives it. Either would keep every new start out for ever, and a version that is well would be blamed for it.
"""

import contextlib
import logging
import os
import signal
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from ipc.errors import AlreadyRunning
from ipc.lock import Lock
from ipc.places import Places

_POLL_SECONDS = 0.05
_SETTLE_SECONDS = 0.3
"""So long it has to hold the lock: between fork and exec the child of an agent holds it too, and becomes a command."""
_KILL_SECONDS = 5.0
_LIMIT_SECONDS = 8.0

logger = logging.getLogger("ipc")


class Orphan(NamedTuple):
    """A process of this boot: a pid alone may be somebody else's by now."""

    pid: int
    start_ticks: int


def lock(places: Places, name: str) -> Lock:
    """Take the lock of component `name`, from an orphan if need be, which takes up to 8 s. Raises AlreadyRunning."""
    path, since, told = places.lock(name), dict[Orphan, float](), set[Orphan]()
    began = time.monotonic()
    while True:
        now = time.monotonic()
        try:
            taken = Lock(path, name)
        except AlreadyRunning:
            orphan = _orphan(places, name) if _is_supervised(places, name) else None
            if now - began > _LIMIT_SECONDS or not (orphan or since):
                raise
        else:
            _see_off(told, began + _KILL_SECONDS)
            return taken
        if orphan and orphan not in told and now - since.setdefault(orphan, now) >= _SETTLE_SECONDS:
            told.add(orphan)
            logger.warning("%s takes over from process %d, which supervisord does not run", name, orphan.pid)
            _signal(orphan, signal.SIGTERM)
        elif orphan and now - since[orphan] >= _KILL_SECONDS:
            _signal(orphan, signal.SIGKILL)
        time.sleep(_POLL_SECONDS)


def _see_off(told: set[Orphan], until: float) -> None:
    """Wait for their end: one that has given its lock back may have threads that still write."""
    while left := [one for one in told if _is_alive(one)]:
        if time.monotonic() >= until:
            for one in left:
                _signal(one, signal.SIGKILL)
            return
        time.sleep(_POLL_SECONDS)


def _is_supervised(places: Places, name: str) -> bool:
    """Whether supervisord of this root started us; extension commands inherit the variables, but not the parent."""
    try:
        parent = int(places.supervisor_pid.read_text())
    except (OSError, ValueError):
        return False
    return _is_program(os.environ, name) and os.getppid() == parent


def _is_program(variables: Mapping[str, str], name: str) -> bool:
    return "SUPERVISOR_ENABLED" in variables and variables.get("SUPERVISOR_PROCESS_NAME") == name


def _orphan(places: Places, name: str) -> Orphan | None:
    """Who holds the lock, was started as this program of this root, and is run by no supervisord of this root."""
    path = places.lock(name)
    holders = list(_holders(path))
    written = path.read_text(errors="replace").strip()
    for pid in sorted(holders, key=lambda one: str(one) != written):
        if not (found := _look(pid)):
            continue
        orphan, parent = found
        variables = _environment(pid)
        # Below pid 1 are those whose parent is gone, whatever its own variables are (in a container).
        left = parent != os.getppid() and (parent == 1 or not _is_of_our_root(_environment(parent)))
        return orphan if left and _is_program(variables, name) and _is_of_our_root(variables) else None
    return None


def _is_of_our_root(variables: Mapping[str, str]) -> bool:
    return bool(variables) and all(
        variables.get(name) == os.environ.get(name) for name in ("AZVMAGENT_ROOT", "AZVMAGENT_RUN")
    )


def _holders(path: Path) -> Iterator[int]:
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and any(_is_held(one, path) for one in (entry / "fd").iterdir()):
                yield int(entry.name)
        except OSError:
            continue  # it ended, or belongs to somebody else


def _is_held(descriptor: Path, path: Path) -> bool:
    """By the kernel's word: the pid in the file may be that of a parent that is gone (proc_pid_fdinfo(5))."""
    try:
        # The name first: stat on just any descriptor may wait for a file server.
        if str(descriptor.readlink()) != os.path.realpath(path) or not descriptor.samefile(path):
            return False
        return "FLOCK" in (descriptor.parent.parent / "fdinfo" / descriptor.name).read_text()
    except OSError:
        return False


def _look(pid: int) -> tuple[Orphan, int] | None:
    """The process and its parent (proc_pid_stat(5), fields 22 and 4); None when it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (Orphan(pid, int(fields[19])), int(fields[1])) if fields[0] not in "ZX" else None


def _environment(pid: int) -> dict[str, str]:
    """What it was started with; nothing if it is gone or not ours to read."""
    try:
        words = os.fsdecode(Path(f"/proc/{pid}/environ").read_bytes()).split("\0")
    except OSError:
        return {}
    return {key: value for key, found, value in (word.partition("=") for word in words) if found}


def _is_alive(orphan: Orphan) -> bool:
    found = _look(orphan.pid)
    return found is not None and found[0] == orphan


def _signal(orphan: Orphan, number: signal.Signals) -> None:
    if _is_alive(orphan):
        with contextlib.suppress(ProcessLookupError):
            os.kill(orphan.pid, number)
