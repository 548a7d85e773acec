"""ARP probes: is an address in use by somebody else (RFC 5227)? Pure."""

import struct

ETH_ARP = 0x0806
GATEWAY_MAC = bytes.fromhex("123456789abc")
"""Azure's fabric answers every ARP request for every address itself, with this one: it is nobody's conflict."""

_ETHERNET = struct.Struct("!6s6sH")
_ARP = struct.Struct("!HHBBH6s4s6s4s")
_HEAD = (1, 0x0800, 6, 4)


def probe(mac: bytes, address: bytes) -> bytes:
    """A request without a sender's address, so that nobody's cache learns from it."""
    body = _ARP.pack(*_HEAD, 1, mac, b"\0" * 4, b"\0" * 6, address)
    return _ETHERNET.pack(b"\xff" * 6, mac, ETH_ARP) + body


def conflict(frame: bytes, mac: bytes, address: bytes) -> bytes | None:
    """The MAC of whoever uses the address, or is about to (a probe of its own); None if the frame does not say so."""
    if len(frame) < _ETHERNET.size + _ARP.size or _ETHERNET.unpack_from(frame)[2] != ETH_ARP:
        return None
    *head, operation, sender, sender_address, _, target_address = _ARP.unpack_from(frame, _ETHERNET.size)
    if tuple(head) != _HEAD or operation not in (1, 2) or sender in (mac, GATEWAY_MAC, b"\0" * 6):
        return None
    probes_too = operation == 1 and not any(sender_address) and target_address == address
    return bytes(sender) if sender_address == address or probes_too else None
