"""Scripts run on this VM without the host: the same worker and folders, under a handler's folder of our own.

Runs are told to whoever asks on the bus, never to the host. GetRun and CancelRun also find the runs that the host
ordered (managed run command).
"""

import asyncio
import contextlib
import itertools
import os
import re
import shutil
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from guestagent.layout import HandlerFolder, installed_handlers, usable_extension_name
from guestagent.reservation import Superseded, find, reserve, standing
from guestagent.runcommand import output, users
from guestagent.runcommand.cancel import cancel
from guestagent.runcommand.errors import NoSuchUser
from guestagent.runcommand.liveness import settle_place
from guestagent.runcommand.place import LOCAL, MANAGED, Place, place_of
from guestagent.runcommand.record import Record, locked, make_folder, read_record
from ipc.child import module_command
from ipc.contract.guestagent import RUN_SCRIPT_LIMIT, CancelRun, GetRun, RunScript, RunStarted, RunView
from ipc.errors import Refused
from ipc.record import Emitter
from ipc.statefile import write_atomically
from wire.extensions import Settings

_VERSION = "1.0"
_ENABLE_SECONDS = 120.0
_FILE_LIMIT = 16 * 1024 * 1024
_KEPT_RUNS = 100
_ASKED_AGAIN_SECONDS = 300.0
"""A younger run is not forgotten: its request may be asked again (RunScript.token)."""
_UNBEGUN_SECONDS = 86400.0
_TOKEN = re.compile(r"[A-Za-z0-9_-]{8,64}")


class LocalRuns:
    """The runs of `agentctl run`."""

    def __init__(self, state: Path, lib: Path, log: Path, emitter: Emitter) -> None:
        self._folder = HandlerFolder(state / "localrun", log, LOCAL, _VERSION)
        self._lib = lib
        self._log = log
        self._emitter = emitter
        # Two of one name would take the same sequence number.
        self._one_at_a_time = asyncio.Lock()

    async def run(self, request: RunScript) -> RunStarted:
        """Raises Refused for what cannot be run."""
        async with self._one_at_a_time:
            started = await asyncio.to_thread(self._run, request)
        self._emitter.emit("RunCommand", f"run {started.sequence_number} begun", subject=f"{LOCAL}/{started.name}")
        return started

    async def get(self, request: GetRun) -> RunView:
        """Raises Refused if there is no such run."""
        return await asyncio.to_thread(self._get, request.name, request.sequence_number)

    async def cancel(self, request: CancelRun) -> RunView:
        """Raises Refused if there is no such run."""
        view = await asyncio.to_thread(self._cancel, request.name)
        self._emitter.emit("RunCommand", f"canceled: {view.state}", subject=f"{LOCAL}/{view.name}")
        return view

    def _run(self, request: RunScript) -> RunStarted:
        _check_words(request)
        try:
            make_folder(self._folder.path)
            self._folder.prepare()
            # First of all: what it names may be gone by the time it is asked again.
            if (known := self._begun_before(request)) is not None:
                return _started(known)
            order, script = _order(request)
            self._forget_old()
            name = request.name or self._new_name()
            place = reserve(place_of(self._folder, name, 0), request.token)
            settings = Settings(name=name, sequence_number=place.sequence_number, public=order)
            write_atomically(place.script_file, script, 0o600)
            self._folder.write_settings(settings)
            self._enable(place)
        except Superseded:
            raise _superseded(request.name) from None
        except OSError as error:
            raise Refused(RunScript.wire_name(), "failed", f"the run could not be written down: {error}") from error
        if standing(place) == "superseded":
            raise _superseded(name)
        return _started(place)

    def _begun_before(self, request: RunScript) -> Place | None:
        known = find(place_of(self._folder, request.name, 0), request.token)
        return known if known is not None and standing(known) == "begun" else None

    def _enable(self, place: Place) -> None:
        command = module_command("guestagent.runcommand", "enable")
        environment = {
            **os.environ,
            "ConfigExtensionName": place.name,
            "ConfigSequenceNumber": str(place.sequence_number),
        }
        try:
            # A session of its own: it goes on if we are ended meanwhile.
            done = subprocess.run(
                command,
                cwd=place.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_ENABLE_SECONDS,
                check=False,
                start_new_session=True,
            )
        except subprocess.TimeoutExpired as error:
            raise Refused(RunScript.wire_name(), "failed", f"{place.name} was not begun in time") from error
        if done.returncode != 0:
            said = (done.stderr or done.stdout).decode("utf-8", "replace").strip()
            raise Refused(RunScript.wire_name(), "failed", f"{place.name} was not begun: {said[-500:]}")

    def _new_name(self) -> str:
        return next(
            name
            for name in (f"local-{number}" for number in itertools.count(1))
            if not place_of(self._folder, name, 0).mrseq.exists()
        )

    def _get(self, name: str, number: int | None) -> RunView:
        place = self._find(GetRun.wire_name(), name)
        if number is not None:
            place = place.at(number)
        settle_place(place)
        record = read_record(place)
        if record is None:
            raise Refused(GetRun.wire_name(), "bad-request", f"{name} has no run {place.sequence_number}")
        return _view(place, record)

    def _cancel(self, name: str) -> RunView:
        place = self._find(CancelRun.wire_name(), name)
        with locked(place):
            record = cancel(place)
        if record is None:
            raise Refused(CancelRun.wire_name(), "bad-request", f"{name} has no run")
        return _view(place, record)

    def _find(self, request: str, name: str) -> Place:
        """The newest run of this name, ours or the host's."""
        if usable_extension_name(name):
            folders = [self._folder]
            for handler, versions in installed_handlers(self._lib).items():
                if handler.lower() == MANAGED.lower():
                    folders += [HandlerFolder(self._lib, self._log, handler, one.version) for one in versions]
            runs = [run for folder in folders for run in place_of(folder, name, 0).runs()[-1:]]
            if runs:
                return runs[0]
        raise Refused(request, "bad-request", f"there is no run called {name[:80]!r}")

    def _forget_old(self) -> None:
        """Names made up long ago, whose runs have ended."""
        data = place_of(self._folder, "x", 0).data
        records = sorted((data / "runs").glob("*.json"), key=lambda path: path.stat().st_mtime, reverse=True)
        self._forget_unbegun()
        for path in records[_KEPT_RUNS:]:
            if 0 <= time.time() - path.stat().st_mtime < _ASKED_AGAIN_SECONDS:
                continue
            name, _, number = path.name.removesuffix(".json").rpartition(".")
            if not name or not number.isdigit():
                continue
            place = place_of(self._folder, name, int(number))
            record = read_record(place)
            if record is None or record.phase != "ended":
                continue
            if record.run_as and record.work:
                users.remove_copy(record.run_as, Path(record.work))
            shutil.rmtree(place.work, ignore_errors=True)
            shutil.rmtree(place.stdout.parent, ignore_errors=True)
            for one in (place.status_file, place.settings_file, place.script_file, path, place.token_file):
                one.unlink(missing_ok=True)
            if not place.runs():
                for one in (place.mrseq, place.lock):
                    one.unlink(missing_ok=True)
                with contextlib.suppress(OSError):
                    place.outputs.rmdir()

    def _forget_unbegun(self) -> None:
        """Requests that nobody asked again."""
        for path in self._folder.config.glob("*.token"):
            name, _, number = path.name.removesuffix(".token").rpartition(".")
            if not name or not number.isdigit() or time.time() - path.stat().st_mtime < _UNBEGUN_SECONDS:
                continue
            place = place_of(self._folder, name, int(number))
            if not place.record.exists():
                for one in (place.settings_file, place.script_file, path):
                    one.unlink(missing_ok=True)


