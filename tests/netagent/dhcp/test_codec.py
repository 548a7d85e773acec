"""Bytes to values and back, and what any bytes at all lead to."""

import ipaddress
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netagent.dhcp import arp, frame, message, requests
from netagent.dhcp import options as o
from netagent.dhcp.errors import DhcpError, Malformed
from netagent.dhcp.lease import StaticRoute
from netagent.dhcp.sanity import Exchange, Refusal, check, check_inform, server_of
from tests.netagent.dhcp import craft
from tests.netagent.dhcp.bad_answers import KEPT, REFUSED, area_of

MAC = bytes.fromhex("000d3a010203")
WHO = requests.Identity(mac=MAC, client_id=o.client_identifier(MAC), host_name="vm1")

addresses = st.ip_addresses(v=4).map(str)
networks = st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)).map(
    lambda pair: str(ipaddress.ip_network(pair, strict=False))
)
gateways = addresses.map(lambda address: "" if address == "0.0.0.0" else address)  # noqa: S104
route_lists = st.lists(st.builds(StaticRoute, destination=networks, gateway=gateways), max_size=60).map(tuple)
labels = st.text("abc019-_", min_size=1, max_size=12).filter(lambda label: label.strip("-") == label)
names = st.lists(labels, min_size=1, max_size=6).map(".".join)
values = st.dictionaries(st.integers(1, 254).filter(lambda code: code not in (52, 53)), st.binary(max_size=700))


@given(values, st.integers(0, 2**32 - 1), addresses, addresses, st.integers(1, 8))
def test_what_is_built_is_read(found: dict[int, bytes], xid: int, client: str, yours: str, kind: int) -> None:
    sent = message.Message(reply=True, kind=kind, xid=xid, mac=MAC, client=client, yours=yours)
    data = message.build(sent, tuple(found.items()))
    assert len(data) >= 300
    read = message.parse(data)
    assert (read.kind, read.xid, read.client, read.yours, read.mac) == (kind, xid, client, yours, MAC)
    # Long ones went out in pieces.
    assert {code: o.whole(read.options, code) for code in found} == found


@given(route_lists)
def test_routes(routes: tuple[StaticRoute, ...]) -> None:
    assert o.decode_routes(o.encode_routes(routes)) == routes


@given(st.lists(names, max_size=10))
def test_search_lists(found: list[str]) -> None:
    assert o.decode_search(o.encode_search(found)) == tuple(found)


def test_a_compressed_search_list() -> None:
    assert o.decode_search(craft.SEARCH) == ("lab.example", "other.example")
    # A pointer in the middle, and one to a pointer.
    data = b"\x01a\x07example\x00\x01b\xc0\x02\x01c\xc0\x0b"
    assert o.decode_search(data) == ("a.example", "b.example", "c.b.example")


@given(names, st.sampled_from([0, 1, 4, 5, 8]))
def test_qualified_names(name: str, flags: int) -> None:
    assert o.decode_fqdn(o.encode_fqdn(o.Fqdn(flags=flags, name=name))) == o.Fqdn(flags=flags, name=name)


@given(st.integers(1, 32))
def test_masks(prefix: int) -> None:
    mask = ipaddress.ip_network(f"0.0.0.0/{prefix}").netmask.packed
    assert o.prefix_of(mask) == prefix


@given(st.text(max_size=20) | addresses)
def test_an_address_is_what_the_library_says_it_is(text: str) -> None:
    try:
        ipaddress.IPv4Address(text)
    except ValueError:
        assert not o.is_address(text)
    else:
        assert o.is_address(text)
        assert o.dotted(o.packed(text)) == text


@given(st.text(max_size=30))
def test_a_name_holds_nothing_that_a_shell_or_a_file_could_stumble_over(text: str) -> None:
    try:
        name = o.host_text(text.encode())
    except Malformed:
        return
    assert not set(name) - set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    assert not name.startswith(("-", "."))


@pytest.mark.parametrize("size", [0, 1, 300, 301, 1400])
def test_our_frames_are_whole(size: int) -> None:
    payload = bytes(range(256)) * 6
    data = frame.wrap(payload[:size], mac=MAC, source=craft.ip("10.0.0.20"))
    assert data[:6] == b"\xff" * 6
    assert data[6:12] == MAC
    assert craft.internet_checksum(data[14:34]) == 0
    pseudo = data[26:34] + b"\x00\x11" + data[38:40]
    assert craft.internet_checksum(pseudo + data[34:]) == 0


