"""Who watches the watchdog: whether supervisord runs it, and whether it still looks. Pure but for reading its sign.

watchdog.py ends a rdagent that hangs. Where it was stopped, was given up, or hangs itself, nobody would.
"""

from pathlib import Path
from typing import Literal

import msgspec

from rdagent.plan import Restart, after_start, first_restart

NAME = "watchdog"
SILENCE_LIMIT = 20.0
"""Seconds without a sign of life, while supervisord answers: it has to show one every 5 s."""
START_LIMIT = 60.0
"""Seconds without a first sign of life, where an earlier watchdog has shown one: a slow machine boots."""
GAP_LIMIT = 15.0
"""Seconds between two looks after which it is not the watchdog that was away, but we."""

Order = Literal["", "start", "stop"]
"""What is to be had of supervisord. One that is stopped is started by a later look, also of a later life of ours."""

_DOES_NOT_RUN = frozenset({"STOPPED", "EXITED", "FATAL"})


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """One look at it."""

    program: str
    """supervisord's state of it; empty if supervisord does not answer, or knows of none."""
    pid: int | None = None
    sign: tuple[int, float] | None = None
    """The last one: the pid that showed it, and when, CLOCK_MONOTONIC. None: it may be older than this rule."""

    @property
    def has_shown(self) -> bool:
        """Whether the process that runs has ever shown one."""
        return self.sign is not None and self.sign[0] == self.pid


class Counterwatch:
    """Keeps what was seen. `why`: one line; empty while it is well, or nothing is known of it."""

    def __init__(self) -> None:
        self.why = ""
        self._kind = ""
        self._pid: int | None = None
        self._since: float | None = None
        self._looked_at = 0.0
        self._restart: Restart | None = None

    def look(self, seen: Seen, now: float) -> Order:
        """What to do about it. Looks come in the order of `now`, CLOCK_MONOTONIC."""
        self._note(seen, now)
        order: Order = ""
        kind, why = "", ""
        if seen.program in _DOES_NOT_RUN:
            kind, why, order = seen.program, f"the watchdog does not run, supervisord says {seen.program}", "start"
        elif seen.program == "BACKOFF":
            kind, why = seen.program, "the watchdog cannot be started, supervisord tries"
        elif self._is_silent(seen, now):
            kind, why, order = "hung", f"the watchdog, process {seen.pid}, shows no sign of life", "stop"
        if kind != self._kind:
            self._kind, self.why = kind, why and f"{why}: nobody would end a rdagent that hangs"
        if order:
            return order if self._is_due(now) else ""
        # One that has shown nothing so far may hang: it is not well yet.
        if seen.program == "RUNNING" and (seen.sign is None or seen.has_shown):
            self._forgive(now)
        return ""

    def _note(self, seen: Seen, now: float) -> None:
        """Since when the process that runs could have been heard."""
        if not seen.program or seen.pid != self._pid or now - self._looked_at > GAP_LIMIT:
            self._since = None
        if self._since is None and seen.program:
            self._since = now
        self._pid, self._looked_at = seen.pid, now

    def _is_silent(self, seen: Seen, now: float) -> bool:
        if seen.program != "RUNNING" or self._since is None or seen.sign is None:
            return False
        # The sign of an earlier one proves that the base install has watchdogs that show signs.
        limit, heard_at = (SILENCE_LIMIT, seen.sign[1]) if seen.has_shown else (START_LIMIT, self._since)
        return now - max(heard_at, self._since) > limit

    def _is_due(self, now: float) -> bool:
        """Whether an order is due: each after a longer pause, until it was well for longer than that."""
        if self._restart is None:
            self._restart = first_restart(now)
        if now < self._restart.next_at:
            return False
        self._restart = after_start(self._restart, now=now)
        return True

    def _forgive(self, now: float) -> None:
        if self._restart is not None and now > self._restart.next_at + self._restart.pause:
            self._restart = None


def read_sign(path: Path) -> tuple[int, float] | None:
    """As watchdog.py writes it: its pid and CLOCK_MONOTONIC. None if there is none, or junk."""
    try:
        pid, at = path.read_text().split()
        return int(pid), float(at)
    except (OSError, ValueError):
        return None
