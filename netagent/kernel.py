"""The rtnetlink sockets: whole tables read, single changes made, announcements waited for."""

import asyncio
import contextlib
import errno
import itertools
import socket
from collections.abc import Callable

from netagent import netlink

_BURST = 1000
_RECEIVE = 256 * 1024
_TRIES = 5
_PATIENCE = 5.0
_SO_RCVBUFFORCE = 33
_QUEUE_BYTES = 1024 * 1024
_NETFILTER, _NFTABLES_GROUP = 12, 1 << 6
"""NETLINK_NETFILTER and its group NFNLGRP_NFTABLES."""

_numbers = itertools.count(1)


async def wakes(dirty: asyncio.Event, pause: Callable[[], float]) -> None:
    """Set `dirty` whenever the kernel announces a change, or lost count of them, for ever. Raises OSError.

    What comes within `pause` seconds of the last is looked at once.
    """
    await _wakes(dirty, pause, 0, netlink.GROUPS)


async def firewall_wakes(dirty: asyncio.Event, pause: Callable[[], float]) -> None:
    """The same for nft's rules."""
    await _wakes(dirty, pause, _NETFILTER, _NFTABLES_GROUP)


async def _wakes(dirty: asyncio.Event, pause: Callable[[], float], protocol: int, groups: int) -> None:
    kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    with socket.socket(socket.AF_NETLINK, kind, protocol) as watched:
        with contextlib.suppress(PermissionError):
            watched.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _QUEUE_BYTES)
        watched.bind((0, groups))
        while True:
            await _readable(watched)
            _drain(watched)
            dirty.set()
            await asyncio.sleep(pause())


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


def dump(request: int, wanted: int) -> list[bytes]:
    """The bodies of a whole table. Raises NetlinkError, OSError."""
    for _ in range(_TRIES):
        try:
            return _dump_once(request, wanted, next(_numbers) & 0xFFFFFFFF)
        except netlink.Interrupted:
            continue
    raise netlink.NetlinkError(f"the table changed while it was read, {_TRIES} times")


def _dump_once(request: int, wanted: int, sequence: int) -> list[bytes]:
    found: list[bytes] = []
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as asking:
        asking.settimeout(_PATIENCE)
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


def act(request: Callable[[int], bytes]) -> None:
    """Make one change and wait until it is made. Raises NetlinkError (with the kernel's number), OSError."""
    sequence = next(_numbers) & 0xFFFFFFFF
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0) as asking:
        asking.settimeout(_PATIENCE)
        asking.bind((0, 0))
        asking.send(request(sequence))
        while True:
            data, (sender, _) = asking.recvfrom(_RECEIVE)
            if sender != 0:
                continue  # only the kernel is believed
            for message in netlink.messages(data):
                if message.sequence == sequence and netlink.is_acknowledged(message):
                    return
