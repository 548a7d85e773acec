"""One question to one component, for commands that need no more."""

import asyncio

from agentctl import __version__
from agentctl.deployment import Deployment
from agentctl.errors import CommandError, NothingThere, TooOld
from agentctl.rights import is_there
from ipc.bus import Bus
from ipc.errors import FrameError, NoAnswer, Refused
from ipc.message import R, Request


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
    if not is_there(deployment):
        # Nobody is on the way who would be worth waiting for.
        raise NothingThere(f"No agent runs here.\n{see}")
    try:
        return asyncio.run(talk())
    except NoAnswer as error:
        raise NothingThere(f"{error}\n{see}") from error
    except Refused as error:
        if error.code == "unsupported":
            too_old = f"{error.reason}: it is older than this agentctl. Bring {request.speaker} up to date"
            raise TooOld(too_old) from error
        raise CommandError(error.reason) from error
    except FrameError as error:
        raise CommandError(f"{to or request.speaker} answers with what we cannot read: {error}") from error
