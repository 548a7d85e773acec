"""What rdagent answers and announces: the truth about the group, and its versions."""

from typing import Annotated, ClassVar, Literal

import msgspec

from ipc.enumeration import unknown_is
from ipc.message import Event, Reply, Request

UpdateState = Annotated[
    Literal["settled", "waiting", "fetching", "on trial", "refused", "rolled back"], unknown_is("settled")
]
"""Unknown is `settled`: nothing is to be done about it; `why` and `wanted` say more."""
WantedBy = Annotated[Literal["", "operator", "host", "channel"], unknown_is("")]
"""Unknown is empty: nobody we know."""
TruthState = Annotated[
    Literal["ok", "busy", "hung", "restarting", "absent", "rolled back", "degraded"], unknown_is("busy")
]
"""Unknown is `busy`: alive and at something we do not know, not to be disturbed; `why` says what."""


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


class BadVersion(msgspec.Struct, frozen=True, kw_only=True):
    """One that failed and is not tried again."""

    version: str
    digest: str
    reason: str
    expires: float | None = None
    """UTC, seconds since the epoch; None: until it is taken off the list."""


class TrialView(msgspec.Struct, frozen=True, kw_only=True):
    """A version that has to prove itself."""

    version: str
    digest: str
    tries_left: int
    since: float = 0.0
    """UTC, seconds since the epoch."""
    well_seconds: float = 0.0
    """How long it has been well so far."""
    needed_seconds: float = 0.0


class UpdateView(msgspec.Struct, frozen=True, kw_only=True):
    """The versions of one component."""

    component: str
    running: str = ""
    """What the process says of itself; empty if it does not answer."""
    running_digest: str = ""
    current: str = ""
    """The version in force; empty: that of the base install."""
    previous: str = ""
    """The one to go back to; empty: that of the base install."""
    staged: list[str] = []
    """Versions that lie on disk, unpacked and checked."""
    trial: TrialView | None = None
    bad: list[BadVersion] = []
    pinned: str = ""
    held: bool = False
    """By a hold on this component or on all of them."""
    held_until: float | None = None
    """UTC, seconds since the epoch; None: until the hold is released, or none is in force. Of two the later one."""
    state: UpdateState = "settled"
    wanted: str = ""
    wanted_by: WantedBy = ""
    why: str = ""
    """One line: why it is not what is wanted, or why the last one came back; of one that is `settled`, why what is in
    force does not run."""
    lift: str = ""
    """The command that would change that; empty if there is none."""
    damage: str = ""
    """One line: what is damaged of the version in force, so that another runs; whatever else is said in `why`."""
    mend: str = ""
    """The command that mends the damage."""
    since: float = 0.0
    """UTC, seconds since the epoch, when `state` began."""


class RepositoryView(msgspec.Struct, frozen=True, kw_only=True):
    """How rdagent stands with the component repository."""

    url: str = ""
    """Empty: none is configured."""
    checked_at: float | None = None
    reached_at: float | None = None
    """The last time it answered with metadata that holds."""
    problem: str = ""
    """Why the last look failed. Nothing else follows from it."""


class UpdateOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the version the host asked for last."""

    component: str
    version: str
    ok: bool
    message: str = ""
    waiting: bool = False
    """It is not taken yet, and comes without a new word of the host; `message` says what it waits for. Then `ok` is
    false."""


class Updates(Reply, frozen=True, kw_only=True):
    """Which versions run, and why."""

    components: list[UpdateView]
    repository: RepositoryView
    held: bool = False
    """All of them; a hold on a single one is told with it."""
    held_until: float | None = None
    """UTC, seconds since the epoch; None: until the hold on all is released, or none is in force."""
    outcome: UpdateOutcome | None = None
    looked_at: float = 0.0
    """UTC, seconds since the epoch: what is said here follows from what host, repository and disk said then, or later;
    0: not looked yet."""
    problems: list[str] = []
    """One line each: what keeps the updater from its work on this machine, what is wrong with the host's instructions,
    and what the repository has that is passed over."""


class GetUpdates(Request[Updates], frozen=True, kw_only=True):
    """Which version of each component runs, which is wanted, and what is in the way? Since 1.3."""

    speaker: ClassVar[str] = "rdagent"
    reply: ClassVar[type[Reply]] = Updates


class PlannedUpdate(msgspec.Struct, frozen=True, kw_only=True):
    """One change, or why there is none."""

    component: str
    from_version: str
    to_version: str = ""
    """Empty: nothing is wanted."""
    wanted_by: WantedBy = ""
    at: float | None = None
    """UTC, seconds since the epoch, when it may begin; None: not before `lift` is done."""
    blocked: str = ""
    lift: str = ""


class UpdatePlan(Reply, frozen=True, kw_only=True):
    """In the order in which it would be done."""

    steps: list[PlannedUpdate]


class GetUpdatePlan(Request[UpdatePlan], frozen=True, kw_only=True):
    """What would change, when, and what blocks it? Since 1.3."""

    speaker: ClassVar[str] = "rdagent"
    reply: ClassVar[type[Reply]] = UpdatePlan


class UpdateNow(Request[UpdatePlan], frozen=True, kw_only=True):
    """Look into the repository and begin at once: no window, no jitter. Since 1.3."""

    speaker: ClassVar[str] = "rdagent"
    reply: ClassVar[type[Reply]] = UpdatePlan

    component: str = ""
    """Empty: all."""
    version: str = ""
    """Empty: what is wanted. A version named here may be older than the running one, down to its floor."""


class PinVersion(Request[Updates], frozen=True, kw_only=True):
    """Keep one version of a component, whoever wants another. Since 1.3."""

    speaker: ClassVar[str] = "rdagent"
    reply: ClassVar[type[Reply]] = Updates

    component: str
    version: str = ""
    """Empty: no longer."""


class HoldUpdates(Request[Updates], frozen=True, kw_only=True):
    """Begin no update, until told otherwise. Since 1.3."""

    speaker: ClassVar[str] = "rdagent"
    reply: ClassVar[type[Reply]] = Updates

    component: str = ""
    """Empty: of any."""
    on: bool = True
    until: float | None = None
    """UTC, seconds since the epoch; None: until `on` is false."""


class UnblockVersion(Request[Updates], frozen=True, kw_only=True):
    """Take a version off the bad list. Since 1.3."""

    speaker: ClassVar[str] = "rdagent"
    reply: ClassVar[type[Reply]] = Updates

    component: str
    version: str = ""
    """Empty: all of them."""


class RollBack(Request[Updates], frozen=True, kw_only=True):
    """Go back to the previous version; the current one goes on the bad list. Needs no repository. Since 1.3."""

    speaker: ClassVar[str] = "rdagent"
    reply: ClassVar[type[Reply]] = Updates

    component: str
    reason: str = "asked by the operator"
    version: str = ""
    """The one to give up: refused if another is in force by then, because somebody else was faster. Empty: whichever
    is."""


class UpdateEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the history."""

    at: float
    """UTC, seconds since the epoch."""
    component: str
    phase: str
    """`fetch`, `stage`, `trial`, `commit`, `roll back`, `refuse`, ..."""
    version: str = ""
    from_version: str = ""
    wanted_by: WantedBy = ""
    """Who wanted this version; empty if a judge took it back after its trial, or that is not known."""
    ok: bool = True
    message: str = ""
    lift: str = ""
    """The command that would change how it ended; empty if there is none, or what ended so says it."""
    seconds: float | None = None


class UpdateHistory(Reply, frozen=True, kw_only=True):
    """Oldest first."""

    events: list[UpdateEvent]


class GetUpdateHistory(Request[UpdateHistory], frozen=True, kw_only=True):
    """What was tried, and how did it end? Since 1.3."""

    speaker: ClassVar[str] = "rdagent"
    reply: ClassVar[type[Reply]] = UpdateHistory

    component: str = ""
    """Empty: of all."""
    limit: int = 200


class ImportedBundle(Reply, frozen=True, kw_only=True):
    """What was taken from it."""

    versions: list[str]
    """`COMPONENT VERSION`, each."""
    refused: list[str] = []
    """One line each: what, and why."""


class ImportBundle(Request[ImportedBundle], frozen=True, kw_only=True):
    """Take the packages of a bundle, as if the repository had them. For machines without a network. Since 1.3."""

    speaker: ClassVar[str] = "rdagent"
    reply: ClassVar[type[Reply]] = ImportedBundle

    path: str
    """A file on this machine."""


class UpdateChanged(Event, frozen=True, kw_only=True):
    """A component's versions, or what is wanted of them, are no longer what they were. Since 1.3."""

    speaker: ClassVar[str] = "rdagent"
    component: str = ""


REQUESTS = (
    GetTruth,
    GetUpdates,
    GetUpdatePlan,
    UpdateNow,
    PinVersion,
    HoldUpdates,
    UnblockVersion,
    RollBack,
    GetUpdateHistory,
    ImportBundle,
)
EVENTS = (TruthChanged, UpdateChanged)
