"""`<lib>/fast_track.json`: that the host delivers by FastTrack, and when its last document was created."""

import datetime
import json
from pathlib import Path

from ipc.statefile import write_atomically

_FILE = "fast_track.json"
_BEGINNING = datetime.datetime.min.replace(tzinfo=datetime.UTC)


def remember(lib: Path, ticks: int) -> None:
    """Raises OSError."""
    # A tick is 100 ns; the file, which other agents read too, holds microseconds.
    created = _BEGINNING + datetime.timedelta(microseconds=ticks // 10)
    stamp = created.replace(tzinfo=None).isoformat(timespec="microseconds")
    content = json.dumps({"timestamp": f"{stamp}Z"}).encode()
    path = lib / _FILE
    if not path.is_file() or path.read_bytes() != content:
        write_atomically(path, content, 0o600)


def remembered(lib: Path) -> int | None:
    """Ticks, to the microsecond; 0 if the file cannot be read; None if there is none, that is: never supported."""
    try:
        text = json.loads((lib / _FILE).read_bytes())["timestamp"]
        created = datetime.datetime.fromisoformat(text)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return 0
    if created.tzinfo is None:
        created = created.replace(tzinfo=datetime.UTC)
    return (created - _BEGINNING) // datetime.timedelta(microseconds=1) * 10


def forget(lib: Path) -> None:
    """Raises OSError."""
    (lib / _FILE).unlink(missing_ok=True)


def is_older(ticks: int, than: int) -> bool:
    """To the microsecond, as the file has it."""
    return ticks // 10 < than // 10
