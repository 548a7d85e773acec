"""One question to one component, for commands that need no more."""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from agentctl import __version__
from agentctl.deployment import Deployment
from agentctl.errors import CommandError, Declined, NothingThere, TooOld
from agentctl.rights import is_there
from ipc.bus import Bus
from ipc.contract.every import Describe, Description
from ipc.errors import FrameError, NoAnswer, Refused
from ipc.message import R, Request
from ipc.supervisord import Supervisord, SupervisordError

_PRESENT_WITHIN = 5.0
"""Seconds. Who is there has said so by then."""
_TOLD_EVERY = 10.0
_SILENCE = 30.0
"""Seconds without any answer, after which whoever works for us is taken for lost."""

T = TypeVar("T")


def ask(deployment: Deployment, request: Request[R], *, to: str = "", within: float = 5.0) -> R:
    """The answer; `to` as for Bus.ask. Raises NothingThere (nobody answers), CommandError (the answer is no, or we have
    no right to ask).
    """

    async def talk(bus: Bus) -> R:
        return await bus.ask(request, to=to, within=within)

    return _asked(deployment, request.speaker, to or request.speaker, talk)


def ask_for_long(deployment: Deployment, request: Request[R], *, within: float, told_every: float = _TOLD_EVERY) -> R:
    """The answer to what takes long: asked only of somebody who is there, and given up when he is no more.

    Standard error says that it goes on, each `told_every` seconds. Raises as `ask`.
    """
    who = request.speaker

    async def talk(bus: Bus) -> R:
        worker = await bus.ask(Describe(), to=who, within=_PRESENT_WITHIN)
        work = asyncio.create_task(bus.ask(request, within=within))
        try:
            await _watch(bus, work, worker, told_every)
            return await work
        finally:
            work.cancel()

    return _asked(deployment, who, who, talk)


async def _watch(bus: Bus, work: "asyncio.Task[R]", worker: Description, told_every: float) -> None:
    """Until it is done. Raises NoAnswer when nobody works at it any more."""
    who, began = worker.component, time.monotonic()
    heard_at = began
    while not (await asyncio.wait([work], timeout=told_every))[0]:
        try:
            now = await bus.ask(Describe(), to=who, within=_PRESENT_WITHIN)
        except NoAnswer:
            if time.monotonic() - heard_at > _SILENCE:
                raise
            continue
        if now.started_at != worker.started_at:
            raise CommandError(f"{who} was started anew before it was done. What it had finished stays; say it again")
        heard_at = time.monotonic()
        sys.stderr.write(f"agentctl: {who} is at work, since {heard_at - began:.0f} s\n")


def _asked(deployment: Deployment, speaker: str, who: str, talk: Callable[[Bus], Awaitable[T]]) -> T:
    """Raises as `ask`."""

    async def run() -> T:
        bus = Bus(deployment.places, "agentctl", __version__)
        try:
            return await talk(bus)
        finally:
            bus.close()

    if not is_there(deployment):
        # Nobody is on the way who would be worth waiting for.
        raise NothingThere(f"No agent runs here.\n{_see(deployment)}")
    with _as_told(deployment, speaker, who):
        return asyncio.run(run())


@contextmanager
def _as_told(deployment: Deployment, speaker: str, who: str) -> Iterator[None]:
    try:
        yield
    except NoAnswer as error:
        raise NothingThere(f"{error}\n{why_mute(deployment, who) or _see(deployment)}") from error
    except Refused as error:
        if error.code == "unsupported":
            raise TooOld(f"{error.reason}: it is older than this agentctl. Bring {speaker} up to date") from error
        raise Declined(error.reason) from error
    except FrameError as error:
        raise CommandError(f"{who} answers with what we cannot read: {error}") from error


def _see(deployment: Deployment) -> str:
    return f"See: {deployment.command('agentctl status')}; start the group with: {deployment.up_command}"


def why_mute(deployment: Deployment, component: str) -> str:
    """One line on a component that does not answer while supervisord does; empty if nobody knows."""
    try:
        programs = Supervisord(deployment.places).programs()
    except SupervisordError:
        return ""
    program = next((one for one in programs if one.name == component), None)
    if program is None:
        return ""
    status, anew = deployment.command("agentctl status"), deployment.command(f"agentctl restart {component}")
    said = f"supervisord says {program.statename}"
    match program.statename:
        case "RUNNING":
            said = f"Its process {program.pid} runs, so it hangs or is very busy"
            return f"{said}. See: {status}; start it anew with: {anew}"
        case "STARTING" | "BACKOFF" | "STOPPING" | "EXITED":
            return f"It is between two lives ({said}): ask again in some seconds. See: {status}"
        case _:
            return f"It does not run ({said}), the rest of the group may. Start it with: {anew}; see: {status}"
