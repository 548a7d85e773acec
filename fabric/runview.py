"""What the last status blob says of a run."""

from typing import Any

import msgspec

_FINAL = {"Succeeded", "Failed", "TimedOut", "Canceled", "Unknown"}


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """A run that has ended."""

    ok: bool
    state: str
    message: str
    output: str = ""
    error: str = ""
    exit_code: int | None = None


def seen(status: Any, handler: str, name: str, sequence_number: int) -> Seen | None:
    """None while this very run has not ended, or is not reported."""
    aggregate = status.get("aggregateStatus", {}) if isinstance(status, dict) else {}
    for one in aggregate.get("handlerAggregateStatus", []):
        runtime = one.get("runtimeSettingsStatus") or {}
        if (one.get("handlerName"), runtime.get("extensionName", "")) != (handler, name):
            continue
        inner = (runtime.get("settingsStatus") or {}).get("status") or {}
        if runtime.get("sequenceNumber") != sequence_number or inner.get("status") not in {"success", "error"}:
            continue
        return _ended(inner["status"], (inner.get("formattedMessage") or {}).get("message", ""), managed=bool(name))
    return None


def _ended(word: str, message: str, *, managed: bool) -> Seen | None:
    try:
        view = msgspec.json.decode(message.encode(), type=dict[str, Any]) if managed else {}
    except msgspec.DecodeError:
        # The agent's own words: the handler never had its say.
        return Seen(ok=False, state="Failed", message=message)
    if not managed:
        return Seen(ok=word == "success", state=word, message=message)
    state = str(view.get("executionState"))
    if state not in _FINAL:
        return None
    code = view.get("exitCode")
    return Seen(
        ok=state == "Succeeded",
        state=state,
        message=str(view.get("executionMessage", "")),
        output=str(view.get("output", "")),
        error=str(view.get("error", "")),
        exit_code=code if isinstance(code, int) else None,
    )
