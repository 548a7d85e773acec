"""What the kernel counts of a process. None of this fails: who has ended, or may not be looked at, is not known."""

import os
from pathlib import Path

from rdagent.update.usage import Usage

_TICKS = os.sysconf("SC_CLK_TCK")


def resident(pid: int | None) -> float | None:
    """VmRSS of /proc/PID/status (proc_pid_status(5)), in bytes."""
    return None if pid is None else _number(Path(f"/proc/{pid}/status"), "VmRSS:", 1024)


def usage(pid: int | None) -> Usage | None:
    """utime and stime of proc_pid_stat(5), and wchar of proc_pid_io(5) for each thread."""
    if pid is None:
        return None
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
        # The command name may hold blanks and parentheses: behind the last one comes the third field.
        fields = stat[stat.rindex(b")") + 2 :].split()
        cpu_seconds = (int(fields[11]) + int(fields[12])) / _TICKS
        threads = [int(one.name) for one in Path(f"/proc/{pid}/task").iterdir()]
    except (OSError, ValueError, IndexError):
        return None
    read = {thread: _number(Path(f"/proc/{pid}/task/{thread}/io"), "wchar:") for thread in threads}
    written = {thread: int(count) for thread, count in read.items() if count is not None}
    return Usage(cpu_seconds=cpu_seconds, written=written)


def _number(path: Path, name: str, factor: int = 1) -> float | None:
    """The number behind a name."""
    try:
        lines = path.read_text().splitlines()
        return next(float(line.split()[1]) * factor for line in lines if line.startswith(name))
    except (OSError, StopIteration, ValueError, IndexError):
        return None
