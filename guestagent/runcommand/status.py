"""What the host is told, in either shape. Pure but for `report`."""

import json
import time

import msgspec

from guestagent.runcommand.place import Place, Shape
from guestagent.runcommand.record import Record, View
from guestagent.statusfile import Word
from ipc.statefile import write_atomically

STILL_RUNNING = frozenset({"Pending", "Running"})
_LINE = 200
_RUNNING_PREFIXES = tuple(f'{{"executionState":"{word}"' for word in sorted(STILL_RUNNING))


def stamp(at: float) -> str:
    """RFC 3339, UTC."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))


def running(record: Record, output: str = "", error: str = "") -> View:
    return View(
        execution_state="Running",
        execution_message="Execution in progress",
        output=output,
        error=error,
        start_time=stamp(record.accepted_at),
    )


def word_for(shape: Shape, record: Record, view: View) -> Word:
    """The status word.

    A script that fails is no failure of the extension, so the host is told success, unless the order says otherwise
    (treatFailureAsDeploymentFailure). v1 says error where the script never had its say.
    """
    if view.execution_state in STILL_RUNNING:
        return "success" if record.asynchronous else "transitioning"
    if shape == "action":
        return "success" if record.ran else "error"
    return "error" if record.failure_is_error and view.execution_state != "Succeeded" else "success"


def message_for(shape: Shape, record: Record, view: View) -> str:
    """v2 a JSON text, v1 words."""
    if shape == "managed":
        return msgspec.json.encode(view).decode()
    if view.execution_state in STILL_RUNNING:
        return "Enable in progress"
    streams = f"\n[stdout]\n{view.output}\n[stderr]\n{view.error}"
    if record.ran:
        return f"Enable succeeded: {streams}"
    return f"Enable failed: {view.execution_message}{streams if record.started else ''}"


def says_running(message: str) -> bool:
    """Whether a message of ours is that of a run under way."""
    return message == "Enable in progress" or message.startswith(_RUNNING_PREFIXES)


def for_people(message: str) -> str:
    """v2's JSON text as a line: `Failed, exit status 3: no such file`. Any other message as it is."""
    try:
        view = msgspec.json.decode(message, type=View) if message.startswith("{") else None
    except (msgspec.DecodeError, UnicodeError):
        view = None
    if view is None:
        return message
    if view.execution_state in STILL_RUNNING:
        return view.execution_state
    well = view.execution_state == "Succeeded"
    streams = (view.output, view.error) if well else (view.error, view.output, view.execution_message)
    first = next((line for text in streams if (line := text.strip().partition("\n")[0].rstrip())), "")
    told = f"{view.execution_state}, exit status {view.exit_code}"
    return f"{told}: {first[:_LINE]}" if first else told


def status_bytes(shape: Shape, record: Record, view: View, now: float) -> bytes:
    """The status file."""
    status = {
        "operation": "Enable",
        "status": word_for(shape, record, view),
        "formattedMessage": {"lang": "en", "message": message_for(shape, record, view)},
    }
    if record.name:
        status = {"name": record.name, **status}
    return json.dumps([{"version": 1, "timestampUTC": stamp(now), "status": status}], indent="\t").encode()


def report(place: Place, record: Record, view: View) -> None:
    """Write the status file, whole or not at all. Raises OSError."""
    place.status.mkdir(mode=0o700, exist_ok=True)
    write_atomically(place.status_file, status_bytes(place.shape, record, view, time.time()), 0o600)
