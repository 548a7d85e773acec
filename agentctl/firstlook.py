"""What rdagent sees and plans, once it has looked: one that has just started has not."""

import time
from collections.abc import Callable, Iterable, Sequence

from agentctl.asking import ask
from agentctl.deployment import Deployment
from agentctl.errors import NothingThere
from ipc.contract.rdagent import GetUpdatePlan, GetUpdates, UpdatePlan, Updates
from ipc.message import R
from ipc.places import COMPONENTS

LOOK_WITHIN = 3.0
"""Seconds for one answer. After that the records have to do."""
_FIRST_LOOK_SECONDS, _LOOK_SECONDS = 5.0, 0.2


def seen(deployment: Deployment) -> Updates:
    """Of all components. Raises NothingThere."""
    return _looked(
        lambda: ask(deployment, GetUpdates(), within=LOOK_WITHIN),
        lambda found: (one.component for one in found.components),
        lambda found: _not_looked("which versions are there", found.problems),
    )


def planned(deployment: Deployment) -> UpdatePlan:
    """For all components: a plan without them would say that nothing is to be done. Raises NothingThere."""
    return _looked(
        lambda: ask(deployment, GetUpdatePlan(), within=LOOK_WITHIN),
        lambda found: (one.component for one in found.steps),
        lambda _: _not_looked("what is wanted", ask(deployment, GetUpdates(), within=LOOK_WITHIN).problems),
    )


def _looked(look: Callable[[], R], named: Callable[[R], Iterable[str]], why: Callable[[R], str]) -> R:
    """What names all components: a rdagent that has just started has to look first. Raises NothingThere."""
    until = time.monotonic() + _FIRST_LOOK_SECONDS
    while True:
        found = look()
        if {*named(found)} >= set(COMPONENTS):
            return found
        if time.monotonic() > until:
            raise NothingThere(why(found))
        time.sleep(_LOOK_SECONDS)


def _not_looked(at: str, problems: Sequence[str]) -> str:
    return f"rdagent has not looked yet {at}." + "".join(f"\n{one}" for one in problems)
