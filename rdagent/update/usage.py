"""What a version on trial takes of the machine: its counters in, rates out. Pure."""

from collections.abc import Mapping

import msgspec

from rdagent.config import UpdateSettings

_MIB = 1 << 20
_FLOOD = 4
"""So many times what may be written in a whole trial is too much at once: it would go through the disk at its speed."""


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """The kernel's counters of one process, since it began."""

    cpu_seconds: float
    """In user and in kernel mode, of all its threads; of no child."""
    written: Mapping[int, int] = {}
    """Bytes handed to write(2), by thread that lives."""
    in_all: int | None = None
    """Of the whole process: also of threads that have ended, and of children it has waited for. None: not known."""
    waited_for: tuple[int, ...] = ()
    """What else it took over from children it has waited for. The same in two looks: there was none in between."""


class Tally:
    """What one process used since `begin`."""

    def __init__(self) -> None:
        self._last: Usage | None = None
        self._cpu = 0.0
        self._written = 0
        self._in_all = 0

    def begin(self) -> None:
        """Count from the last look on."""
        self._cpu, self._written = 0.0, 0

    def forget(self) -> None:
        """Another process is looked at from now on."""
        self._last = None
        self._in_all = 0
        self.begin()

    def note(self, usage: Usage, *, counts: bool) -> None:
        """One look. `counts`: whether what was used since the one before is held against it."""
        last, self._last = self._last, usage
        if last is None or not counts:
            return
        self._cpu += max(usage.cpu_seconds - last.cpu_seconds, 0.0)
        more = _written_between(last, usage)
        self._written += more
        self._in_all += more

    def why_flooded(self, settings: UpdateSettings) -> str:
        """One line; empty if it did not write far more than it could be given the time for."""
        limit, written = _FLOOD * settings.trial_written * settings.trial_limit, self._in_all / _MIB
        return f"writes without end: {written:.0f} MiB so far, limit {limit:g} MiB" if written > limit else ""

    def why_too_much(self, seconds: float, settings: UpdateSettings) -> str:
        """One line; empty if it is within the limits. `seconds`: since `begin`."""
        if seconds <= 0:
            return ""
        cpu, written = self._cpu / seconds, self._written / seconds / _MIB
        if written > settings.trial_written:
            return f"writes without end: {written:.1f} MiB a second, limit {settings.trial_written:g} MiB"
        if cpu > settings.trial_cpu:
            return f"burns CPU: {cpu:.2f} of one, on end, limit {settings.trial_cpu:g}"
        return ""


def _written_between(last: Usage, now: Usage) -> int:
    """Bytes, of no child. Where one was waited for in between, without those of threads that have ended."""
    if last.in_all is not None and now.in_all is not None and last.waited_for == now.waited_for:
        return max(now.in_all - last.in_all, 0)
    # A number may be given to a second thread; that one began at 0.
    known = ((written, last.written.get(thread, 0)) for thread, written in now.written.items())
    return sum(written - before if written >= before else written for written, before in known)
