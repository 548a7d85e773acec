"""The codec: what `ip` says is what we read, and whatever the bytes are, the only error is NetlinkError."""

import json
import struct
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netagent import netlink
from netagent.netlink import Interrupted, NetlinkError

PICTURE = """
import msgspec, pathlib, sys
from netagent.watch import LeaseFiles, take_picture
nowhere = pathlib.Path("/nonexistent")
sys.stdout.buffer.write(msgspec.json.encode(take_picture(nowhere, LeaseFiles(root=nowhere))))
"""

DUMPS = """
import json, socket
from netagent import netlink
dumps = []
for kind in (netlink.RTM_GETLINK, netlink.RTM_GETADDR, netlink.RTM_GETROUTE, netlink.RTM_GETRULE):
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as asking:
        asking.send(netlink.dump_request(kind, 1))
        done = False
        while not done:
            data = asking.recv(1 << 18)
            dumps.append(data.hex())
            done = any(netlink.is_done(message) for message in netlink.messages(data))
print(json.dumps(dumps))
"""

MAIN = "254"


def picture(namespace: Any) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(namespace.python(PICTURE))
    return found


def links_by_ip(namespace: Any) -> list[dict[str, Any]]:
    found = namespace.read("-d", "link")
    indices = {one["ifname"]: one["ifindex"] for one in found}
    return [
        {
            "index": one["ifindex"],
            "name": one["ifname"],
            "mac": one.get("address", ""),
            "mtu": one["mtu"],
            "up": "UP" in one["flags"],
            "carrier": "LOWER_UP" in one["flags"],
            "kind": one.get("linkinfo", {}).get("info_kind", ""),
            "master": indices[one["master"]] if "master" in one else 0,
            "mtu_limit": one.get("max_mtu", 0),
        }
        for one in found
    ]


def addresses_by_ip(namespace: Any) -> set[tuple[str, str]]:
    return {
        (one["ifname"], f"{info['local']}/{info['prefixlen']}")
        for one in namespace.read("address")
        for info in one.get("addr_info", [])
    }


def routes_by_ip(namespace: Any) -> list[tuple[str, str, str, int, int]]:
    """Destination, gateway, link, metric, protocol (ip does not mention 3, boot) of each way."""
    found = []
    for family in ("-4", "-6"):
        for one in namespace.read(family, "route", "show", "table", MAIN):
            if one.get("type", "1") not in {"1", "unicast"}:
                continue
            for way in one.get("nexthops", [one]):
                # Where the prefix is the whole address, ip leaves it out.
                whole = "/32" if family == "-4" else "/128"
                dst = one["dst"] if one["dst"] == "default" or "/" in one["dst"] else one["dst"] + whole
                gateway = way.get("gateway") or way.get("via", {}).get("host", "")
                found.append((dst, gateway, way["dev"], one.get("metric", 0), int(one.get("protocol", 3))))
    return sorted(found)


def settled(namespace: Any) -> tuple[dict[str, Any], tuple[Any, Any, Any]]:
    """Ours and ip's, with nothing changed between: the kernel brings carriers and link-local addresses by and by."""

    def by_ip() -> tuple[Any, Any, Any]:
        return links_by_ip(namespace), addresses_by_ip(namespace), routes_by_ip(namespace)

    before = by_ip()
    while True:
        seen, after = picture(namespace), by_ip()
        if before == after and all(one["carrier"] for one in seen["links"] if one["name"] in {"eth0", "peer0"}):
            return seen, after
        before = after


def test_an_empty_namespace(namespace: Any) -> None:
    seen = picture(namespace)
    assert [one["name"] for one in seen["links"]] == ["lo"]
    assert {one["address"] for one in seen["addresses"]} == {"127.0.0.1/8", "::1/128"}
    assert seen["routes"] == []


def test_what_ip_says_is_what_we_read(namespace: Any, furnish: Callable[[Any], None]) -> None:
    furnish(namespace)
    seen, (links, addresses, ways) = settled(namespace)
    # ip does not tell how often a cable came and went.
    assert [{key: one[key] for key in one if key != "carrier_changes"} for one in seen["links"]] == links
    assert {(one["link"], one["address"]) for one in seen["addresses"]} == addresses
    routes = [
        (one["destination"], one["gateway"], one["link"], one["metric"], one["protocol"]) for one in seen["routes"]
    ]
    assert sorted(routes) == ways
    # What was to be there is there, whatever ip says.
    assert ("default", "10.0.0.1", "eth0", 100, 66) in routes
    assert ("168.63.129.16/32", "10.0.0.1", "eth0", 0, 16) in routes
    assert ("192.0.2.0/24", "fd00::1", "eth0", 0, 3) in routes
    assert ("203.0.113.0/24", "10.1.0.1", "eth1", 0, 3) in routes
    assert not any(one[0].startswith(("10.66.", "10.67.", "10.68.")) for one in routes)
    (eth0,) = [one for one in seen["links"] if one["name"] == "eth0"]
    assert (eth0["mac"], eth0["mtu"], eth0["up"], eth0["carrier"]) == ("00:0d:3a:01:02:03", 1400, True, True)


# -- bytes -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dumps(furnish: Callable[[Any], None], make_namespace: Any) -> list[bytes]:
    """Datagrams of a real kernel."""
    namespace = make_namespace()
    furnish(namespace)
    return [bytes.fromhex(one) for one in json.loads(namespace.python(DUMPS))]


