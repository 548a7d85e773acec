"""A DHCP message (RFC 2131): bytes to a value and back. Pure; the only error is Malformed."""

import struct

import msgspec

from netagent.dhcp import options as o
from netagent.dhcp.errors import Malformed

DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK, RELEASE, INFORM = range(1, 9)
KINDS = ("", "DISCOVER", "OFFER", "REQUEST", "DECLINE", "ACK", "NAK", "RELEASE", "INFORM")
NOBODY = "0.0.0.0"  # noqa: S104 - an address that is not known yet

_HEAD = struct.Struct("!BBBBIHH4s4s4s4s16s64s128s4s")
_COOKIE = b"\x63\x82\x53\x63"
_ETHERNET = 1
_MAC_LENGTH = 6
_BOOTP_SIZE = 300
"""Some relays drop what is shorter (RFC 951)."""

Pairs = tuple[tuple[int, bytes], ...]


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """What is in a packet; nothing of it is believed yet."""

    reply: bool
    """BOOTREPLY: from a server."""
    kind: int
    """Option 53."""
    xid: int
    mac: bytes
    """chaddr: of the client."""
    secs: int = 0
    client: str = NOBODY
    """ciaddr"""
    yours: str = NOBODY
    """yiaddr"""
    options: o.Options = {}


def parse(data: bytes) -> Message:
    """Raises Malformed."""
    if len(data) < _HEAD.size:
        raise Malformed(f"{len(data)} bytes are no DHCP message")
    head = _HEAD.unpack_from(data)
    op, hardware, length, _, xid, secs, _, client, yours, _, _, mac, sname, file, cookie = head
    if cookie != _COOKIE:
        raise Malformed("no DHCP cookie: plain BOOTP, or noise")
    if op not in (1, 2):
        raise Malformed(f"op is {op}")
    if (hardware, length) != (_ETHERNET, _MAC_LENGTH):
        raise Malformed(f"a hardware address of type {hardware} with {length} bytes is not Ethernet's")
    options: o.Options = {}
    o.gather(options, o.split(data[_HEAD.size :]))
    overload = o.number(options, o.OVERLOAD, 1) or 0
    if overload > 3:
        raise Malformed(f"option overload is {overload}")
    # The order is that of RFC 3396. Inside these two fields option 52 means nothing.
    if overload & 1:
        o.gather(options, o.split(file))
    if overload & 2:
        o.gather(options, o.split(sname))
    kind = o.number(options, o.KIND, 1)
    if kind is None or not DISCOVER <= kind <= INFORM:
        raise Malformed("no message type" if kind is None else f"message type {kind}")
    return Message(
        reply=op == 2,
        kind=kind,
        xid=xid,
        mac=mac[:_MAC_LENGTH],
        secs=secs,
        client=o.dotted(client),
        yours=o.dotted(yours),
        options=options,
    )


def build(message: Message, pairs: Pairs) -> bytes:
    """`pairs` are sent in their order, after option 53; `message.options` is not looked at."""
    head = _HEAD.pack(
        2 if message.reply else 1,
        _ETHERNET,
        _MAC_LENGTH,
        0,
        message.xid,
        min(message.secs, 0xFFFF),
        0,
        o.packed(message.client),
        o.packed(message.yours),
        b"\0" * 4,
        b"\0" * 4,
        message.mac,
        b"",
        b"",
        _COOKIE,
    )
    return (head + o.join(((o.KIND, bytes((message.kind,))), *pairs))).ljust(_BOOTP_SIZE, b"\0")
