"""Faults by name: what goes wrong, at which endpoints, for whom, how often, when. The same seed, the same faults."""

import random
from collections.abc import Iterable
from typing import Annotated, Literal

import msgspec

from fabric.errors import FabricError

_WIRESERVER = (
    "versions",
    "goalstate",
    "hostingenvironment",
    "sharedconfig",
    "extensionsconfig",
    "certificates",
    "health",
    "healthservice",
    "telemetry",
    "roleproperties",
)
_HOSTGAPLUGIN = ("pluginversions", "vmsettings", "artifact", "agentartifact", "status", "agentlog", "pluginhealth")
_BLOBS = ("manifest", "package", "agentmanifest", "agentpackage", "statusblob", "outputblob")

_DIRECT = ("manifest", "package", "agentmanifest", "agentpackage")
_PLUGIN = ("artifact", "agentartifact")
_REPOSITORY = ("repositorymetadata", "repositorytargets")

ENDPOINTS = (*_WIRESERVER, *_HOSTGAPLUGIN, "imds", *_BLOBS, *_REPOSITORY)
GROUPS: dict[str, tuple[str, ...]] = {
    "artifacts": (*_DIRECT, *_PLUGIN, *_REPOSITORY),
    "extension-artifacts": ("manifest", "package", "artifact"),
    "agent-artifacts": ("agentmanifest", "agentpackage", "agentartifact"),
    "direct-artifacts": _DIRECT,
    "plugin-artifacts": _PLUGIN,
    "repository": _REPOSITORY,
    "wireserver": _WIRESERVER,
    "hostgaplugin": _HOSTGAPLUGIN,
    "blobs": _BLOBS,
    "everything": ENDPOINTS,
}
"""Names for several endpoints at once: `artifacts` is the blackout."""

FaultName = Literal[
    "status",
    "throttle",
    "slow",
    "drip",
    "truncate",
    "reset",
    "wrong-bytes",
    "html-page",
    "endless",
    "expired",
    "no-role-instance",
    "invalid-container",
    "inconsistent",
    "stale-ticks",
    "missing-ticks",
    "replayed",
    "expired-metadata",
]
FAULTS: dict[str, str] = {
    "status": "answer with HTTP status VALUE",
    "throttle": "answer 429, Retry-After VALUE seconds",
    "slow": "answer after VALUE seconds",
    "drip": "send the answer at VALUE bytes a second",
    "truncate": "announce the whole answer and send half",
    "reset": "close the connection without an answer",
    "wrong-bytes": "answer with bytes that mean nothing",
    "html-page": "answer 200 with an HTML page, as a captive portal does",
    "endless": "send an answer that never ends",
    "expired": "403, as for a signed URL past its time",
    "no-role-instance": "a goal state without RoleInstance",
    "invalid-container": "400 InvalidContainerConfiguration",
    "inconsistent": "the configuration of the incarnation before",
    "stale-ticks": "a creation time older than all before",
    "missing-ticks": "no creation time",
    "replayed": "the manifest, or timestamp of the repository, from before the newest version",
    "expired-metadata": "a timestamp of the repository whose time is over",
}
_NEED_VALUE = {"status": (200, 599), "throttle": (0, 3600), "slow": (0, 3600), "drip": (1, 1_000_000)}
_FITS: dict[str, tuple[str, ...]] = {
    "no-role-instance": ("goalstate",),
    "inconsistent": ("extensionsconfig",),
    "stale-ticks": ("extensionsconfig", "vmsettings"),
    "missing-ticks": ("extensionsconfig", "vmsettings"),
    "replayed": ("manifest", "artifact", "agentmanifest", "agentartifact", "repositorymetadata"),
    "expired-metadata": ("repositorymetadata",),
}


_LONGEST = 10**9
"""Seconds."""


def _one_of(names: Iterable[str]) -> msgspec.Meta:
    """For the description: who takes another name is told by us what there is."""
    return msgspec.Meta(extra_json_schema={"enum": list(names)})


