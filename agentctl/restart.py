"""`agentctl restart`: one component anew, by supervisord, seen to be back."""

import asyncio
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agentctl import __version__
from agentctl.deployment import Deployment
from agentctl.errors import CommandError, NothingThere
from agentctl.group import running
from agentctl.holding import held
from agentctl.processes import wait_until
from agentctl.rights import check_rights
from ipc.bus import Bus
from ipc.contract.every import Describe, Description
from ipc.contract.rdagent import GetTruth
from ipc.errors import FrameError, NoAnswer, Refused
from ipc.supervisord import Supervisord, SupervisordError

_PATIENCE = 15.0
_OTHERS_PATIENCE = 2 * _PATIENCE
_LOOK_SECONDS = 0.1
_RUNS = {"STARTING", "RUNNING", "BACKOFF", "STOPPING"}


def restart(deployment: Deployment, component: str) -> Description:
    """Stop and start it, and wait until it answers with another pid. Raises CommandError, NothingThere."""
    check_rights(deployment)
    supervisord = Supervisord(deployment.places)
    try:
        before = {program.name: program.pid for program in supervisord.programs()}
    except SupervisordError as error:
        what_next = f"start the group with: {deployment.up_command}"
        if running(deployment):
            what_next = f"end what is left with: {deployment.command('agentctl down')}, then {what_next}"
        raise NothingThere(f"{error}\nNothing can be restarted without it; {what_next}") from error
    try:
        # What was stopped must not stay stopped. Who waits for another restart may lose patience.
        with _noted(deployment.places.restarting(component), component), held(impatience=False):
            supervisord.stop(component)
            _wait_for_the_end(supervisord, component)
            supervisord.start(component)
    except SupervisordError as error:
        raise CommandError(f"{error}\nSee: {deployment.command('agentctl status')}") from error
    return asyncio.run(_until_back(deployment, component, before.get(component, 0)))


@contextmanager
def _noted(note: Path, component: str, patience: float = _OTHERS_PATIENCE) -> Iterator[None]:
    """watchdog.py starts it if we do not come to the block's end. Another restart of it is waited for.

    Raises CommandError if that does not end within `patience` seconds: it may be stopped, as by Ctrl-Z.
    """
    descriptor = os.open(note, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def is_ours() -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    try:
        if not wait_until(is_ours, patience):
            other = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            raise CommandError(
                f"another restart of {component}, process {other}, has not ended within {patience:g} s. "
                "End it, and say it again"
            )
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _wait_for_the_end(supervisord: Supervisord, component: str) -> None:
    """Raises SupervisordError, CommandError."""
    states: dict[str, str] = {}

    def ended() -> bool:
        states.update({one.name: one.statename for one in supervisord.programs()})
        return states.get(component) not in _RUNS

    # A process that hears no signal, e.g. one stopped by SIGSTOP, is killed after `stopwaitsecs` of supervisord.conf.
    if not wait_until(ended, _PATIENCE):
        raise CommandError(f"{component} does not end within {_PATIENCE:g} s; supervisord says {states.get(component)}")


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
