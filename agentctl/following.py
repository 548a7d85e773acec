"""Watching an update from the order to its end."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal, TypeVar

import msgspec

from agentctl import __version__, moments
from agentctl.deployment import Deployment
from agentctl.errors import NothingThere
from agentctl.rights import is_there
from ipc.bus import Bus
from ipc.contract.every import Describe, Description
from ipc.contract.rdagent import (
    GetUpdateHistory,
    GetUpdatePlan,
    GetUpdates,
    UpdateEvent,
    UpdatePlan,
    Updates,
    UpdateView,
)
from ipc.errors import FrameError, NoAnswer, Refused
from ipc.message import R, Request
from release.manifest import is_version, same_version, version_key

_LOOK_SECONDS = 0.25
_SILENCE = 180.0
"""Seconds. rdagent is away while it becomes another version of itself; one that hangs is replaced by then."""
_ENDS = {"commit", "roll back", "refuse"}


State = Literal[
    "looking", "waiting", "fetching", "on trial", "coming back", "runs", "rolled back", "refused", "not now"
]


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far one component is."""

    component: str
    state: State
    text: str
    lift: str = ""
    """The command that would change it."""

    @property
    def over(self) -> bool:
        return self.state in {"runs", "rolled back", "refused", "not now"}

    @property
    def ok(self) -> bool:
        return self.state == "runs"


T = TypeVar("T")
Show = Callable[[Sequence[Progress]], None]


def judge(
    view: UpdateView, version: str, updates: Updates, plan: UpdatePlan, events: Sequence[UpdateEvent], since: float
) -> Progress:
    """How far it is since it was asked for. Pure.

    `version`: the one that was named, empty if none was; `since`: UTC, seconds since the epoch, by this machine's clock
    as rdagent's are; `events`: of this component, oldest first.
    """
    name = view.component
    if news := _ends(version, events, since):
        went_back = any(
            one.at >= since and one.phase == "trial" and is_older(version, one.from_version) for one in events
        )
        return _ended(name, news[-1], unpinned=went_back and not same_version(view.pinned, version))
    if view.state == "fetching":
        return Progress(component=name, state="fetching", text=f"{view.wanted}: fetched, checked, unpacked")
    if view.state == "on trial" and view.trial:
        trial = view.trial
        # The record says so a moment before rdagent has begun to watch it.
        well = f"well for {trial.well_seconds:.0f} s of {trial.needed_seconds:.0f} s" if trial.needed_seconds else ""
        text = f"{trial.version}: {view.why or well or 'it begins'}"
        return Progress(component=name, state="on trial", text=text)
    if view.state == "on trial" and view.why:
        return Progress(component=name, state="coming back", text=view.why)
    if updates.looked_at < since:
        return Progress(component=name, state="looking", text="what is there?")
    if version and not any(same_version(version, one) for one in (view.wanted, view.running)):
        return _forgotten(view, version)
    if view.state == "waiting":
        return _waiting(view, plan)
    if view.state == "settled" and view.why:
        return Progress(component=name, state="not now", text=view.why, lift=view.lift)
    if _is_given_up(view, version or view.wanted):
        text = f"{view.running} is on the bad list and runs on only until {name} is started anew: {view.why}"
        return Progress(component=name, state="refused", text=text, lift=view.lift)
    if view.state == "settled" or not view.wanted or same_version(view.wanted, view.running):
        return _nothing_to_do(view, version, updates)
    # What is said of a package does not say of which.
    text = view.why if view.wanted in view.why else f"{view.wanted}: {view.why}"
    return Progress(component=name, state="refused", text=text, lift=view.lift)


def _ends(version: str, events: Sequence[UpdateEvent], since: float) -> list[UpdateEvent]:
    """Those that answer what was asked for at `since`.

    Who named no version wants what is wanted now: the end of a trial that had begun before is none of his, and what was
    refused is told by the view, for as long as it is wanted.
    """
    news = [one for one in events if one.at >= since]
    if version:
        return [one for one in news if one.phase in _ENDS and same_version(one.version, version)]
    tried = {one.version for one in news if one.phase == "trial"}
    return [one for one in news if one.phase in {"commit", "roll back"} and one.version in tried]


def _forgotten(view: UpdateView, version: str) -> Progress:
    """What was named neither runs nor is wanted: we saw neither its end nor why there was none."""
    name, runs = view.component, f"{view.running} runs" if view.running else "nobody says what runs"
    text = f"{version} was not begun, or another word took its place: it is not wanted any more, {runs}"
    return Progress(component=name, state="refused", text=text, lift=f"agentctl update now {name} {version}")


def _is_given_up(view: UpdateView, version: str) -> bool:
    """Whether it came back and its process runs on: it could not be replaced yet."""
    if view.state != "rolled back" or not same_version(version, view.running) or same_version(version, view.current):
        return False
    return any(same_version(version, one.version) for one in view.bad)


def _nothing_to_do(view: UpdateView, version: str, updates: Updates) -> Progress:
    text = f"{view.running or 'it'} runs"
    if not updates.repository.problem:
        return Progress(component=view.component, state="runs", text=f"nothing to do, {text}")
    unasked = f"the repository could not be asked: {updates.repository.problem}"
    # What was named, or the host wants, and runs, is as it should be whatever the repository has.
    known = bool(version) or view.wanted_by in {"host", "operator"}
    return Progress(component=view.component, state="runs" if known else "not now", text=f"{text}; {unasked}")


