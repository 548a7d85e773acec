"""What `agentctl status` shows: gathered from the bus and from supervisord, whoever of them is there."""

import asyncio
import time
from typing import Literal

import msgspec

from agentctl import __version__
from agentctl.deployment import Deployment
from agentctl.errors import NothingThere
from ipc.bus import Bus
from ipc.contract.guestagent import ExtensionView, GetStatus, GuestStatus
from ipc.contract.rdagent import ComponentTruth, GetTruth, HostView, Truth
from ipc.errors import FrameError, NoAnswer, Refused
from ipc.message import R, Request
from ipc.places import COMPONENTS
from ipc.supervisord import ProgramState, Supervisord, SupervisordError


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
    heartbeats: int
    problem: str


class StatusView(msgspec.Struct, frozen=True, kw_only=True):
    """The whole picture, as `--json` prints it."""

    components: list[ComponentView]
    host: HostLine
    goal_state: str
    problems: list[str]
    """Everything that is not as it should be, one line each."""
    extensions: list[ExtensionView]


class Endpoints(msgspec.Struct, frozen=True):
    """The part of the local host's endpoints.json that we use."""

    pid: int
    wireserver: str
    hostgaplugin: str
    imds: str
    portal: str


async def gather(deployment: Deployment) -> StatusView:
    """Ask everybody at once, for at most a second and a half. Raises NothingThere if nobody is there at all."""
    bus = Bus(deployment.places, "agentctl", __version__)
    try:
        truth, guest, programs = await asyncio.gather(
            _ask(bus, GetTruth()), _ask(bus, GetStatus()), asyncio.to_thread(_programs, deployment)
        )
    finally:
        bus.close()
    if programs is None and not isinstance(truth, Truth) and not isinstance(guest, GuestStatus):
        raise NothingThere(f"No agent runs here. Start it with: {deployment.up_command}")
    return _assemble(deployment, truth, guest, programs or [])


def read_endpoints(deployment: Deployment) -> Endpoints | None:
    """The local host's addresses, if there is one and it wrote them."""
    if deployment.endpoints_file is None:
        return None
    try:
        return msgspec.json.decode(deployment.endpoints_file.read_bytes(), type=Endpoints)
    except (OSError, msgspec.DecodeError):
        return None


def is_ready(view: StatusView) -> bool:
    """Whether the host was told Ready and everybody is well."""
    return view.host.ready is True and all(one.state in {"ok", "busy"} for one in view.components)


async def _ask(bus: Bus, request: Request[R]) -> R | str:
    try:
        return await bus.ask(request, within=1.5)
    except (NoAnswer, Refused, FrameError) as error:
        return str(error)


def _programs(deployment: Deployment) -> list[ProgramState] | None:
    try:
        return Supervisord(deployment.places).programs()
    except SupervisordError:
        return None


def _assemble(
    deployment: Deployment, truth: Truth | str, guest: GuestStatus | str, programs: list[ProgramState]
) -> StatusView:
    problems = [answer for answer in (truth, guest) if isinstance(answer, str)]
    if isinstance(truth, Truth):
        components = [_from_truth(one) for one in truth.components]
        host = truth.host
    else:
        by_name = {program.name: program for program in programs}
        components = [_from_supervisord(name, by_name.get(name)) for name in COMPONENTS]
        host = HostView()
    if not isinstance(guest, GuestStatus):
        guest = GuestStatus()
    problems += [line for line in (host.problem, guest.problem, guest.report_problem) if line]
    problems += [f"{one.name} is {one.state}: {one.why}" for one in components if one.state not in {"ok", "busy"}]
    endpoints = read_endpoints(deployment)
    return StatusView(
        components=components,
        host=HostLine(
            ready=host.ready,
            portal=endpoints.portal if endpoints else None,
            wireserver=host.wireserver or (endpoints.wireserver if endpoints else ""),
            heartbeats=host.heartbeats,
            problem=host.problem,
        ),
        goal_state=guest.goal_state,
        problems=problems,
        extensions=guest.extensions,
    )


def _from_truth(one: ComponentTruth) -> ComponentView:
    return ComponentView(
        name=one.name,
        version=one.version,
        pid=one.pid,
        state=one.state,
        health=one.health,
        why=one.why,
        since=one.since,
    )


_SUPERVISORD_WORDS: dict[str, Literal["unknown", "restarting", "absent"]] = {
    "RUNNING": "unknown",
    "STARTING": "restarting",
    "BACKOFF": "restarting",
}


def _from_supervisord(name: str, program: ProgramState | None) -> ComponentView:
    return ComponentView(
        name=name,
        version="",
        pid=program.pid or None if program else None,
        state=_SUPERVISORD_WORDS.get(program.statename, "absent") if program else "absent",
        health="",
        why=f"supervisord says {program.statename}, rdagent is away" if program else "unknown to supervisord",
        since=float(program.start) if program else time.time(),
    )
