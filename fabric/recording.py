"""Recordings: what the host knew at the start, then every request and order, with the answers' statuses.

A request has a line where it was answered, and one before where it came in if anything else happened in between.
One JSON document a line. Enough to have it all again: see `fabric.replay`.
"""

import binascii
import itertools
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.types import Message, Receive

from fabric import inforce
from fabric.errors import FabricError, Unwritable
from fabric.inforce import Kept
from fabric.places import Addresses
from fabric.state import VmState

if TYPE_CHECKING:
    from fabric.host import Host

logger = logging.getLogger("fabric")

_BODY_LIMIT = 4 * 1024 * 1024
_BLOBS_LIMIT = 512 * 1024 * 1024


class Beginning(msgspec.Struct, kw_only=True, tag="beginning"):
    """The first line."""

    version: int = 1
    at: float
    secret: str
    """What URLs are signed with."""
    vms: list[VmState]
    removed: int = 0
    """VMs that were no more."""
    faults: list[Kept] = []
    """In force, with their counts."""
    places: dict[str, Addresses]
    """By VM."""
    blobs: dict[str, bytes]


class Came(msgspec.Struct, kw_only=True, tag="came"):
    """A request came in. It may never have been answered: its client left."""

    number: int
    at: float
    vm: str
    server: str
    endpoint: str
    """Empty: there is no such endpoint."""


class Asked(msgspec.Struct, kw_only=True, tag="request"):
    """What a VM asked, and what it was answered."""

    number: int = 0
    """In the order in which they came in, from 1. 0: a recording of an earlier version, which does not know."""
    came: float = 0.0
    """When it came in, if nothing else happened until it was answered; 0: a line before says it."""
    at: float
    """When it was answered."""
    vm: str
    server: str
    endpoint: str
    method: str
    target: str
    """Path and query."""
    headers: list[tuple[str, str]]
    body: bytes = b""
    cut: bool = False
    """The body was longer than is kept: this request cannot be had again."""
    status: int
    fault: str = ""


class Ordered(msgspec.Struct, kw_only=True, tag="order"):
    """An order that was taken."""

    at: float
    method: str
    target: str
    content_type: str = ""
    body: bytes = b""
    cut: bool = False
    """The body was longer than is kept: this recording cannot be had again."""
    answer: bytes = b""


Entry = Beginning | Came | Asked | Ordered


class Tap:
    """Keeps a copy of a body as it is read."""

    def __init__(self, receive: Receive, limit: int = _BODY_LIMIT) -> None:
        self._receive = receive
        self._limit = limit
        self._parts: list[bytes] = []
        self._size = 0
        self.number = 0
        """The request's, once it has one."""

    async def receive(self) -> Message:
        message = await self._receive()
        part = message.get("body", b"")
        self._size += len(part)
        if self._size <= self._limit:
            self._parts.append(part)
        return message

    @property
    def cut(self) -> bool:
        return self._size > self._limit

    @property
    def body(self) -> bytes:
        return b"" if self.cut else b"".join(self._parts)


class Recorder:
    """Writes as it happens; a host that is killed loses the line it was writing."""

    def __init__(self, path: Path, host: "Host") -> None:
        """Raises Unwritable, FabricError."""
        self._host = host
        self._numbers = itertools.count(1)
        self._open: list[Came] = []
        """Requests nothing has happened after."""
        paths = host.blobs.paths("/packages/") + host.blobs.paths("/agents/") + host.blobs.paths("/status/")
        blobs = {path: host.blobs.get(path) for path in paths}
        if sum(map(len, blobs.values())) > _BLOBS_LIMIT:
            raise FabricError(f"the repository has more than {_BLOBS_LIMIT} bytes: record from a fresh --root")
        try:
            # It holds the keys of tenant certificates.
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            os.fchmod(descriptor, 0o600)
            self._file = os.fdopen(descriptor, "wb", buffering=0)
        except OSError as error:
            raise Unwritable(f"{path} cannot be written: {error.strerror}") from error
        self._write(
            Beginning(
                at=host.clock.now(),
                secret=host.secret,
                vms=[vm.state for vm in host.vms()],
                removed=host.store.removed(),
                faults=inforce.kept(host.store),
                places={vm.name: vm.addresses for vm in host.vms()},
                blobs=blobs,
            )
        )

    def came(self, vm: str, server: str, endpoint: str) -> int:
        """A request, before anything is done about it; its number."""
        number = next(self._numbers)
        self._open.append(Came(number=number, at=self._host.clock.now(), vm=vm, server=server, endpoint=endpoint))
        return number

    def asked(self, entry: Asked) -> None:
        """It was answered, just now."""
        if self._open and self._open[-1].number == entry.number:
            entry.came = self._open.pop().at
        self._write_open()
        self._write(entry)

    def ordered(self, entry: Ordered) -> None:
        self._write_open()
        self._write(entry)

    def close(self) -> None:
        self._write_open()
        self._file.close()

    def _write_open(self) -> None:
        for one in self._open:
            self._write(one)
        self._open.clear()

    def _write(self, entry: Entry) -> None:
        if self._file.closed:
            return
        try:
            self._file.write(msgspec.json.encode(entry) + b"\n")
        except OSError as error:
            logger.warning("the recording ends here, %s cannot be written: %s", self._file.name, error.strerror)
            self._host.recorder = None
            self._file.close()


def read(path: Path) -> tuple[Beginning, list[Came | Asked | Ordered]]:
    """Raises FabricError, naming the line."""
    entries: list[Any] = []
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, 1):
                try:
                    entries.append(msgspec.json.decode(line, type=Entry))
                except (msgspec.DecodeError, UnicodeDecodeError, binascii.Error) as error:
                    if not line.endswith(b"\n"):
                        break  # the host was killed while it wrote this
                    raise FabricError(f"{path} line {number} is no line of a recording: {error}") from error
    except OSError as error:
        raise FabricError(f"{path} cannot be read: {error.strerror}") from error
    if not entries or not isinstance(entries[0], Beginning) or any(isinstance(one, Beginning) for one in entries[1:]):
        raise FabricError(f"{path} is no recording: it must begin, once, with what the host knew")
    return entries[0], entries[1:]
