"""Observing: netlink wakes, then everything is read and compared (announcements miss what goes with a link)."""

import asyncio
import contextlib
import errno
import os
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
_CHANGES_NAMED = 20
_BURST = 1000
_RECEIVE = 256 * 1024
_TRIES = 5
_SO_RCVBUFFORCE = 33
_QUEUE_BYTES = 1024 * 1024


class LeaseFiles(msgspec.Struct, frozen=True, kw_only=True):
    """Where DHCP clients keep their leases: folder, pattern, kind."""

    root: Path = Path("/")

    def read(self, *, now: float) -> tuple[dict[str, str], list[str]]:
        """The WireServer's address by lease file, dhclient first; and what could not be read, passed over."""
        kinds: list[tuple[str, Callable[[bytes], Lease | None]]] = [
            ("var/lib/dhcp/dhclient*.leases", lambda data: parse_dhclient(data, now=now)),
            ("var/lib/dhclient/dhclient*.lease*", lambda data: parse_dhclient(data, now=now)),
            ("run/systemd/netif/leases/*", parse_networkd),
            ("var/lib/NetworkManager/*.lease", parse_network_manager),
        ]
        found: dict[str, str] = {}
        problems: list[str] = []
        for pattern, parse in kinds:
            for path in sorted(self.root.glob(pattern)):
                name = os.fsencode(path).decode("utf-8", "replace")
                try:
                    with path.open("rb") as file:
                        lease = parse(file.read(SIZE_LIMIT + 1))
                except (OSError, LeaseError) as error:
                    reason = error.strerror if isinstance(error, OSError) else error
                    problems.append(f"lease file {name} is passed over: {reason}")
                    continue
                if lease is not None:
                    found[name] = lease.wireserver
        return found, problems


class Picture(msgspec.Struct, frozen=True, kw_only=True):
    """The network at one moment."""

    links: list[Link]
    addresses: list[Address]
    routes: list[Route]
    resolver: Resolver
    leases: dict[str, str]
    problems: list[str]
    """What could not be read, one line each."""


def take_picture(resolv_conf: Path, lease_files: LeaseFiles) -> Picture:
    """Read everything. Raises NetlinkError, OSError. Blocking, a millisecond."""
    links = [netlink.parse_link(body) for body in _dump(netlink.RTM_GETLINK, netlink.RTM_NEWLINK)]
    names = {link.index: link.name for link in links}
    addresses = [netlink.parse_address(body, names) for body in _dump(netlink.RTM_GETADDR, netlink.RTM_NEWADDR)]
    dumped = _dump(netlink.RTM_GETROUTE, netlink.RTM_NEWROUTE)
    routes = [route for body in dumped for route in netlink.parse_routes(body, names)]
    leases, problems = lease_files.read(now=time.time())
    return Picture(
        links=sorted(links, key=lambda one: one.index),
        addresses=sorted((one for one in addresses if one), key=lambda one: (one.link, one.address)),
        routes=sorted(routes, key=lambda one: (one.destination, one.metric, one.link, one.gateway)),
        resolver=read_resolver(resolv_conf),
        leases=leases,
        problems=problems,
    )


def difference(before: Picture, after: Picture) -> str:
    """One line: what came and what went, the first twenty by name."""
    changes: list[tuple[str, object]] = []
    for name, old, new in (
        ("link", before.links, after.links),
        ("address", before.addresses, after.addresses),
        ("route", before.routes, after.routes),
    ):
        # By sets: tables may have tens of thousands of entries.
        was, now = set[object](old), set[object](new)
        changes += [(f"- {name}", one) for one in old if one not in now]
        changes += [(f"+ {name}", one) for one in new if one not in was]
    parts = [f"{what} {_short(one)}" for what, one in changes[:_CHANGES_NAMED]]
    if len(changes) > _CHANGES_NAMED:
        parts.append(f"and {len(changes) - _CHANGES_NAMED} changes more")
    if before.resolver != after.resolver:
        parts.append(f"resolver {after.resolver.manager} {' '.join(after.resolver.nameservers)}")
    if before.leases != after.leases:
        parts.append(f"{len(after.leases)} leases name a WireServer")
    parts += [problem for problem in after.problems if problem not in before.problems]
    return "; ".join(parts)


async def wakes(dirty: asyncio.Event) -> None:
    """Set `dirty` whenever the kernel announces a change, or lost count of them, for ever. Raises OSError."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0) as watched:
        with contextlib.suppress(PermissionError):
            watched.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _QUEUE_BYTES)
        watched.bind((0, netlink.GROUPS))
        while True:
            await _readable(watched)
            _drain(watched)
            dirty.set()
            # What comes in a burst is looked at once.
            await asyncio.sleep(_DEBOUNCE)


async def _readable(watched: socket.socket) -> None:
    """Watched only while somebody waits: the loop would turn without a pause as long as there is something to read."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(watched, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(watched)


def _drain(watched: socket.socket) -> None:
    # Not for ever: announcements may come faster than they are thrown away.
    for _ in range(_BURST):
        try:
            watched.recv(1)  # takes the whole of it from the queue
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


def _short(one: object) -> str:
    return repr(one).partition("(")[2].rstrip(")")
