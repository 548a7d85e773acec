"""Wanted and found in, the changes between them out: in an order in which each can be made. Pure."""

import msgspec

from ipc.contract.netagent import Address, Route, Rule
from netagent.requests import PROTOCOL
from netagent.wanted import Wanted, WantedMtu, WantedRoute
from netagent.watch import Picture


class AddRoute(msgspec.Struct, frozen=True):
    route: Route
    why: str


class DeleteRoute(msgspec.Struct, frozen=True):
    route: Route
    why: str


class AddAddress(msgspec.Struct, frozen=True):
    address: Address
    why: str
    passes: float | None = None
    """Seconds of CLOCK_BOOTTIME; None: never."""


class DeleteAddress(msgspec.Struct, frozen=True):
    address: Address
    why: str


class AddRule(msgspec.Struct, frozen=True):
    rule: Rule
    why: str


class DeleteRule(msgspec.Struct, frozen=True):
    rule: Rule
    why: str


class SetMtu(msgspec.Struct, frozen=True):
    link: str
    mtu: int
    before: int
    why: str


class BringUp(msgspec.Struct, frozen=True):
    link: str
    why: str


Change = AddRoute | DeleteRoute | AddAddress | DeleteAddress | AddRule | DeleteRule | SetMtu | BringUp


def plan(wanted: Wanted, found: Picture) -> list[Change]:
    """What is to be done, in order: links, addresses, routes (old before new), rules, and what is no longer ours."""
    links = {one.name: one for one in found.links}
    changes: list[Change] = [
        BringUp(name, "it is to be configured") for name in wanted.up if name in links and not links[name].up
    ]
    changes += [
        _mtu(one, links[one.link].mtu) for one in wanted.mtus if one.link in links and links[one.link].mtu != one.mtu
    ]
    present = {(one.link, one.address) for one in found.addresses}
    changes += [
        AddAddress(one.address, one.why, one.passes)
        for one in wanted.addresses
        if (one.address.link, one.address.address) not in present
    ]
    changes += _routes(wanted, found)
    changes += _rules(wanted, found)
    keep = {(one.address.link, one.address.address) for one in wanted.addresses}
    changes += [
        DeleteAddress(one, "it is no longer wanted")
        for one in found.addresses
        if one.protocol == PROTOCOL and (one.link, one.address) not in keep and one.link not in wanted.left_alone
    ]
    return changes


def describe(change: Change) -> str:
    """As a person would type it."""
    match change:
        case AddRoute(route=route):
            return f"add route {_route(route)}"
        case DeleteRoute(route=route):
            return f"delete route {_route(route)}"
        case AddAddress(address=address):
            return f"add address {address.address} dev {address.link}"
        case DeleteAddress(address=address):
            return f"delete address {address.address} dev {address.link}"
        case AddRule(rule=rule):
            return f"add rule from {rule.source} lookup {rule.table}"
        case DeleteRule(rule=rule):
            return f"delete rule from {rule.source} lookup {rule.table}"
        case SetMtu(link=link, mtu=mtu):
            return f"set mtu {mtu} dev {link}"
        case BringUp(link=link):
            return f"set {link} up"


def inverse(change: Change) -> Change | None:
    """What takes it back; None if that would do more harm."""
    match change:
        case AddRoute(route=route, why=why):
            return DeleteRoute(route, f"taken back: {why}")
        case DeleteRoute(route=route, why=why):
            return AddRoute(route, f"taken back: {why}")
        case AddAddress(address=address, why=why):
            return DeleteAddress(address, f"taken back: {why}")
        case DeleteAddress(address=address, why=why):
            return AddAddress(address, f"taken back: {why}")
        case AddRule(rule=rule, why=why):
            return DeleteRule(rule, f"taken back: {why}")
        case DeleteRule(rule=rule, why=why):
            return AddRule(rule, f"taken back: {why}")
        case SetMtu(link=link, mtu=mtu, before=before, why=why):
            return SetMtu(link, before, mtu, f"taken back: {why}")
        case BringUp():
            return None


def _routes(wanted: Wanted, found: Picture) -> list[Change]:
    adds: list[Change] = []
    kept: set[Route] = set()
    for one in wanted.routes:
        same = [each for each in found.routes if _replaces(each, one)]
        theirs = [each for each in same if each.protocol != PROTOCOL]
        exactly = [each for each in same if _is_it(each, one.route)]
        if not one.exact and theirs:
            continue  # ours, if there is one, goes below
        if exactly:
            kept.update(exactly)
        else:
            adds.append(AddRoute(one.route, one.why))
    ours = [each for each in found.routes if each.protocol == PROTOCOL and each.link not in wanted.left_alone]
    gone = [each for each in ours if each not in kept]
    deletes = [DeleteRoute(each, "it is no longer wanted, or somebody else's is there") for each in gone]
    return [*deletes, *adds]


def _rules(wanted: Wanted, found: Picture) -> list[Change]:
    def key(rule: Rule) -> tuple[str, int, int]:
        return rule.source, rule.table, rule.priority

    present, needed = {key(one) for one in found.rules}, {key(one) for one in wanted.rules}
    adds: list[Change] = [
        AddRule(one, "answers leave by the NIC they were asked on") for one in wanted.rules if key(one) not in present
    ]
    return adds + [
        DeleteRule(one, "it is no longer wanted")
        for one in found.rules
        if one.protocol == PROTOCOL and key(one) not in needed and not wanted.left_alone
    ]


def _replaces(found: Route, wanted: WantedRoute) -> bool:
    """Whether a route serves the same purpose. Of default routes one is enough, wherever it leads."""
    route = wanted.route
    same = found.destination == route.destination and found.table == route.table and _family(found) == _family(route)
    return same and (found.link == route.link or (not wanted.exact and route.destination == "default"))


def _is_it(found: Route, wanted: Route) -> bool:
    return (found.gateway, found.link, found.metric) == (wanted.gateway, wanted.link, wanted.metric)


def _family(route: Route) -> bool:
    return ":" in (route.gateway or route.destination)


def _mtu(wanted: WantedMtu, before: int) -> SetMtu:
    return SetMtu(wanted.link, wanted.mtu, before, wanted.why)


def _route(route: Route) -> str:
    via = f" via {route.gateway}" if route.gateway else ""
    table = f" table {route.table}" if route.table != 254 else ""
    return f"{route.destination}{via} dev {route.link}{table}"
