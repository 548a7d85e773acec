"""What must not grow from swap to swap: descriptors, threads, memory, zombies, files."""

from collections.abc import Mapping
from pathlib import Path

import msgspec

from agentctl.drill.stage import Stage
from agentctl.view import read_endpoints

DESCRIPTORS = 8
THREADS = 16
"""A pool of threads fills while there is work."""
MEMORY_MIB = 24.0
FILES = 8
_MIB = 1024.0
_VERSIONS = "versions and layers"


class Holdings(msgspec.Struct, frozen=True):
    """Of one process. `memory`: resident, MiB."""

    pid: int
    descriptors: int
    threads: int
    memory: float


class Census(msgspec.Struct, frozen=True, kw_only=True):
    """All of a stage at one moment."""

    processes: Mapping[str, Holdings]
    zombies: int
    files: Mapping[str, int]
    """How many, by what they are."""


def census(stage: Stage) -> Census:
    """Raises SupervisordError."""
    pids = {one.name: one.pid for one in stage.supervisord.programs() if one.pid}
    pids["supervisord"] = stage.supervisord.pid()
    if endpoints := read_endpoints(stage.deployment):
        pids["local host"] = endpoints.pid
    holdings = {name: found for name, pid in pids.items() if (found := _holdings(pid))}
    places = stage.places
    files = {
        "sockets and locks": _count(places.run, "*"),
        _VERSIONS: _count(places.installed, "**/*"),
        "entries not yet delivered": _count(places.state, "*/entries/*"),
    }
    return Census(processes=holdings, zombies=_zombies(set(pids.values())), files=files)


def growth(before: Census, after: Census) -> list[str]:
    """What grew more than it may, a line each. A process that was swapped meanwhile is compared like the others."""
    lines = [f"{after.zombies} zombies"] if after.zombies > before.zombies else []
    for name, now in after.processes.items():
        if (then := before.processes.get(name)) is None:
            continue
        for what, old, new, limit in (
            ("descriptors", then.descriptors, now.descriptors, DESCRIPTORS),
            ("threads", then.threads, now.threads, THREADS),
            ("MiB", then.memory, now.memory, MEMORY_MIB),
        ):
            if new - old > limit:
                lines.append(f"{name}: from {old:g} to {new:g} {what}")
    for what, many in after.files.items():
        if many - before.files[what] > FILES:
            lines.append(f"from {before.files[what]} to {many} {what}")
    return lines


def largest(before: Census, after: Census) -> dict[str, float]:
    """The largest growth of each sort, for the report."""
    both = [(before.processes[name], now) for name, now in after.processes.items() if name in before.processes]
    return {
        "fds": max((now.descriptors - then.descriptors for then, now in both), default=0),
        "threads": max((now.threads - then.threads for then, now in both), default=0),
        "rss_mib": round(max((now.memory - then.memory for then, now in both), default=0.0), 1),
        "files": max(many - before.files[what] for what, many in after.files.items()),
    }


def _holdings(pid: int) -> Holdings | None:
    """None if it is gone."""
    folder = Path("/proc", str(pid))
    try:
        status = (folder / "status").read_text()
        descriptors = len(list((folder / "fd").iterdir()))
    except OSError:
        return None
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    resident = float(fields.get("VmRSS", "0 kB").split()[0]) / _MIB
    return Holdings(pid, descriptors, int(fields["Threads"]), resident)


def _zombies(parents: set[int]) -> int:
    """Children of these that nobody waited for."""
    found = 0
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_bytes()
        except OSError:
            continue
        state, parent = stat[stat.rindex(b")") + 2 :].split()[:2]
        found += state == b"Z" and int(parent) in parents
    return found


def _count(folder: Path, pattern: str) -> int:
    return sum(1 for _ in folder.glob(pattern))
