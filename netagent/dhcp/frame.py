"""Ethernet, IPv4 and UDP around a DHCP message, and the kernel filter that lets only such frames through. Pure."""

import struct

from netagent.dhcp.errors import Malformed

SERVER_PORT, CLIENT_PORT = 67, 68
BROADCAST_MAC = b"\xff" * 6
BROADCAST = b"\xff" * 4
ETH_IP = 0x0800

_ETHERNET = struct.Struct("!6s6sH")
_IP = struct.Struct("!BBHHHBBH4s4s")
_UDP = struct.Struct("!HHHH")
_PROTOCOL_UDP = 17
_FRAGMENT = 0x3FFF
"""More-fragments and the offset."""

# One instruction: code, jump if true, jump if false, operand.
Instruction = tuple[int, int, int, int]
_LOAD_HALF, _LOAD_BYTE, _LOAD_HEADER_LENGTH = 0x28, 0x30, 0xB1
_LOAD_HALF_AT_X, _LOAD_BYTE_AT_X, _LOAD_WORD_AT_X = 0x48, 0x50, 0x40
_EQUAL, _BITS_SET, _RETURN = 0x15, 0x45, 0x06


def checksum(data: bytes) -> int:
    """RFC 1071; 0 over data that holds its own right checksum."""
    if len(data) % 2:
        data += b"\0"
    # The sum modulo 0xffff does not care how many bits are added at a time.
    total = int.from_bytes(data) % 0xFFFF
    return (0xFFFF - total) if total or not any(data) else 0


def wrap(payload: bytes, *, mac: bytes, source: bytes) -> bytes:
    """A frame from the client to everybody."""
    size = _UDP.size + len(payload)
    udp = _UDP.pack(CLIENT_PORT, SERVER_PORT, size, 0) + payload
    # 0 would mean: not computed.
    total = checksum(_pseudo_header(source, BROADCAST, size) + udp) or 0xFFFF
    udp = _UDP.pack(CLIENT_PORT, SERVER_PORT, size, total) + payload
    ip = _ip_header(source, size, 0)
    return _ETHERNET.pack(BROADCAST_MAC, mac, ETH_IP) + _ip_header(source, size, checksum(ip)) + udp


def unwrap(frame: bytes, *, checksum_ready: bool) -> bytes:
    """The DHCP message of a server to a client. Raises Malformed.

    `checksum_ready` is False where the sender left the UDP checksum to hardware that the packet never met, as between
    two machines of one host (TP_STATUS_CSUMNOTREADY).
    """
    if len(frame) < _ETHERNET.size + _IP.size or _ETHERNET.unpack_from(frame)[2] != ETH_IP:
        raise Malformed("no IPv4 frame")
    packet = frame[_ETHERNET.size :]
    version, _, total, _, fragment, _, protocol, _, source, destination = _IP.unpack_from(packet)
    header = (version & 0x0F) * 4
    if version >> 4 != 4 or header < _IP.size or not header + _UDP.size <= total <= len(packet):
        raise Malformed("the IPv4 lengths do not fit the frame")
    if protocol != _PROTOCOL_UDP or fragment & _FRAGMENT:
        raise Malformed("no whole UDP datagram")
    if checksum(packet[:header]):
        raise Malformed("the IPv4 checksum is wrong")
    udp = packet[header:total]
    source_port, destination_port, size, sent = _UDP.unpack_from(udp)
    if (source_port, destination_port) != (SERVER_PORT, CLIENT_PORT):
        raise Malformed(f"UDP from port {source_port} to {destination_port}")
    if not _UDP.size <= size <= len(udp):
        raise Malformed("the UDP length does not fit the packet")
    udp = udp[:size]
    if sent and checksum_ready and checksum(_pseudo_header(source, destination, size) + udp):
        raise Malformed("the UDP checksum is wrong")
    return udp[_UDP.size :]


def packet_filter(mac: bytes) -> tuple[Instruction, ...]:
    """Classic BPF: replies to this client and nothing else. Everybody else's DHCP costs us no wake-up.

    It only saves work; what passes is checked again.
    """
    checks: list[tuple[Instruction, int, int]] = [
        ((_LOAD_HALF, 0, 0, 12), _EQUAL, ETH_IP),
        ((_LOAD_BYTE, 0, 0, 23), _EQUAL, _PROTOCOL_UDP),
        ((_LOAD_HALF, 0, 0, 20), _BITS_SET, _FRAGMENT),
        # From here on X is the length of the IPv4 header, and offsets are those behind one of no length.
        ((_LOAD_HALF_AT_X, 0, 0, 14 + 2), _EQUAL, CLIENT_PORT),
        ((_LOAD_BYTE_AT_X, 0, 0, 14 + 8), _EQUAL, 2),
        ((_LOAD_WORD_AT_X, 0, 0, 14 + 8 + 28), _EQUAL, int.from_bytes(mac[:4])),
        ((_LOAD_HALF_AT_X, 0, 0, 14 + 8 + 32), _EQUAL, int.from_bytes(mac[4:])),
    ]
    program: list[Instruction] = []
    for place, (load, test, operand) in enumerate(checks):
        if place == 3:
            program.append((_LOAD_HEADER_LENGTH, 0, 0, 14))
        # A test that fails jumps to the last instruction: over the rest of the tests and the acceptance.
        left = 2 * (len(checks) - place - 1) + (1 if place < 3 else 0) + 1
        program += [load, (test, left, 0, operand) if test == _BITS_SET else (test, 0, left, operand)]
    return (*program, (_RETURN, 0, 0, 0xFFFF), (_RETURN, 0, 0, 0))


def _ip_header(source: bytes, udp_size: int, header_checksum: int) -> bytes:
    total = _IP.size + udp_size
    return _IP.pack(0x45, 0xC0, total, 0, 0, 64, _PROTOCOL_UDP, header_checksum, source, BROADCAST)


def _pseudo_header(source: bytes, destination: bytes, size: int) -> bytes:
    return source + destination + struct.pack("!BBH", 0, _PROTOCOL_UDP, size)
