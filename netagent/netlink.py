"""rtnetlink(7), as much as observing takes: requests to bytes, messages to values. Pure.

Every length is checked against what is there; whatever the bytes are, the only error is NetlinkError.
"""

import errno
import ipaddress
import os
import socket
import struct
from collections.abc import Iterator

import msgspec

from ipc.contract.netagent import Address, Link, Route, Rule

RTM_NEWLINK, RTM_GETLINK = 16, 18
RTM_NEWADDR, RTM_GETADDR = 20, 22
RTM_NEWROUTE, RTM_GETROUTE = 24, 26
RTM_NEWRULE, RTM_GETRULE = 32, 34
GROUPS = 0x1 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400
"""RTMGRP_LINK, IPV4_IFADDR, IPV4_ROUTE, IPV4_RULE, IPV6_IFADDR, IPV6_ROUTE."""
MAIN_TABLE = 254
OUR_TABLES = range(16800, 26800)
"""One for each secondary NIC, by its index."""

_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_REQUEST, _NLM_F_DUMP, _NLM_F_DUMP_INTR = 0x1, 0x300, 0x10
_HEADER = struct.Struct("=IHHII")
_LINK = struct.Struct("=BBHiII")
_ADDRESS = struct.Struct("=BBBBI")
_ROUTE = struct.Struct("=BBBBBBBBI")
_ATTRIBUTE = struct.Struct("=HH")
_HOP = struct.Struct("=HBBi")
_RULE = struct.Struct("=BBBBBBBBI")
_IFF_UP, _IFF_LOWER_UP = 0x1, 0x10000
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_MASTER, _IFLA_LINKINFO = 1, 3, 4, 10, 18
_IFLA_CARRIER_CHANGES, _IFLA_MAX_MTU = 35, 51
_IFLA_INFO_KIND = 1
_IFA_ADDRESS, _IFA_LOCAL, _IFA_PROTO = 1, 2, 11
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_PREFSRC = 1, 4, 5, 6, 7
_RTA_MULTIPATH, _RTA_TABLE, _RTA_VIA = 9, 15, 18
_FRA_SRC, _FRA_PRIORITY, _FRA_TABLE, _FRA_PROTOCOL = 2, 6, 15, 21
_UNICAST = 1
_PREFIX, _PROTOCOL = 1, 5
"""Offsets in rtmsg."""
_PLATFORM = (bytes([168, 63, 129, 16]), bytes([169, 254, 169, 254]))
_FAMILIES: dict[int, int] = {socket.AF_INET: 4, socket.AF_INET6: 16}


class NetlinkError(Exception):
    """Bytes that are no rtnetlink message, or the kernel's own error."""

    number: int = 0
    """The kernel's error number, if it is the kernel's."""


class Message(msgspec.Struct, frozen=True):
    """One netlink message."""

    kind: int
    flags: int
    sequence: int
    body: bytes


class Interrupted(NetlinkError):
    """The tables changed while they were read: read again."""


def dump_request(kind: int, sequence: int) -> bytes:
    """Ask for a whole table, all families."""
    sizes = {RTM_GETLINK: _LINK.size, RTM_GETROUTE: _ROUTE.size, RTM_GETADDR: _ADDRESS.size, RTM_GETRULE: _RULE.size}
    body = bytes(sizes[kind])
    return _HEADER.pack(_HEADER.size + len(body), kind, _NLM_F_REQUEST | _NLM_F_DUMP, sequence, 0) + body


def messages(data: bytes) -> Iterator[Message]:
    """The messages of one datagram. Raises NetlinkError."""
    offset = 0
    while offset < len(data):
        if len(data) - offset < _HEADER.size:
            raise NetlinkError(f"{len(data) - offset} bytes are left, too few for a header")
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size or offset + length > len(data):
            raise NetlinkError(f"a message says it has {length} bytes, {len(data) - offset} are there")
        yield Message(kind, flags, sequence, data[offset + _HEADER.size : offset + length])
        offset += (length + 3) & ~3


