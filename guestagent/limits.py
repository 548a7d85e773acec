"""How much of the machine a handler may use, and what of it can be held to here (protocol: resourceLimits). Pure.

The manifest is somebody else's: figures are bounded, what makes no sense is left out and told. The acts are in
guestagent/confinement.py.
"""

import math
import re
from typing import Any, Literal

import msgspec

SLICE = "azure-vmextensions"
"""The reference agent's slice; a handler's own one is below it, and holds its commands and what they leave running."""

# Percent of one processor: the kernel's smallest quota is 1 %, and no machine has more than a thousand processors.
_CPU = (1, 100_000)
# Megabytes: below, a command is throttled before it does anything.
_MEMORY = (16, 1 << 24)
_SERVICES = 20
_PERIOD_US = 100_000

_SERVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9:_.@-]{0,200}\.service", re.ASCII)
_NUMBER = re.compile(r"\d{1,9}(\.\d{1,9})?", re.ASCII)


class ServiceLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of a service that the extension installs."""

    name: str
    cpu_percent: int | None = None
    memory_mb: int | None = None


class ResourceLimits(msgspec.Struct, frozen=True, kw_only=True):
    """None is no limit."""

    cpu_percent: int | None = None
    """Of one processor."""
    memory_mb: int | None = None
    services: tuple[ServiceLimits, ...] = ()
    problems: tuple[str, ...] = ()
    """What the manifest says and nobody can follow."""


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What there is to hold a command with."""

    manager: Literal["systemd", "cgroup", "none"]
    controllers: frozenset[str] = frozenset()
    """Those that can be used: `cpu`, `memory`."""
    reason: str = ""
    """Why there are no more."""
    cgroup_root: str = ""
    """Where we make cgroups of our own: the mount point of cgroup v2, if nobody manages it."""
    oom_policy: bool = False
    """systemd 253 and newer: whether a scope goes on when one of its processes is killed for memory can be said."""


class Placement(msgspec.Struct, frozen=True, kw_only=True):
    """Where a command runs. The default is: where we run."""

    launcher: tuple[str, ...] = ()
    """What starts the runner: a command line that takes its own behind it."""
    cgroup: str = ""
    """The folder the runner enters before it starts the command."""
    unit: str = ""
    """systemd's slice, whose `properties` are set first."""
    properties: tuple[str, ...] = ()
    files: tuple[tuple[str, str], ...] = ()
    """What is written into the cgroup's files first."""
    not_enforced: tuple[str, ...] = ()
    """Limits that are asked for and do not hold, each with the reason."""


def parse_limits(value: Any) -> ResourceLimits:
    """HandlerManifest's `resourceLimits`: any JSON. Never raises."""
    if value is None:
        return ResourceLimits()
    if not isinstance(value, dict):
        return ResourceLimits(problems=("resourceLimits is not an object",))
    problems: list[str] = []
    return ResourceLimits(
        cpu_percent=_bounded(value, "cpuQuotaPercentage", _CPU, problems),
        memory_mb=_bounded(value, "memoryQuotaInMB", _MEMORY, problems),
        services=_services(value.get("services"), problems),
        problems=tuple(problems),
    )


def choose(machine: Machine, handler: str, limits: ResourceLimits, unit: str) -> Placement:
    """Where a command of this handler runs; `unit` is a name for it that no other command has."""
    lacking = missing(machine, limits)
    match machine.manager:
        case "systemd":
            # Also without limits: what runs in a scope of its own outlives a restart of our service.
            name = f"{SLICE}-{handler.replace('-', '_')}.slice"
            launcher = ["systemd-run", "--scope", "--quiet", "--collect", f"--slice={name}", f"--unit={unit}.scope"]
            if machine.oom_policy:
                launcher.append("--property=OOMPolicy=continue")
            return Placement(
                launcher=(*launcher, "--"),
                unit=name,
                properties=_slice_properties(machine, limits),
                not_enforced=lacking,
            )
        case "cgroup" if files := _files(machine, limits):
            return Placement(cgroup=f"{machine.cgroup_root}/{SLICE}/{handler}", files=files, not_enforced=lacking)
    return Placement(not_enforced=lacking)


def service_properties(service: ServiceLimits) -> tuple[str, ...]:
    """For `systemctl set-property`: only what the manifest says, the rest is in the service's own unit."""
    return (
        *((f"CPUQuota={service.cpu_percent}%",) if service.cpu_percent else ()),
        *((f"MemoryHigh={service.memory_mb}M",) if service.memory_mb else ()),
    )


def missing(machine: Machine, limits: ResourceLimits | ServiceLimits) -> tuple[str, ...]:
    """What is asked for and cannot be held to on this machine."""
    asked = {"cpu": (limits.cpu_percent, "%"), "memory": (limits.memory_mb, "MB")}
    return tuple(
        f"{name} limit of {amount} {measure} is not enforced: {machine.reason}"
        for name, (amount, measure) in asked.items()
        if amount and name not in machine.controllers
    )


def _slice_properties(machine: Machine, limits: ResourceLimits) -> tuple[str, ...]:
    """A limit that an earlier version had is taken back."""
    found = []
    if "cpu" in machine.controllers:
        found.append(f"CPUQuota={limits.cpu_percent}%" if limits.cpu_percent else "CPUQuota=")
    if "memory" in machine.controllers:
        found.append(f"MemoryHigh={limits.memory_mb}M" if limits.memory_mb else "MemoryHigh=infinity")
    return tuple(found)


def _files(machine: Machine, limits: ResourceLimits) -> tuple[tuple[str, str], ...]:
    """Nothing if nothing can be held to; else all, for what an earlier version left running may keep the cgroup."""
    found = []
    if "cpu" in machine.controllers:
        quota = limits.cpu_percent * _PERIOD_US // 100 if limits.cpu_percent else "max"
        found.append(("cpu.max", f"{quota} {_PERIOD_US}"))
    if "memory" in machine.controllers:
        found.append(("memory.high", str(limits.memory_mb << 20) if limits.memory_mb else "max"))
    return tuple(found) if any(not content.startswith("max") for _, content in found) else ()


def _services(value: Any, problems: list[str]) -> tuple[ServiceLimits, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        problems.append("services is not a list")
        return ()
    if len(value) > _SERVICES:
        problems.append(f"only {_SERVICES} of {len(value)} services are looked at")
    found: dict[str, ServiceLimits] = {}
    for one in value[:_SERVICES]:
        name = one.get("name") if isinstance(one, dict) else None
        if not isinstance(name, str) or not _SERVICE.fullmatch(name):
            problems.append(f"{str(name)[:80]!r} cannot be a service's name")
            continue
        found.setdefault(
            name,
            ServiceLimits(
                name=name,
                cpu_percent=_bounded(one, "cpuQuotaPercentage", _CPU, problems),
                memory_mb=_bounded(one, "memoryQuotaInMB", _MEMORY, problems),
            ),
        )
    return tuple(found.values())


def _bounded(value: dict[str, Any], name: str, bounds: tuple[int, int], problems: list[str]) -> int | None:
    """A whole number within the bounds, rounded up; None for what is no amount of anything."""
    given = value.get(name)
    if given is None:
        return None
    number = float(given) if isinstance(given, str) and _NUMBER.fullmatch(given) else given
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 < number < math.inf:
        problems.append(f"{name} is {str(given)[:40]!r}, no amount")
        return None
    lowest, highest = bounds
    return min(max(math.ceil(number), lowest), highest)
