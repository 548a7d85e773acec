"""What is wanted, by mode, and that plan and kernel meet: whatever is found, one round of changes settles it."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipc.contract.netagent import Address, Link, Resolver, Route, Rule
from netagent.dhcp.lease import Lease, StaticRoute
from netagent.imds import ImdsError, NicAddresses, parse_network
from netagent.plan import (
    AddAddress,
    AddRoute,
    AddRule,
    BringUp,
    Change,
    DeleteAddress,
    DeleteRoute,
    DeleteRule,
    SetMtu,
    describe,
    inverse,
    plan,
)
from netagent.requests import PROTOCOL
from netagent.wanted import Remembered, Wanted, delegate, own, remember, repair, together
from netagent.watch import Picture

ETH0 = Link(index=2, name="eth0", mac="00:0d:3a:00:00:02", mtu=1500, up=True, carrier=True, mtu_limit=9000)
ETH1 = Link(index=3, name="eth1", mac="00:0d:3a:00:00:03", mtu=1500, up=True, carrier=True, mtu_limit=9000)
GATEWAYS = ["10.0.0.1", "10.0.0.9", "10.1.0.1"]
DESTINATIONS = ["default", "168.63.129.16/32", "169.254.169.254/32", "10.9.0.0/16"]

routes = st.builds(
    Route,
    destination=st.sampled_from(DESTINATIONS),
    gateway=st.sampled_from(GATEWAYS),
    link=st.sampled_from(["eth0", "eth1"]),
    metric=st.sampled_from([0, 100, 16800]),
    protocol=st.sampled_from([3, 16, PROTOCOL]),
    table=st.sampled_from([254, 16802, 16803]),
)
addresses = st.builds(
    Address,
    link=st.sampled_from(["eth0", "eth1"]),
    address=st.sampled_from(["10.0.0.4/24", "10.0.0.5/24", "10.1.0.4/24", "fd00::4/128"]),
    protocol=st.sampled_from([0, PROTOCOL]),
)
rules = st.builds(
    Rule,
    source=st.sampled_from(["10.1.0.4/32", "10.0.0.5/32", ""]),
    table=st.sampled_from([16802, 16803, 254]),
    priority=st.sampled_from([0, 16802, 16803]),
    protocol=st.sampled_from([0, 2, PROTOCOL]),
)
leases = st.builds(
    Lease,
    mac=st.just(ETH0.mac),
    address=st.sampled_from(["10.0.0.4", "10.0.0.5", "10.1.0.4"]),
    prefix=st.just(24),
    server=st.just("10.0.0.1"),
    started=st.just(0.0),
    boot_id=st.just("b"),
    seconds=st.just(None),
    renew_after=st.just(None),
    rebind_after=st.just(None),
    routes=st.lists(
        st.builds(
            StaticRoute,
            destination=st.sampled_from(["0.0.0.0/0", "168.63.129.16/32", "10.9.0.0/16"]),
            gateway=st.sampled_from([*GATEWAYS, ""]),
        ),
        max_size=3,
        unique_by=lambda one: one.destination,
    ).map(tuple),
    mtu=st.sampled_from([None, 68, 1400, 9000, 65535]),
    wireserver=st.sampled_from(["", "168.63.129.16"]),
)


def picture(found: list[Address], ways: list[Route], ruled: list[Rule], links: list[Link]) -> Picture:
    nobody = Resolver(manager="none", nameservers=[], search=[])
    # A kernel has each of these once.
    unique_addresses = {(one.link, one.address): one for one in found}
    unique_routes = {(one.destination, one.table, one.metric): one for one in ways}
    unique_rules = {(one.source, one.table, one.priority): one for one in ruled}
    return Picture(
        links=links,
        addresses=list(unique_addresses.values()),
        routes=list(unique_routes.values()),
        rules=list(unique_rules.values()),
        resolver=nobody,
        leases={},
        problems=[],
    )


def after(found: Picture, changes: list[Change]) -> Picture:
    """As the kernel would have it, each change on its own."""
    held = {name: list(getattr(found, name)) for name in ("addresses", "routes", "rules", "links")}
    for change in changes:
        match change:
            case AddRoute(route=route):
                if not any(_same_place(one, route) for one in held["routes"]):
                    held["routes"].append(route)
            case DeleteRoute(route=route):
                held["routes"].remove(route)
            case AddAddress(address=address):
                held["addresses"].append(address)
            case DeleteAddress(address=address):
                held["addresses"].remove(address)
            case AddRule(rule=rule):
                held["rules"].append(rule)
            case DeleteRule(rule=rule):
                held["rules"].remove(rule)
            case SetMtu(link=link, mtu=mtu):
                held["links"] = [_with(one, link, mtu=mtu) for one in held["links"]]
            case BringUp(link=link):
                held["links"] = [_with(one, link, up=True) for one in held["links"]]
    return msgspec.structs.replace(found, **held)


def _with(one: Link, name: str, **changed: object) -> Link:
    return msgspec.structs.replace(one, **changed) if one.name == name else one


def _same_place(one: Route, other: Route) -> bool:
    return (one.destination, one.table, one.metric) == (other.destination, other.table, other.metric)


def theirs(found: Picture) -> list[object]:
    """What is not ours."""
    kept: list[object] = [*found.addresses, *found.routes, *found.rules]
    return [one for one in kept if one.protocol != PROTOCOL]  # type: ignore[attr-defined]  # all three have it


pictures = st.builds(
    picture,
    st.lists(addresses, max_size=4),
    st.lists(routes, max_size=6),
    st.lists(rules, max_size=3),
    st.tuples(st.booleans(), st.booleans()).map(
        lambda ups: [msgspec.structs.replace(ETH0, up=ups[0]), msgspec.structs.replace(ETH1, up=ups[1])]
    ),
)


def goals(found: Picture, lease: Lease, other: Lease, how: str) -> Wanted:
    if how == "repair":
        known = Remembered(mac=ETH0.mac, address="10.0.0.4/24", gateway="10.0.0.1")
        nic = found.links[0]
        return repair(nic, found.addresses, {}, found.routes, known, address_may_be_ours=True)
    if how == "delegate":
        azure = [
            NicAddresses(mac=ETH0.mac, ipv4=("10.0.0.4/24", "10.0.0.5/24"), ipv6=("fd00::4/128",)),
            NicAddresses(mac=ETH1.mac, ipv4=("10.1.0.4/24",), ipv6=()),
        ]
        return delegate(found.links, "eth0", found.addresses, azure)
    return own(found.links, "eth0", {"eth0": lease, "eth1": other}) if how == "own" else Wanted()


@given(pictures, leases, leases, st.sampled_from(["repair", "delegate", "own", "off"]))
def test_others_are_left_alone_and_each_change_is_reversible(found: Picture, one: Lease, two: Lease, how: str) -> None:
    changes = plan(goals(found, one, two, how), found)
    result = after(found, changes)
    assert set(theirs(result)) >= set(theirs(found))
    for change in changes:
        assert describe(change)
        back = inverse(change)
        if isinstance(change, BringUp):
            assert back is None
        else:
            assert back is not None
            assert inverse(back) is not None
    if how == "off":
        assert set(theirs(result)) == {*result.addresses, *result.routes, *result.rules}


@given(pictures, leases, leases, st.sampled_from(["delegate", "off"]))
def test_one_round_settles_it(found: Picture, one: Lease, two: Lease, how: str) -> None:
    result = after(found, plan(goals(found, one, two, how), found))
    held = [change for change in plan(goals(result, one, two, how), result) if not isinstance(change, AddRoute)]
    assert held == []


def bare(**changed: object) -> Picture:
    return msgspec.structs.replace(picture([], [], [], [ETH0, ETH1]), **changed)


def lease(address: str, *static: tuple[str, str], mtu: int | None = None) -> Lease:
    return Lease(
        mac=ETH0.mac,
        address=address,
        prefix=24,
        server="10.0.0.1",
        started=0.0,
        boot_id="b",
        seconds=None,
        renew_after=None,
        rebind_after=None,
        routes=tuple(StaticRoute(destination=to, gateway=via) for to, via in static),
        mtu=mtu,
        wireserver="168.63.129.16",
    )


def test_own_of_a_primary_and_a_secondary_nic() -> None:
    first = lease("10.0.0.4", ("0.0.0.0/0", "10.0.0.1"), ("168.63.129.16/32", "10.0.0.1"), mtu=1400)
    second = lease("10.1.0.4", ("0.0.0.0/0", "10.1.0.1"), mtu=68)
    told = [describe(one) for one in plan(own([ETH0, ETH1], "eth0", {"eth0": first, "eth1": second}), bare())]
    assert told == [
        "set mtu 1400 dev eth0",
        "add address 10.0.0.4/24 dev eth0",
        "add address 10.1.0.4/24 dev eth1",
        "add route default via 10.0.0.1 dev eth0",
        "add route 168.63.129.16/32 via 10.0.0.1 dev eth0",
        # The lease forgot it.
        "add route 169.254.169.254/32 via 10.0.0.1 dev eth0",
        "add route 10.1.0.0/24 dev eth1 table 16803",
        "add route default via 10.1.0.1 dev eth1 table 16803",
        "add rule from 10.1.0.4/32 lookup 16803",
    ]


def test_without_a_lease_a_nic_is_only_brought_up() -> None:
    down = msgspec.structs.replace(ETH0, up=False)
    found = bare(links=[down, ETH1])
    assert [describe(one) for one in plan(own([down, ETH1], "eth0", {}), found)] == ["set eth0 up"]
    # Who takes it down later means it.
    assert plan(own([down, ETH1], "eth0", {"eth0": lease("10.0.0.4")}), found) == [
        AddAddress(Address(link="eth0", address="10.0.0.4/24", protocol=PROTOCOL), "lease of 10.0.0.1")
    ]


def test_a_nic_that_has_gone_since_is_passed_over() -> None:
    down = msgspec.structs.replace(ETH0, up=False)
    goal = own([down, ETH1], "eth0", {"eth1": lease("10.1.0.4", mtu=1400)})
    assert all(isinstance(one, AddAddress | AddRoute | AddRule) for one in plan(goal, bare(links=[])))


def test_what_is_remembered_is_believed_only_within_the_same_network() -> None:
    known = Remembered(mac=ETH0.mac, address="10.0.0.4/24", gateway="10.0.0.1")
    for address, mac, count in (("10.0.0.7/24", ETH0.mac, 3), ("10.7.0.4/24", ETH0.mac, 0), ("10.0.0.7/24", "x", 0)):
        nic = msgspec.structs.replace(ETH0, mac=mac)
        found = [Address(link="eth0", address=address)]
        assert len(repair(nic, found, {}, [], known, address_may_be_ours=False).routes) == count
    default = Route(destination="default", gateway="10.0.0.1", link="eth0", metric=0, protocol=16)
    here = [Address(link="eth0", address="10.0.0.4/24")]
    assert remember(ETH0, here, [default]) == known
    # What we put there ourselves is no evidence.
    assert remember(ETH0, here, [msgspec.structs.replace(default, protocol=PROTOCOL)]) is None


def test_a_lost_address_waits_for_its_manager() -> None:
    known = Remembered(mac=ETH0.mac, address="10.0.0.4/24", gateway="10.0.0.1")
    waiting = repair(ETH0, [], {}, [], known, address_may_be_ours=False)
    assert (waiting.addresses, waiting.routes) == ((), ())
    assert "its manager was asked" in waiting.problems[0]
    done = repair(ETH0, [], {}, [], known, address_may_be_ours=True)
    assert done.addresses[0].address.address == "10.0.0.4/24"
    assert len(done.routes) == 3
    assert "no lease says" in repair(ETH0, [], {}, [], None, address_may_be_ours=True).problems[0]


def test_a_restart_finds_what_an_earlier_one_gave_and_keeps_it() -> None:
    """It knows nothing yet of when the address was lost, nor what instance metadata says."""
    known = Remembered(mac=ETH0.mac, address="10.0.0.4/24", gateway="10.0.0.1")
    ours = [Address(link="eth0", address="10.0.0.4/24", protocol=PROTOCOL)]
    ways = repair(ETH0, ours, {}, [], known, address_may_be_ours=False)
    assert ways.addresses[0].address == ours[0]
    found = bare(addresses=ours, routes=[one.route for one in ways.routes])
    assert plan(ways, found) == []
    secondary = [
        *ours,
        Address(link="eth0", address="10.0.0.60/24", protocol=PROTOCOL),
        Address(link="eth1", address="10.1.0.4/24"),
        Address(link="eth1", address="10.1.0.61/24", protocol=PROTOCOL),
    ]
    rule = Rule(source="10.1.0.4/32", table=16803, priority=16803, protocol=PROTOCOL)
    found = bare(addresses=secondary, routes=found.routes, rules=[rule])
    silent = together(ways, delegate([ETH0, ETH1], "eth0", secondary, None))
    assert plan(silent, found) == []
    told = [
        NicAddresses(mac=ETH0.mac, ipv4=("10.0.0.4/24", "10.0.0.60/24"), ipv6=()),
        NicAddresses(mac=ETH1.mac, ipv4=("10.1.0.4/24", "10.1.0.61/24"), ipv6=()),
    ]
    # Also where the first address is one that was repaired.
    spoken = plan(together(ways, delegate([ETH0, ETH1], "eth0", secondary, told)), found)
    assert not [one for one in spoken if isinstance(one, DeleteAddress | DeleteRoute | DeleteRule)]
    lost = [one for one in secondary if one.address != "10.0.0.60/24"]
    back = plan(delegate([ETH0, ETH1], "eth0", lost, told), bare(addresses=lost))
    assert "add address 10.0.0.60/24 dev eth0" in [describe(one) for one in back]
    # Down, unknown or without an address: nothing of ours is taken from such a NIC.
    down = msgspec.structs.replace(ETH0, up=False)
    for waiting in (
        repair(down, ours, {}, [], known, address_may_be_ours=False),
        repair(ETH0, ours, {}, [], None, address_may_be_ours=False),
        repair(ETH0, [], {}, [], known, address_may_be_ours=False),
    ):
        assert plan(waiting, bare(addresses=ours)) == []


METADATA = b"""{"interface": [{"macAddress": "000D3A000002",
 "ipv4": {"ipAddress": [{"privateIpAddress": "10.0.0.4", "publicIpAddress": ""}, {"privateIpAddress": "10.0.0.5"}],
          "subnet": [{"address": "10.0.0.0", "prefix": "24"}]},
 "ipv6": {"ipAddress": [{"privateIpAddress": "fd00::4"}]}}]}"""


def test_what_instance_metadata_says() -> None:
    assert parse_network(METADATA) == [
        NicAddresses(mac=ETH0.mac, ipv4=("10.0.0.4/24", "10.0.0.5/24"), ipv6=("fd00::4/128",))
    ]
    assert parse_network(b"{}") == []


@pytest.mark.parametrize(
    ("was", "now"),
    [
        (b'"24"', b'"99"'),
        (b"10.0.0.5", b"10.0.0.5; rm"),
        (b"fd00::4", b"10.0.0.5"),
        (b"000D3A000002", b"000D"),
        (b'"interface": [', b'"interface": [5, '),
        (b"}]}", b""),
        (b"10.0.0.4", b"\xff"),
    ],
)
def test_metadata_that_cannot_be_used_is_refused(was: bytes, now: bytes) -> None:
    assert was in METADATA
    with pytest.raises(ImdsError):
        parse_network(METADATA.replace(was, now))


@given(st.binary(max_size=100) | st.text(max_size=100).map(str.encode))
def test_any_bytes_are_metadata_or_refused(data: bytes) -> None:
    for whole in (data, METADATA[:60] + data + METADATA[60:]):
        try:
            parse_network(whole)
        except ImdsError:
            continue
