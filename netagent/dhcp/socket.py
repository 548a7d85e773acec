"""The sockets of a DHCP client: the only module that touches the network.

Everything is sent and received on AF_PACKET, since there is no address yet. Only a renewal goes through the kernel,
which knows the way to the server. For that, and so that the kernel does not answer the server's packets with ICMP "port
unreachable", UDP port 68 is bound; nobody ever reads from it.
"""

import array
import contextlib
import errno
import fcntl
import socket
import struct
from collections.abc import Iterator

import msgspec

from netagent.dhcp import arp, frame
from netagent.dhcp.errors import Malformed, NoSuchLink, NotAllowed, PortTaken

_SOL_PACKET, _PACKET_AUXDATA, _SO_ATTACH_FILTER, _IP_PKTINFO = 263, 8, 26, 8
_SIOCGIFFLAGS = 0x8913
_IFF_UP = 0x1
_HARDWARE_ETHERNET = 1
_AUXDATA = struct.Struct("=IIIHHHH")
_CHECKSUM_NOT_READY, _VLAN_VALID = 0x8, 0x10
_VLAN_ID = 0x0FFF
_TO_US = (0, 1, 2)
"""PACKET_HOST, PACKET_BROADCAST, PACKET_MULTICAST; not PACKET_OTHERHOST, PACKET_OUTGOING."""
_FRAME_LIMIT = 65536
AT_ONCE = 32
_GONE = (errno.ENODEV, errno.ENXIO)


class Link(msgspec.Struct, frozen=True):
    """An interface as it is now; the index stays when it is renamed."""

    name: str
    index: int


def find_link(name: str) -> Link:
    """Raises NoSuchLink."""
    try:
        return Link(name, socket.if_nametoindex(name))
    except OSError as error:
        raise NoSuchLink(name) from error


def current(link: Link) -> Link | None:
    """The interface of that index by the name it has now, else whatever has that name now, else None."""
    try:
        return Link(socket.if_indextoname(link.index), link.index)
    except OSError:
        try:
            return find_link(link.name)
        except NoSuchLink:
            return None


def is_up(link: Link) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as asking:
        try:
            answer = fcntl.ioctl(asking, _SIOCGIFFLAGS, struct.pack("16sH14x", link.name.encode(), 0))
        except OSError:
            return False
        return bool(struct.unpack("16sH14x", answer)[1] & _IFF_UP)


class DhcpSocket:
    """Raises NoSuchLink, PortTaken, NotAllowed, OSError when made."""

    def __init__(self, link: Link, *, hold_port: bool = True) -> None:
        self.link = link
        with contextlib.ExitStack() as undo:
            self._raw = _packet_socket(link)
            undo.callback(self._raw.close)
            self.mac = _mac(self._raw, link)
            self._raw.setsockopt(_SOL_PACKET, _PACKET_AUXDATA, 1)
            _attach(self._raw, frame.packet_filter(self.mac))
            self._port = _udp_port(link, required=hold_port)
            # Only now do packets come in, and none that the filter has not seen.
            self._raw.bind((link.name, frame.ETH_IP))
            undo.pop_all()

    def fileno(self) -> int:
        return self._raw.fileno()

    def close(self) -> None:
        self._raw.close()
        if self._port is not None:
            self._port.close()

    def send_to_all(self, payload: bytes, source: bytes = b"\0" * 4) -> None:
        """Raises OSError."""
        self._raw.send(frame.wrap(payload, mac=self.mac, source=source))

    def send_to(self, server: str, payload: bytes, source: str) -> None:
        """Through the kernel, from an address of ours. Raises OSError: there is no way, or no such address."""
        if self._port is None:
            raise OSError(errno.EADDRINUSE, "UDP port 68 is not ours")
        # No interface is named: the socket is bound to one.
        chosen = struct.pack("=i4s4s", 0, socket.inet_aton(source), b"\0" * 4)
        self._port.sendmsg(
            [payload],
            [(socket.IPPROTO_IP, _IP_PKTINFO, chosen)],
            socket.MSG_DONTWAIT,
            (server, frame.SERVER_PORT),
        )

    def receive(self) -> Iterator[bytes | Malformed]:
        """What has come, not more than a handful. Raises OSError: ENETDOWN when the interface went down."""
        for _ in range(AT_ONCE):
            try:
                data, ancillary, _, sender = self._raw.recvmsg(_FRAME_LIMIT, socket.CMSG_SPACE(_AUXDATA.size))
            except BlockingIOError:
                return
            status, vlan = _auxdata(ancillary)
            if sender[2] not in _TO_US or (status & _VLAN_VALID and vlan & _VLAN_ID):
                continue
            try:
                yield frame.unwrap(data, checksum_ready=not status & _CHECKSUM_NOT_READY)
            except Malformed as error:
                yield error


