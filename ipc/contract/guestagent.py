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
    failure: str = ""
    """Whose fault it was: `transient`, `package`, `configuration`, `extension`, `platform`, `unsupported`,
    `interrupted`; empty if it went well."""
    retry_at: float | None = None
    """UTC, seconds since the epoch, when it is tried again; None: not by itself."""
    wanted: str = ""
    """The version that could not be had, while `version` goes on."""


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
    probe_ports: list[int] = []
    """Which the goal state's load balancer probes."""


class GetStatus(Request[GuestStatus], frozen=True, kw_only=True):
    """What is the state of goal state and extensions?"""

    speaker: ClassVar[str] = "guestagent"
    reply: ClassVar[type[Reply]] = GuestStatus


class FolderView(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a handler on disk."""

    version: str
    state: str
    """`NotInstalled`, `Installed`, `Enabled`, `FailedUpgrade`."""
    path: str
    extensions: list[str] = []
    """Enabled ones of a multi-config handler."""


class OperationView(msgspec.Struct, frozen=True, kw_only=True):
    """One command of a handler, run once."""

    id: str
    kind: str
    """`install`, `enable`, `disable`, `update`, `uninstall`."""
    version: str
    extension: str = ""
    command: str
    environment: dict[str, str] = {}
    """What the extension was told in particular."""
    state: str
    """`waiting`, `running`, `ended`, `interrupted`."""
    pid: int | None = None
    began: float | None = None
    """UTC, seconds since the epoch."""
    ended: float | None = None
    exit_status: int | None = None
    """Negative is the signal that ended it."""
    timed_out: bool = False
    error: str = ""
    """Why it could not be started."""
    limit_seconds: float = 0.0
    goal_state: str = ""
    stdout: str = ""
    """Path of the whole output."""
    stderr: str = ""


class ExtensionDetail(Reply, frozen=True, kw_only=True):
    """All that is known of one handler."""

    name: str
    wanted_version: str = ""
    """Empty if the goal state does not name it."""
    wanted_state: str = ""
    locations: list[str] = []
    extensions: list[ExtensionView] = []
    folders: list[FolderView] = []
    operations: list[OperationView] = []
    """The newest last."""
    files: list[str] = []
    """Settings and status files, and logs, that exist."""


class GetExtension(Request[ExtensionDetail], frozen=True, kw_only=True):
    """What is known of this handler? Refused if nothing is."""

    speaker: ClassVar[str] = "guestagent"
    reply: ClassVar[type[Reply]] = ExtensionDetail
    name: str
    """In any case; without its publisher if that is not ambiguous."""


class RetryBegun(Reply, frozen=True, kw_only=True):
    """What is tried again now; empty if nothing had failed."""

    extensions: list[str]


class RetryExtension(Request[RetryBegun], frozen=True, kw_only=True):
    """Try again what failed of this handler, or of one extension of it."""

    speaker: ClassVar[str] = "guestagent"
    reply: ClassVar[type[Reply]] = RetryBegun
    name: str
    extension: str = ""


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """One stage of the way from the goal state to what the host was told."""

    stage: str
    """`goal state`, `package`, `command`, `status file`, `report`."""
    ok: bool | None
    """None: not reached, or under way."""
    text: str
    at: float | None = None
    """UTC, seconds since the epoch."""
    evidence: str = ""
    """The last words of who failed."""


class Explanation(Reply, frozen=True, kw_only=True):
    """Why an extension is as it is."""

    name: str
    verdict: str
    """`well`, `waiting`, or whose fault it is: `platform`, `network`, `agent`, `configuration`, `extension`."""
    summary: str
    next_step: str
    chain: list[Link]


class ExplainExtension(Request[Explanation], frozen=True, kw_only=True):
    """Why is this handler, or one extension of it, as it is?"""

    speaker: ClassVar[str] = "guestagent"
    reply: ClassVar[type[Reply]] = Explanation
    name: str
    extension: str = ""


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
    token: str = ""
    """Made up by who asks, 8 to 64 of `A-Za-z0-9_-`: the same name and token asked again is the same run, never begun
    twice, for at least five minutes. Needs a name. Empty: each request is a run of its own. Since 1.3."""


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

REQUESTS = (GetStatus, GetExtension, RetryExtension, ExplainExtension, *RUN_REQUESTS)
EVENTS = (GoalStateArrived, StatusChanged)
