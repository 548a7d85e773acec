"""What the network should have of us, by mode. Pure: what was found in, values out.

`repair` wants only what Azure needs and only where it is missing; `own` wants what the leases say.
"""

import ipaddress
from collections.abc import Collection, Mapping, Sequence

import msgspec

from ipc.contract.netagent import Address, Link, Route, Rule
from netagent.dhcp.lease import Lease as OurLease
from netagent.imds import NicAddresses
from netagent.leases import Lease
from netagent.netlink import MAIN_TABLE, OUR_TABLES
from netagent.nics import IMDS, WIRESERVER
from netagent.requests import PROTOCOL

REPAIR_METRIC = 16800
"""Behind whatever metric a manager would use."""
OWN_METRIC = 100
MTU_RANGE = range(576, 9217)
_RULE_PRIORITY = 16800


class WantedRoute(msgspec.Struct, frozen=True, kw_only=True):
    route: Route
    why: str
    exact: bool
    """False: anybody's route to the same destination will do, and ours goes when theirs is back."""


class WantedAddress(msgspec.Struct, frozen=True, kw_only=True):
    address: Address
    why: str
    passes: float | None = None
    """When its lease does, seconds of CLOCK_BOOTTIME; None: never. The kernel drops it then, even if we are gone."""


class WantedMtu(msgspec.Struct, frozen=True, kw_only=True):
    link: str
    mtu: int
    why: str


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Everything of ours; what is ours and not in here is to go."""

    addresses: tuple[WantedAddress, ...] = ()
    routes: tuple[WantedRoute, ...] = ()
    rules: tuple[Rule, ...] = ()
    mtus: tuple[WantedMtu, ...] = ()
    up: tuple[str, ...] = ()
    left_alone: frozenset[str] = frozenset()
    """Links of which nothing of ours is taken away now."""
    problems: tuple[str, ...] = ()
    """What stands in the way, one line each."""


class Remembered(msgspec.Struct, frozen=True, kw_only=True):
    """How the primary NIC led to the host when all was well: for managers whose lease files do not say."""

    mac: str
    address: str
    """With prefix length."""
    gateway: str


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """How to reach the host."""

    gateway: str
    source: str
    """Who says so."""


def repair(
    nic: Link,
    addresses: Sequence[Address],
    leases: Mapping[str, Lease],
    routes: Sequence[Route],
    remembered: Remembered | None,
    *,
    address_may_be_ours: bool,
    default_route: bool = True,
) -> Wanted:
    """Host routes to WireServer and IMDS, the default route, and the address once its manager had time to bring it.

    Only for the primary NIC. `address_may_be_ours` says that it had.
    """
    alone = frozenset({nic.name})
    if not nic.up:
        problem = f"{nic.name} is down: whoever took it down has to bring it up"
        return Wanted(problems=(problem,), left_alone=alone)
    named = [(file, one) for file, one in leases.items() if one.link == nic.name]
    theirs = [one for one in addresses if one.link == nic.name and _is_ipv4(one) and one.protocol != PROTOCOL]
    problems: list[str] = []
    wanted: list[WantedAddress] = []
    if not theirs:
        lost = _lost_address(nic, named, remembered)
        if lost is None:
            return Wanted(problems=(f"{nic.name} has no address, and no lease says which",), left_alone=alone)
        # An earlier netagent may have given it back already.
        given = any((one.link, one.address) == (nic.name, lost[0]) for one in addresses)
        if not given and not address_may_be_ours:
            problem = f"{nic.name} has lost its address {lost[0]}; its manager was asked for it"
            return Wanted(problems=(problem,), left_alone=alone)
        address = Address(link=nic.name, address=lost[0], protocol=PROTOCOL)
        wanted.append(WantedAddress(address=address, why=f"the address was lost; {lost[1]} says it"))
        theirs = [address]
    found: list[WantedRoute] = []
    for destination in (WIRESERVER, IMDS, "default")[: 3 if default_route else 2]:
        way = find_way(destination, nic, theirs, named, routes, remembered)
        if way is None:
            problems.append(f"no route to {destination} can be made: neither a lease nor a route names a gateway")
            continue
        route = Route(
            destination=destination, gateway=way.gateway, link=nic.name, metric=REPAIR_METRIC, protocol=PROTOCOL
        )
        found.append(WantedRoute(route=route, why=f"it is missing; {way.source} says the way", exact=False))
    return Wanted(addresses=tuple(wanted), routes=tuple(found), problems=tuple(problems))


def find_way(
    destination: str,
    nic: Link,
    addresses: Sequence[Address],
    leases: Sequence[tuple[str, Lease]],
    routes: Sequence[Route],
    remembered: Remembered | None,
) -> Way | None:
    """The gateway: by a lease, else by the default route, else as it was when all was well."""
    target = "0.0.0.0/0" if destination == "default" else destination
    for file, lease in leases:
        if gateway := lease.gateway(target):
            return Way(gateway=gateway, source=f"lease {file}")
    others = [one for one in routes if one.link == nic.name and one.gateway and one.protocol != PROTOCOL]
    for wanted in ("default", WIRESERVER, IMDS):
        for one in others:
            if one.destination == wanted and _is_quad(one.gateway):
                return Way(gateway=one.gateway, source=f"the route to {wanted}")
    if remembered is not None and remembered.mac == nic.mac and _within(remembered.gateway, addresses):
        return Way(gateway=remembered.gateway, source="what was there before")
    return None


def remember(nic: Link, addresses: Sequence[Address], routes: Sequence[Route]) -> Remembered | None:
    """What is to be kept of a network in which all is well; None if it is not."""
    theirs = [one for one in addresses if one.link == nic.name and _is_ipv4(one) and one.protocol != PROTOCOL]
    ways = [one for one in routes if one.link == nic.name and one.protocol != PROTOCOL and _is_quad(one.gateway)]
    for destination in ("default", WIRESERVER):
        for one in ways:
            if one.destination == destination and theirs:
                return Remembered(mac=nic.mac, address=theirs[0].address, gateway=one.gateway)
    return None


def own(
    nics: Sequence[Link], primary: str, leases: Mapping[str, OurLease], *, undecided: Collection[str] = ()
) -> Wanted:
    """What the leases say; routes to the host at any rate. A secondary NIC answers by a table of its own.

    Of `undecided` links it is not known yet whether they have a lease: they keep what they have.
    """
    addresses: list[WantedAddress] = []
    routes: list[WantedRoute] = []
    rules: list[Rule] = []
    mtus: list[WantedMtu] = []
    for nic in nics:
        lease = leases.get(nic.name)
        if lease is None:
            continue
        address = leased_address(nic.name, lease)
        addresses.append(address)
        why = address.why
        if lease.mtu is not None and _mtu_fits(lease.mtu, nic):
            mtus.append(WantedMtu(link=nic.name, mtu=lease.mtu, why=why))
        if not nic.up:
            continue  # routes go with the link, and come back with it
        if nic.name == primary:
            routes += [_own_route(nic, each, gateway, why) for each, gateway in _with_the_host(lease)]
        else:
            more, rule = secondary(nic, lease.address, _gateway(lease), lease.prefix, why)
            routes += more
            rules.append(rule)
    # Only until it has an address: whoever takes it down later means it.
    up = tuple(nic.name for nic in nics if nic.name not in leases and not nic.up)
    return Wanted(
        addresses=tuple(addresses),
        routes=tuple(routes),
        rules=tuple(rules),
        mtus=tuple(mtus),
        up=up,
        left_alone=frozenset(undecided),
    )


def secondary(nic: Link, address: str, gateway: str, prefix: int, why: str) -> tuple[list[WantedRoute], Rule]:
    """Answers leave by the NIC they were asked on: Azure drops what comes from another NIC's address."""
    table = OUR_TABLES.start + nic.index % len(OUR_TABLES)
    network = str(ipaddress.ip_network(f"{address}/{prefix}", strict=False))
    made = [WantedRoute(route=_route(nic, network, "", 0, table), why=why, exact=True)]
    if gateway:
        made.append(WantedRoute(route=_route(nic, "default", gateway, 0, table), why=why, exact=True))
    rule = Rule(source=f"{address}/32", table=table, priority=_RULE_PRIORITY + nic.index % 1000, protocol=PROTOCOL)
    return made, rule


