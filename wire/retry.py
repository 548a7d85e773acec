"""Retry as a value: how often, how long between, for which answers (protocol: HTTP rules of the client)."""

import random
from collections.abc import Callable, Iterator
from typing import TypeVar

import msgspec

from wire.deadline import Deadline
from wire.errors import Gone, HostError, Refused, TooLarge

T = TypeVar("T")


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """Attempts and pauses; the deadline bounds both."""

    attempts: int = 1
    first_pause: float = 1.0
    longest_pause: float = 15.0
    statuses: frozenset[int] = frozenset({205, 206, 429, 500, 501, 502, 503, 504, 507})
    """Answers worth another attempt. Not 403: a signature that is refused stays refused."""

    def pauses(self, fraction: Callable[[], float] = random.random) -> Iterator[float]:
        """Seconds between attempts: doubling, capped, and spread by `fraction` over their second half.

        Machines that failed together must not come back together.
        """
        pause = self.first_pause
        for _ in range(self.attempts - 1):
            yield pause * (0.5 + 0.5 * fraction())
            pause = min(pause * 2, self.longest_pause)

    def worth_another(self, error: HostError) -> bool:
        match error:
            case Gone() | TooLarge():
                return False
            case Refused():
                return error.status in self.statuses
            case _:
                return True


ONCE = Policy()
PATIENT = Policy(attempts=4)


def attempt(policy: Policy, deadline: Deadline, act: Callable[[], T], wait: Callable[[float], bool]) -> T:
    """Call `act` until it succeeds, the policy is spent or the deadline would pass. Raises the last HostError.

    `wait(seconds)` pauses, and returns True if everything is to be given up.
    """
    for pause in policy.pauses():
        try:
            return act()
        except HostError as error:
            if not policy.worth_another(error) or pause >= deadline.left() or wait(pause):
                raise
    return act()
