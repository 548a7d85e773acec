"""What time it is for the host: the machine's, or a recording's while that is replayed."""

import time


class Clock:
    """UTC, seconds since the epoch."""

    def __init__(self) -> None:
        self._replayed: float | None = None

    def now(self) -> float:
        return time.time() if self._replayed is None else self._replayed

    def replay(self, at: float) -> None:
        """From now on it is this time, until told another."""
        self._replayed = at