class Order(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A fault to be injected."""

    endpoint: Annotated[str, _one_of((*GROUPS, *ENDPOINTS))]
    """An endpoint, or a group of them."""
    fault: Annotated[str, _one_of(FAULTS)]
    value: float | None = None
    vm: Annotated[str, msgspec.Meta(max_length=63)] = ""
    """Empty: any."""
    count: Annotated[int, msgspec.Meta(ge=1, le=2**31 - 1)] | None = None
    """How many answers to spoil; None: until lifted."""
    skip: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)] = 0
    """So many requests first that are left alone."""
    wait: Annotated[float, msgspec.Meta(ge=0, le=_LONGEST)] = 0.0
    """Seconds until it begins."""
    last: Annotated[float, msgspec.Meta(gt=0, le=_LONGEST)] | None = None
    """Seconds it lasts; None: until lifted."""
    probability: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
    """Of each request; drawn from `seed`."""
    seed: int = 0


class Fault(Order, kw_only=True):
    """One rule in force."""

    id: int = 0
    added_at: float
    """UTC, seconds."""
    fault: FaultName
    left: int | None = None
    """Of `count`."""

    @property
    def endpoints(self) -> tuple[str, ...]:
        return GROUPS.get(self.endpoint, (self.endpoint,))

    def concerns(self, vm: str, endpoint: str, now: float) -> bool:
        """Whether a request is one of those this rule counts. Pure."""
        begins = self.added_at + self.wait
        ended = self.last is not None and now >= begins + self.last
        return (self.vm in {"", vm}) and endpoint in self.endpoints and now >= begins and not ended

    def fires(self, hit: int) -> bool:
        """Whether the `hit`th request (from 1) it counts is spoiled: always the same for a seed. Pure."""
        if hit <= self.skip:
            return False
        return self.probability >= 1.0 or random.Random(f"{self.seed}/{hit}").random() < self.probability  # noqa: S311  # repeatable is the point


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """One fault there is."""

    name: str
    meaning: str
    value: tuple[int, int] | None
    """Lowest and highest, if it needs one."""
    endpoints: tuple[str, ...] | None
    """None: all."""


class Catalogue(msgspec.Struct, frozen=True, kw_only=True):
    """What there is to choose from."""

    endpoints: tuple[str, ...]
    groups: dict[str, tuple[str, ...]]
    faults: list[Choice]


def catalogue() -> Catalogue:
    faults = [
        Choice(name=name, meaning=meaning, value=_NEED_VALUE.get(name), endpoints=_FITS.get(name))
        for name, meaning in FAULTS.items()
    ]
    return Catalogue(endpoints=ENDPOINTS, groups=GROUPS, faults=faults)


def check(order: Order) -> None:
    """Raises FabricError."""
    name, value = order.fault, order.value
    if order.endpoint not in (*ENDPOINTS, *GROUPS):
        there_are = ", ".join((*GROUPS, *ENDPOINTS))
        raise FabricError(f"unknown endpoint {order.endpoint[:40]!r}; there are: {there_are}")
    if name not in FAULTS:
        raise FabricError(f"unknown fault {name[:40]!r}; there are: {', '.join(FAULTS)}")
    if name in _NEED_VALUE:
        low, high = _NEED_VALUE[name]
        if value is None or not low <= value <= high:
            raise FabricError(f"{name} needs a value from {low} to {high}: {FAULTS[name]}")
        if name == "status" and value != int(value):
            raise FabricError("status needs a whole number")
    elif value is not None:
        raise FabricError(f"{name} takes no value: {FAULTS[name]}")
    fits = _FITS.get(name, ENDPOINTS)
    if not set(GROUPS.get(order.endpoint, (order.endpoint,))) & set(fits):
        raise FabricError(f"{name} is a fault of {' or '.join(fits)}, not of {order.endpoint}")
