"""What the kernel counts of a process. None of this fails: who has ended, or may not be looked at, is not known."""

import os
from pathlib import Path

from rdagent.update.usage import Usage

_TICKS = os.sysconf("SC_CLK_TCK")


def resident(pid: int | None) -> float | None:
    """VmRSS of /proc/PID/status (proc_pid_status(5)), in bytes."""
    return None if pid is None else _number(Path(f"/proc/{pid}/status"), "VmRSS:", 1024)


def usage(pid: int | None) -> Usage | None:
    """utime and stime of proc_pid_stat(5), and wchar of proc_pid_io(5): of each thread, and of the process.

    The kernel adds what a thread wrote to its process when the thread ends, and what a child wrote when it is waited
    for, together with the child's page faults and times. Nobody begins a program without a page fault.
    """
    if pid is None:
        return None
    try:
        cpu_seconds, waited_for = _of_stat(pid)
        threads = [int(one.name) for one in Path(f"/proc/{pid}/task").iterdir()]
        read = {thread: _number(Path(f"/proc/{pid}/task/{thread}/io"), "wchar:") for thread in threads}
        in_all = _number(Path(f"/proc/{pid}/io"), "wchar:")
        quiet = _of_stat(pid)[1] == waited_for
    except (OSError, ValueError, IndexError):
        return None
    return Usage(
        cpu_seconds=cpu_seconds,
        written={thread: int(count) for thread, count in read.items() if count is not None},
        in_all=int(in_all) if in_all is not None and quiet else None,
        waited_for=waited_for,
    )


def is_base_install(pid: int | None, component: str) -> bool:
    """Whether launch.py became it by exec, as it does for no version: its command then ends with `-m COMPONENT`."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return words[-3:] == [b"-m", component.encode(), b""]


def _of_stat(pid: int) -> tuple[float, tuple[int, ...]]:
    """Seconds on the processor; and cminflt, cmajflt, cutime and cstime. Raises OSError, ValueError, IndexError."""
    stat = Path(f"/proc/{pid}/stat").read_bytes()
    # The command name may hold blanks and parentheses: behind the last one comes the third field.
    fields = stat[stat.rindex(b")") + 2 :].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS, tuple(int(fields[number]) for number in (8, 10, 13, 14))


def _number(path: Path, name: str, factor: int = 1) -> float | None:
    """The number behind a name."""
    try:
        lines = path.read_text().splitlines()
        return next(float(line.split()[1]) * factor for line in lines if line.startswith(name))
    except (OSError, StopIteration, ValueError, IndexError):
        return None
