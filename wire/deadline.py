"""A deadline is a budget handed down: retries and parts of a conversation spend it."""

import time
from collections.abc import Callable

import msgspec


class Deadline(msgspec.Struct, frozen=True):
    """A moment on CLOCK_MONOTONIC, in seconds."""

    end: float

    @classmethod
    def after(cls, seconds: float, clock: Callable[[], float] = time.monotonic) -> "Deadline":
        return cls(clock() + seconds)

    def left(self, clock: Callable[[], float] = time.monotonic) -> float:
        """Seconds, never negative."""
        return max(0.0, self.end - clock())
