"""The contract suite: what has to hold between four running components, whichever version each of them is.

One bus of this release's contract asks; the first thing that is not so ends the suite with a sentence (Broken).
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from agentctl import __version__
from agentctl.drill.group.goalstates import GoalStates
from ipc.bus import Bus
from ipc.contract import PROTOCOL
from ipc.contract.every import Describe, Description, Health, Hello
from ipc.contract.guestagent import (
    ExplainExtension,
    GetExtension,
    GetRun,
    GetStatus,
    GoalStateArrived,
    RunScript,
)
from ipc.contract.netagent import GetNetwork, PlanNetwork
from ipc.contract.rdagent import GetTruth, GetUpdateHistory, GetUpdatePlan, GetUpdates, Truth
from ipc.contract.telemetry import GetTimeline
from ipc.errors import FrameError, NoAnswer, Refused
from ipc.message import R, Request
from ipc.places import COMPONENTS, Places

PATIENCE = 20.0
_LOOK_SECONDS = 0.05
_WITHIN = 3.0
_COME_BACK = {"busy", "not-now"}


Alarm = Callable[[], None]
"""Raises Broken when something went wrong that no answer tells."""


class Broken(Exception):
    """What does not hold, in one line."""


class Expected(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be found."""

    versions: Mapping[str, str]
    """By component."""
    extension: str
    """One that the goal state names."""
    mark: str
    """A word no earlier suite on this root used."""
    folder: Path
    """Where the script may write."""
    portal: str = ""
    """Base URL of the local host's."""


def reads(expected: Expected) -> Iterator[Request[Any]]:
    """Every question of the contract that changes nothing and that not everybody answers."""
    yield from (GetTruth(), GetUpdates(), GetUpdatePlan(), GetUpdateHistory())
    yield from (GetStatus(), GetExtension(name=expected.extension), ExplainExtension(name=expected.extension))
    yield from (GetRun(name=expected.mark), GetTimeline(limit=20), GetNetwork(), PlanNetwork())


@asynccontextmanager
async def suite(places: Places, expected: Expected, alarm: Alarm) -> AsyncIterator["Suite"]:
    """For one combination. Raises Broken, also for what was refused and for frames nobody can read."""
    bus = Bus(places, "agentctl", __version__)
    try:
        yield Suite(bus, expected, alarm)
    except Refused as refusal:
        raise Broken(str(refusal)) from refusal
    finally:
        bus.close()
    if bus.bad_frames.counts:
        raise Broken(f"we count bad frames: {bus.bad_frames.counts}")


async def check(places: Places, expected: Expected, alarm: Alarm) -> None:
    """All of it. Raises Broken."""
    async with suite(places, expected, alarm) as whole:
        await whole.run()


