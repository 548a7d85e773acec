"""Scenarios: what changes at the host when, so that the same thing happens again.

A step is taken at the start, after so many requests, or after so many seconds; always between two requests. Faults
without a seed of their own get one from the scenario's.
"""

import tomllib
from collections import Counter
from pathlib import Path
from typing import Protocol

import msgspec

from fabric.errors import FabricError
from fabric.faults import ENDPOINTS, GROUPS, Order
from fabric.orders import ComponentOrder, ExtensionOrder

STEPS_LIMIT = 1000


class After(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """So many requests since the start of the scenario."""

    endpoint: str
    """Of ENDPOINTS or GROUPS."""
    count: int = 1
    vm: str = ""
    """Empty: any."""


class Step(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One change; exactly one of the fields from `fault` on is given."""

    name: str = ""
    after: After | None = None
    at: float | None = None
    """Seconds since the start."""
    vm: str = ""
    """May be left out if the host has one."""
    fault: Order | None = None
    lift: bool = False
    """All faults."""
    want: ExtensionOrder | None = None
    component: ComponentOrder | None = None
    """A version to ask for; published before."""
    remove: str = ""
    """The name of an extension to be uninstalled."""
    hold: bool | None = None
    fast_track: bool | None = None
    require: list[str] | None = None
    rotate: bool = False
    """The tenant certificate."""
    move: bool = False
    """To another container."""

    @property
    def acts(self) -> list[str]:
        given = {
            "fault": self.fault is not None,
            "lift": self.lift,
            "want": self.want is not None,
            "component": self.component is not None,
            "remove": bool(self.remove),
            "hold": self.hold is not None,
            "fast_track": self.fast_track is not None,
            "require": self.require is not None,
            "rotate": self.rotate,
            "move": self.move,
        }
        return [name for name, is_given in given.items() if is_given]


class Scenario(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A scenario file."""

    name: str = ""
    seed: int = 0
    packages: list[str] = []
    """Files beside the scenario's, published before it starts."""
    steps: list[Step] = msgspec.field(default_factory=list, name="step")


class Taken(msgspec.Struct, kw_only=True):
    """A step and what became of it."""

    step: str
    act: str
    at: float | None = None
    """Seconds since the start, when it was taken."""
    problem: str = ""


class Hands(Protocol):
    """Who does what a step says; raises FabricError."""

    def take(self, step: Step) -> None: ...


class Play:
    """A scenario that runs: fed with requests and the time, it takes the steps that are due."""

    def __init__(self, scenario: Scenario, hands: Hands, now: float) -> None:
        """Raises FabricError for a scenario that cannot be played."""
        check(scenario)
        self.scenario = scenario
        self.began = now
        self.taken = [Taken(step=one.name or f"step {n}", act=one.acts[0]) for n, one in enumerate(scenario.steps, 1)]
        self._hands = hands
        self._seen: Counter[tuple[str, str]] = Counter()
        self.tick(now)

    def tick(self, now: float) -> None:
        """Take what is due by now."""
        for step, taken in zip(self.scenario.steps, self.taken, strict=True):
            if taken.at is None and self._is_due(step, now):
                taken.at = round(now - self.began, 3)
                try:
                    self._hands.take(self._seeded(step))
                except FabricError as error:
                    taken.problem = str(error)

    def seen(self, vm: str, endpoint: str, now: float) -> None:
        """A request was answered."""
        self._seen[vm, endpoint] += 1
        self.tick(now)

    def next_at(self) -> float | None:
        """When the next step is due by time alone."""
        times = (
            self.began + step.at
            for step, taken in zip(self.scenario.steps, self.taken, strict=True)
            if taken.at is None and step.at is not None
        )
        return min(times, default=None)

    def _is_due(self, step: Step, now: float) -> bool:
        if step.at is not None and now < self.began + step.at:
            return False
        if step.after is None:
            return True
        endpoints = GROUPS.get(step.after.endpoint, (step.after.endpoint,))
        count = sum(
            seen for (vm, endpoint), seen in self._seen.items() if endpoint in endpoints and step.after.vm in {"", vm}
        )
        return count >= step.after.count

    def _seeded(self, step: Step) -> Step:
        if step.fault is None or step.fault.seed:
            return step
        seed = self.scenario.seed * STEPS_LIMIT + self.scenario.steps.index(step)
        return msgspec.structs.replace(step, fault=msgspec.structs.replace(step.fault, seed=seed))


def check(scenario: Scenario) -> None:
    """Raises FabricError, naming the step."""
    if len(scenario.steps) > STEPS_LIMIT:
        raise FabricError(f"a scenario has up to {STEPS_LIMIT} steps")
    for number, step in enumerate(scenario.steps, 1):
        name = step.name or f"step {number}"
        if len(step.acts) != 1:
            what = " and ".join(step.acts) or "nothing"
            raise FabricError(f"{name}: one step does one thing, this one does {what}")
        if step.after is not None and step.after.endpoint not in (*ENDPOINTS, *GROUPS):
            raise FabricError(f"{name}: unknown endpoint {step.after.endpoint[:40]!r}: azfabric fault add --help")
        if step.at is not None and step.at < 0:
            raise FabricError(f"{name}: at is not negative")


def read(path: Path) -> Scenario:
    """A scenario file (TOML). Raises FabricError."""
    try:
        scenario = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), Scenario)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise FabricError(f"{path} is no scenario: {error}") from error
    check(scenario)
    return scenario
