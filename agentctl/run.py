"""`agentctl run`: a script on this VM, its output as it comes, its exit status as ours."""

import asyncio
import os
import re
import secrets
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import msgspec

from agentctl import __version__, beginning
from agentctl.deployment import Deployment
from agentctl.errors import CommandError, WrongUse
from agentctl.rights import check_rights
from ipc.bus import Bus
from ipc.contract.guestagent import (
    RUN_SCRIPT_LIMIT,
    CancelRun,
    GetRun,
    RunParameter,
    RunScript,
    RunStarted,
    RunView,
)
from ipc.errors import FrameError, NoAnswer, Refused
from ipc.message import R, Request

TIMED_OUT = 124
"""As timeout(1)."""
CANCELED = 128 + signal.SIGTERM

_CANCEL_SECONDS = 90.0
_LOOK_SECONDS = 0.2
_CHUNK = 1024 * 1024


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line says is to be run."""

    script: str
    """Path, or `-`; empty with `command`."""
    command: str = ""
    name: str = ""
    arguments: tuple[str, ...] = ()
    parameters: tuple[str, ...] = ()
    """`name=value`."""
    timeout: int = 0
    run_as: str = ""


def made_up_name(script: str) -> str:
    """Made up on this side, so that it is known whatever becomes of the conversation."""
    stem = "stdin" if script == "-" else Path(script).stem if script else "command"
    return f"{re.sub(r'[^A-Za-z0-9_.-]', '_', stem)[:40].lstrip('.') or 'script'}-{secrets.token_hex(3)}"


class Follower:
    """Copies what both files grow by to our own streams."""

    def __init__(self, stdout: str, stderr: str, out: BinaryIO, err: BinaryIO) -> None:
        self._pairs = [(Path(stdout), out, 0), (Path(stderr), err, 0)]

    def copy(self) -> None:
        """What is new. A file that is shorter than it was is read from its beginning. Raises BrokenPipeError."""
        self._pairs = [(path, sink, self._copy(path, sink, position)) for path, sink, position in self._pairs]

    @staticmethod
    def _copy(path: Path, sink: BinaryIO, position: int) -> int:
        try:
            with path.open("rb") as file:
                if os.fstat(file.fileno()).st_size < position:
                    position = 0
                file.seek(position)
                while chunk := file.read(_CHUNK):
                    sink.write(chunk)
                    position += len(chunk)
        except FileNotFoundError:
            return position  # the run has not come that far
        sink.flush()
        return position


def begin(deployment: Deployment, wanted: Wanted) -> RunStarted:
    """Have it run. Raises CommandError."""
    parameters = [RunParameter(value=one) for one in wanted.arguments]
    for one in wanted.parameters:
        name, equals, value = one.partition("=")
        if not equals or not name:
            raise WrongUse(f"--parameter {one!r}: write NAME=VALUE")
        parameters.append(RunParameter(name=name, value=value))
    check_rights(deployment)
    with _travelling(deployment, wanted) as (script, path):
        request = RunScript(
            name=wanted.name,
            script=script,
            script_path=path,
            parameters=parameters,
            run_as=wanted.run_as,
            timeout_seconds=wanted.timeout,
            token=secrets.token_hex(16),
        )
        return asyncio.run(beginning.begin(deployment, request))


def look(deployment: Deployment, name: str) -> RunView:
    """The newest run of this name. Raises CommandError."""
    return asyncio.run(_ask_once(deployment, GetRun(name=name), 10.0))


def cancel(deployment: Deployment, name: str) -> RunView:
    """End it. Raises CommandError."""
    return asyncio.run(_ask_once(deployment, CancelRun(name=name), _CANCEL_SECONDS))


def follow(deployment: Deployment, name: str, number: int, follower: Follower) -> RunView:
    """Until it has ended. The script does not depend on us, nor on guestagent. Raises CommandError."""
    return asyncio.run(_follow(deployment, name, number, follower))


def exit_status(view: RunView) -> int:
    """The script's own where it has one; as a shell says it otherwise."""
    if view.state == "TimedOut":
        return TIMED_OUT
    if view.state == "Canceled":
        return CANCELED
    if view.exit_code is not None and 0 <= view.exit_code <= 255 and not view.interrupted:
        return view.exit_code
    return 1


def how_to_go_on(deployment: Deployment, name: str) -> str:
    """What to type next."""
    again, cancel = (deployment.command(f"agentctl run --{word} {name}") for word in ("attach", "cancel"))
    return f"Look again: {again}\nEnd it:     {cancel}"


async def _follow(deployment: Deployment, name: str, number: int, follower: Follower) -> RunView:
    bus = Bus(deployment.places, "agentctl", __version__)
    told = False
    try:
        while True:
            view: RunView | None = None
            try:
                view = await bus.ask(GetRun(name=name, sequence_number=number), within=2.0)
                told = False
            except NoAnswer:
                if not told:
                    sys.stderr.write("agentctl: guestagent does not answer; the script goes on, and so do we\n")
                told = True
            except (Refused, FrameError) as error:
                raise CommandError(str(error)) from error
            # After the question: what was written before it ended is in the files now.
            follower.copy()
            if view is not None and view.state != "Running":
                return view
            await asyncio.sleep(_LOOK_SECONDS)
    finally:
        bus.close()


async def _ask_once(deployment: Deployment, request: Request[R], within: float) -> R:
    check_rights(deployment)
    bus = Bus(deployment.places, "agentctl", __version__)
    try:
        # A short question first: nobody waits long for somebody who is not there.
        await beginning.present(bus, deployment)
        return await bus.ask(request, within=within)
    except NoAnswer as error:
        raise CommandError(f"{error}. Whether it was carried out is not known: agentctl status") from error
    except Refused as refusal:
        raise beginning.no(refusal) from refusal
    except FrameError as error:
        raise CommandError(str(error)) from error
    finally:
        bus.close()


@contextmanager
def _travelling(deployment: Deployment, wanted: Wanted) -> Iterator[tuple[bytes, str]]:
    """The script itself if it is small, else the path it can be read from while the block lasts."""
    if wanted.command:
        data = wanted.command.encode("utf-8", "surrogateescape") + b"\n"
    elif wanted.script == "-":
        data = sys.stdin.buffer.read()
    else:
        path = Path(wanted.script).absolute()
        try:
            size = path.stat().st_size
            data = path.read_bytes() if size <= RUN_SCRIPT_LIMIT else b""
        except OSError as error:
            raise WrongUse(f"{wanted.script} cannot be read: {error.strerror}") from error
        if size > RUN_SCRIPT_LIMIT:
            yield b"", str(path)
            return
    if not data.strip():
        raise WrongUse("the script is empty")
    if len(data) <= RUN_SCRIPT_LIMIT:
        yield data, ""
        return
    # Only we and the agent can read what lies here.
    with tempfile.NamedTemporaryFile(dir=deployment.places.run, prefix="script-") as file:
        file.write(data)
        file.flush()
        yield b"", file.name
