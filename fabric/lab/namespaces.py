"""Sockets and acts inside another network namespace. Only the calling thread ever enters one, and it ends there."""

import contextlib
import ctypes
import fcntl
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from fabric.errors import FabricError
from fabric.sockets import listening

_NEW_NETWORK = 0x40000000
_ETHTOOL = 0x8946
_SET_TX_CHECKSUM = 0x17
_libc = ctypes.CDLL(None, use_errno=True)

Found = TypeVar("Found")


class NoNamespace(FabricError):
    """The namespace cannot be made or entered."""


def bind_in(namespace: Path, address: str, port: int) -> socket.socket:
    """A listening TCP socket inside a network namespace. Raises FabricError."""
    with _opened(namespace) as descriptor:
        return inside(descriptor, lambda: listening(address, port, where=f" in {namespace}"))


def inside(namespace: int, act: Callable[[], Found]) -> Found:
    """Do something inside a network namespace, given as a descriptor. Raises NoNamespace, and what `act` raises."""

    def enter() -> Found:
        if _libc.setns(namespace, _NEW_NETWORK):
            raise NoNamespace(f"cannot enter the network namespace: {_reason()}")
        return act()

    return _in_a_thread(enter)


def new_network() -> int:
    """A network namespace nobody is in; it lives as long as its descriptor, or what it made. Raises NoNamespace."""

    def leave() -> int:
        if _libc.unshare(_NEW_NETWORK):
            raise NoNamespace(f"cannot make a network namespace: {_reason()}")
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    return _in_a_thread(leave)


def without_offload(interface: str) -> None:
    """Real checksums, and packets no longer than the MTU, as a wire would carry them. Raises OSError."""
    value = ctypes.create_string_buffer(struct.pack("II", _SET_TX_CHECKSUM, 0))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        fcntl.ioctl(one, _ETHTOOL, struct.pack("16sP16x", interface.encode(), ctypes.addressof(value)))


def without_ipv6() -> None:
    """No interface of this namespace says anything by itself. Raises OSError."""
    for which in ("all", "default"):
        setting = Path(f"/proc/sys/net/ipv6/conf/{which}/disable_ipv6")
        if setting.exists():
            setting.write_text("1")


def _in_a_thread(act: Callable[[], Found]) -> Found:
    found: list[Found] = []
    raised: list[FabricError | OSError] = []

    def run() -> None:
        try:
            found.append(act())
        except (FabricError, OSError) as error:
            raised.append(error)

    thread = threading.Thread(target=run, name="namespace")
    thread.start()
    thread.join()
    if raised:
        raise raised[0]
    return found[0]


@contextlib.contextmanager
def _opened(namespace: Path) -> Iterator[int]:
    try:
        descriptor = os.open(namespace, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise NoNamespace(f"{namespace} cannot be opened: {error.strerror}") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _reason() -> str:
    return os.strerror(ctypes.get_errno())
