"""What every component answers and announces."""

from typing import Annotated, ClassVar, Literal

from ipc.enumeration import unknown_is
from ipc.message import Event, Reply, Request

HealthState = Annotated[Literal["ok", "busy", "degraded"], unknown_is("ok")]
"""Unknown is `ok`: it answers, and a word we do not know must never end a process or a trial. So a newer release that
has a graver one goes on saying `degraded` here, and the new word in a field of its own."""


class Description(Reply, frozen=True, kw_only=True):
    """Who is speaking."""

    component: str
    version: str
    pid: int
    protocol_major: int
    protocol_minor: int
    started_at: float
    """UTC, seconds since the epoch."""
    digest: str = ""
    """SHA-256 of the manifest of the version that runs; empty: the base install. Since 1.3."""


class Describe(Request[Description], frozen=True, kw_only=True):
    """Who are you?"""

    reply: ClassVar[type[Reply]] = Description


class HealthReport(Reply, frozen=True, kw_only=True):
    """How a component judges itself. That it answers at all is what tells hung from alive."""

    state: HealthState
    what: str = ""
    """busy: the operation; degraded: the reason."""
    since: float | None = None
    """UTC, seconds since the epoch, when this state began."""
    limit_seconds: float | None = None
    """busy: after how long it would no longer be normal."""
    outside: bool = False
    """degraded: the reason lies outside (the host, the network, a full disk); another version would not mend it.
    Since 1.3."""


class Health(Request[HealthReport], frozen=True, kw_only=True):
    """How are you?"""

    reply: ClassVar[type[Reply]] = HealthReport


class Hello(Event, frozen=True, kw_only=True):
    """A component has started and answers requests."""

    component: str
    version: str
    pid: int


REQUESTS = (Describe, Health)
EVENTS = (Hello,)
