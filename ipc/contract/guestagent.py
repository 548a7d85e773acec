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


# -- Run Command on this VM, without the host (since 1.1) -------------------------------------------------------------


class RunParameter(msgspec.Struct, frozen=True, kw_only=True):
    """With a name it becomes a variable of the script's environment, without one an argument."""

    value: str
    name: str = ""


class RunStarted(Reply, frozen=True, kw_only=True):
    """The run was taken up; what it writes is appended to the two files."""

    name: str
    sequence_number: int
    stdout: str
    """Absolute path."""
    stderr: str


class RunScript(Request[RunStarted], frozen=True, kw_only=True):
    """Run this. A run of the same name that has not ended is ended first."""

    speaker: ClassVar[str] = "guestagent"
    reply: ClassVar[type[Reply]] = RunStarted
    name: str = ""
    """Empty: one is made up."""
    script: bytes = b""
    """The script itself, if it fits (see RUN_SCRIPT_LIMIT)."""
    script_path: str = ""
    """Absolute path of the script's file instead; it is copied before the answer."""
    parameters: list[RunParameter] = []
    run_as: str = ""
    timeout_seconds: int = 0
    """0 is none."""


class RunView(Reply, frozen=True, kw_only=True):
    """One run as it stands."""

    name: str
    sequence_number: int
    state: str
    """`Running`, `Succeeded`, `Failed`, `TimedOut`, `Canceled`, `Unknown`."""
    message: str = ""
    exit_code: int | None = None
    """None while it runs; negative where the script did not end by itself."""
    interrupted: bool = False
    """Its worker was killed, or the machine went down: the outcome is unknown, and it is not run again."""
    output: str = ""
    """The last 4096 bytes of each stream."""
    error: str = ""
    stdout: str = ""
    """Absolute path of the whole stream."""
    stderr: str = ""
    started_at: float | None = None
    """UTC, seconds since the epoch."""
    ended_at: float | None = None
    pid: int | None = None
    """The script's first process, while it runs."""


class GetRun(Request[RunView], frozen=True, kw_only=True):
    """How is the newest run of this name? Those the host ordered (managed run command) are found too."""

    speaker: ClassVar[str] = "guestagent"
    reply: ClassVar[type[Reply]] = RunView
    name: str
    sequence_number: int | None = None
    """An older one, or to be sure of this very one."""


class CancelRun(Request[RunView], frozen=True, kw_only=True):
    """End the newest run of this name with everything it started; answered when it has ended."""

    speaker: ClassVar[str] = "guestagent"
    reply: ClassVar[type[Reply]] = RunView
    name: str


RUN_SCRIPT_LIMIT = 128 * 1024
"""Bytes of a script that travels in a request."""

RUN_REQUESTS = (RunScript, GetRun, CancelRun)

REQUESTS = (GetStatus, *RUN_REQUESTS)
EVENTS = (GoalStateArrived, StatusChanged)
