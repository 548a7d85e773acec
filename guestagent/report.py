"""The status blob, and what status shows: one look at the disk, two forms (protocol: status reporting)."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from guestagent.builtin import provides
from guestagent.errors import PackageError, StatusFileError
from guestagent.layout import HandlerFolder
from guestagent.record import Applied, key
from guestagent.runcommand.liveness import settle
from guestagent.statusfile import READ_LIMIT, ExtensionStatus, parse_status
from guestagent.steps import Doing
from ipc.contract.guestagent import ExtensionView
from wire.extensions import SUPPORTED_FEATURES, ExtensionsGoalState, Handler, Settings
from wire.redact import redact

_STALE_HEARTBEAT = 600.0
_UNSUPPORTED_FEATURE = 2001
_HEARTBEAT_LIMIT = 64 * 1024


class ExtensionReport(msgspec.Struct, frozen=True, kw_only=True):
    """One extension as it stands."""

    handler: str
    version: str
    handler_status: str
    code: int
    message: str
    settings: Settings | None
    status: ExtensionStatus | None
    step: str
    since: float


class GoalStateOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """How the last goal state was processed."""

    in_svd_seq_no: str
    at: float
    unsupported: tuple[str, ...] = ()


def look(
    extensions: ExtensionsGoalState, applied: dict[str, Applied], doing: dict[str, Doing], lib: Path, log: Path
) -> list[ExtensionReport]:
    """Every extension of the goal state that has anything to tell. Reads status files and heartbeats."""
    found = []
    for handler in extensions.handlers:
        for settings in handler.settings or (None,):
            if settings is not None and settings.name and settings.state == "disabled":
                continue  # a disabled one of several is not reported any more
            report = _one(handler, settings, applied, doing.get(handler.name), lib, log)
            if report is not None:
                found.append(report)
    return found


def status_blob(
    reports: list[ExtensionReport],
    outcome: GoalStateOutcome | None,
    *,
    version: str,
    fast_track: bool,
    system: dict[str, str],
    clock: Callable[[], float] = time.time,
) -> bytes:
    """The blob's text. Messages are redacted here, whoever wrote them."""
    now = _stamp(clock())
    aggregate: dict[str, Any] = {
        "guestAgentStatus": {
            "version": version,
            "status": "Ready",
            "formattedMessage": _message("Guest Agent is running"),
        },
        "handlerAggregateStatus": [_handler(one, now) for one in reports],
    }
    if outcome is not None:
        aggregate["vmArtifactsAggregateStatus"] = {"goalStateAggregateStatus": _outcome(outcome)}
    features = [*sorted(SUPPORTED_FEATURES), *(["FastTrack"] if fast_track else [])]
    return msgspec.json.encode(
        {
            "version": "1.1",
            "timestampUTC": now,
            "aggregateStatus": aggregate,
            "guestOSInfo": {**system, "version": version},
            "supportedFeatures": [{"Key": name, "Value": "1.0"} for name in features],
        }
    )


def view(report: ExtensionReport) -> ExtensionView:
    """For the bus."""
    inner = report.status
    code = inner.code if inner else report.code
    return ExtensionView(
        name=report.handler,
        version=report.version,
        extension=report.settings.name if report.settings else "",
        sequence_number=report.settings.sequence_number if report.settings else None,
        handler_status=report.handler_status,
        status=inner.status if inner else "",
        code=code if isinstance(code, int) and abs(code) < 2**31 else -1,
        message=redact((inner.message if inner else None) or report.message)[:1024],
        step=report.step,
        since=report.since,
    )


def read_system() -> dict[str, str]:
    """computerName, osName, osVersion."""
    release: dict[str, str] = {}
    for path in (Path("/etc/os-release"), Path("/usr/lib/os-release")):
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue
        release = {name: value.strip("\"'") for name, _, value in (line.partition("=") for line in lines)}
        break
    return {
        "computerName": os.uname().nodename,
        "osName": release.get("ID", "linux"),
        "osVersion": release.get("VERSION_ID", os.uname().release),
    }


def _one(
    handler: Handler, settings: Settings | None, applied: dict[str, Applied], doing: Doing | None, lib: Path, log: Path
) -> ExtensionReport | None:
    own = key(handler.name, settings)
    record = applied.get(own) or applied.get(handler.name)
    if record is None and doing is None:
        return None
    version = record.version if record else doing.version if doing else handler.version
    status, code, message, since = "Installing", 0, doing.doing if doing else "", doing.since if doing else 0.0
    if record is not None:
        status, code, message, since = record.handler_status, record.code, record.message, record.at
    inner: ExtensionStatus | None = None
    folder = _folder(lib, log, handler.name, version)
    if folder is not None and folder.read_state() != "NotInstalled":
        if settings is not None and handler.state == "enabled":
            inner = _extension_status(folder, settings, record)
        status, message = _with_heartbeat(folder, status, message)
    elif record is not None and not record.ok and settings is not None:
        inner = ExtensionStatus(status="error", code=record.code, message=record.message, operation="Enable")
    return ExtensionReport(
        handler=handler.name,
        version=version,
        handler_status=status,
        code=code,
        message=message,
        settings=settings,
        status=inner,
        step=doing.doing if doing else "",
        since=since,
    )


