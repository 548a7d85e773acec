"""An entry of ours as an event of the host's (protocol: events, common parameters). Pure."""

import json
import os
import time

from ipc.contract.telemetry import Entry
from wire.events import Event, Parameter

_AGENT_EVENT = 1
_LATEST = 253_402_300_799.0  # the end of the year 9999
_EXTENSION_EVENT = 7


def as_event(entry: Entry) -> Event:
    """Event id 1, with the parameters every event carries."""
    message = entry.message if not entry.correlation else f"{entry.message} [{entry.correlation}]"
    own: tuple[Parameter, ...] = (
        ("Name", entry.subject or f"azvmagent.{entry.component}"),
        ("Version", entry.subject_version or entry.version),
        ("Operation", entry.operation),
        ("OperationSuccess", entry.ok),
        ("Message", message),
        ("Duration", max(0, entry.duration_ms or 0)),
    )
    common: tuple[Parameter, ...] = (
        ("GAVersion", f"azvmagent-{entry.version}"),
        ("OpcodeName", _stamp(entry.at)),
        ("EventTid", entry.pid),
        ("EventPid", entry.pid),
        ("TaskName", entry.component),
        ("ExtensionType", ""),
        ("IsInternal", False),
        ("OSVersion", f"Linux:{os.uname().release}"),
        ("ExecutionMode", "IAAS"),
        ("KeywordName", json.dumps({"CpuArchitecture": os.uname().machine})),
        ("EventId", entry.id),
    )
    return Event(event_id=_AGENT_EVENT, parameters=(*own, *common))


def as_extension_event(entry: Entry) -> Event:
    """Event id 7, for what an extension wrote (protocol: extension event pipeline)."""
    parameters: tuple[Parameter, ...] = (
        ("EventName", f"{entry.subject}-{entry.subject_version}"),
        ("CapabilityUsed", entry.level),
        ("TaskName", entry.operation),
        ("Context1", entry.message),
        ("Context2", entry.stamp),
        ("Context3", entry.correlation),
        ("EventPid", str(entry.pid)),
        ("EventTid", entry.thread),
        ("OpcodeName", _stamp(entry.at)),
        ("KeywordName", json.dumps({"CpuArchitecture": os.uname().machine})),
        ("EventId", entry.id),
    )
    return Event(event_id=_EXTENSION_EVENT, parameters=parameters)


def _stamp(at: float) -> str:
    at = min(max(at, 0.0), _LATEST)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at)) + f".{int(at % 1 * 1e6):06d}Z"