def is_done(message: Message) -> bool:
    """Whether a dump ends here. Raises NetlinkError for the kernel's error, Interrupted for a torn dump."""
    if message.flags & _NLM_F_DUMP_INTR:
        raise Interrupted("the table changed while it was read")
    if message.kind == _NLMSG_ERROR and len(message.body) < 4:
        raise NetlinkError("an error message without its number")
    if message.kind in {_NLMSG_ERROR, _NLMSG_DONE} and len(message.body) >= 4:
        # The end of a dump carries a number too: below zero, the table is not whole.
        number = -struct.unpack_from("=i", message.body)[0]
        if number > 0 or message.kind == _NLMSG_ERROR:
            _raise_for(number or errno.EPROTO)
    return message.kind == _NLMSG_DONE


def is_acknowledged(message: Message) -> bool:
    """Whether a change was made. Raises NetlinkError with the kernel's number if it was refused."""
    if message.kind != _NLMSG_ERROR:
        return False
    if len(message.body) < 4:
        raise NetlinkError("an error message without its number")
    _raise_for(-struct.unpack_from("=i", message.body)[0])
    return True


def _raise_for(number: int) -> None:
    if number:
        error = NetlinkError(f"the kernel says: {os.strerror(number)}")
        error.number = number
        raise error


def parse_link(body: bytes) -> Link:
    """The body of RTM_NEWLINK. Raises NetlinkError."""
    _, _, _, index, flags, _ = _unpack(_LINK, body, "link")
    attributes = _attributes(body, _LINK.size)
    name = attributes.get(_IFLA_IFNAME, b"").rstrip(b"\0").decode("utf-8", "replace")
    return Link(
        index=index,
        name=name or f"#{index}",
        mac=":".join(f"{byte:02x}" for byte in attributes.get(_IFLA_ADDRESS, b"")[:32]),
        mtu=_number(attributes, _IFLA_MTU),
        up=bool(flags & _IFF_UP),
        carrier=bool(flags & _IFF_LOWER_UP),
        kind=_kind(attributes),
        master=_number(attributes, _IFLA_MASTER),
        mtu_limit=_number(attributes, _IFLA_MAX_MTU),
        carrier_changes=_number(attributes, _IFLA_CARRIER_CHANGES),
    )


def parse_address(body: bytes, names: dict[int, str]) -> Address | None:
    """The body of RTM_NEWADDR; None for a family we do not read. Raises NetlinkError."""
    family, prefix, _, _, index = _unpack(_ADDRESS, body, "address")
    attributes = _attributes(body, _ADDRESS.size)
    raw = attributes.get(_IFA_LOCAL) or attributes.get(_IFA_ADDRESS) or b""
    if family not in _FAMILIES:
        return None
    return Address(
        link=_name(names, index), address=f"{_ip(family, raw)}/{prefix}", protocol=_byte(attributes, _IFA_PROTO)
    )


def parse_rule(body: bytes) -> Rule | None:
    """The body of RTM_NEWRULE; None for a family we do not read. Raises NetlinkError."""
    family, _, prefix, _, table, _, _, _, _ = _unpack(_RULE, body, "rule")
    if family not in _FAMILIES:
        return None
    attributes = _attributes(body, _RULE.size)
    source = attributes.get(_FRA_SRC)
    return Rule(
        source=f"{_ip(family, source)}/{prefix}" if source else "",
        table=_number(attributes, _FRA_TABLE, table),
        priority=_number(attributes, _FRA_PRIORITY),
        protocol=_byte(attributes, _FRA_PROTOCOL),
    )


def matters(body: bytes, protocol: int) -> bool:
    """Whether the body of RTM_NEWROUTE is a default route, one to the platform, or one that `protocol` wrote.

    By a look at a few bytes, since there may be a hundred thousand.
    """
    if len(body) <= _PROTOCOL:
        return True  # to be refused by who reads it
    return body[_PREFIX] == 0 or body[_PROTOCOL] == protocol or any(one in body for one in _PLATFORM)