def leased_address(link: str, lease: OurLease) -> WantedAddress:
    """For as long as the lease has."""
    address = Address(link=link, address=f"{lease.address}/{lease.prefix}", protocol=PROTOCOL)
    passes = None if lease.seconds is None else lease.started + lease.seconds
    return WantedAddress(address=address, why=f"lease of {lease.server}", passes=passes)


def _with_the_host(lease: OurLease) -> list[tuple[str, str]]:
    """The lease's routes, and those to the host if it forgot them (an empty option 121 is no reason to be cut off)."""
    found = {_named(one.destination): one.gateway for one in lease.routes}
    gateway = _gateway(lease)
    if gateway:
        found.setdefault("default", gateway)
        found.setdefault(WIRESERVER, gateway)
        found.setdefault(IMDS, gateway)
    return list(found.items())


def _gateway(lease: OurLease) -> str:
    ways = {_named(one.destination): one.gateway for one in lease.routes}
    return ways.get("default") or ways.get(WIRESERVER) or ways.get(IMDS) or ""


def _own_route(nic: Link, destination: str, gateway: str, why: str) -> WantedRoute:
    return WantedRoute(route=_route(nic, destination, gateway, OWN_METRIC, MAIN_TABLE), why=why, exact=True)


def _route(nic: Link, destination: str, gateway: str, metric: int, table: int) -> Route:
    return Route(destination=destination, gateway=gateway, link=nic.name, metric=metric, protocol=PROTOCOL, table=table)


