"""What telemetry answers and announces: the durable record."""

from typing import ClassVar

import msgspec

from ipc.message import Event, Reply, Request


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that happened. Written by its emitter before anything else is done with it."""

    id: str
    """Unique; the journal drops a second copy."""
    at: float
    """UTC, seconds since the epoch."""
    monotonic: float
    """CLOCK_BOOTTIME seconds: orders entries of one boot whatever the wall clock does."""
    boot: str
    """The kernel's boot id."""
    component: str
    version: str
    pid: int
    operation: str
    """A word for what was done: `Start`, `GoalState`, `Download`, `Install`, `Enable`, `HeartBeat`..."""
    ok: bool = True
    message: str = ""
    subject: str = ""
    """What it was done to: a handler, a component, an interface."""
    subject_version: str = ""
    correlation: str = ""
    """Goal state id or operation id that caused it."""
    duration_ms: int | None = None
    level: str = ""
    """An extension's event: its own word for how grave it is."""
    stamp: str = ""
    """Its own time, as it wrote it; `at` is when we read it."""
    thread: str = ""


class Recorded(Reply, frozen=True, kw_only=True):
    """The entries are in the journal and may be forgotten by their emitter."""

    count: int


class Record(Request[Recorded], frozen=True, kw_only=True):
    """Keep these, for good."""

    speaker: ClassVar[str] = "telemetry"
    reply: ClassVar[type[Reply]] = Recorded
    entries: list[Entry]


class Timeline(Reply, frozen=True, kw_only=True):
    """Entries, oldest first."""

    entries: list[Entry]
    cursor: int
    """Pass as `after` to go on."""
    dropped: int = 0
    """Entries the journal's budget has cost so far."""


class GetTimeline(Request[Timeline], frozen=True, kw_only=True):
    """What happened? At most `limit` entries after a cursor; the newest ones when `after` is None."""

    speaker: ClassVar[str] = "telemetry"
    reply: ClassVar[type[Reply]] = Timeline
    after: int | None = None
    limit: int = 100
    component: str = ""
    subject: str = ""


class JournalGrew(Event, frozen=True, kw_only=True):
    """New entries are in the journal."""

    speaker: ClassVar[str] = "telemetry"
    cursor: int


REQUESTS = (Record, GetTimeline)
EVENTS = (JournalGrew,)
