"""The status blob, and what status shows: one look at the disk, two forms (protocol: status reporting)."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from guestagent import foreign, heartbeat
from guestagent.builtin import provides
from guestagent.errors import GuestAgentError, PackageError, StatusFileError
from guestagent.layout import HandlerFolder, version_folders
from guestagent.plan import State, Waiting
from guestagent.record import Applied, Good, digest, key
from guestagent.runcommand.liveness import settle
from guestagent.runcommand.status import for_people
from guestagent.statusfile import READ_LIMIT, ExtensionStatus, parse_status
from guestagent.steps import Doing
from ipc.contract.guestagent import ExtensionView
from wire.extensions import SUPPORTED_FEATURES, ExtensionsGoalState, Handler, Settings
from wire.redact import redact

_UNSUPPORTED_FEATURE = 2001
# How long after the machine came up an extension may take to go on with what a restart broke off.
_BOOT_GRACE_SECONDS = 300.0
_NOTHING_YET = ExtensionStatus(
    status="transitioning", message="the extension has not written a status yet", operation="Enable"
)


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
    goes_on: bool = False
    """What is wanted could not be had, and the version before is in force."""


class GoalStateOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """How the last goal state was processed."""

    in_svd_seq_no: str
    at: float
    unsupported: tuple[str, ...] = ()


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """What a look compares the disk with."""

    applied: dict[str, Applied]
    good: dict[str, Good]
    doing: dict[str, Doing]
    waiting: dict[str, Waiting]
    booted_at: float
    """UTC, seconds since the epoch."""
    now: float


def look(extensions: ExtensionsGoalState, known: Known, lib: Path, log: Path) -> list[ExtensionReport]:
    """Every extension of the goal state that has anything to tell. Reads status files and heartbeats."""
    found = []
    for handler in extensions.handlers:
        several = handler.settings or (None,)
        if handler.state == "uninstall" and any(one is not None and one.name for one in several):
            several = (None,)
        for settings in several:
            if settings is not None and settings.name and settings.state == "disabled":
                continue  # a disabled one of several is not reported any more
            report = _one(handler, settings, known, lib, log)
            if report is not None:
                found.append(report)
    return found


def states(reports: list[ExtensionReport]) -> dict[str, State]:
    """How each extension stands for those that depend on it."""
    return {key(one.handler, one.settings): _state(one) for one in reports}


def _state(report: ExtensionReport) -> State:
    if report.goes_on or report.step:
        return "error" if report.goes_on else "pending"
    if report.settings is None or report.status is None:
        return "success" if report.handler_status == "Ready" else "error" if report.code else "pending"
    return report.status.status if report.status.status in {"success", "error"} else "pending"


def status_blob(
    reports: list[ExtensionReport],
    outcome: GoalStateOutcome | None,
    *,
    version: str,
    fast_track: bool,
    system: dict[str, str],
    update: dict[str, Any] | None = None,
    clock: Callable[[], float] = time.time,
) -> bytes:
    """The blob's text. Messages are redacted here, whoever wrote them. `update`: its updateStatus."""
    now = _stamp(clock())
    aggregate: dict[str, Any] = {
        "guestAgentStatus": {
            "version": version,
            "status": "Ready",
            "formattedMessage": _message("Guest Agent is running"),
            **({"updateStatus": update} if update is not None else {}),
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


def view(report: ExtensionReport, applied: dict[str, Applied]) -> ExtensionView:
    """For the bus."""
    record = applied.get(key(report.handler, report.settings)) or applied.get(report.handler)
    failed = record if record is not None and not record.ok else None
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
        message=redact(for_people((inner.message if inner else None) or report.message))[:1024],
        step=report.step,
        since=report.since,
        failure=failed.kind if failed else "",
        retry_at=failed.retry_at if failed else None,
        wanted=failed.wanted if failed else "",
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


def _one(handler: Handler, settings: Settings | None, known: Known, lib: Path, log: Path) -> ExtensionReport | None:
    own = key(handler.name, settings)
    record = known.applied.get(own) or known.applied.get(handler.name)
    doing, waiting = known.doing.get(handler.name), known.waiting.get(own) or known.waiting.get(handler.name)
    if record is None and doing is None and waiting is None:
        return _to_go(handler, lib, log) if handler.state == "uninstall" and settings is None else None
    goes_on = record is not None and bool(record.wanted)
    good = known.good.get(handler.name)
    if goes_on and good is not None:
        settings = good.for_extension(settings) or settings
    version = record.version if record else doing.version if doing else handler.version
    status, code, message, since = "Installing", 0, doing.doing if doing else "", doing.since if doing else 0.0
    if record is not None:
        status, code, message, since = record.handler_status, record.code, record.message, record.at
    elif waiting is not None:
        status = "NotReady" if waiting.failed else "Installing"
        code, message = -1 if waiting.failed else 0, waiting.reason
    inner = _inner(handler, settings, version, record, waiting, known, lib, log)
    folder = _folder(lib, log, handler.name, version)
    if status == "Ready" and record is not None and folder is not None:
        beat = _heartbeat(folder, record, known.now)
        if beat is not None:
            status, code, message = beat.status, beat.code or code, beat.message or message
    return ExtensionReport(
        handler=handler.name,
        version=version,
        handler_status=status,
        code=code,
        message=message,
        settings=settings,
        status=inner,
        step=doing.doing if doing else "waiting" if waiting is not None and not waiting.failed else "",
        since=since,
        goes_on=goes_on,
    )


def _to_go(handler: Handler, lib: Path, log: Path) -> ExtensionReport | None:
    """One whose turn to be uninstalled has not come, and whose records, if any, are of its several extensions.

    What is not reported any more, the host takes for uninstalled.
    """
    states = [(one.version, one.read_state()) for one in version_folders(lib, log, handler.name)]
    there = [(state == "Enabled", version) for version, state in states if state in {"Enabled", "Installed"}]
    if not there:
        return None
    enabled, version = max(there)
    return ExtensionReport(
        handler=handler.name,
        version=version,
        handler_status="Ready" if enabled else "NotReady",
        code=0,
        message="Plugin enabled" if enabled else "Plugin disabled",
        settings=None,
        status=None,
        step="",
        since=0.0,
    )


def _inner(
    handler: Handler,
    settings: Settings | None,
    version: str,
    record: Applied | None,
    waiting: Waiting | None,
    known: Known,
    lib: Path,
    log: Path,
) -> ExtensionStatus | None:
    """The extension's own status, or ours in its place."""
    if settings is None:
        return None
    folder = _folder(lib, log, handler.name, version)
    if folder is not None and folder.read_state() not in {"NotInstalled", "FailedUpgrade"}:
        if handler.state == "enabled":
            found = _extension_status(folder, settings, record, known)
            return _not_yet(found) if _under_way(handler, settings, record, known) else found
        return None
    if record is not None and not record.ok:
        return ExtensionStatus(status="error", code=record.code, message=record.message, operation="Enable")
    if waiting is not None and waiting.failed:
        return ExtensionStatus(status="error", code=-1, message=waiting.reason, operation="Enable")
    return None


def _under_way(handler: Handler, settings: Settings, record: Applied | None, known: Known) -> bool:
    """Whether the commands for these settings are yet to end: the record, if any, is of what was asked before."""
    new = record is None or (record.digest != digest(handler, settings) and not record.wanted)
    return new and handler.name in known.doing


def _not_yet(found: ExtensionStatus) -> ExtensionStatus:
    """Nothing final is told of settings before their enable has ended.

    Some write success already in install, and the failure we know of is of the settings before.
    """
    return found if found.status == "transitioning" else _NOTHING_YET


def _heartbeat(folder: HandlerFolder, record: Applied, now: float) -> heartbeat.Heartbeat | None:
    """Of a handler that promised heartbeats."""
    try:
        promised = folder.read_manifest().report_heartbeat
    except GuestAgentError:
        return None
    return heartbeat.look(folder.heartbeat, enabled_at=record.at, now=now) if promised else None


def _folder(lib: Path, log: Path, name: str, version: str) -> HandlerFolder | None:
    try:
        return HandlerFolder(lib, log, name, version)
    except PackageError:
        return None


def _extension_status(
    folder: HandlerFolder, settings: Settings, record: Applied | None, known: Known
) -> ExtensionStatus:
    """What the extension wrote; what we know where it wrote nothing, or nothing final although it has ended."""
    failed = record is not None and not record.ok and not record.wanted
    ours = _NOTHING_YET
    if failed and record is not None:
        ours = ExtensionStatus(status="error", code=record.code, message=record.message, operation="Enable")
    path = folder.status_file(settings)
    if provides(folder.name):
        # Its worker may be gone without a word.
        settle(folder, settings.name, settings.sequence_number)
    try:
        content = foreign.read(path, READ_LIMIT + 1)
        found, written = parse_status(content.data), content.written_at
    except FileNotFoundError:
        return ours
    except OSError as error:
        return ExtensionStatus(status="error", code=-1, message=f"{path}: {error.strerror}")
    except StatusFileError as error:
        # Half-written for the moment, or for good: the next look tells.
        return ExtensionStatus(status="error", code=1012, message=str(error))
    if found.status != "transitioning":
        return found
    if failed:
        return ours
    if written < known.booted_at and known.now > known.booted_at + _BOOT_GRACE_SECONDS:
        text = (
            f"interrupted: the machine restarted while it ran, and nothing was heard of it since."
            f" To run it again: agentctl ext retry {folder.name}. Its last words: {found.message or ''}"
        )
        return ExtensionStatus(status="error", code=-1, message=text, operation=found.operation)
    return found


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
