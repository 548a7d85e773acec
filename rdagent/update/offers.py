"""Which versions somebody wants us to have. Pure: the host's words and the repository's entries in, offers out.

An offer is an instruction, never trust: what may run is decided by the signature in the package. Three may want a
version: the operator, who names it; the host, whose goal state asks for one (requested versions, "RSM"); and the
channel, that is whatever was published without being asked for, in our repository or in the host's manifest of an
agent family (protocol: agent self-update).
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal

import msgspec

from release.manifest import is_version, same_version, version_key
from wire.extensions import AgentFamily
from wire.manifest import Package

Wanter = Literal["", "operator", "host", "channel"]
"""Empty: it is not known who did, or nobody does any more."""

RANK: tuple[Wanter, ...] = ("operator", "host", "channel")
"""Who is heard first."""

_SEEN_LIMIT = 1000


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One package in the component repository, as its signed metadata describes it."""

    component: str
    version: str
    channel: str
    ring: int
    """It is released for the rings 0 to this one."""
    digest: str
    """SHA-256 of the version's manifest, hexadecimal."""
    target: str
    """Path of the package among the repository's targets."""


class Offer(msgspec.Struct, frozen=True, kw_only=True):
    """A version of a component that somebody wants, and where it is to be had."""

    component: str
    version: str
    wanted_by: Wanter
    from_version: str = ""
    """Host: the version it knows to be running, without which it may not ask for an older one."""
    digest: str = ""
    """SHA-256 of the version's manifest; empty: not known before it is fetched."""
    urls: tuple[str, ...] = ()
    """Mirrors of the package, by the host's manifest."""
    target: str = ""
    """Its path among the repository's targets."""
    ring: int | None = None
    """It is released for the rings 0 to this one; None: for everybody."""
    disallow_major: bool = False
    """Nobody comes to it by himself from another major version."""
    seen_at: float = 0.0
    """UTC, seconds since the epoch, when it was first seen; 0: not noted."""

    @property
    def name(self) -> str:
        return f"{self.component} {self.version}"


def from_family(family: AgentFamily, packages: Sequence[Package] | None, running: str) -> tuple[list[Offer], str]:
    """What the host wants of the component that `family` is named for, and what is wrong with its instruction.

    `packages`: the family's manifest, None if it could not be had; `running`: the version in force, empty if not known.
    A requested version is wanted by the host, be it older. Else it leaves that to us: every newer version of the
    manifest is wanted by the channel.
    """
    if family.is_vm_enabled_for_rsm_upgrades is not True:
        return _newer(family.name, packages or (), running), _no_manifest(family)
    if family.is_version_from_rsm is None or not family.version:
        missing = "isVersionFromRSM" if family.is_version_from_rsm is None else "version"
        return [], f"family {family.name}: the host asks for versions, but its goal state has no {missing}"
    if not family.is_version_from_rsm:
        return [], ""
    if not is_version(family.version):
        return [], f"family {family.name}: the host asks for {family.version[:64]!r}, which is no version of ours"
    package = next((one for one in packages or () if same_version(one.version, family.version)), None)
    offer = Offer(
        component=family.name,
        version=package.version if package else family.version,
        wanted_by="host",
        from_version=family.from_version,
        urls=package.uris if package else (),
    )
    if package or packages is None or same_version(family.version, running):
        return [offer], "" if package else _no_manifest(family)
    # Wanted all the same: the repository or the disk may have what the manifest has not.
    return [offer], _no_manifest(family) or f"family {family.name}: its manifest has no version {family.version}"


def from_repository(entries: Iterable[Entry], channel: str) -> list[Offer]:
    """What the repository has for everybody on this channel."""
    return [_of_entry(entry, "channel") for entry in entries if entry.channel == channel and is_version(entry.version)]


def from_operator(component: str, version: str, offers: Iterable[Offer], entries: Iterable[Entry]) -> Offer:
    """The version the operator named, be it of another channel or of none.

    Where it is to be had is taken from what others offer; perhaps it lies on disk.
    """
    asked = Offer(component=component, version=version, wanted_by="operator")
    known = [_of_entry(entry, "operator") for entry in entries] + list(offers)
    for one in known:
        if one.component == component and same_version(one.version, version):
            asked = _merge(asked, one)
    return asked