def _check_words(request: RunScript) -> None:
    """What becomes part of a path. Raises Refused."""
    reason = ""
    if request.name and not usable_extension_name(request.name):
        reason = f"{request.name[:80]!r} cannot be the name of a run"
    elif request.token and not _TOKEN.fullmatch(request.token):
        reason = f"{request.token[:80]!r} cannot be a token"
    elif request.token and not request.name:
        reason = "a token needs a name"
    if reason:
        raise Refused(RunScript.wire_name(), "bad-request", reason)


def _superseded(name: str) -> Refused:
    return Refused(RunScript.wire_name(), "failed", f"{name} was not begun: a later run of that name took its place")


def _started(place: Place) -> RunStarted:
    return RunStarted(
        name=place.name,
        sequence_number=place.sequence_number,
        stdout=str(place.stdout),
        stderr=str(place.stderr),
    )


def _order(request: RunScript) -> tuple[dict[str, object], bytes]:
    """The request as managed run command's public settings, and the script. Raises Refused, naming what is wrong."""

    def refuse(reason: str) -> Refused:
        return Refused(RunScript.wire_name(), "bad-request", reason)

    if bool(request.script) == bool(request.script_path):
        raise refuse("exactly one of script and script_path is needed, and it must not be empty")
    if len(request.script) > RUN_SCRIPT_LIMIT:
        raise refuse(f"a script of {len(request.script)} bytes does not travel: name its file")
    if not 0 <= request.timeout_seconds < 2**31:
        raise refuse("the time limit is out of range")
    script = request.script or _read(request.script_path, refuse)
    for one in request.parameters:
        if "\0" in one.name + one.value or "=" in one.name:
            raise refuse(f"parameter {one.name[:80]!r} cannot be a variable or an argument")
    if request.run_as:
        try:
            users.find(request.run_as)
        except NoSuchUser as error:
            raise refuse(str(error)) from error
    public: dict[str, object] = {
        "source": {"script": "(beside this file)"},
        "parameters": [msgspec.to_builtins(one) for one in request.parameters],
        "runAsUser": request.run_as,
        "timeoutInSeconds": request.timeout_seconds,
    }
    return public, script


def _read(path: str, refuse: Callable[[str], Refused]) -> bytes:
    """The script's file. Raises what `refuse` makes of the reason."""
    if not Path(path).is_absolute():
        raise refuse(f"{path[:200]!r} is not an absolute path")
    try:
        with Path(path).open("rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise refuse(f"{path[:200]!r} is not a file")
            data = file.read(_FILE_LIMIT + 1)
    except OSError as error:
        raise refuse(f"{path[:200]!r} cannot be read: {error.strerror}") from error
    if not data:
        raise refuse(f"{path[:200]!r} is empty")
    if len(data) > _FILE_LIMIT:
        raise refuse(f"{path[:200]!r} is larger than {_FILE_LIMIT} bytes")
    return data


def _view(place: Place, record: Record) -> RunView:
    view = record.view if record.phase == "ended" else None
    return RunView(
        name=record.name,
        sequence_number=record.sequence_number,
        state=view.execution_state if view else "Running",
        message=view.execution_message if view else "Execution in progress",
        exit_code=view.exit_code if view else None,
        interrupted=record.interrupted,
        output=view.output if view else output.tail(place.stdout),
        error=view.error if view else output.tail(place.stderr),
        stdout=str(place.stdout),
        stderr=str(place.stderr),
        started_at=record.started_at,
        ended_at=record.ended_at,
        pid=record.script.pid if view is None and record.script is not None else None,
    )
