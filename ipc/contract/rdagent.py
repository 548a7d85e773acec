"""What rdagent answers and announces: the truth about the group."""

from typing import ClassVar, Literal

import msgspec

from ipc.message import Event, Reply, Request

TruthState = Literal["ok", "busy", "hung", "restarting", "absent", "rolled back", "degraded"]


class ComponentTruth(msgspec.Struct, frozen=True, kw_only=True):
    """What is so about one component, from its Health replies, supervisord's states and rdagent's own timers."""

    name: str
    state: TruthState
    version: str = ""
    """Empty while it has never answered."""
    pid: int | None = None
    health: str = ""
    """What it last said of itself: `ok`, `busy` or `degraded`."""
    why: str = ""
    since: float = 0.0
    """UTC, seconds since the epoch, when `state` began."""
    limit_seconds: float | None = None


class HostView(msgspec.Struct, frozen=True, kw_only=True):
    """How rdagent stands with the host."""

    ready: bool | None = None
    """What the host was last told; None before the first report."""
    wireserver: str = ""
    """Base URL in use."""
    heartbeats: int = 0
    """Accepted by the host since this rdagent started."""
    last_heartbeat_at: float | None = None
    problem: str = ""
    """Why the last heartbeat did not arrive; empty when it did."""


class Truth(Reply, frozen=True, kw_only=True):
    """The whole picture."""

    host: HostView
    components: list[ComponentTruth]


class GetTruth(Request[Truth], frozen=True, kw_only=True):
    """How is everybody?"""

    speaker: ClassVar[str] = "rdagent"
    reply: ClassVar[type[Reply]] = Truth


class TruthChanged(Event, frozen=True, kw_only=True):
    """A component's state, or what the host was told, is no longer what it was."""

    speaker: ClassVar[str] = "rdagent"
    component: str = ""
    """The one that changed; empty when it is the host's view."""


REQUESTS = (GetTruth,)
EVENTS = (TruthChanged,)
