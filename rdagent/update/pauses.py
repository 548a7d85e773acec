"""Pauses between tries of what fails, and the clock they are taken by."""

import asyncio
import contextlib
import random
import time
from collections.abc import Callable

FIRST_PAUSE = 5.0
_SHORTENED_BY = 0.25


class Clock:
    """The machine's. What waits by it does not care where the wall clock jumps."""

    def monotonic(self) -> float:
        """CLOCK_MONOTONIC, seconds."""
        return time.monotonic()

    async def wait(self, wake: asyncio.Event, seconds: float) -> None:
        """Until `wake` is set, or so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await wake.wait()


class Pauses:
    """Growing from 5 s to `longest`, each shortened."""

    def __init__(self, longest: float, share: Callable[[], float] = random.random) -> None:
        """`longest`: seconds; `share`: in [0, 1)."""
        self._longest, self._share = longest, share
        self._pause = 0.0

    def reset(self) -> None:
        """It did not fail."""
        self._pause = 0.0

    def next(self) -> float:
        """Seconds until the next try."""
        self._pause = longer(self._pause, self._longest)
        return shortened(self._pause, self._share())


def longer(pause: float, longest: float) -> float:
    """The pause after `pause` seconds (0: the first), before it is shortened."""
    return min(max(pause * 2, FIRST_PAUSE), longest)


def shortened(pause: float, share: float | None = None) -> float:
    """By up to a quarter at random: what a whole fleet reads goes away for all at once, and they must not ask in step.

    `share`: of that quarter, in [0, 1); None: any.
    """
    return pause * (1 - _SHORTENED_BY * (random.random() if share is None else share))  # noqa: S311  # nobody's secret