def _named(destination: str) -> str:
    return "default" if destination == "0.0.0.0/0" else destination


def _mtu_fits(mtu: int, nic: Link) -> bool:
    return mtu in MTU_RANGE and (not nic.mtu_limit or mtu <= nic.mtu_limit)


def _lost_address(
    nic: Link, leases: Sequence[tuple[str, Lease]], remembered: Remembered | None
) -> tuple[str, str] | None:
    for file, lease in leases:
        if lease.address:
            return lease.address, f"lease {file}"
    if remembered is not None and remembered.mac == nic.mac:
        return remembered.address, "what was there before"
    return None


def _within(gateway: str, addresses: Sequence[Address]) -> bool:
    """A gateway kept from elsewhere (the NIC was moved) is worth nothing."""
    quad = ipaddress.IPv4Address(gateway)
    return any(quad in ipaddress.IPv4Interface(one.address).network for one in addresses)


def _is_ipv4(address: Address) -> bool:
    return "." in address.address and not address.address.startswith("169.254.")


def _is_quad(text: str) -> bool:
    return "." in text


def delegate(
    nics: Sequence[Link], primary: str, addresses: Sequence[Address], azure: Sequence[NicAddresses] | None
) -> Wanted:
    """What Azure gave the VM's NICs beyond what DHCP brings, and a table of its own for each secondary NIC.

    `azure` is None while instance metadata has said nothing yet: what is there stays.
    """
    if azure is None:
        return Wanted(left_alone=frozenset(one.name for one in nics))
    by_mac = {one.mac: one for one in azure}
    present = {(one.link, one.address.partition("/")[0]) for one in addresses if one.protocol != PROTOCOL}
    wanted: list[WantedAddress] = []
    routes: list[WantedRoute] = []
    rules: list[Rule] = []
    alone: set[str] = set()
    why = "instance metadata says so"
    for nic in nics:
        known = by_mac.get(nic.mac)
        if known is None or not nic.up:
            alone.add(nic.name)
            continue
        # The first is the manager's to bring, or ours to repair; until it is there, the others wait.
        first = any((one.link, one.address) == (nic.name, text) for one in addresses for text in known.ipv4[:1])
        if not first and not any(link == nic.name and "." in text for link, text in present):
            alone.add(nic.name)
        else:
            wanted += [
                WantedAddress(address=Address(link=nic.name, address=text, protocol=PROTOCOL), why=why)
                for text in (*known.ipv4[1:], *known.ipv6)
                if (nic.name, text.partition("/")[0]) not in present
            ]
        if nic.name == primary:
            continue
        for text in known.ipv4:
            interface = ipaddress.IPv4Interface(text)
            # Azure's gateway is the first address of each subnet.
            gateway = str(interface.network.network_address + 1) if interface.network.prefixlen < 31 else ""
            more, rule = secondary(nic, str(interface.ip), gateway, interface.network.prefixlen, why)
            routes += [one for one in more if one not in routes]
            rules.append(rule)
    return Wanted(addresses=tuple(wanted), routes=tuple(routes), rules=tuple(rules), left_alone=frozenset(alone))


def together(*parts: Wanted) -> Wanted:
    """All of them at once."""
    return Wanted(
        addresses=tuple(one for part in parts for one in part.addresses),
        routes=tuple(one for part in parts for one in part.routes),
        rules=tuple(one for part in parts for one in part.rules),
        mtus=tuple(one for part in parts for one in part.mtus),
        up=tuple(one for part in parts for one in part.up),
        left_alone=frozenset(one for part in parts for one in part.left_alone),
        problems=tuple(one for part in parts for one in part.problems),
    )