class ArpSocket:
    """Listens for who uses an address. Raises NoSuchLink, NotAllowed, OSError when made."""

    def __init__(self, link: Link, mac: bytes) -> None:
        self._mac = mac
        self._raw = _packet_socket(link)
        self._raw.bind((link.name, arp.ETH_ARP))

    def fileno(self) -> int:
        return self._raw.fileno()

    def close(self) -> None:
        self._raw.close()

    def probe(self, address: str) -> None:
        """Raises OSError."""
        self._raw.send(arp.probe(self._mac, socket.inet_aton(address)))

    def conflict(self, address: str) -> bytes | None:
        """The MAC of a host that uses the address, if one of the frames that have come says so. Raises OSError."""
        for _ in range(AT_ONCE):
            try:
                data, sender = self._raw.recvfrom(_FRAME_LIMIT)
            except BlockingIOError:
                return None
            if sender[2] in _TO_US:
                holder = arp.conflict(data, self._mac, socket.inet_aton(address))
                if holder is not None:
                    return holder
        return None


def is_gone(error: OSError) -> bool:
    """The interface behind a socket is no more, and the socket is of no use."""
    return error.errno in _GONE


def _packet_socket(link: Link) -> socket.socket:
    """Bound to the interface, without a protocol yet: nothing comes in before the filter is there."""
    kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    try:
        raw = socket.socket(socket.AF_PACKET, kind, 0)
    except PermissionError as error:
        raise NotAllowed(link.name) from error
    try:
        raw.bind((link.name, 0))
    except OSError as error:
        raw.close()
        if is_gone(error):
            raise NoSuchLink(link.name) from error
        raise
    return raw


def _mac(raw: socket.socket, link: Link) -> bytes:
    *_, hardware, mac = raw.getsockname()
    if hardware != _HARDWARE_ETHERNET or len(mac) != 6:
        raise NoSuchLink(link.name, "is no Ethernet")
    return bytes(mac)


def _udp_port(link: Link, *, required: bool) -> socket.socket | None:
    port = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        port.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, link.name.encode() + b"\0")
        # What comes in is never read; it shall not take memory either.
        port.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        port.bind(("", frame.CLIENT_PORT))
    except OSError as error:
        port.close()
        if not required:
            return None
        if error.errno == errno.EADDRINUSE:
            raise PortTaken(link.name) from error
        if error.errno in (errno.EPERM, errno.EACCES):
            raise NotAllowed(link.name) from error
        if is_gone(error):
            raise NoSuchLink(link.name) from error
        raise
    return port


def _attach(raw: socket.socket, program: tuple[frame.Instruction, ...]) -> None:
    code = array.array("B", b"".join(struct.pack("=HBBI", *one) for one in program))
    # struct sock_fprog: how many, and where; `code` lives until the kernel has copied it.
    raw.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(program), code.buffer_info()[0]))


def _auxdata(ancillary: list[tuple[int, int, bytes]]) -> tuple[int, int]:
    """Status bits and VLAN tag of what was received."""
    for level, kind, data in ancillary:
        if (level, kind) == (_SOL_PACKET, _PACKET_AUXDATA) and len(data) >= _AUXDATA.size:
            status, _, _, _, _, vlan, _ = _AUXDATA.unpack_from(data)
            return status, vlan
    return 0, 0
