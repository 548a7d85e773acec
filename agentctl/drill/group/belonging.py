"""Which processes belong to a root, though they threw away the variable that each of its processes inherits."""

from pathlib import Path

from agentctl.processes import Process, command_line, process

_TERMINAL = 4
"""Its place in /proc/PID/stat behind the command name (proc_pid_stat(5), field 7)."""


def of_root(root: Path) -> set[Process]:
    """By their words and folders. Nothing of ours has a terminal: who has one is somebody who looks at the folder."""
    found, place = set(), str(root)
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            folder = (entry / "cwd").readlink()
            stat = (entry / "stat").read_bytes()
        except OSError:
            continue
        pid = int(entry.name)
        below = folder.is_relative_to(place) or any(word.startswith(f"{place}/") for word in command_line(pid))
        if below and stat[stat.rindex(b")") + 2 :].split()[_TERMINAL] == b"0":
            found.add(pid)
    return {one for pid in found if (one := process(pid))}
