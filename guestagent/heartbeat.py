"""heartbeat.log: how a handler that promised heartbeats says it is (protocol: heartbeat). Any bytes in, a word out."""

from pathlib import Path
from typing import Any

import msgspec

from guestagent import foreign

STALE_SECONDS = 600.0
"""A heartbeat older than this is none; a handler has as long to write its first one."""

_LIMIT = 64 * 1024
_WORDS = {"ready": "Ready", "notready": "NotReady", "unresponsive": "Unresponsive"}


class Heartbeat(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of the handler's status."""

    status: str
    """`Ready`, `NotReady`, `Unresponsive`, or the handler's own word."""
    code: int = 0
    message: str = ""
    """Empty: the one before stays."""


def look(path: Path, *, enabled_at: float, now: float) -> Heartbeat | None:
    """The heartbeat at `path`; None where nothing speaks against the handler's own status."""
    try:
        content = foreign.read(path, _LIMIT + 1)
    except FileNotFoundError:
        if now - enabled_at < STALE_SECONDS:
            return None
        return Heartbeat(status="NotReady", code=-1, message=f"no heartbeat: {path} was never written")
    except OSError as error:
        return Heartbeat(status="NotReady", code=-1, message=f"no heartbeat: {path}: {error.strerror}")
    age = now - content.written_at
    if age > STALE_SECONDS:
        return Heartbeat(status="Unresponsive", message=f"the last heartbeat is {age:.0f} s old")
    return parse(content.data)


def parse(data: bytes) -> Heartbeat:
    """What the file says. The code in it is ignored, as by the reference agent; a `Message` beside it too."""
    beat = _beat(data)
    told = beat.get("status") if beat is not None else None
    if beat is None or not isinstance(told, str) or not told or len(told) > 64 or not told.isprintable():
        return Heartbeat(status="NotReady", code=-1, message="heartbeat.log is not what it should be")
    text = beat.get("formattedMessage")
    message = text.get("message") if isinstance(text, dict) else None
    return Heartbeat(status=_WORDS.get(told.lower(), told), message=message[:1024] if isinstance(message, str) else "")


def _beat(data: bytes) -> dict[str, Any] | None:
    if len(data) > _LIMIT:
        return None
    try:
        document = msgspec.json.decode(data.removeprefix(b"\xef\xbb\xbf"))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    first = document[0] if isinstance(document, list) and document else document
    beat = first.get("heartbeat") if isinstance(first, dict) else None
    return beat if isinstance(beat, dict) else None