def _folder(lib: Path, log: Path, name: str, version: str) -> HandlerFolder | None:
    try:
        return HandlerFolder(lib, log, name, version)
    except PackageError:
        return None


def _extension_status(folder: HandlerFolder, settings: Settings, record: Applied | None) -> ExtensionStatus:
    """What the extension wrote; what we know where it wrote nothing, or nothing final although its command failed."""
    failed = record is not None and not record.ok
    ours = ExtensionStatus(
        status="transitioning", message="the extension has not written a status yet", operation="Enable"
    )
    if failed and record is not None:
        ours = ExtensionStatus(status="error", code=record.code, message=record.message, operation="Enable")
    path = folder.status_file(settings)
    if provides(folder.name):
        # Its worker may be gone without a word.
        settle(folder, settings.name, settings.sequence_number)
    try:
        with path.open("rb") as file:
            found = parse_status(file.read(READ_LIMIT + 1))
    except FileNotFoundError:
        return ours
    except OSError as error:
        return ExtensionStatus(status="error", code=-1, message=f"{path}: {error.strerror}")
    except StatusFileError as error:
        # Half-written for the moment, or for good: the next look tells.
        return ExtensionStatus(status="error", code=1012, message=str(error))
    return ours if failed and found.status == "transitioning" else found


def _with_heartbeat(folder: HandlerFolder, status: str, message: str) -> tuple[str, str]:
    """A handler that promised heartbeats and stopped is Unresponsive (protocol: heartbeat)."""
    try:
        changed = folder.heartbeat.stat().st_mtime
        with folder.heartbeat.open("rb") as file:
            document = msgspec.json.decode(file.read(_HEARTBEAT_LIMIT))
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return status, message
    first = document[0] if isinstance(document, list) and document else document
    beat = first.get("heartbeat") if isinstance(first, dict) else None
    if status != "Ready" or not isinstance(beat, dict):
        return status, message
    if time.time() - changed > _STALE_HEARTBEAT:
        return "Unresponsive", message
    told = beat.get("status")
    text = beat.get("formattedMessage")
    text = text.get("message") if isinstance(text, dict) else None
    known = {"ready": "Ready", "notready": "NotReady", "unresponsive": "Unresponsive"}
    return known.get(str(told).lower(), status), text if isinstance(text, str) else message


def _handler(report: ExtensionReport, now: str) -> dict[str, Any]:
    found: dict[str, Any] = {
        "handlerVersion": report.version,
        "handlerName": report.handler,
        "status": report.handler_status,
        "code": report.code,
        "useExactVersion": True,
    }
    if report.message:
        found["formattedMessage"] = _message(report.message)
    if report.settings is not None and report.status is not None:
        settings = report.settings
        name = settings.name or report.handler
        runtime: dict[str, Any] = {
            "sequenceNumber": settings.sequence_number,
            "settingsStatus": {"version": 1.0, "timestampUTC": now, "status": _status(name, report.status)},
        }
        if settings.name:
            runtime["extensionName"] = settings.name
        found["runtimeSettingsStatus"] = runtime
    return found


def _status(name: str, status: ExtensionStatus) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": name,
        "configurationAppliedTime": status.applied_at,
        "operation": status.operation,
        "status": status.status,
        "code": status.code,
        "formattedMessage": _message(status.message or ""),
    }
    if status.substatus:
        found["substatus"] = [
            {"name": one.name, "status": one.status, "code": one.code, "formattedMessage": _message(one.message or "")}
            for one in status.substatus
        ]
    return found


def _outcome(outcome: GoalStateOutcome) -> dict[str, Any]:
    failed = bool(outcome.unsupported)
    text = f"Unsupported features: {', '.join(outcome.unsupported)}" if failed else "GoalState executed successfully"
    return {
        "formattedMessage": _message(text),
        "timestampUTC": _stamp(outcome.at),
        "inSvdSeqNo": outcome.in_svd_seq_no,
        "status": "Failed" if failed else "Success",
        "code": _UNSUPPORTED_FEATURE if failed else 0,
    }


def _message(text: str) -> dict[str, str]:
    return {"lang": "en-US", "message": redact(text).replace("\0", "")}


def _stamp(at: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
