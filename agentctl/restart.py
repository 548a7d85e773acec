"""`agentctl restart`: one component anew, by supervisord, seen to be back."""

import asyncio
import time

from agentctl import __version__
from agentctl.deployment import Deployment
from agentctl.errors import CommandError, NothingThere
from ipc.bus import Bus
from ipc.contract.every import Describe, Description
from ipc.contract.rdagent import GetTruth
from ipc.errors import FrameError, NoAnswer, Refused
from ipc.supervisord import Supervisord, SupervisordError

_PATIENCE = 15.0
_LOOK_SECONDS = 0.1


def restart(deployment: Deployment, component: str) -> Description:
    """Stop and start it, and wait until it answers with another pid. Raises CommandError, NothingThere."""
    supervisord = Supervisord(deployment.places)
    try:
        before = {program.name: program.pid for program in supervisord.programs()}
    except SupervisordError as error:
        raise NothingThere(f"{error}\nStart the group with: {deployment.up_command}") from error
    try:
        supervisord.stop(component)
        supervisord.start(component)
    except SupervisordError as error:
        raise CommandError(str(error)) from error
    return asyncio.run(_until_back(deployment, component, before.get(component, 0)))


async def _until_back(deployment: Deployment, component: str, old_pid: int) -> Description:
    bus = Bus(deployment.places, "agentctl", __version__)
    until = time.monotonic() + _PATIENCE
    try:
        while time.monotonic() < until:
            try:
                answer = await bus.ask(Describe(), to=component, within=1.0)
            except (NoAnswer, Refused, FrameError):
                continue
            if answer.pid != old_pid:
                await _until_seen(bus, answer, until)
                return answer
    finally:
        bus.close()
    raise CommandError(
        f"{component} was started but does not answer after {_PATIENCE:g} s. Its log lies under {deployment.places.log}"
    )


async def _until_seen(bus: Bus, back: Description, until: float) -> None:
    """Until rdagent has seen it too: who looks at `agentctl status` next must not be shown the old process."""
    while time.monotonic() < until:
        try:
            truth = await bus.ask(GetTruth(), within=1.0)
        except (NoAnswer, Refused, FrameError):
            return  # rdagent is away; status then asks supervisord
        if any(one.pid == back.pid for one in truth.components if one.name == back.component):
            return
        await asyncio.sleep(_LOOK_SECONDS)
