"""The handler's five commands. Only `enable` starts anything, and only once per sequence number."""

import contextlib
import json
import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

from guestagent.runcommand import status
from guestagent.runcommand.cancel import cancel_name, cancel_others, forget_name
from guestagent.runcommand.liveness import interrupted, settle_place
from guestagent.runcommand.place import Place
from guestagent.runcommand.processes import myself
from guestagent.runcommand.record import (
    Record,
    View,
    locked,
    make_folder,
    new_mark,
    read_mrseq,
    read_record,
    write_mrseq,
    write_record,
)
from ipc.child import module_command
from ipc.statefile import write_atomically

Decision = Literal["run", "taken", "older"]

FAILED = 3
INSTALL_FAILED = 52
_READY_SECONDS = 60.0
_JOURNAL_LIMIT = 1024 * 1024
_FROM = "AZURE_GUEST_AGENT_UPDATING_FROM_VERSION"


def decide(mrseq: int | None, sequence_number: int, record: Record | None, *, worker_alive: bool) -> Decision:
    """Whether this sequence number is to be run. Pure.

    The same number is taken up again only if it is certain that nothing of it ever ran.
    """
    if mrseq is None or sequence_number > mrseq:
        return "run"
    if record is None:
        return "older" if sequence_number < mrseq else "taken"
    lost = record.interrupted or (record.phase != "ended" and not worker_alive)
    return "run" if sequence_number == mrseq and lost and not record.started else "taken"


def install(place: Place) -> int:
    try:
        make_folder(place.data / "runs")
        make_folder(place.data / "download")
    except OSError as error:
        _say(f"failed to create data dir {place.data}: {error.strerror}")
        return INSTALL_FAILED
    return 0


def enable(place: Place) -> int:
    """Take the run up and start its worker; returns as soon as the worker is there."""
    with locked(place):
        if place.disabled.exists() and not list(place.status.glob(_of_name(place, "status"))):
            # Its status was taken away with it: a name that was deleted and made anew counts from the beginning.
            forget_name(place)
        record = read_record(place)
        mrseq = read_mrseq(place)
        decision = decide(mrseq, place.sequence_number, record, worker_alive=bool(record and record.worker.alive()))
        if decision == "run":
            return _begin(place)
    settle_place(place)
    if decision == "older" or (record is None and not place.status_file.exists()):
        _tell_unknown(place, f"sequence number {mrseq} was run before, so {place.sequence_number} is not run (again)")
    _say(f"{place.stem} has already been processed, will not run again")
    return 0


def disable(place: Place) -> int:
    """Cancel what runs under this name."""
    with locked(place):
        cancel_name(place)
        place.disabled.write_bytes(b"")
    return 0


def update(place: Place, environment: Mapping[str, str]) -> int:
    """Take over what the old version knows: sequence numbers and status files."""
    old = place.lib / f"{place.handler}-{environment.get(_FROM, '')}"
    if old == place.folder or not old.is_dir():
        return 0
    try:
        place.status.mkdir(mode=0o700, exist_ok=True)
        for path in [*old.glob("*.mrseq"), *old.glob("mrseq")]:
            _copy_missing(path, place.folder / path.name)
        for path in (old / "status").glob("*.status"):
            _copy_missing(path, place.status / path.name)
        for path in place.folder.glob("*.mrseq"):
            taken = msgspec.structs.replace(place, name=path.name.removesuffix(".mrseq"))
            number = read_mrseq(taken)
            if number is not None and not taken.at(number).status_file.exists():
                settle_place(taken.at(number))
                _tell_unknown(taken.at(number), "The script has been executed. However, its outcome is unknown.")
    except OSError as error:
        _say(f"the state of {old.name} could not be copied: {error}")
        return FAILED
    return 0


