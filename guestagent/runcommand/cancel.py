"""Ending runs from outside. Whoever does it holds the lock of the name."""

import contextlib
import shutil
import signal
from pathlib import Path

from guestagent.runcommand import status, users
from guestagent.runcommand.liveness import interrupted
from guestagent.runcommand.place import Place
from guestagent.runcommand.processes import end_all, left_of
from guestagent.runcommand.record import Record, read_record, write_record

_PATIENCE = 30.0
_GRACE = 2.0


def cancel_name(place: Place) -> None:
    """Every run of this name that has not ended."""
    for run in place.runs():
        cancel(run)


def cancel_others(place: Place) -> None:
    """Every run of this name but this one, and the copies they left for other users."""
    for run in place.runs():
        record = cancel(run)
        if run.sequence_number != place.sequence_number and record is not None and record.run_as and record.work:
            users.remove_copy(record.run_as, Path(record.work))


def cancel(place: Place, patience: float = _PATIENCE) -> Record | None:
    """End it, processes and all; its record afterwards. Nothing happens to one that ended by itself."""
    record = read_record(place)
    if record is None or record.ran:
        return record
    if record.phase != "ended":
        record.worker.signal(signal.SIGTERM)
        if not record.worker.wait(patience):
            record.worker.signal(signal.SIGKILL)
            record.worker.wait(patience)
        record = read_record(place) or record
    # What a worker that was killed left behind.
    mark, session = record.mark, record.script.pid if record.script is not None and record.script.alive() else 0
    if record.started and not record.ran:
        end_all(lambda: left_of(mark, session), _GRACE, lambda: None)
    if record.phase != "ended":
        record = interrupted(place, record)
        write_record(place, record)
        if record.view is not None:
            with contextlib.suppress(OSError):
                status.report(place, record, record.view)
    return record


def forget_name(place: Place) -> None:
    """All that is known of a name, as if it had never been."""
    for run in place.runs():
        cancel(run)
        run.record.unlink(missing_ok=True)
    place.mrseq.unlink(missing_ok=True)
    shutil.rmtree(place.downloads, ignore_errors=True)