def read_all(data: bytes) -> int:
    """As watch does, but whatever the kind says."""
    names = {1: "lo"}
    count = 0
    for message in netlink.messages(data):
        for parse in (
            netlink.parse_link,
            lambda body: netlink.parse_address(body, names),
            lambda body: netlink.parse_routes(body, names),
            netlink.parse_rule,
            lambda _: netlink.is_done(message),  # noqa: B023  # called at once
            lambda _: netlink.is_acknowledged(message),  # noqa: B023  # called at once
        ):
            try:
                parse(message.body)
            except NetlinkError:
                continue
            count += 1
    return count


def test_every_message_of_the_kernel_is_read(dumps: list[bytes]) -> None:
    kinds = set()
    for data in dumps:
        for message in netlink.messages(data):
            kinds.add(message.kind)
            if message.kind == netlink.RTM_NEWLINK:
                netlink.parse_link(message.body)
            elif message.kind == netlink.RTM_NEWADDR:
                assert netlink.parse_address(message.body, {}) is not None
            elif message.kind == netlink.RTM_NEWROUTE:
                netlink.parse_routes(message.body, {})
            elif message.kind == netlink.RTM_NEWRULE:
                # Multicast routing has rules of families of its own, which are nothing to us.
                assert (netlink.parse_rule(message.body) is None) is (message.body[0] not in {2, 10})
    assert {netlink.RTM_NEWLINK, netlink.RTM_NEWADDR, netlink.RTM_NEWROUTE, netlink.RTM_NEWRULE} <= kinds


def test_mutated_dumps_raise_only_netlink_errors(dumps: list[bytes]) -> None:
    assert sum(read_all(one) for one in dumps) > 50

    @given(st.data())
    def mutate(data: st.DataObject) -> None:
        mutated = bytearray(data.draw(st.sampled_from(dumps)))
        for _ in range(data.draw(st.integers(1, 8))):
            start = data.draw(st.integers(0, len(mutated) - 1))
            piece = data.draw(st.binary(max_size=8) | st.sampled_from([b"\0\0", b"\xff\xff", b"\4\0", b"\3\0"]))
            mutated[start : start + data.draw(st.integers(0, 8))] = piece
            if not mutated:
                return
        whole = bytes(mutated[: data.draw(st.integers(0, len(mutated)) | st.just(len(mutated)))])
        try:
            read_all(whole)
        except NetlinkError:
            return

    mutate()


@given(st.binary(max_size=200))
def test_any_bytes_raise_only_netlink_errors(data: bytes) -> None:
    for parse in (
        lambda: list(netlink.messages(data)),
        lambda: netlink.parse_link(data),
        lambda: netlink.parse_address(data, {}),
        lambda: netlink.parse_routes(data, {}),
        lambda: netlink.parse_rule(data),
    ):
        try:
            parse()
        except NetlinkError:
            continue


def message(kind: int, body: bytes, flags: int = 0) -> netlink.Message:
    return netlink.Message(kind, flags, 1, body)


def test_how_a_dump_ends() -> None:
    error, done = 2, 3
    assert netlink.is_done(message(done, b""))
    assert netlink.is_done(message(done, struct.pack("=i", 0)))
    assert not netlink.is_done(message(netlink.RTM_NEWLINK, b""))
    with pytest.raises(NetlinkError, match="Permission denied"):
        netlink.is_done(message(error, struct.pack("=i", -13)))
    with pytest.raises(NetlinkError, match="Message too long"):
        netlink.is_done(message(done, struct.pack("=i", -90)))
    with pytest.raises(NetlinkError, match="without its number"):
        netlink.is_done(message(error, b"\0"))
    with pytest.raises(Interrupted):
        netlink.is_done(message(done, struct.pack("=i", 0), flags=0x10))


def test_lengths_that_lie() -> None:
    with pytest.raises(NetlinkError, match="too few for a header"):
        list(netlink.messages(b"\0" * 7))
    with pytest.raises(NetlinkError, match="says it has 15 bytes"):
        list(netlink.messages(struct.pack("=IHHII", 15, 16, 0, 0, 0)))
    with pytest.raises(NetlinkError, match="says it has 17 bytes"):
        list(netlink.messages(struct.pack("=IHHII", 17, 16, 0, 0, 0)))
    head = struct.pack("=BBBBI", 2, 24, 0, 0, 1)
    with pytest.raises(NetlinkError, match="attribute says it has 3 bytes"):
        netlink.parse_address(head + struct.pack("=HH", 3, 1), {})
    with pytest.raises(NetlinkError, match="family 2 with 3 bytes"):
        netlink.parse_address(head + struct.pack("=HH", 7, 1) + b"\1\2\3\0", {})
    route = struct.pack("=BBBBBBBBI", 2, 0, 0, 0, 254, 3, 0, 1, 0)
    with pytest.raises(NetlinkError, match="next hop says it has 4 bytes"):
        netlink.parse_routes(route + struct.pack("=HH", 12, 9) + struct.pack("=HBBi", 4, 0, 0, 1), {})
    with pytest.raises(NetlinkError, match="attribute 6 has 2 bytes"):
        netlink.parse_routes(route + struct.pack("=HH", 6, 6) + b"\0\0\0\0", {})


def test_an_interface_we_do_not_know_is_named_by_its_number() -> None:
    route = struct.pack("=BBBBBBBBI", 2, 0, 0, 0, 254, 3, 0, 1, 0) + struct.pack("=HHI", 8, 4, 77)
    assert netlink.parse_routes(route, {})[0].link == "#77"
