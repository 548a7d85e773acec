"""What `agentctl status` shows: gathered from the bus and from supervisord, whoever of them is there."""

import asyncio
from typing import Literal

import msgspec

from agentctl import __version__
from agentctl.deployment import Deployment
from agentctl.errors import NothingThere
from agentctl.processes import process
from agentctl.rights import check_rights
from ipc.bus import Bus
from ipc.contract.every import Describe, Description, Health, HealthReport
from ipc.contract.guestagent import ExtensionView, GetStatus, GuestStatus
from ipc.contract.rdagent import ComponentTruth, GetTruth, GetUpdates, HostView, Truth, Updates
from ipc.errors import FrameError, NoAnswer, Refused
from ipc.message import R, Request
from ipc.places import COMPONENTS
from ipc.supervisord import ProgramState, Supervisord, SupervisordError

_WITHIN = 1.5
"""Seconds for everybody's answer."""


class ComponentView(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    version: str
    pid: int | None
    state: str
    """As rdagent judges it; while rdagent is away, as supervisord does."""
    health: str
    """What the component last said of itself; empty if unknown."""
    why: str
    since: float
    """UTC, seconds since the epoch."""


class HostLine(msgspec.Struct, frozen=True, kw_only=True):
    ready: bool | None
    """What the host was last told; None if it was told nothing yet, or nobody can say."""
    portal: str | None
    """URL of the local host's page; null against a real host."""
    wireserver: str
    runs: bool | None
    """Whether the local host's process does; None against a real host."""
    heartbeats: int | None
    """By the rdagent that runs; None while it does not answer."""
    problem: str


class StatusView(msgspec.Struct, frozen=True, kw_only=True):
    """The whole picture, as `--json` prints it."""

    components: list[ComponentView]
    supervised: bool
    """Whether supervisord answers: without it nobody is started again."""
    host: HostLine
    goal_state: str
    problems: list[str]
    """Everything that is not as it should be, one line each."""
    extensions: list[ExtensionView]
    updates: list[str] = []
    """What is on trial and what came back, one line each."""


class Endpoints(msgspec.Struct, frozen=True):
    """The part of the local host's endpoints.json that we use."""

    pid: int
    wireserver: str
    hostgaplugin: str
    imds: str
    portal: str
    repository: str = ""
    """Base URL of the component repository."""


async def gather(deployment: Deployment) -> StatusView:
    """Ask everybody at once, for at most a second and a half.

    Raises NothingThere if nobody is there at all, CommandError without the right to ask.
    """
    check_rights(deployment)
    bus = Bus(deployment.places, "agentctl", __version__)
    try:
        truth, guest, updates, programs, words = await asyncio.gather(
            _ask(bus, GetTruth()),
            _ask(bus, GetStatus()),
            _ask(bus, GetUpdates()),
            asyncio.to_thread(_programs, deployment),
            asyncio.gather(*(_own_words(bus, name) for name in COMPONENTS)),
        )
    finally:
        bus.close()
    if programs is None and not isinstance(truth, Truth) and not isinstance(guest, GuestStatus):
        raise NothingThere(f"No agent runs here. Start it with: {deployment.up_command}")
    own = dict(zip(COMPONENTS, words, strict=True))
    view = _assemble(deployment, truth, guest, {one.name: one for one in programs or []}, own)
    if programs is None:
        view.problems.append(
            "supervisord does not answer: who ends is not started again. "
            f"Next: {deployment.command('agentctl down')}, then {deployment.up_command}"
        )
    news = _update_news(updates) if isinstance(updates, Updates) else []
    return msgspec.structs.replace(view, supervised=programs is not None, updates=news)


def read_endpoints(deployment: Deployment) -> Endpoints | None:
    """The local host's addresses, if there is one and it wrote them."""
    if deployment.endpoints_file is None:
        return None
    try:
        return msgspec.json.decode(deployment.endpoints_file.read_bytes(), type=Endpoints)
    except (OSError, msgspec.DecodeError):
        return None


def is_ready(view: StatusView) -> bool:
    """Whether the host was told Ready and everybody is well, and looked after."""
    told = view.host.ready is True and view.host.runs is not False
    return told and view.supervised and all(one.state in {"ok", "busy"} for one in view.components)


async def _ask(bus: Bus, request: Request[R]) -> R | str:
    try:
        return await bus.ask(request, within=_WITHIN)
    except (NoAnswer, Refused, FrameError) as error:
        return str(error)


def _update_news(updates: Updates) -> list[str]:
    lines = []
    for one in updates.components:
        if one.trial:
            lines.append(f"{one.component} {one.trial.version} is on trial")
        elif one.state == "rolled back":
            lines.append(f"{one.component}: {one.why}")
    return lines


def _programs(deployment: Deployment) -> list[ProgramState] | None:
    try:
        return Supervisord(deployment.places, within=_WITHIN).programs()
    except SupervisordError:
        return None


async def _own_words(bus: Bus, name: str) -> tuple[Description, HealthReport] | None:
    """What a component says of itself; None if it does not answer."""
    try:
        return await asyncio.gather(
            bus.ask(Describe(), to=name, within=_WITHIN), bus.ask(Health(), to=name, within=_WITHIN)
        )
    except (NoAnswer, Refused, FrameError):
        return None


def _assemble(
    deployment: Deployment,
    truth: Truth | str,
    guest: GuestStatus | str,
    programs: dict[str, ProgramState],
    own: dict[str, tuple[Description, HealthReport] | None],
) -> StatusView:
    problems = [answer for answer in (truth, guest) if isinstance(answer, str)]
    if isinstance(truth, Truth):
        components, host = [_from_truth(one) for one in truth.components], truth.host
    else:
        components = [_from_itself(name, own[name], programs.get(name)) for name in COMPONENTS]
        host = HostView()
        problems.append("what the host was told is not known: rdagent knows, and does not answer")
    if not isinstance(guest, GuestStatus):
        guest = GuestStatus()
    problems += [line for line in (host.problem, guest.problem, guest.report_problem) if line]
    problems += [
        f"{one.name} is {one.state}: {one.why}{_next_step(deployment, programs.get(one.name))}"
        for one in components
        if one.state not in {"ok", "busy"}
    ]
    endpoints = read_endpoints(deployment)
    runs = None if endpoints is None else process(endpoints.pid) is not None
    if runs is False:
        problems.append(f"the local host does not run any more. Start it again: {deployment.up_command}")
    return StatusView(
        components=components,
        supervised=True,
        host=HostLine(
            ready=host.ready,
            runs=runs,
            portal=endpoints.portal if endpoints else None,
            wireserver=host.wireserver or (endpoints.wireserver if endpoints else ""),
            heartbeats=host.heartbeats if isinstance(truth, Truth) else None,
            problem=host.problem,
        ),
        goal_state=guest.goal_state,
        problems=problems,
        extensions=guest.extensions,
    )


_STAYS_AWAY = {"STOPPED", "FATAL"}
"""supervisord starts none of these again by itself."""


def _next_step(deployment: Deployment, program: ProgramState | None) -> str:
    if program is None or program.statename not in _STAYS_AWAY:
        return ""
    return f". Start it: {deployment.command(f'agentctl restart {program.name}')}"


def _from_truth(one: ComponentTruth) -> ComponentView:
    state, why = str(one.state), one.why
    if one.pid is not None and state in {"ok", "busy", "degraded"} and process(one.pid) is None:
        # rdagent has not looked since.
        state, why = "restarting", f"process {one.pid} has ended"
    return ComponentView(
        name=one.name, version=one.version, pid=one.pid, state=state, health=one.health, why=why, since=one.since
    )


_SUPERVISORD_WORDS: dict[str, Literal["hung", "restarting", "absent"]] = {
    "RUNNING": "hung",
    "STOPPING": "hung",
    "STARTING": "restarting",
    "BACKOFF": "restarting",
}


def _from_itself(
    name: str, own: tuple[Description, HealthReport] | None, program: ProgramState | None
) -> ComponentView:
    """While rdagent, who judges, is away: what the component says, else what supervisord does."""
    if own is not None:
        described, health = own
        return ComponentView(
            name=name,
            version=described.version,
            pid=described.pid,
            state=health.state,
            health=health.state,
            why=health.what,
            since=described.started_at,
        )
    state = _SUPERVISORD_WORDS.get(program.statename, "absent") if program else "absent"
    why = f"supervisord says {program.statename}" if program else "it does not answer"
    if state == "hung" and program:
        why = f"process {program.pid} runs and does not answer"
    return ComponentView(
        name=name,
        version="",
        pid=program.pid or None if program else None,
        state=state,
        health="",
        why=why,
        since=float(program.start) if program else 0.0,
    )
