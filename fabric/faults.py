"""Faults by name: what goes wrong at which endpoint, how often."""

from typing import Literal

import msgspec

from fabric.errors import FabricError

ENDPOINTS = (
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
    "pluginversions",
    "vmsettings",
    "artifact",
    "status",
    "agentlog",
    "pluginhealth",
    "imds",
    "manifest",
    "package",
    "statusblob",
    "outputblob",
)
FaultName = Literal[
    "status", "slow", "drip", "truncate", "reset", "wrong-bytes", "no-role-instance", "invalid-container"
]
FAULTS: dict[str, str] = {
    "status": "answer with HTTP status VALUE",
    "slow": "answer after VALUE seconds",
    "drip": "send the answer at VALUE bytes a second",
    "truncate": "announce the whole answer and send half",
    "reset": "close the connection without an answer",
    "wrong-bytes": "answer with bytes that mean nothing",
    "no-role-instance": "a goal state without RoleInstance",
    "invalid-container": "400 InvalidContainerConfiguration",
}
_NEED_VALUE = {"status": (200, 599), "slow": (0, 3600), "drip": (1, 1_000_000)}


class Fault(msgspec.Struct, kw_only=True):
    """One rule. `count` falls with each answer it spoils; None is until lifted."""

    id: int
    endpoint: str
    fault: FaultName
    value: float | None = None
    count: int | None = None


class Faults:
    """The rules in force, oldest first."""

    def __init__(self) -> None:
        self._rules: list[Fault] = []
        self._next = 1

    def add(self, endpoint: str, fault: str, value: float | None, count: int | None) -> Fault:
        """Raises FabricError, naming what there is to choose from."""
        if endpoint not in ENDPOINTS:
            raise FabricError(f"unknown endpoint {endpoint[:40]!r}; there are: {', '.join(ENDPOINTS)}")
        if fault not in FAULTS:
            raise FabricError(f"unknown fault {fault[:40]!r}; there are: {', '.join(FAULTS)}")
        if fault in _NEED_VALUE:
            low, high = _NEED_VALUE[fault]
            if value is None or not low <= value <= high:
                raise FabricError(f"{fault} needs a value from {low} to {high}: {FAULTS[fault]}")
            if fault == "status" and value != int(value):
                raise FabricError("status needs a whole number")
        elif value is not None:
            raise FabricError(f"{fault} takes no value: {FAULTS[fault]}")
        if fault == "no-role-instance" and endpoint != "goalstate":
            raise FabricError(f"{fault} is a fault of goalstate, not of {endpoint}")
        if count is not None and count < 1:
            raise FabricError("count must be at least 1")
        rule = msgspec.convert(
            {"id": self._next, "endpoint": endpoint, "fault": fault, "value": value, "count": count}, Fault
        )
        self._next += 1
        self._rules.append(rule)
        return rule

    def take(self, endpoint: str) -> Fault | None:
        """The first rule for this endpoint, counted down."""
        for rule in self._rules:
            if rule.endpoint == endpoint:
                if rule.count is not None:
                    rule.count -= 1
                    if rule.count == 0:
                        self._rules.remove(rule)
                return rule
        return None

    def listed(self) -> list[Fault]:
        return list(self._rules)

    def clear(self) -> int:
        """Lift all; how many there were."""
        count = len(self._rules)
        self._rules.clear()
        return count