def collect(
    components: Collection[str],
    *,
    families: Iterable[AgentFamily] = (),
    manifests: Mapping[str, Sequence[Package]] | None = None,
    running: Mapping[str, str] | None = None,
    entries: Sequence[Entry] = (),
    channel: str = "stable",
    asked: Mapping[str, str] | None = None,
    has_repository: bool = False,
) -> tuple[list[Offer], list[str]]:
    """Everything that is wanted, and what is wrong with the host's instructions, one line each.

    `manifests`: by name of family, without those that could not be had; `running`: version by component; `asked`:
    version by component that the operator named; `has_repository`: this machine follows one, so the host's manifests
    are no second channel: they know no rings. Families of other names are not ours; of two with one name the first with
    a manifest counts.
    """
    known = [entry for entry in entries if entry.component in components and is_version(entry.version)]
    published = from_repository(known, channel)
    listed: list[Offer] = []
    problems: list[str] = []
    for family in _ours(families, components):
        packages = (manifests or {}).get(family.name)
        found, problem = from_family(family, packages, (running or {}).get(family.name, ""))
        listed += [_completed(offer, known) for offer in found]
        problems += [problem] if problem else []
    heard = [one for one in listed if one.wanted_by != "channel" or not has_repository]
    everything = [*published, *listed]
    named = [from_operator(name, version, everything, known) for name, version in (asked or {}).items() if version]
    return [*published, *heard, *named], problems


def note_seen(offers: Iterable[Offer], seen: Mapping[str, float], now: float) -> tuple[list[Offer], dict[str, float]]:
    """The offers with the time each was first seen, and these times, to be kept and given again.

    `now`: UTC, seconds since the epoch. What was seen in the future was seen by a clock that was wrong: it is seen now.
    An offer that is away for a while (the repository is) keeps its time.
    """
    times = {name: min(at, now) for name, at in seen.items()}
    dated = []
    for offer in offers:
        times.setdefault(offer.name, now)
        dated.append(msgspec.structs.replace(offer, seen_at=times[offer.name]))
    current = {offer.name for offer in dated}
    kept = sorted(times, key=lambda name: (name in current, times[name]))[-_SEEN_LIMIT:]
    return dated, {name: times[name] for name in kept}


def _ours(families: Iterable[AgentFamily], components: Collection[str]) -> list[AgentFamily]:
    found: dict[str, AgentFamily] = {}
    for family in families:
        if family.name in components and not found.get(family.name, AgentFamily(name="")).uris:
            found[family.name] = family
    return list(found.values())


def _newer(component: str, packages: Iterable[Package], running: str) -> list[Offer]:
    if not is_version(running):
        return []
    return [
        Offer(
            component=component,
            version=one.version,
            wanted_by="channel",
            urls=one.uris,
            disallow_major=one.disallow_major,
        )
        for one in packages
        if is_version(one.version) and version_key(one.version) > version_key(running)
    ]


def _no_manifest(family: AgentFamily) -> str:
    return "" if family.uris else f"family {family.name}: the goal state names no manifest of it"


def _of_entry(entry: Entry, wanted_by: Wanter) -> Offer:
    return Offer(
        component=entry.component,
        version=entry.version,
        wanted_by=wanted_by,
        digest=entry.digest,
        target=entry.target,
        ring=entry.ring,
    )


def _completed(offer: Offer, entries: Iterable[Entry]) -> Offer:
    """With what the signed metadata knows of that version, whoever wants it."""
    for entry in entries:
        if entry.component == offer.component and same_version(entry.version, offer.version):
            return _merge(offer, _of_entry(entry, offer.wanted_by))
    return offer


def _merge(offer: Offer, other: Offer) -> Offer:
    """`offer`, its gaps filled. The rings of a release say nothing to who names a version.

    Its number is spelled by who has it, as in the package: 0.9 and 0.9.0 are one version, and one folder on the disk.
    """
    named_only = not (offer.digest or offer.urls or offer.target)
    return msgspec.structs.replace(
        offer,
        version=other.version if named_only else offer.version,
        digest=offer.digest or other.digest,
        urls=offer.urls or other.urls,
        target=offer.target or other.target,
    )
