"""Changes as the kernel has them afterwards: what `ip` says, and that the inverse of each takes it back."""

from typing import Any

import pytest

ACT = """
import sys
from pathlib import Path
from ipc.contract.netagent import Address, Route, Rule
from netagent import plan
from netagent.netlink import NetlinkError
from netagent.steps import make
from netagent.watch import LeaseFiles, take_picture
from netagent.requests import PROTOCOL

nowhere = Path("/nonexistent")
links = {one.name: one for one in take_picture(nowhere, LeaseFiles(root=nowhere)).links}
change = eval(sys.argv[1])
try:
    make(change, links)
    if sys.argv[2] == "twice":
        make(change, links)
    if sys.argv[2] == "back":
        make(plan.inverse(change), links)
except NetlinkError as error:
    print(error)
"""
ROUTE = 'Route(destination="{to}", gateway="{via}", link="eth0", metric={metric}, protocol=PROTOCOL, table={table})'


@pytest.fixture
def inside(namespace: Any) -> Any:
    namespace.ip(
        "link add eth0 type veth peer name peer0",
        "address add 10.0.0.4/24 dev eth0",
        "link set peer0 up",
        "link set eth0 up",
    )
    return namespace


def act(namespace: Any, change: str, how: str = "once") -> str:
    said: str = namespace.python(ACT, change, how)
    return said.strip()


def add_route(to: str, via: str, *, metric: int = 100, table: int = 254) -> str:
    return f"plan.AddRoute({ROUTE.format(to=to, via=via, metric=metric, table=table)}, '')"


@pytest.mark.parametrize(
    ("to", "via", "metric", "table", "found"),
    [
        ("168.63.129.16/32", "10.0.0.1", 16800, 254, ("168.63.129.16", "10.0.0.1", 16800)),
        ("default", "10.0.0.1", 100, 254, ("default", "10.0.0.1", 100)),
        # A gateway outside of every network of the NIC's: some leases name one.
        ("10.9.0.0/16", "192.0.2.1", 0, 254, ("10.9.0.0/16", "192.0.2.1", None)),
        ("10.8.0.0/16", "", 7, 254, ("10.8.0.0/16", None, 7)),
        ("default", "10.0.0.1", 0, 16807, ("default", "10.0.0.1", None)),
    ],
)
def test_routes(inside: Any, to: str, via: str, metric: int, table: int, found: tuple[Any, ...]) -> None:
    change = add_route(to, via, metric=metric, table=table)
    assert act(inside, change, "twice") == ""
    (one,) = inside.read("route", "show", "table", str(table), "proto", "168")
    assert (one["dst"], one.get("gateway"), one.get("metric")) == found
    assert one["dev"] == "eth0"
    act(inside, change.replace("AddRoute", "DeleteRoute"), "twice")
    assert inside.read("route", "show", "table", str(table), "proto", "168") == []


def test_an_ipv6_route(inside: Any) -> None:
    inside.ip("address add fd00::4/64 dev eth0 nodad")
    act(inside, add_route("fd01::/64", "fd00::1"))
    (one,) = inside.read("-6", "route", "show", "proto", "168")
    assert (one["dst"], one["gateway"], one["metric"]) == ("fd01::/64", "fd00::1", 100)


def test_only_our_own_route_is_deleted(inside: Any) -> None:
    inside.ip("route add 168.63.129.16/32 via 10.0.0.1 dev eth0 proto dhcp metric 100")
    act(inside, add_route("168.63.129.16/32", "10.0.0.1").replace("AddRoute", "DeleteRoute"))
    assert len(inside.read("route", "show", "168.63.129.16/32")) == 1


def test_addresses(inside: Any) -> None:
    change = "plan.AddAddress(Address(link='eth0', address='10.0.0.9/24', protocol=PROTOCOL), '')"
    assert act(inside, change, "twice") == ""
    (info,) = [
        one for one in inside.read("address", "show", "dev", "eth0")[0]["addr_info"] if one["local"] == "10.0.0.9"
    ]
    assert (info["prefixlen"], info["broadcast"], info["valid_life_time"]) == (24, "10.0.0.255", 4294967295)
    act(inside, change, "back")
    assert "10.0.0.9" not in str(inside.read("address", "show", "dev", "eth0"))


def test_rules_mtu_and_link(inside: Any) -> None:
    rule = "plan.AddRule(Rule(source='10.0.0.9/32', table=16807, priority=16800, protocol=PROTOCOL), '')"
    assert act(inside, rule, "twice") == ""
    (one,) = [one for one in inside.read("rule") if one["priority"] == 16800]
    assert (one["src"], one["table"]) == ("10.0.0.9", "16807")
    act(inside, rule, "back")
    assert not [one for one in inside.read("rule") if one["priority"] == 16800]
    act(inside, "plan.SetMtu('eth0', 1400, 1500, '')")
    assert inside.read("link", "show", "eth0")[0]["mtu"] == 1400
    act(inside, "plan.SetMtu('eth0', 1400, 1500, '')", "back")
    assert inside.read("link", "show", "eth0")[0]["mtu"] == 1500
    inside.ip("link set eth0 down")
    act(inside, "plan.BringUp('eth0', '')")
    assert "UP" in inside.read("link", "show", "eth0")[0]["flags"]


def test_what_the_kernel_refuses_is_said_in_words(inside: Any) -> None:
    assert act(inside, add_route("10.9.0.0/16", "10.0.0.1").replace("eth0", "eth9")) == "eth9 is gone"
    inside.ip("link set eth0 down")
    assert act(inside, add_route("10.9.0.0/16", "10.0.0.1")) == "the kernel says: Network is down"
    assert "Invalid argument" in act(inside, "plan.SetMtu('eth0', 10, 1500, '')")