class Suite:
    """Its parts raise Broken or Refused, once patience ends."""

    def __init__(self, bus: Bus, expected: Expected, alarm: Alarm) -> None:
        self._bus = bus
        self._alarm = alarm
        self._expected = expected
        self._until = time.monotonic() + PATIENCE
        self._described: dict[str, Description] = {}
        self._heard: dict[str, str] = {}
        self._goal_states: list[str] = []

    async def run(self) -> None:
        for name in COMPONENTS:
            self._bus.on(Hello, self._hello, of=name)
        self._bus.on(GoalStateArrived, lambda event: self._goal_states.append(event.goal_state))
        await asyncio.gather(*map(self.meet, COMPONENTS))
        await self._everybody_is_well()
        await self.runs_once()
        for request in reads(self._expected):
            await self._answered(request)
        await asyncio.gather(*map(self.is_in_the_journal, COMPONENTS))
        await self._events_come()
        await self._goal_state_arrives()

    def _hello(self, event: Hello) -> None:
        self._heard[event.component] = event.version

    async def meet(self, name: str) -> None:
        """Describe and Health, of the version that was put there."""
        described: Description | None = None
        while described is None or described.version != self._expected.versions[name]:
            if described is not None:
                await self.pause(f"{name} is {described.version} instead of {self._expected.versions[name]}")
            described = await self.ask(Describe(), to=name)
        await self.ask(Health(), to=name)
        if described.component != name:
            raise Broken(f"{name} calls itself {described.component}")
        self._described[name] = described

    async def _everybody_is_well(self) -> None:
        """By rdagent's eyes, and the host was told so."""
        while problem := self._what_is_missing(await self.ask(GetTruth())):
            await self.pause(f"not Ready: {problem}")

    def _what_is_missing(self, truth: Truth) -> str:
        for one in truth.components:
            if one.state not in {"ok", "busy"}:
                return f"{one.name} is {one.state}: {one.why}"
            if one.pid != self._described[one.name].pid:
                return f"rdagent still sees another process of {one.name}"
        if len(truth.components) != len(COMPONENTS):
            return f"rdagent knows {len(truth.components)} components"
        return "" if truth.host.ready else f"the host was not told Ready: {truth.host.problem or 'not yet'}"

    async def runs_once(self) -> None:
        """guestagent runs a script, and its output comes."""
        mark, counted = self._expected.mark, self._expected.folder / self._expected.mark
        script = f"echo once >> '{counted}'; echo said {mark}"
        # Not asked a second time: it would be run a second time.
        await self.ask(RunScript(name=mark, script=script.encode()), within=PATIENCE)
        while (view := await self.ask(GetRun(name=mark))).state == "Running":
            await self.pause("the script does not end")
        if (view.state, view.output) != ("Succeeded", f"said {mark}\n"):
            raise Broken(f"the script is {view.state} {view.message} with output {view.output[:100]!r}")
        if (ran := counted.read_text()) != "once\n":
            raise Broken(f"the script ran {ran.count('once')} times")

    async def _answered(self, request: Request[Any]) -> None:
        """Answered, or refused by one whose contract is too old to know it."""
        try:
            await self.ask(request)
        except Refused as refusal:
            minor = self._described[request.speaker].protocol_minor
            if refusal.code != "unsupported" or minor >= PROTOCOL[1]:
                raise Broken(str(refusal)) from refusal

    async def is_in_the_journal(self, name: str) -> None:
        """What this very process recorded; for guestagent, that it ran the script."""
        pid, subject = self._described[name].pid, f"/{self._expected.mark}" if name == "guestagent" else ""
        while True:
            timeline = await self.ask(GetTimeline(component=name, limit=50))
            if any(one.pid == pid and one.subject.endswith(subject) for one in timeline.entries):
                return
            await self.pause(f"nothing of {name} comes into the journal")

    async def _events_come(self) -> None:
        while missing := [name for name in COMPONENTS if self._heard.get(name) != self._expected.versions[name]]:
            await self.pause(f"no event of {missing[0]} arrives")

    async def _goal_state_arrives(self) -> None:
        """A new one is read, everybody hears of it, and rdagent tells the host of its number."""
        self._until, host = time.monotonic() + PATIENCE, GoalStates(self._expected.portal)
        before = (await self.ask(GetStatus())).goal_state
        await asyncio.to_thread(host.renew)
        while (now := (await self.ask(GetStatus())).goal_state) == before:
            await self.pause(f"guestagent reads no goal state after {before}")
        while now not in self._goal_states:
            await self.pause(f"guestagent does not say that {now} arrived")
        while not now.endswith(f"_{await asyncio.to_thread(host.told)}"):
            await self.pause(f"rdagent does not tell the host that it read {now}")

    async def pause(self, problem: str) -> None:
        """Between two looks. Raises Broken with the problem when patience has ended, or when there is a graver one."""
        self._alarm()
        if time.monotonic() > self._until:
            raise Broken(f"{problem}, after {PATIENCE:g} s")
        await asyncio.sleep(_LOOK_SECONDS)

    async def ask(self, request: Request[R], *, to: str = "", within: float = _WITHIN) -> R:
        """The answer; asked again while it starts or cannot yet. Raises Broken, Refused."""
        while True:
            try:
                return await self._bus.ask(request, to=to, within=within)
            except Refused as refusal:
                if refusal.code not in _COME_BACK:
                    raise
                await self.pause(str(refusal))
            except NoAnswer as error:
                await self.pause(str(error))
            except FrameError as error:
                raise Broken(f"{to or request.speaker} answers {request.wire_name()} with {error}") from error
