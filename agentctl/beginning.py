"""Having a run begun exactly once, by a guestagent that may be killed, restarted or swapped at any moment.

A request without an answer is asked again with the same token, which makes it the same run (RunScript.token). Whoever
is too old to know tokens is never asked twice; it is only looked what it began.
"""

import asyncio
import sys
import time

from agentctl import __version__
from agentctl.asking import why_mute
from agentctl.deployment import Deployment
from agentctl.errors import CommandError, NothingThere
from ipc.bus import Bus
from ipc.contract.every import Describe, Description
from ipc.contract.guestagent import GetRun, RunScript, RunStarted
from ipc.errors import FrameError, NoAnswer, Refused

_PATIENCE = 150.0
_AGAIN_SECONDS = 3.0
"""A run takes less to begin, mostly; asking early costs a question, no more."""
_LOOK_SECONDS = 3.0
_PAUSE = 0.5
_TOKENS_SINCE = (1, 3)


async def begin(deployment: Deployment, request: RunScript) -> RunStarted:
    """Raises CommandError: it was not begun, or (the text says so) that is not known."""
    bus = Bus(deployment.places, "agentctl", __version__)
    try:
        asking = _Asking(bus, request)
        # A short question first: nobody waits long for somebody who is not there.
        neighbour: Description | None = await present(bus, deployment)
        until = time.monotonic() + _PATIENCE
        while (left := until - time.monotonic()) > 0:
            if neighbour is not None and (started := await asking.once(neighbour, left)) is not None:
                return started
            neighbour = await _described(bus)
    except Refused as refusal:
        raise no(refusal) from refusal
    except FrameError as error:
        raise CommandError(str(error)) from error
    finally:
        bus.close()
    attach = deployment.command(f"agentctl run --attach {request.name}")
    raise CommandError(
        f"guestagent did not say within {_PATIENCE:g} s that {request.name} was begun. "
        f"Whether it was is not known, see: {attach}"
    )


async def present(bus: Bus, deployment: Deployment) -> Description:
    """Raises NothingThere."""
    try:
        return await bus.ask(Describe(), to="guestagent", within=_LOOK_SECONDS)
    except NoAnswer as error:
        what_next = why_mute(deployment, "guestagent") or f"Start the agent with: {deployment.up_command}"
        raise NothingThere(f"guestagent does not answer. {what_next}") from error


def no(refusal: Refused) -> CommandError:
    """As the operator is told it."""
    if refusal.code == "unsupported":
        return CommandError("this guestagent does not know `run` yet: it is older than this command")
    return CommandError(refusal.reason)


class _Asking:
    def __init__(self, bus: Bus, request: RunScript) -> None:
        self._bus = bus
        self._request = request
        self._began_at = time.time()
        self._asked = False
        self._forgetful = False
        """Somebody was asked who remembers no tokens: to ask again could be to run it again."""

    async def once(self, neighbour: Description, left: float) -> RunStarted | None:
        """None: no answer. Raises Refused, FrameError."""
        if self._forgetful:
            return await self._found()
        self._forgetful = (neighbour.protocol_major, neighbour.protocol_minor) < _TOKENS_SINCE
        if self._forgetful and self._asked:
            return await self._found()
        before, self._asked = self._asked, True
        try:
            return await self._bus.ask(self._request, within=min(left, _AGAIN_SECONDS))
        except NoAnswer:
            if not before:
                sys.stderr.write("agentctl: guestagent has not answered yet\n")
            return None
        except Refused as refusal:
            # Said by somebody who does not know what became of the question before.
            if not before or refusal.code != "busy":
                raise
            await asyncio.sleep(_PAUSE)
            return None

    async def _found(self) -> RunStarted | None:
        """What runs under this name since we asked."""
        await asyncio.sleep(_PAUSE)
        try:
            view = await self._bus.ask(GetRun(name=self._request.name), within=_LOOK_SECONDS)
        except (NoAnswer, Refused):
            return None
        if view.started_at is None or view.started_at < self._began_at:
            return None
        return RunStarted(name=view.name, sequence_number=view.sequence_number, stdout=view.stdout, stderr=view.stderr)


async def _described(bus: Bus) -> Description | None:
    try:
        return await bus.ask(Describe(), to="guestagent", within=_LOOK_SECONDS)
    except (NoAnswer, FrameError):
        await asyncio.sleep(_PAUSE)
        return None
