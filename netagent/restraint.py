"""How often the same thing is repaired: against another writer a repair is a fight, and a fight has to end. Pure."""

from collections import deque

import msgspec

WINDOW = 60.0
TIMES = 20
"""Repairs of one thing within the window; the next one is a fight."""
FIRST_PAUSE = 600.0
LONGEST_PAUSE = 3600.0
BURST = 200
BURST_WINDOW = 10.0
"""All changes together within this many seconds."""


class Pause(msgspec.Struct, frozen=True):
    """Something is left alone until then."""

    until: float
    why: str


class Restraint:
    """Remembers what was repaired when. `now` is seconds on a clock that never goes back."""

    def __init__(self) -> None:
        self._repairs: dict[str, deque[float]] = {}
        self._pauses: dict[str, Pause] = {}
        self._lengths: dict[str, float] = {}
        self._all: deque[float] = deque(maxlen=BURST)
        self._rests_until = 0.0

    def may(self, what: str, now: float) -> bool:
        """Whether this change may be made now."""
        pause = self._pauses.get(what)
        if pause is not None and now < pause.until:
            return False
        if len(self._all) == BURST and now - self._all[0] < BURST_WINDOW:
            self._rests_until = self._all[0] + BURST_WINDOW
            return False
        repairs = self._repairs.get(what)
        if repairs is not None and len(repairs) == TIMES and now - repairs[0] < WINDOW:
            times = f"{TIMES} times in {now - repairs[0]:.0f} s"
            self.hold(what, now, f"somebody undid it {times}: find who, or set netagent's mode to observe")
            return False
        return True

    def made(self, what: str, now: float) -> None:
        """It was; count it."""
        repairs = self._repairs.setdefault(what, deque(maxlen=TIMES))
        if repairs and now - repairs[-1] > LONGEST_PAUSE:
            self._lengths.pop(what, None)
        repairs.append(now)
        self._all.append(now)

    def hold(self, what: str, now: float, why: str) -> None:
        """Leave it alone for a while; longer each time."""
        length = min(self._lengths.get(what, FIRST_PAUSE / 2) * 2, LONGEST_PAUSE)
        self._lengths[what] = length
        self._pauses[what] = Pause(now + length, why)
        self._repairs.pop(what, None)

    def pauses(self, now: float) -> dict[str, Pause]:
        """What is left alone, and why."""
        return {what: pause for what, pause in self._pauses.items() if now < pause.until}

    def next_end(self, now: float) -> float | None:
        """When the first of them ends, or the rest after a burst; None if nothing is waited for."""
        ends = [pause.until for pause in self.pauses(now).values()]
        return min([*ends, self._rests_until] if now < self._rests_until else ends, default=None)

    def rests(self, now: float) -> float:
        """Seconds for which nothing is done after a burst of changes."""
        return max(0.0, self._rests_until - now)

    def excuse(self, link: str) -> None:
        """The link itself went, and took everything with it: nobody undid anything."""
        for what in [one for one in self._repairs if one.endswith(f" dev {link}") or f" dev {link} " in one]:
            del self._repairs[what]

    def forget(self) -> None:
        """A person asks for it now: all may be tried again."""
        self._repairs.clear()
        self._pauses.clear()
        self._all.clear()
        self._rests_until = 0.0