@given(st.binary(max_size=600), st.binary(max_size=40).map(lambda extra: extra[: len(extra) // 4 * 4]))
def test_a_server_s_frame_is_unwrapped(payload: bytes, extra: bytes) -> None:
    data = craft.ethernet(payload, mac=MAC, ip_options=extra)
    assert frame.unwrap(data, checksum_ready=True) == payload
    # What Ethernet adds to a short frame does not count.
    assert frame.unwrap(data + b"\0" * 18, checksum_ready=True) == payload


@given(st.binary(max_size=60))
def test_checksums_are_those_of_the_rfc(data: bytes) -> None:
    assert frame.checksum(data) == craft.internet_checksum(data)


def test_what_a_client_says_fits_table_5() -> None:
    turn = requests.Turn(xid=7, secs=3)
    said = {
        "discover": requests.discover(WHO, turn, "10.0.0.4"),
        "offered": requests.request_offered(WHO, turn, "10.0.0.4", "10.0.0.1"),
        "known": requests.request_known(WHO, turn, "10.0.0.4"),
        "more": requests.request_more(WHO, turn, "10.0.0.4"),
        "decline": requests.decline(WHO, turn, "10.0.0.4", "10.0.0.1", "in use"),
        "release": requests.release(WHO, turn, "10.0.0.4", "10.0.0.1"),
        "inform": requests.inform(WHO, turn, "10.0.0.4"),
    }
    found: dict[str, Any] = {}
    for name, data in said.items():
        read = message.parse(data)
        assert (read.reply, read.xid, read.mac, read.secs) == (False, 7, MAC, 3)
        assert o.whole(read.options, o.CLIENT_ID) == b"\x01" + MAC
        present = {code for code in (o.ADDRESS, o.SERVER, o.HOST_NAME, o.WANTED, o.TEXT) if code in read.options}
        found[name] = (read.kind, read.client, present)
    assert found == {
        "discover": (1, "0.0.0.0", {50, 12, 55}),  # noqa: S104
        "offered": (3, "0.0.0.0", {50, 54, 12, 55}),  # noqa: S104
        "known": (3, "0.0.0.0", {50, 12, 55}),  # noqa: S104
        "more": (3, "10.0.0.4", {12, 55}),
        "decline": (4, "0.0.0.0", {50, 54, 56}),  # noqa: S104
        "release": (7, "10.0.0.4", {54}),
        "inform": (8, "10.0.0.4", {55}),
    }
    wanted = o.whole(message.parse(said["discover"]).options, o.WANTED) or b""
    assert wanted.index(o.ROUTES) < wanted.index(o.ROUTER)


def test_a_qualified_name_goes_out_instead_of_a_host_name() -> None:
    who = requests.Identity(mac=MAC, client_id=b"x", host_name="vm1.example", fqdn=True)
    read = message.parse(requests.discover(who, requests.Turn(xid=1)))
    assert o.HOST_NAME not in read.options
    assert o.decode_fqdn(o.whole(read.options, o.FQDN) or b"") == o.Fqdn(flags=5, name="vm1.example")


def filtered(data: bytes) -> bool:
    """The kernel's filter, run by hand."""
    program, place, a, x = frame.packet_filter(MAC), 0, 0, 0
    while True:
        code, yes, no, operand = program[place]
        place += 1
        start = operand + (x if code in (0x40, 0x48, 0x50) else 0)
        size = {0x28: 2, 0x48: 2, 0x30: 1, 0x50: 1, 0x40: 4}.get(code)
        if size is not None:
            if start + size > len(data):
                return False
            a = int.from_bytes(data[start : start + size])
        elif code == 0xB1:
            x = (data[operand] & 0x0F) * 4
        elif code == 0x15:
            place += yes if a == operand else no
        elif code == 0x45:
            place += yes if a & operand else no
        else:
            assert code == 0x06
            return operand > 0


def test_the_filter_lets_our_answers_through_and_nobody_else_s() -> None:
    good = craft.bootp(craft.options(craft.ACK), xid=1, mac=MAC)
    assert filtered(craft.ethernet(good, mac=MAC))
    assert filtered(craft.ethernet(good, mac=MAC, ip_options=b"\x94\x04\0\0"))
    assert not filtered(craft.ethernet(good, mac=MAC, port=67))
    assert not filtered(craft.ethernet(good, mac=MAC, fragment=0x2000))
    assert not filtered(craft.ethernet(good, mac=MAC, protocol=6))
    for last in (b"\x04", b"\x02"):
        other = craft.bootp(craft.options(craft.ACK), xid=1, mac=MAC[:5] + last)
        assert not filtered(craft.ethernet(other, mac=MAC))
    assert not filtered(craft.ethernet(craft.bootp(b"", xid=1, mac=b"\x01" + MAC[1:]), mac=MAC))
    assert not filtered(craft.ethernet(craft.bootp(craft.options(craft.ACK), xid=1, mac=MAC, op=1), mac=MAC))
    assert not filtered(b"\xff" * 12 + b"\x08\x06" + b"\0" * 300)


def test_arp() -> None:
    address, other = craft.ip("10.0.0.4"), bytes.fromhex("000d3affffff")
    ours = arp.probe(MAC, address)
    assert len(ours) == 42
    assert arp.conflict(ours, MAC, address) is None

    def frame_of(sender: bytes, sender_address: str, target: str, operation: int = 2) -> bytes:
        body = b"\0\1\x08\0\6\4" + operation.to_bytes(2) + sender + craft.ip(sender_address) + MAC + craft.ip(target)
        return MAC + sender + b"\x08\x06" + body

    assert arp.conflict(frame_of(other, "10.0.0.4", "0.0.0.0"), MAC, address) == other  # noqa: S104
    assert arp.conflict(frame_of(other, "10.0.0.4", "10.0.0.9", 1), MAC, address) == other
    assert arp.conflict(frame_of(other, "0.0.0.0", "10.0.0.4", 1), MAC, address) == other  # probes as we do  # noqa: S104
    assert arp.conflict(frame_of(other, "10.0.0.5", "10.0.0.4", 1), MAC, address) is None  # only asks
    assert arp.conflict(frame_of(other, "10.0.0.5", "10.0.0.4"), MAC, address) is None
    assert arp.conflict(frame_of(arp.GATEWAY_MAC, "10.0.0.4", "0.0.0.0"), MAC, address) is None  # noqa: S104
    assert arp.conflict(frame_of(MAC, "10.0.0.4", "0.0.0.0"), MAC, address) is None  # noqa: S104
    assert arp.conflict(frame_of(other, "10.0.0.4", "0.0.0.0")[:41], MAC, address) is None  # noqa: S104


@given(st.binary(max_size=60))
def test_any_bytes_are_an_arp_conflict_or_none(data: bytes) -> None:
    found = arp.conflict(b"\0" * 12 + b"\x08\x06" + data, MAC, b"\x0a\0\0\4")
    assert found is None or len(found) == 6


def spoilt(data: bytes, chance: random.Random) -> bytes:
    """A few bytes changed, cut, doubled or put in."""
    mutable = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        where = chance.randrange(len(mutable)) if mutable else 0
        match chance.randrange(6):
            case 0 | 1 | 2 if mutable:
                mutable[where] = chance.choice((0, 1, 4, 0x7F, 0x80, 0xC0, 0xFE, 0xFF, chance.randrange(256)))
            case 3:
                del mutable[where : where + chance.randint(1, 40)]
            case 4:
                mutable[where:where] = mutable[where : where + chance.randint(1, 40)]
            case _:
                mutable[where:where] = chance.randbytes(chance.randint(1, 8))
    return bytes(mutable)


def test_200_000_spoilt_packets_lead_to_a_lease_a_refusal_or_our_own_error() -> None:
    chance = random.Random(20261125)
    ours = Exchange(mac=MAC, client_id=b"\x01" + MAC, xid=0xA1B2C3D4)
    seeds = []
    for answer in REFUSED + KEPT:
        head: dict[str, Any] = {"yours": craft.GOOD, **answer.head}
        seeds.append(craft.bootp(area_of(answer, craft.ACK), xid=ours.xid, mac=answer.mac or MAC, **head))
    framed = [craft.ethernet(seed, mac=MAC) for seed in seeds]
    counts = {"lease": 0, "refusal": 0, "error": 0}
    for number in range(200_000):
        try:
            if number % 4 == 0:
                payload = frame.unwrap(spoilt(chance.choice(framed), chance), checksum_ready=number % 8 == 0)
            else:
                # Most changes are made where the options are; the head would swallow the half of them.
                seed = chance.choice(seeds)
                payload = seed[:240] + spoilt(seed[240:], chance)
            read = message.parse(payload)
            server_of(read)
            check_inform(read, ours, craft.GOOD)
            found = check(read, ours)
        except DhcpError:
            counts["error"] += 1
        else:
            counts["refusal" if isinstance(found, Refusal) else "lease"] += 1
            if not isinstance(found, Refusal):
                assert o.is_address(found.lease.address)
                assert found.lease.seconds != 0
    assert min(counts.values()) > 10_000, counts
