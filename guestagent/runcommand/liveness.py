"""Is anybody still working on it? A run whose worker is gone gets its final status here, by whoever looks."""

import contextlib
import time
from typing import Literal

import msgspec

from guestagent import foreign
from guestagent.errors import StatusFileError
from guestagent.layout import HandlerFolder
from guestagent.runcommand import status
from guestagent.runcommand.output import tail
from guestagent.runcommand.place import Place, place_of
from guestagent.runcommand.record import Record, View, locked, read_record, write_record
from guestagent.statusfile import READ_LIMIT, parse_status

Verdict = Literal["leave", "interrupted", "tell again"]


def judge(record: Record | None, *, worker_alive: bool, told: str | None) -> Verdict:
    """`told` is the message of the status file, None if there is none. Pure."""
    if record is None:
        return "leave"
    if record.phase != "ended":
        # With a full disk the status may be all that could be written of its end.
        return "leave" if worker_alive or (told is not None and not status.says_running(told)) else "interrupted"
    # The record is written first; its writer may have been killed before the status was.
    return "tell again" if told is None or status.says_running(told) else "leave"


def settle(folder: HandlerFolder, extension: str, sequence_number: int) -> bool:
    """Give a run that nobody works on its final status; whether anything was written.

    Cheap: two small files are read and one line of /proc. Meant for each look at a handler's status.
    """
    return settle_place(place_of(folder, extension, sequence_number))


def settle_place(place: Place) -> bool:
    record = read_record(place)
    if record is None or _verdict(place, record) == "leave":
        return False
    with contextlib.suppress(OSError), locked(place, wait=False) as ours:
        if not ours:
            return False  # somebody is about to decide about this name
        # It may have ended between the two looks.
        record = read_record(place)
        if record is None:
            return False
        verdict = _verdict(place, record)
        if verdict == "interrupted":
            record = interrupted(place, record)
            write_record(place, record)
        if verdict != "leave" and record.view is not None:
            status.report(place, record, record.view)
            return True
    return False


def interrupted(place: Place, record: Record) -> Record:
    """The record of a run whose worker is gone; it is never repeated if the script may have begun."""
    if record.started:
        what = "its worker ended without a word (killed, or the machine went down), so its outcome is unknown"
        if record.script is not None and record.script.alive():
            what += f"; the script still runs as pid {record.script.pid}"
    else:
        what = "its worker ended before the script began"
    now = time.time()
    view = View(
        execution_state="Failed",
        execution_message=f"Execution was interrupted: {what}",
        output=tail(place.stdout) if record.started else "",
        error=tail(place.stderr) if record.started else "",
        exit_code=-1,
        start_time=status.stamp(record.accepted_at),
        end_time=status.stamp(now),
    )
    return msgspec.structs.replace(record, phase="ended", ended_at=now, view=view, interrupted=True)


def _verdict(place: Place, record: Record) -> Verdict:
    return judge(record, worker_alive=record.worker.alive(), told=_told(place))


def _told(place: Place) -> str | None:
    try:
        return parse_status(foreign.read(place.status_file, READ_LIMIT + 1).data).message or ""
    except (OSError, StatusFileError):
        return None