def is_older(version: str, other: str) -> bool:
    """Neither is junk, nor empty, and the first comes before the second."""
    return is_version(version) and is_version(other) and version_key(version) < version_key(other)


def pin_command(component: str, version: str) -> str:
    """What keeps an older version from being updated again."""
    return f"agentctl update pin {component} {version}"


def _ended(name: str, event: UpdateEvent, *, unpinned: bool) -> Progress:
    """`unpinned`: it is older than what ran before, and nothing keeps it."""
    if event.phase == "commit":
        took = "" if event.seconds is None else f", after {event.seconds:.0f} s on trial"
        text = f"{event.version} runs and is in force{took}"
        if unpinned:
            text, lift = f"{text}, until a newer one is taken; a pin keeps it", pin_command(name, event.version)
            return Progress(component=name, state="runs", text=text, lift=lift)
        return Progress(component=name, state="runs", text=text)
    if event.phase == "roll back":
        text = f"{event.version} came back: {event.message}"
        return Progress(
            component=name,
            state="rolled back",
            text=text,
            lift=f"agentctl update unblock {name} {event.version}",
        )
    return Progress(component=name, state="refused", text=f"{event.version}: {event.message}", lift=event.lift)


def _waiting(view: UpdateView, plan: UpdatePlan) -> Progress:
    name = view.component
    step = next((one for one in plan.steps if one.component == name), None)
    if view.why and step is not None and step.at is None and view.running and view.lift:
        return Progress(component=name, state="not now", text=view.why, lift=view.lift)  # not by itself
    if not view.why or step is None or step.at is None:
        return Progress(component=name, state="waiting", text=view.why or f"{view.wanted} is next")
    text = f"{view.why} (again at {moments.shown(step.at)})"
    return Progress(component=name, state="not now", text=text, lift=view.lift)


def follow(
    deployment: Deployment, names: Sequence[str], version: str, since: float, show: Show, *, to_the_end: bool = True
) -> list[Progress]:
    """Until each has come to an end, or only until it is known whether it begins; `show` hears of each look.

    Raises NothingThere when rdagent stays away.
    """

    async def watch(bus: Bus) -> list[Progress]:
        heard_at = time.monotonic()
        while True:
            found = await _look(bus, names, version, since)
            if found is not None:
                heard_at = time.monotonic()
                show(found)
                if all(one.over or not (to_the_end or one.state == "looking") for one in found):
                    return found
            elif time.monotonic() - heard_at > _SILENCE:
                status = deployment.command("agentctl status")
                raise NothingThere(f"rdagent has not answered for {_SILENCE:g} s. See: {status}")
            await asyncio.sleep(_LOOK_SECONDS)

    return _on_the_bus(deployment, watch)


async def _look(bus: Bus, names: Sequence[str], version: str, since: float) -> list[Progress] | None:
    """None while rdagent is away."""
    updates = await _or_none(bus, GetUpdates())
    plan = await _or_none(bus, GetUpdatePlan()) if updates else None
    history = await _or_none(bus, GetUpdateHistory(limit=100)) if plan else None
    if updates is None or plan is None or history is None:
        return None
    by_name = {one.component: one for one in updates.components}
    if not by_name.keys() >= set(names):
        return None  # it has just started
    return [
        judge(by_name[name], version, updates, plan, [one for one in history.events if one.component == name], since)
        for name in names
    ]


def described(deployment: Deployment, component: str) -> Description | None:
    """What runs now; None if it does not answer."""
    if not is_there(deployment):
        return None

    async def once(bus: Bus) -> Description | None:
        return await _or_none(bus, Describe(), to=component)

    return _on_the_bus(deployment, once)


def until_other(
    deployment: Deployment, component: str, before: Description | None, patience: float
) -> Description | None:
    """The first answer of another life of the component than `before`; None if there is none in `patience` seconds."""

    async def watch(bus: Bus) -> Description | None:
        until = time.monotonic() + patience
        while time.monotonic() < until:
            found = await _or_none(bus, Describe(), to=component)
            if found is not None and (before is None or found.started_at != before.started_at):
                return found
            await asyncio.sleep(_LOOK_SECONDS)
        return None

    return _on_the_bus(deployment, watch)


def until_seen(deployment: Deployment, component: str, version: str, patience: float) -> None:
    """Until rdagent has seen that this version runs: who asks for the status next must not be shown the old one."""

    async def watch(bus: Bus) -> None:
        until = time.monotonic() + patience
        while time.monotonic() < until:
            found = await _or_none(bus, GetUpdates())
            if found is None or any(one.running == version for one in found.components if one.component == component):
                return
            await asyncio.sleep(_LOOK_SECONDS)

    _on_the_bus(deployment, watch)


async def _or_none(bus: Bus, request: Request[R], to: str = "") -> R | None:
    try:
        return await bus.ask(request, to=to, within=2.0)
    except (NoAnswer, Refused, FrameError):
        return None


def _on_the_bus(deployment: Deployment, talk: Callable[[Bus], Awaitable[T]]) -> T:
    async def run() -> T:
        bus = Bus(deployment.places, "agentctl", __version__)
        try:
            return await talk(bus)
        finally:
            bus.close()

    return asyncio.run(run())
