"""`agentctl up`: from nothing to Ready, shown as it happens."""

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from agentctl import group, render
from agentctl.deployment import Deployment
from agentctl.errors import CommandError, NothingThere
from agentctl.holding import ENDINGS, heard
from agentctl.restart import restart
from agentctl.view import StatusView, gather, is_ready, read_endpoints
from ipc.errors import AlreadyRunning, UnsafeDirectory
from ipc.lock import Lock, make_private_directory
from ipc.places import COMPONENTS
from ipc.supervisord import Supervisord, SupervisordError

_READY_PATIENCE = 60.0
_LOOK_SECONDS = 0.25


class Goal(msgspec.Struct, frozen=True):
    """One line of the list that fills with marks."""

    text: str
    missing: str
    """What is true while it is not reached."""
    reached: bool


def goals(view: StatusView | None, *, with_sample: bool) -> list[Goal]:
    """How far the start has come, from what status shows."""
    alive = [one.name for one in view.components if one.state in {"ok", "busy"}] if view else []
    steps = [
        Goal("four processes answer", f"{len(alive)} of 4 processes answer", len(alive) == 4),
        Goal("the goal state was read", "the goal state was not read", bool(view and view.goal_state)),
        Goal("the host was told Ready", "the host was not told Ready", bool(view and view.host.ready)),
    ]
    if with_sample:
        done = view is not None and any(
            one.status == "success" and one.handler_status == "Ready" for one in view.extensions
        )
        steps.append(Goal("the sample extension reports success", "the sample reports no success", done))
    return steps


def up(deployment: Deployment, console: Console, *, detach: bool, sample: bool, host: bool) -> None:
    """Start everything, wait for Ready, and stay in front unless detached. Raises CommandError.

    Whatever ends it before it is detached, Ctrl-C included, ends what it started.
    """
    deployment.check_names()
    lock = _take_lock(deployment)
    if group.running(deployment):
        _bring_back_the_host(deployment, console, host=host)
        lock.release()
        return
    with _ending_on_failure(deployment, console, keep_network=not host):
        group.prepare(deployment)
        started = time.monotonic()
        portal = group.start_host(deployment).portal if host else ""
        group.start_supervisord(deployment)
        if sample:
            _add_sample(deployment)
        _follow_until_ready(deployment, console, with_sample=sample)
        console.print(Text(f"\nReady after {time.monotonic() - started:.1f} s.", style="bold green"))
        console.print(_what_next(deployment, portal))
        if not detach:
            _wait_for_the_end(deployment, console)
            console.print("Ending...")
            group.end_all(deployment)
    lock.release()


def _take_lock(deployment: Deployment) -> Lock:
    try:
        deployment.places.check_socket_lengths()
    except UnsafeDirectory as error:
        raise CommandError(str(error)) from error
    try:
        make_private_directory(deployment.places.run)
        return Lock(deployment.up_lock, f"agentctl up for {deployment.root}")
    except AlreadyRunning as error:
        raise CommandError(str(error)) from error
    except UnsafeDirectory as error:
        raise CommandError(f"{error}; or choose another folder (--root DIR)") from error
    except OSError as error:
        raise CommandError(f"{deployment.up_lock} cannot be taken: {error.strerror}") from error


def _bring_back_the_host(deployment: Deployment, console: Console, *, host: bool) -> None:
    """On a root whose group runs: start the local host again if that is what is missing. Raises CommandError."""
    down = deployment.command("agentctl down")
    if group.supervisord_process(deployment) is None:
        raise CommandError(
            "This root's processes run, but its supervisord does not answer. "
            f"End them with: {down}, then: {deployment.up_command}"
        )
    if not host or group.host_process(deployment) is not None:
        raise CommandError(
            f"This root is already up. See: {deployment.command('agentctl status')}; end it with: {down}"
        )
    before = read_endpoints(deployment)
    now = group.start_host(deployment)
    console.print("The local host was gone, and runs again.")
    if before is None or before.wireserver != now.wireserver:
        # The four were told of it when they started.
        for component in COMPONENTS:
            restart(deployment, component)
        console.print("It is at other addresses than before: the four were started anew.")
    _follow_until_ready(deployment, console, with_sample=False)