def parse_routes(body: bytes, names: dict[int, str]) -> list[Route]:
    """The body of RTM_NEWROUTE, one value for each way; none unless it is a unicast route of the main table or ours.

    Raises NetlinkError.
    """
    family, prefix, _, _, table, protocol, _, kind, _ = _unpack(_ROUTE, body, "route")
    attributes = _attributes(body, _ROUTE.size)
    table = _number(attributes, _RTA_TABLE, table)
    if family not in _FAMILIES or kind != _UNICAST or (table != MAIN_TABLE and table not in OUR_TABLES):
        return []
    destination, source = attributes.get(_RTA_DST), attributes.get(_RTA_PREFSRC)
    return [
        Route(
            destination=f"{_ip(family, destination)}/{prefix}" if destination else "default",
            gateway=_gateway(family, way),
            link=_name(names, index),
            metric=_number(attributes, _RTA_PRIORITY),
            protocol=protocol,
            table=table,
            source=_ip(family, source) if source else "",
        )
        for index, way in _ways(attributes)
    ]


def _ways(attributes: dict[int, bytes]) -> Iterator[tuple[int, dict[int, bytes]]]:
    """Interface and attributes of each next hop."""
    hops = attributes.get(_RTA_MULTIPATH)
    if hops is None:
        yield _number(attributes, _RTA_OIF), attributes
        return
    offset = 0
    while offset < len(hops):
        length, _, _, index = _unpack(_HOP, hops[offset:], "next hop")
        if length < _HOP.size or offset + length > len(hops):
            raise NetlinkError(f"a next hop says it has {length} bytes, {len(hops) - offset} are there")
        yield index, _attributes(hops[offset : offset + length], _HOP.size)
        offset += (length + 3) & ~3


def _gateway(family: int, attributes: dict[int, bytes]) -> str:
    if via := attributes.get(_RTA_VIA):
        # An IPv4 route by an IPv6 neighbour carries the family in front.
        if len(via) < 2:
            raise NetlinkError("a gateway without its family")
        return _ip(struct.unpack_from("=H", via)[0], via[2:])
    raw = attributes.get(_RTA_GATEWAY)
    return _ip(family, raw) if raw else ""


def _unpack(shape: struct.Struct, body: bytes, what: str) -> tuple[int, ...]:
    if len(body) < shape.size:
        raise NetlinkError(f"a {what} of {len(body)} bytes, at least {shape.size} are needed")
    return shape.unpack_from(body)


def _attributes(body: bytes, offset: int) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    while len(body) - offset >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(body, offset)
        if length < _ATTRIBUTE.size or offset + length > len(body):
            raise NetlinkError(f"an attribute says it has {length} bytes, {len(body) - offset} are there")
        # The two highest bits are flags (nested, byte order).
        found[kind & 0x3FFF] = body[offset + _ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3
    return found


def _number(attributes: dict[int, bytes], kind: int, default: int = 0) -> int:
    raw = attributes.get(kind)
    if raw is None:
        return default
    if len(raw) != 4:
        raise NetlinkError(f"attribute {kind} has {len(raw)} bytes instead of 4")
    return int(struct.unpack("=I", raw)[0])


def _byte(attributes: dict[int, bytes], kind: int) -> int:
    raw = attributes.get(kind)
    if raw is None:
        return 0
    if len(raw) != 1:
        raise NetlinkError(f"attribute {kind} has {len(raw)} bytes instead of 1")
    return raw[0]


def _kind(attributes: dict[int, bytes]) -> str:
    """Of a link that is made by software."""
    raw = _attributes(attributes.get(_IFLA_LINKINFO, b""), 0).get(_IFLA_INFO_KIND, b"")
    return raw.rstrip(b"\0")[:32].decode("utf-8", "replace")


def _ip(family: int, raw: bytes) -> str:
    if _FAMILIES.get(family) != len(raw):
        raise NetlinkError(f"an address of family {family} with {len(raw)} bytes")
    return str(ipaddress.ip_address(raw))


def _name(names: dict[int, str], index: int) -> str:
    return names.get(index, f"#{index}")
