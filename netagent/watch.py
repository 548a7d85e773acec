"""Observing: netlink wakes, then everything is read and compared (announcements miss what goes with a link)."""

import asyncio
import contextlib
import errno
import logging
import socket
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from ipc.contract.netagent import Address, Link, Resolver, Route
from netagent import netlink
from netagent.leases import SIZE_LIMIT, Lease, LeaseError, parse_dhclient, parse_network_manager, parse_networkd
from netagent.resolver import read_resolver

_DEBOUNCE = 0.05
_RECEIVE = 256 * 1024
_TRIES = 5
_SO_RCVBUFFORCE = 33
_QUEUE_BYTES = 1024 * 1024

logger = logging.getLogger("netagent")


class LeaseFiles(msgspec.Struct, frozen=True, kw_only=True):
    """Where DHCP clients keep their leases: folder, pattern, kind."""

    root: Path = Path("/")

    def read(self, *, now: float) -> dict[str, str]:
        """The WireServer's address by lease file, dhclient first; what cannot be read is told and passed over."""
        kinds: list[tuple[str, Callable[[bytes], Lease | None]]] = [
            ("var/lib/dhcp/dhclient*.leases", lambda data: parse_dhclient(data, now=now)),
            ("var/lib/dhclient/dhclient*.lease*", lambda data: parse_dhclient(data, now=now)),
            ("run/systemd/netif/leases/*", parse_networkd),
            ("var/lib/NetworkManager/*.lease", parse_network_manager),
        ]
        found: dict[str, str] = {}
        for pattern, parse in kinds:
            for path in sorted(self.root.glob(pattern)):
                try:
                    with path.open("rb") as file:
                        lease = parse(file.read(SIZE_LIMIT + 1))
                except (OSError, LeaseError) as error:
                    logger.warning("lease file %s is passed over: %s", path, error)
                    continue
                if lease is not None:
                    found[str(path)] = lease.wireserver
        return found


class Picture(msgspec.Struct, frozen=True, kw_only=True):
    """The network at one moment."""

    links: list[Link]
    addresses: list[Address]
    routes: list[Route]
    resolver: Resolver
    leases: dict[str, str]


def take_picture(resolv_conf: Path, lease_files: LeaseFiles) -> Picture:
    """Read everything. Raises NetlinkError, OSError. Blocking, a millisecond."""
    links = [netlink.parse_link(body) for body in _dump(netlink.RTM_GETLINK, netlink.RTM_NEWLINK)]
    names = {link.index: link.name for link in links}
    addresses = [netlink.parse_address(body, names) for body in _dump(netlink.RTM_GETADDR, netlink.RTM_NEWADDR)]
    routes = [netlink.parse_route(body, names) for body in _dump(netlink.RTM_GETROUTE, netlink.RTM_NEWROUTE)]
    return Picture(
        links=sorted(links, key=lambda one: one.index),
        addresses=sorted((one for one in addresses if one), key=lambda one: (one.link, one.address)),
        routes=sorted((one for one in routes if one), key=lambda one: (one.destination, one.metric, one.link)),
        resolver=read_resolver(resolv_conf),
        leases=lease_files.read(now=time.time()),
    )


async def wakes(dirty: asyncio.Event) -> None:
    """Set `dirty` whenever the kernel announces a change, or lost count of them, for ever. Raises OSError."""
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0) as watched:
        with contextlib.suppress(PermissionError):
            watched.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _QUEUE_BYTES)
        watched.bind((0, netlink.GROUPS))
        readable = asyncio.Event()
        loop.add_reader(watched, readable.set)
        try:
            while True:
                await readable.wait()
                readable.clear()
                _drain(watched)
                dirty.set()
                # What comes in a burst is looked at once.
                await asyncio.sleep(_DEBOUNCE)
        finally:
            loop.remove_reader(watched)


def _drain(watched: socket.socket) -> None:
    while True:
        try:
            watched.recv(_RECEIVE)
        except BlockingIOError:
            return
        except OSError as error:
            # The queue ran over: what was lost does not matter, everything is read anyway.
            if error.errno != errno.ENOBUFS:
                raise


def _dump(request: int, wanted: int) -> list[bytes]:
    """The bodies of a whole table. Raises NetlinkError, OSError."""
    for number in range(1, _TRIES + 1):
        try:
            return _dump_once(request, wanted, number)
        except netlink.Interrupted:
            continue
    raise netlink.NetlinkError(f"the table changed while it was read, {_TRIES} times")


def _dump_once(request: int, wanted: int, sequence: int) -> list[bytes]:
    found: list[bytes] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as asking:
        asking.settimeout(5.0)
        asking.bind((0, 0))
        asking.send(netlink.dump_request(request, sequence))
        while True:
            data, (sender, _) = asking.recvfrom(_RECEIVE)
            if sender != 0:
                continue  # only the kernel is believed
            for message in netlink.messages(data):
                if message.sequence != sequence:
                    continue
                if netlink.is_done(message):
                    return found
                if message.kind == wanted:
                    found.append(message.body)
