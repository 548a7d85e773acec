"""What must not grow from swap to swap: descriptors, threads, memory, zombies, files and what is in them."""

import os
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path

import msgspec

from agentctl.drill.group.stage import Stage
from agentctl.view import read_endpoints

DESCRIPTORS = 8
THREADS = 16
"""A pool of threads fills while there is work."""
MEMORY_MIB = 24.0
FILES = 8
"""In one folder of the root; `KEPT` has those that hold the newest ones of something."""
KEPT = {"lib/waagent/history": 64}
KIB_PER_SWAP = 64.0
"""In one folder: logs and the journal grow with what goes on."""
KIB = 8192.0
"""In one folder, however few the swaps: SQLite's write-ahead log alone takes four."""
_MIB = 1024.0
_GROUP = ("run", "state", "log", "lib", "opt")
_OPERATION = re.compile(
    r"\b(?:run|operation)-\d+\b|\bload\b|/operations/Microsoft\.CPlat\.Core\.RunCommandHandlerLinux-"
)
"""In the path of what guestagent keeps of an operation of ours (operations.py): it has limits of its own."""


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
    """How many files, sockets and links, by folder below the root; without what operations of ours leave."""
    kib: Mapping[str, float]
    """How much is in them."""


def census(stage: Stage) -> Census:
    """Raises SupervisordError."""
    pids = {one.name: one.pid for one in stage.supervisord.programs() if one.pid}
    pids["supervisord"] = stage.supervisord.pid()
    if endpoints := read_endpoints(stage.deployment):
        pids["local host"] = endpoints.pid
    holdings = {name: found for name, pid in pids.items() if (found := _holdings(pid))}
    files, kib = in_folders(stage.root)
    return Census(processes=holdings, zombies=_zombies(set(pids.values())), files=files, kib=kib)


def in_folders(root: Path) -> tuple[Mapping[str, int], Mapping[str, float]]:
    """Number and KiB of what lies in each folder that the group writes to: two levels deep, or a folder of KEPT."""
    files, kib = Counter[str](), defaultdict[str, float](float)
    for top in _GROUP:
        for folder, _, names in os.walk(root / top):
            relative = Path(folder).relative_to(root)
            kept = (name for name in KEPT if relative.is_relative_to(name))
            place = next(kept, "/".join(relative.parts[:2]))
            for name in names:
                if _OPERATION.search(f"{relative}/{name}"):
                    continue
                try:
                    size = os.lstat(f"{folder}/{name}").st_size
                except FileNotFoundError:
                    continue
                files[place] += 1
                kib[place] += size / 1024
    return files, kib


def growth(before: Census, after: Census, swaps: int) -> list[str]:
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
        if many - before.files.get(what, 0) > KEPT.get(what, FILES):
            lines.append(f"from {before.files.get(what, 0)} to {many} files in {what}")
    for what, much in after.kib.items():
        if (grown := much - before.kib.get(what, 0.0)) > KIB + KIB_PER_SWAP * swaps:
            lines.append(f"{grown:.0f} KiB more in {what}, in {swaps} swaps")
    return lines


def largest(before: Census, after: Census) -> dict[str, float]:
    """The largest growth of each sort, for the report."""
    both = [(before.processes[name], now) for name, now in after.processes.items() if name in before.processes]
    return {
        "fds": max((now.descriptors - then.descriptors for then, now in both), default=0),
        "threads": max((now.threads - then.threads for then, now in both), default=0),
        "rss_mib": round(max((now.memory - then.memory for then, now in both), default=0.0), 1),
        "files": max((many - before.files.get(what, 0) for what, many in after.files.items()), default=0),
        "kib": round(max((much - before.kib.get(what, 0.0) for what, much in after.kib.items()), default=0.0)),
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