def uninstall(place: Place) -> int:
    """Cancel everything and remove the data; the outputs stay in the log folder."""
    prefix = f"{place.handler}-"
    others = [path for path in place.lib.glob("*-*") if path.name.startswith(prefix) and path != place.folder]
    if any((path / "HandlerManifest.json").exists() for path in others):
        # The end of an update: what is running and what is known belongs to the new version now.
        return 0
    for name in sorted({record.name for record in _records(place)}):
        named = msgspec.structs.replace(place, name=name)
        with locked(named):
            cancel_name(named)
    try:
        if place.data.exists():
            shutil.rmtree(place.data)
    except OSError as error:
        _say(f"failed to delete data directory {place.data}: {error}")
        return FAILED
    return 0


def _begin(place: Place) -> int:
    """The caller holds the lock."""
    cancel_others(place)
    record = Record(
        name=place.name,
        sequence_number=place.sequence_number,
        phase="accepted",
        worker=myself(),
        mark=new_mark(),
        accepted_at=time.time(),
    )
    write_record(place, record)
    write_mrseq(place)
    place.disabled.unlink(missing_ok=True)
    status.report(place, record, status.running(record))
    if _start_worker(place):
        return 0
    record = read_record(place) or record
    if record.started:
        # It was there after all, and was killed too late.
        record = interrupted(place, record)
        write_record(place, record)
        status.report(place, record, record.view or status.running(record))
        return FAILED
    now = time.time()
    view = View(
        execution_state="Failed",
        execution_message=f"Execution failed: no worker could be started, see {place.journal}",
        exit_code=-204,
        start_time=status.stamp(record.accepted_at),
        end_time=status.stamp(now),
    )
    write_record(place, msgspec.structs.replace(record, phase="ended", ended_at=now, view=view))
    status.report(place, record, view)
    return FAILED


def _start_worker(place: Place) -> bool:
    """Whether it is there and has put its name into the record."""
    reading, writing = os.pipe()
    command = module_command("guestagent.runcommand", "work", str(place.folder), str(writing))
    try:
        with _journal(place).open("ab") as journal:
            child = subprocess.Popen(
                command,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=journal,
                stderr=journal,
                pass_fds=(writing,),
                start_new_session=True,
            )
    except OSError as error:
        _say(f"no worker: {error}")
        os.close(reading)
        return False
    finally:
        os.close(writing)
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        ready = bool(select.select([pipe], [], [], _READY_SECONDS)[0]) and pipe.read(1) == b"+"
    if not ready:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        child.wait()
    else:
        # It outlives us; nobody here will wait for it.
        child.returncode = 0
    return ready


def _journal(place: Place) -> Path:
    place.log.mkdir(mode=0o755, parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        if place.journal.stat().st_size > _JOURNAL_LIMIT:
            os.truncate(place.journal, 0)
    os.close(os.open(place.journal, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
    return place.journal


def _tell_unknown(place: Place, message: str) -> None:
    """A final status for what cannot be known, unless there is one."""
    if place.status_file.exists():
        return
    now = status.stamp(time.time())
    view = View(execution_state="Unknown", execution_message=message, start_time=now, end_time=now)
    record = Record(
        name=place.name,
        sequence_number=place.sequence_number,
        phase="ended",
        worker=myself(),
        mark="",
        accepted_at=time.time(),
        ran=True,
    )
    status.report(place, record, view)


def _records(place: Place) -> list[Record]:
    found = []
    for path in (place.data / "runs").glob("*.json"):
        with contextlib.suppress(OSError, msgspec.DecodeError):
            found.append(msgspec.json.decode(path.read_bytes(), type=Record))
    return found


def _copy_missing(source: Path, target: Path) -> None:
    if source.is_file() and not source.is_symlink() and not target.exists():
        write_atomically(target, source.read_bytes(), 0o600)


def _of_name(place: Place, ending: str) -> str:
    """Pattern of all files of a name; characters that mean something in patterns stand for themselves."""
    escaped = "".join(f"[{one}]" if one in "*?[" else one for one in place.name)
    return f"{escaped}.*.{ending}" if place.name else f"*.{ending}"


def _say(text: str) -> None:
    """Goes into CommandExecution.log."""
    sys.stdout.write(json.dumps({"at": status.stamp(time.time()), "message": text}) + "\n")
