"""Events that extensions drop into their folders (protocol: extension event pipeline). Any bytes in, events out.

A handler writes `<digits>.json` files, each one event or a list of them, into the folder its HandlerEnvironment names.
They are read, kept in the journal, and removed; what was kept twice because of a crash in between has the same id.
"""

import hashlib
import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from ipc.contract.telemetry import Entry

FILE_LIMIT = 4 * 1024 * 1024
EVENTS_LIMIT = 360
"""Of one handler in one pass, the newest files first."""
COMPONENT = "extension"
"""Stands in an entry for what is none of ours."""

_EVENT_LIMIT = 6144
_MESSAGE_LIMIT = 3072
_FILES_LIMIT = 1000
_NAME = re.compile(r"\d{1,30}\.json", re.ASCII)
_TEXTS = ("version", "timestamp", "taskname", "eventlevel", "message", "operationid")
_NUMBERS = ("eventpid", "eventtid")
# A file that is no JSON yet may still be written to.
_WRITING_SECONDS = 10.0

logger = logging.getLogger("telemetry")


class ExtensionEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One event as its handler wrote it."""

    version: str
    timestamp: str
    task: str
    level: str
    message: str
    operation: str
    pid: str
    tid: str


class Collected(msgspec.Struct, kw_only=True):
    """One pass over one handler's folder."""

    handler: str
    entries: list[Entry] = []
    dropped: dict[str, int] = {}
    """Events and files given up, by reason."""
    files: list[Path] = []
    """To be removed once the entries are kept."""

    def drop(self, reason: str) -> None:
        self.dropped[reason] = self.dropped.get(reason, 0) + 1


def parse(data: bytes) -> tuple[list[ExtensionEvent], list[str]]:
    """The events of a file, and why the others are none. Raises ValueError for what is no JSON."""
    try:
        document = msgspec.json.decode(data.removeprefix(b"\xef\xbb\xbf"))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(str(error)) from error
    events, problems = [], []
    for one in document if isinstance(document, list) else [document]:
        event = _event(one)
        if isinstance(event, str):
            problems.append(event)
        else:
            events.append(event)
    return events, problems


def collect(log: Path, *, clock: Callable[[], float] = time.time) -> Iterator[Collected]:
    """One pass over every handler's folder below `log`; nothing is removed yet."""
    for folder in sorted(log.glob("*/events")):
        if folder.is_symlink() or not folder.is_dir():
            continue
        found = Collected(handler=folder.parent.name)
        _collect(folder, found, clock())
        if found.files or found.dropped:
            yield found


def remove(collected: Collected) -> None:
    """The files of a pass, once what was in them is kept."""
    for path in collected.files:
        path.unlink(missing_ok=True)


def bound_agent_events(folder: Path) -> int:
    """Handlers that bundle an older agent write into the agent's own events folder; the oldest go. How many went."""
    try:
        names = sorted(one.name for one in os.scandir(folder) if one.is_file(follow_symlinks=False))
    except OSError:
        return 0
    for name in names[:-_FILES_LIMIT]:
        (folder / name).unlink(missing_ok=True)
    return max(0, len(names) - _FILES_LIMIT)


def _collect(folder: Path, found: Collected, now: float) -> None:
    try:
        files = [Path(one) for one in os.scandir(folder) if one.is_file(follow_symlinks=False)]
    except OSError as error:
        logger.warning("%s: %s", folder, error.strerror)
        return
    for path in sorted(files, key=lambda one: (len(one.name), one.name), reverse=True):
        if not _NAME.fullmatch(path.name):
            found.drop("file name")
        elif len(found.entries) >= EVENTS_LIMIT:
            found.drop("too many events")
        elif not _take(path, found, now):
            continue
        found.files.append(path)


def _take(path: Path, found: Collected, now: float) -> bool:
    """Whether the file is done with."""
    try:
        with path.open("rb") as file:
            written, data = os.fstat(file.fileno()).st_mtime, file.read(FILE_LIMIT + 1)
    except OSError:
        found.drop("unreadable")
        return True
    if len(data) > FILE_LIMIT:
        found.drop("file too large")
        return True
    try:
        events, problems = parse(data)
    except ValueError:
        if now - written < _WRITING_SECONDS:
            return False
        found.drop("no JSON")
        return True
    for problem in problems:
        found.drop(problem)
    for number, event in enumerate(events):
        digest = hashlib.sha256(b"\0".join([path.name.encode(), str(number).encode(), data])).hexdigest()
        found.entries.append(_entry(found.handler, f"{found.handler}-{digest[:32]}", event, now))
    return True


def _event(one: Any) -> ExtensionEvent | str:
    """An event, or in a word why it is none."""
    if not isinstance(one, dict):
        return "no object"
    values = {str(key).lower(): value for key, value in one.items()}
    found: dict[str, str] = {}
    for name in (*_TEXTS, *_NUMBERS):
        value = values.get(name)
        if name in _NUMBERS and isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str):
            return f"{name} is missing"
        found[name] = value.strip()
    if not found["message"]:
        return "empty message"
    found["message"] = found["message"][:_MESSAGE_LIMIT]
    if sum(map(len, found.values())) > _EVENT_LIMIT:
        return "event too large"
    return ExtensionEvent(
        version=found["version"],
        timestamp=found["timestamp"],
        task=found["taskname"],
        level=found["eventlevel"],
        message=found["message"],
        operation=found["operationid"],
        pid=found["eventpid"],
        tid=found["eventtid"],
    )


def _entry(handler: str, own: str, event: ExtensionEvent, now: float) -> Entry:
    return Entry(
        id=own,
        at=now,
        monotonic=time.clock_gettime(time.CLOCK_BOOTTIME),
        boot="",
        component=COMPONENT,
        version="",
        pid=int(event.pid) if event.pid.isascii() and event.pid.isdigit() and len(event.pid) < 10 else 0,
        operation=event.task[:256],
        ok=event.level.lower() not in {"error", "critical"},
        message=event.message,
        subject=handler[:256],
        subject_version=event.version[:256],
        correlation=event.operation[:256],
        level=event.level[:64],
        stamp=event.timestamp[:64],
        thread=event.tid[:32],
    )
