"""DHCP packets of a server, good and bad, made by hand: nothing here knows our codec."""

import socket
import struct
from typing import Any

OFFER, ACK, NAK = 2, 5, 6
SERVER = "168.63.129.16"
GOOD = "10.0.0.20"
"""The address of an answer that may be believed."""
BAD = "10.0.0.99"
"""The address of one that may not."""

ROUTES = bytes.fromhex("000a00000120a83f81100a00000120a9fea9fe0a000001")
"""Default, WireServer, metadata service: as Azure sends them."""
SEARCH = b"\x03lab\x07example\x00\x05other\xc0\x04"


def ip(text: str) -> bytes:
    return socket.inet_aton(text)


GOOD_OPTIONS: dict[int, bytes] = {
    1: ip("255.255.255.0"),
    3: ip("10.0.0.1"),
    6: ip(SERVER),
    12: b"vm1",
    15: b"lab1.internal.cloudapp.net",
    26: (1400).to_bytes(2),
    42: ip("10.0.0.3"),
    51: (3600).to_bytes(4),
    54: ip(SERVER),
    119: SEARCH,
    121: ROUTES,
    245: ip(SERVER),
    249: ROUTES,
}


def options(kind: int | None, changes: dict[int, bytes | None] | None = None) -> bytes:
    """The good ones, with some replaced or (None) missing."""
    chosen = {**GOOD_OPTIONS, **(changes or {})}
    area = b"" if kind is None else bytes((53, 1, kind))
    for code, value in chosen.items():
        for start in range(0, len(value), 255) or (0,) if value is not None else ():
            piece = (value or b"")[start : start + 255]
            area += bytes((code, len(piece))) + piece
    return area + b"\xff"


def bootp(area: bytes, *, xid: int, mac: bytes, **other: Any) -> bytes:
    """`other`: op, htype, hlen, yours, client, cookie, sname, file."""
    head = struct.pack(
        "!BBBBIHH4s4s4s4s16s64s128s",
        other.get("op", 2),
        other.get("htype", 1),
        other.get("hlen", 6),
        0,
        xid,
        0,
        0,
        ip(other.get("client", "0.0.0.0")),  # noqa: S104
        ip(other.get("yours", GOOD)),
        b"\0" * 4,
        b"\0" * 4,
        mac,
        other.get("sname", b""),
        other.get("file", b""),
    )
    cookie: bytes = other.get("cookie", b"\x63\x82\x53\x63")
    return head + cookie + area


def internet_checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data[: len(data) // 2 * 2]))
    total += data[-1] << 8 if len(data) % 2 else 0
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def ethernet(payload: bytes, *, mac: bytes, source: str = SERVER, **other: Any) -> bytes:
    """`other`: to (address), port, from_port, udp_checksum, ip_checksum, udp_length, ip_options, fragment, protocol."""
    to, source_ip = ip(other.get("to", "255.255.255.255")), ip(source)
    length = 8 + len(payload)
    ports = (other.get("from_port", 67), other.get("port", 68))
    udp = struct.pack("!HHHH", *ports, other.get("udp_length", length), 0) + payload
    pseudo = source_ip + to + struct.pack("!BBH", 0, 17, length)
    checksum = other.get("udp_checksum", internet_checksum(pseudo + udp) or 0xFFFF)
    udp = udp[:6] + struct.pack("!H", checksum) + payload
    extra = other.get("ip_options", b"")
    size = 5 + len(extra) // 4
    total = size * 4 + length

    def head(checksum: int) -> bytes:
        protocol, fragment = other.get("protocol", 17), other.get("fragment", 0)
        first = struct.pack("!BBHHHBBH", 0x40 | size, 0, total, 7, fragment, 64, protocol, checksum)
        return bytes(first + source_ip + to + extra)

    checksum = other.get("ip_checksum", internet_checksum(head(0)))
    return mac + bytes.fromhex("123456789abc") + b"\x08\x00" + head(checksum) + udp
