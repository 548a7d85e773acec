"""One question to one component, for commands that need no more."""

import asyncio

from agentctl import __version__
from agentctl.deployment import Deployment
from agentctl.errors import CommandError, Declined, NothingThere, TooOld
from agentctl.rights import is_there
from ipc.bus import Bus
from ipc.errors import FrameError, NoAnswer, Refused
from ipc.message import R, Request
from ipc.supervisord import Supervisord, SupervisordError


def ask(deployment: Deployment, request: Request[R], *, to: str = "", within: float = 5.0) -> R:
    """The answer; `to` as for Bus.ask. Raises NothingThere (nobody answers), CommandError (the answer is no, or we have
    no right to ask).
    """

    async def talk() -> R:
        bus = Bus(deployment.places, "agentctl", __version__)
        try:
            return await bus.ask(request, to=to, within=within)
        finally:
            bus.close()

    see = f"See: {deployment.command('agentctl status')}; start the group with: {deployment.up_command}"
    who = to or request.speaker
    if not is_there(deployment):
        # Nobody is on the way who would be worth waiting for.
        raise NothingThere(f"No agent runs here.\n{see}")
    try:
        return asyncio.run(talk())
    except NoAnswer as error:
        raise NothingThere(f"{error}\n{why_mute(deployment, who) or see}") from error
    except Refused as error:
        if error.code == "unsupported":
            too_old = f"{error.reason}: it is older than this agentctl. Bring {request.speaker} up to date"
            raise TooOld(too_old) from error
        raise Declined(error.reason) from error
    except FrameError as error:
        raise CommandError(f"{who} answers with what we cannot read: {error}") from error


def why_mute(deployment: Deployment, component: str) -> str:
    """One line on a component that does not answer though its process runs; empty if none does, or nobody knows."""
    try:
        programs = Supervisord(deployment.places).programs()
    except SupervisordError:
        return ""
    pid = next((one.pid for one in programs if one.name == component and one.statename == "RUNNING"), 0)
    if not pid:
        return ""
    status, anew = deployment.command("agentctl status"), deployment.command(f"agentctl restart {component}")
    return f"Its process {pid} runs, so it hangs or is very busy. See: {status}; start it anew with: {anew}"
