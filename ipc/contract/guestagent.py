"""What guestagent answers and announces: goal state, extensions, reports."""

from typing import ClassVar

import msgspec

from ipc.message import Event, Reply, Request


class ExtensionView(msgspec.Struct, frozen=True, kw_only=True):
    """One extension as guestagent sees it; a handler without settings is one extension with no sequence number."""

    name: str
    """Handler name, `Publisher.Type`."""
    version: str
    extension: str = ""
    """Multi-config: the settings instance."""
    sequence_number: int | None = None
    handler_status: str = ""
    """`Ready`, `NotReady`, `Unresponsive`, `Installing`, as reported to the host."""
    status: str = ""
    """`transitioning`, `success`, `warning`, `error` from the extension's status file; empty if it has none."""
    code: int = 0
    message: str = ""
    step: str = ""
    """What is being done right now (`downloading`, `installing`, `enabling`...); empty at rest."""
    since: float = 0.0
    """UTC, seconds since the epoch, of the last change."""


class GuestStatus(Reply, frozen=True, kw_only=True):
    """Where the goal state stands."""

    goal_state: str = ""
    """Id of the goal state in force: `incarnation_<n>` or `etag_<tag>`; empty before the first."""
    goal_state_at: float | None = None
    problem: str = ""
    """Why the last goal state could not be fetched or read; empty when it could."""
    certificates: list[str] = []
    """Thumbprints on disk."""
    reported_at: float | None = None
    """When the host last accepted a status blob."""
    reported_by: str = ""
    """`hostgaplugin` or `direct`."""
    report_problem: str = ""
    extensions: list[ExtensionView] = []


class GetStatus(Request[GuestStatus], frozen=True, kw_only=True):
    """What is the state of goal state and extensions?"""

    speaker: ClassVar[str] = "guestagent"
    reply: ClassVar[type[Reply]] = GuestStatus


class GoalStateArrived(Event, frozen=True, kw_only=True):
    """A new goal state was read; rdagent looks at its agent versions."""

    speaker: ClassVar[str] = "guestagent"
    goal_state: str


class StatusChanged(Event, frozen=True, kw_only=True):
    """An extension moved, or a report was accepted or refused: ask GetStatus."""

    speaker: ClassVar[str] = "guestagent"


REQUESTS = (GetStatus,)
EVENTS = (GoalStateArrived, StatusChanged)
