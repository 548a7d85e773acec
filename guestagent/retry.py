"""What follows from a failure: by whose fault it was, when it is tried again without being asked. Pure."""

import random
from collections.abc import Callable

import msgspec

from guestagent.errors import FailureKind


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """Pauses in seconds: doubling from the first to the longest."""

    first: float
    longest: float


_BY_ITSELF: dict[FailureKind, Schedule] = {
    # The repository or the network is away: it comes back without anybody's doing.
    "transient": Schedule(first=30.0, longest=3600.0),
    # A disk fills and empties, processes come and go.
    "platform": Schedule(first=60.0, longest=3600.0),
    # Its publisher may mend it.
    "package": Schedule(first=900.0, longest=6 * 3600.0),
}

_WHEN_ASKED_ANEW: frozenset[FailureKind] = frozenset({"transient", "package"})
"""Looked for again with each new goal state: no command has run yet. A command that failed is run again when its own
request changes or a person says so: somebody else's extension is no reason."""


def next_try(
    kind: FailureKind, tries: int, *, now: float, fraction: Callable[[], float] = random.random
) -> float | None:
    """When to try again after `tries` earlier ones, spread over the pause's second half; None: not by itself.

    Machines that failed together must not come back together: the repository has only just come back.
    """
    schedule = _BY_ITSELF.get(kind)
    if schedule is None:
        return None
    pause = min(schedule.first * float(1 << min(tries, 30)), schedule.longest)
    return now + pause * (0.5 + 0.5 * fraction())


def again_when_asked_anew(kind: FailureKind) -> bool:
    """Whether a new goal state with the same wish is reason enough."""
    return kind in _WHEN_ASKED_ANEW
