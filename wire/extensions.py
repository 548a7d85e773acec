"""The extensions goal state: what both channels, ExtensionsConfig and vmSettings, come down to."""

from collections.abc import Iterable
from typing import Any, Literal

import msgspec

Source = Literal["Fabric", "FastTrack"]
BlobType = Literal["BlockBlob", "PageBlob"]

_LAST_TICK = 3_155_378_975_999_999_999

SUPPORTED_FEATURES = frozenset({"MultipleExtensionsPerHandler"})


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """One extension: a settings instance of its handler."""

    name: str = ""
    """Multi-config only."""
    sequence_number: int
    state: Literal["enabled", "disabled"] = "enabled"
    public: Any = None
    """Any JSON value, already decoded."""
    protected: str | None = None
    """Base64 CMS, never opened by us."""
    thumbprint: str | None = None
    dependency_level: int = 0
    depends_on: tuple[str, ...] = ()
    """What DependsOnExtension names: `handler`, or `handler/extension`."""

    def __repr__(self) -> str:
        return f"Settings(name={self.name!r}, sequence_number={self.sequence_number}, state={self.state!r}, ...)"


class Handler(msgspec.Struct, frozen=True, kw_only=True):
    """One extension handler as wanted."""

    name: str
    """`Publisher.Type`."""
    version: str
    state: Literal["enabled", "disabled", "uninstall"]
    locations: tuple[str, ...] = ()
    """Manifest URLs: location, failover, additional, in this order."""
    multi_config: bool = False
    signature: str = ""
    """Base64 detached CMS of the package; empty if unsigned."""
    settings: tuple[Settings, ...] = ()
    error: str = ""
    """Why this handler cannot be processed; the others can."""


class AgentFamily(msgspec.Struct, frozen=True, kw_only=True):
    """A GAFamily: which agent version the host wants, and where the manifest is."""

    name: str
    version: str = ""
    from_version: str = ""
    is_version_from_rsm: bool | None = None
    is_vm_enabled_for_rsm_upgrades: bool | None = None
    uris: tuple[str, ...] = ()


class StatusBlob(msgspec.Struct, frozen=True, kw_only=True):
    """Where the status goes."""

    url: str
    kind: BlobType = "BlockBlob"


class ExtensionsGoalState(msgspec.Struct, frozen=True, kw_only=True):
    """Everything one of the channels wants of the guest agent."""

    id: str
    """`incarnation_<n>` or `etag_<tag>`: a new id is what triggers processing."""
    source: Source
    created_on_ticks: int = 0
    """100 ns since 0001-01-01 UTC; 0 if missing or unreadable, that is: older than anything."""
    activity_id: str = ""
    correlation_id: str = ""
    in_svd_seq_no: str = ""
    """Echoed in the status blob: the incarnation for Fabric."""
    status_blob: StatusBlob | None = None
    artifacts_profile_url: str = ""
    on_hold: bool = False
    required_features: tuple[str, ...] = ()
    families: tuple[AgentFamily, ...] = ()
    handlers: tuple[Handler, ...] = ()
    withheld: str = ""
    """Why nothing of it is executed; its status is reported all the same."""
    problems: tuple[str, ...] = ()
    """What of the document was passed over."""

    @property
    def names_all(self) -> bool:
        """Whether every handler could be identified: only then does one that is not named count as gone."""
        return all(handler.name for handler in self.handlers)

    @property
    def unsupported_features(self) -> tuple[str, ...]:
        return tuple(name for name in self.required_features if name not in SUPPORTED_FEATURES)


def newest(
    current: ExtensionsGoalState | None, fabric: ExtensionsGoalState | None, fast_track: ExtensionsGoalState | None
) -> ExtensionsGoalState | None:
    """Which of the two channels' latest documents is in force (protocol: choosing the newer goal state).

    The later one, Fabric on a tie; and it replaces the current one only if it was not created before it.
    """
    candidates = [one for one in (fabric, fast_track) if one is not None]
    if not candidates:
        return current
    candidate = max(candidates, key=lambda one: (one.created_on_ticks, one.source == "Fabric"))
    if current is not None and candidate.created_on_ticks < current.created_on_ticks:
        return current
    return candidate


def dependency(handler: str, extension: str) -> str:
    """One DependsOnExtension; empty if it names nobody."""
    return f"{handler}/{extension}" if handler and extension else handler


def parse_ticks(value: object) -> int:
    """A creation time; 0 for what is none: no number, or beyond the year 9999."""
    text = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
    ticks = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0
    return ticks if ticks <= _LAST_TICK else 0


def parse_level(value: object) -> int:
    """A dependency level; 0 for what is none."""
    text = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 6 else 0


def parse_switch(value: object) -> bool | None:
    """true or false, as a word too, in any case; None for what is neither: unknown is not false."""
    word = str(value).strip().lower() if isinstance(value, bool | str) else ""
    return {"true": True, "false": False}.get(word)


def mark_repeated(handlers: Iterable[Handler]) -> tuple[Handler, ...]:
    """Each handler once: they are told apart by name, and two would get in each other's way."""
    found: dict[str | int, Handler] = {}
    for number, one in enumerate(handlers):
        first = found.setdefault(one.name or number, one)
        if one != first:
            found[one.name] = msgspec.structs.replace(first, error=f"{one.name} is named more than once")
    return tuple(found.values())


def parse_blob_type(text: str) -> BlobType:
    """Anything unknown is a block blob."""
    return "PageBlob" if text == "PageBlob" else "BlockBlob"