@contextmanager
def _ending_on_failure(deployment: Deployment, console: Console, *, keep_network: bool) -> Iterator[None]:
    """A VM whose agent does not come up keeps its network: somebody has to look why."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupted)
    done = False
    try:
        yield
        done = True
    finally:
        signal.signal(signal.SIGTERM, before)
        if not done:
            console.print("Ending what was started...")
            group.end_all(deployment, keep_network=keep_network)


def _add_sample(deployment: Deployment) -> None:
    command = [sys.executable, "-P", "-m", "fabric", "ext", "add", "--sample", "--root", str(deployment.root)]
    done = subprocess.run(command, env=deployment.environment(), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise CommandError(f"the sample extension could not be added:\n{done.stderr or done.stdout}")


def _follow_until_ready(deployment: Deployment, console: Console, *, with_sample: bool) -> None:
    """Show what happens. Raises CommandError."""
    with Live(console=console, refresh_per_second=8, transient=True) as live:
        view = asyncio.run(_follow(deployment, live, with_sample=with_sample))
    console.print(render.status(view))


async def _follow(deployment: Deployment, live: Live, *, with_sample: bool) -> StatusView:
    until = time.monotonic() + _READY_PATIENCE
    view: StatusView | None = None
    while True:
        try:
            view = await gather(deployment)
        except NothingThere:
            view = None
        steps = goals(view, with_sample=with_sample)
        live.update(_progress(steps, view))
        if view is not None and is_ready(view) and all(step.reached for step in steps):
            return view
        _check_for_giving_up(deployment)
        if time.monotonic() > until:
            missing = "; ".join(step.missing for step in steps if not step.reached)
            problems = "\n".join(view.problems) if view else ""
            raise CommandError(
                f"Not Ready after {_READY_PATIENCE:g} s: {missing or 'a component is not well'}.\n"
                f"{problems}\nLogs: {deployment.places.log}"
            )
        await asyncio.sleep(_LOOK_SECONDS)


def _check_for_giving_up(deployment: Deployment) -> None:
    """Raises CommandError as soon as one of the four is known never to come."""
    try:
        given_up = [one for one in Supervisord(deployment.places).programs() if one.statename == "FATAL"]
    except SupervisordError:
        return
    if given_up:
        raise CommandError(
            f"{', '.join(one.name for one in given_up)} ended at each start; the end of {given_up[0].stdout_logfile}:\n"
            f"{group.log_tail(Path(given_up[0].stdout_logfile), 5)}\nLogs: {deployment.places.log}"
        )


def _progress(steps: list[Goal], view: StatusView | None) -> RenderableType:
    lines: list[RenderableType] = [
        Text(f"{'✓' if step.reached else '…'} {step.text}", style="green" if step.reached else "cyan") for step in steps
    ]
    if view is not None:
        lines += [Text(), render.status(view)]
    return Group(*lines)


def _what_next(deployment: Deployment, portal: str) -> Text:
    command = deployment.command
    ours = (
        f"Portal      {portal}\n"
        f"Look        {command('agentctl status')}      {command('azfabric told')}\n"
        f"Try         {command('azfabric ext add PACKAGE.zip --settings FILE')}\n"
    )
    look = f"Look        {command('agentctl status')}      {command('agentctl net show')}\n"
    return Text(
        f"{ours if portal else look}"
        f"Break       {command('agentctl restart guestagent')}\n"
        f"End         {command('agentctl down')}\n"
        f"Logs        {deployment.places.log}",
        no_wrap=True,
        overflow="ignore",
    )


def _wait_for_the_end(deployment: Deployment, console: Console) -> None:
    """Until a signal asks for it, or supervisord is gone (`agentctl down` elsewhere, or it died)."""
    with heard((*ENDINGS, signal.SIGCHLD)) as arrivals:
        console.print(Text("Ctrl-C ends it.", style="dim"))
        # By its identity: one that does not answer just now is still there. It may have ended before we listened, too.
        supervisord = group.supervisord_process(deployment)
        while supervisord is not None and supervisord.alive() and arrivals.recv(1)[0] not in ENDINGS:
            pass
