"""Faults by name: what goes wrong, at which endpoints, for whom, how often, when. The same seed, the same faults."""

import random
from collections.abc import Iterable
from typing import Annotated, Literal

import msgspec
from sqlalchemy import delete, select, update

from fabric.clock import Clock
from fabric.errors import FabricError, Unknown
from fabric.store import Store
from fabric.tables import FAULTS as RULES

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

ENDPOINTS = (*_WIRESERVER, *_HOSTGAPLUGIN, "imds", *_BLOBS)
GROUPS: dict[str, tuple[str, ...]] = {
    "artifacts": ("manifest", "package", "agentmanifest", "agentpackage", "artifact", "agentartifact"),
    "extension-artifacts": ("manifest", "package", "artifact"),
    "agent-artifacts": ("agentmanifest", "agentpackage", "agentartifact"),
    "direct-artifacts": ("manifest", "package", "agentmanifest", "agentpackage"),
    "plugin-artifacts": ("artifact", "agentartifact"),
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
    "expired",
    "no-role-instance",
    "invalid-container",
    "inconsistent",
    "stale-ticks",
    "missing-ticks",
    "replayed",
]
FAULTS: dict[str, str] = {
    "status": "answer with HTTP status VALUE",
    "throttle": "answer 429, Retry-After VALUE seconds",
    "slow": "answer after VALUE seconds",
    "drip": "send the answer at VALUE bytes a second",
    "truncate": "announce the whole answer and send half",
    "reset": "close the connection without an answer",
    "wrong-bytes": "answer with bytes that mean nothing",
    "expired": "403, as for a signed URL past its time",
    "no-role-instance": "a goal state without RoleInstance",
    "invalid-container": "400 InvalidContainerConfiguration",
    "inconsistent": "the configuration of the incarnation before",
    "stale-ticks": "a creation time older than all before",
    "missing-ticks": "no creation time",
    "replayed": "the manifest from before the newest version",
}
_NEED_VALUE = {"status": (200, 599), "throttle": (0, 3600), "slow": (0, 3600), "drip": (1, 1_000_000)}
_FITS: dict[str, tuple[str, ...]] = {
    "no-role-instance": ("goalstate",),
    "inconsistent": ("extensionsconfig",),
    "stale-ticks": ("extensionsconfig", "vmsettings"),
    "missing-ticks": ("extensionsconfig", "vmsettings"),
    "replayed": ("manifest", "artifact"),
}
_RULES_LIMIT = 200


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


class Faults:
    """The rules in force, oldest first. Kept where all workers of a host see them."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._rules: list[Fault] | None = None
        if not store.shared:
            # The host's own: they go when it goes.
            self.clear()

    def add(self, order: Order) -> Fault:
        """Raises FabricError, naming what there is to choose from."""
        _check(order)
        rule = msgspec.convert({**msgspec.structs.asdict(order), "added_at": self._clock.now()}, Fault)
        if len(self.listed()) >= _RULES_LIMIT:
            raise FabricError(f"{_RULES_LIMIT} faults are in force already: azfabric fault clear")
        with self._store.begin() as connection:
            done = connection.execute(RULES.insert().values(document=msgspec.json.encode(rule)))
            rule.id = int(done.inserted_primary_key[0]) if done.inserted_primary_key else 0
            self._store.tell(connection, "faults")
        rule.left = rule.count
        self.forget()
        return rule

    def take(self, vm: str, endpoint: str) -> Fault | None:
        """The first rule that spoils this request, counted."""
        if self._rules == []:
            return None
        now = self._clock.now()
        for rule in self._known():
            if rule.concerns(vm, endpoint, now) and rule.fires(self._hit(rule)) and self._spoil(rule):
                return rule
        return None

    def listed(self) -> list[Fault]:
        """With what is left of each count; those whose time is up are gone."""
        now = self._clock.now()
        with self._store.begin() as connection:
            rows = connection.execute(select(RULES).order_by(RULES.c.id)).all()
        found = []
        for row in rows:
            rule = msgspec.json.decode(row.document, type=Fault)
            rule.id = row.id
            rule.left = None if rule.count is None else rule.count - row.spoiled
            over = rule.last is not None and now >= rule.added_at + rule.wait + rule.last
            if rule.left != 0 and not over:
                found.append(rule)
        return found

    def lift(self, number: int) -> None:
        """Raises Unknown."""
        with self._store.begin() as connection:
            found = connection.execute(delete(RULES).where(RULES.c.id == number).returning(RULES.c.id)).first()
            self._store.tell(connection, "faults")
        if found is None:
            raise Unknown(f"there is no fault {number}: azfabric fault list")
        self.forget()

    def clear(self) -> int:
        """Lift all; how many there were."""
        count = len(self.listed())
        with self._store.begin() as connection:
            connection.execute(delete(RULES))
            self._store.tell(connection, "faults")
        self.forget()
        return count

    def forget(self) -> None:
        """They changed, here or at another worker."""
        self._rules = None

    def _known(self) -> list[Fault]:
        if self._rules is None:
            self._rules = self.listed()
        return self._rules

    def _hit(self, rule: Fault) -> int:
        counted = update(RULES).where(RULES.c.id == rule.id).values(hits=RULES.c.hits + 1).returning(RULES.c.hits)
        with self._store.begin() as connection:
            return int(connection.execute(counted).scalar() or 0)

    def _spoil(self, rule: Fault) -> bool:
        more = RULES.c.id == rule.id
        if rule.count is not None:
            more &= RULES.c.spoiled < rule.count
        with self._store.begin() as connection:
            counted = update(RULES).where(more).values(spoiled=RULES.c.spoiled + 1).returning(RULES.c.id)
            return connection.execute(counted).first() is not None


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


def _check(order: Order) -> None:
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
