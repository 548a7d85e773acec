"""Observing: netlink wakes, then everything is read and compared (announcements miss what goes with a link)."""

import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from ipc.contract.netagent import Address, Link, Resolver, Route, Rule
from netagent import netlink
from netagent.files import read_regular
from netagent.kernel import dump
from netagent.leases import (
    SIZE_LIMIT,
    Lease,
    LeaseError,
    parse_dhclient,
    parse_network_manager,
    parse_network_manager_device,
    parse_networkd,
)
from netagent.requests import PROTOCOL
from netagent.resolver import read_resolver

_CHANGES_NAMED = 20
_ROUTES_READ = 2000
_MANAGER_FILE = re.compile(r"internal-[0-9a-f-]{36}-(.+)\.lease")


class LeaseFiles(msgspec.Struct, frozen=True, kw_only=True):
    """Where DHCP clients keep their leases: folder, pattern, kind."""

    root: Path = Path("/")

    def read(self, names: dict[int, str], *, now: float) -> tuple[dict[str, Lease], list[str]]:
        """Leases by file, dhclient first, and what could not be read, passed over. `names` are the links'."""
        kinds: list[tuple[str, Callable[[bytes], Lease | None]]] = [
            ("var/lib/dhcp/dhclient*.leases", lambda data: parse_dhclient(data, now=now)),
            ("var/lib/dhclient/dhclient*.lease*", lambda data: parse_dhclient(data, now=now)),
            ("run/systemd/netif/leases/*", parse_networkd),
            ("run/NetworkManager/devices/*", parse_network_manager_device),
            ("var/lib/NetworkManager/*.lease", parse_network_manager),
        ]
        found: dict[str, Lease] = {}
        problems: list[str] = []
        for pattern, parse in kinds:
            for path in sorted(self.root.glob(pattern)):
                name = os.fsencode(path).decode("utf-8", "replace")
                try:
                    lease = parse(read_regular(path, SIZE_LIMIT + 1))
                except (OSError, LeaseError) as error:
                    reason = error.strerror if isinstance(error, OSError) else error
                    problems.append(f"lease file {name} is passed over: {reason}")
                    continue
                if lease is None:
                    continue
                lease = lease if lease.link else msgspec.structs.replace(lease, link=_of(path, names))
                # A NIC that is gone has no lease, whatever lies about.
                if not lease.link or lease.link in names.values():
                    found[name] = lease
        return found, problems


class Picture(msgspec.Struct, frozen=True, kw_only=True):
    """The network at one moment."""

    links: list[Link]
    addresses: list[Address]
    routes: list[Route]
    resolver: Resolver
    leases: dict[str, Lease]
    rules: list[Rule] = []
    problems: list[str]
    """What could not be read, one line each."""


def take_picture(resolv_conf: Path, lease_files: LeaseFiles) -> Picture:
    """Read everything. Raises NetlinkError, OSError. Blocking, a millisecond."""
    links = [netlink.parse_link(body) for body in dump(netlink.RTM_GETLINK, netlink.RTM_NEWLINK)]
    names = {link.index: link.name for link in links}
    addresses = [netlink.parse_address(body, names) for body in dump(netlink.RTM_GETADDR, netlink.RTM_NEWADDR)]
    dumped = dump(netlink.RTM_GETROUTE, netlink.RTM_NEWROUTE)
    # Of a table like a backbone router's, only what is ours to care about is read whole.
    beyond = [body for body in dumped[_ROUTES_READ:] if netlink.matters(body, PROTOCOL)]
    routes = [route for body in (*dumped[:_ROUTES_READ], *beyond) for route in netlink.parse_routes(body, names)]
    rules = [netlink.parse_rule(body) for body in dump(netlink.RTM_GETRULE, netlink.RTM_NEWRULE)]
    leases, problems = lease_files.read(names, now=time.time())
    return Picture(
        links=sorted(links, key=lambda one: one.index),
        addresses=sorted((one for one in addresses if one), key=lambda one: (one.link, one.address)),
        routes=sorted(routes, key=lambda one: (one.destination, one.metric, one.link, one.gateway)),
        resolver=read_resolver(resolv_conf),
        leases=leases,
        rules=[one for one in rules if one],
        problems=problems,
    )


def difference(before: Picture, after: Picture) -> str:
    """One line: what came and what went, the first twenty by name."""
    changes: list[tuple[str, msgspec.Struct]] = []
    for name, old, new in (
        ("link", before.links, after.links),
        ("address", before.addresses, after.addresses),
        ("route", before.routes, after.routes),
        ("rule", before.rules, after.rules),
    ):
        # By sets: tables may have tens of thousands of entries.
        was, now = set[msgspec.Struct](old), set[msgspec.Struct](new)
        changes += [(f"- {name}", one) for one in old if one not in now]
        changes += [(f"+ {name}", one) for one in new if one not in was]
    parts = [f"{what} {_short(one)}" for what, one in changes[:_CHANGES_NAMED]]
    if len(changes) > _CHANGES_NAMED:
        parts.append(f"and {len(changes) - _CHANGES_NAMED} changes more")
    if before.resolver != after.resolver:
        parts.append(f"resolver {after.resolver.manager} {' '.join(after.resolver.nameservers)}")
    if before.leases != after.leases:
        parts.append(f"{len(after.leases)} leases: {', '.join(after.leases)}")
    parts += [problem for problem in after.problems if problem not in before.problems]
    return "; ".join(parts)


def _of(path: Path, names: dict[int, str]) -> str:
    """The link a lease file is about, by its name: networkd's is the index. Empty if it does not say."""
    if path.name.isdigit():
        return names.get(int(path.name), "")
    named = _MANAGER_FILE.fullmatch(path.name)
    return named[1] if named else ""


def _short(one: msgspec.Struct) -> str:
    """Its fields, but for those that say nothing."""
    told = [(field.name, getattr(one, field.name), field.default) for field in msgspec.structs.fields(one)]
    return ", ".join(f"{name}={value!r}" for name, value, default in told if value != default)
