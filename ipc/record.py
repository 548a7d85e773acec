"""Emitting entries for the durable record.

`emit` returns after one write call to the emitter's own segment file, so a killed process loses nothing. A segment is
handed to telemetry over the bus and forgotten once telemetry has it in its journal. Leftovers of an earlier instance
are handed over first. A budget bounds what piles up while telemetry is away; what it costs is recorded too.
"""

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from ipc.bus import Bus
from ipc.contract.every import Hello
from ipc.contract.telemetry import Entry, Record
from ipc.errors import IpcError, Refused
from ipc.places import Places

MESSAGE_LIMIT = 3072
"""Characters of one entry's message: what the host's telemetry takes (protocol: extension events)."""

WORD_LIMIT = 256

_SEGMENT_BYTES = 256 * 1024
_BUDGET_BYTES = 8 * 1024 * 1024
_BATCH_BYTES = 100 * 1024
_PAUSE_LIMIT = 60.0

logger = logging.getLogger("ipc")


class Emitter:
    """One per process. `emit` may be called from any task of the loop; `deliver` is a loop of the component."""

    def __init__(self, places: Places, bus: Bus, component: str, version: str, redact: Callable[[str], str]) -> None:
        self._folder = places.state_of(component) / "entries"
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._bus = bus
        self._component = component
        self._version = version
        self._redact = redact
        self._boot = _boot_id()
        self._wake = asyncio.Event()
        self._dropped = 0
        self._delivered = 0
        self._open_segment()
        bus.on(Hello, self._telemetry_is_back, of="telemetry")

    def emit(
        self,
        operation: str,
        message: str = "",
        *,
        ok: bool = True,
        subject: str = "",
        subject_version: str = "",
        correlation: str = "",
        duration_ms: int | None = None,
    ) -> Entry:
        """Write one entry down. Never raises for a full disk: that is logged, and counted as dropped."""
        entry = Entry(
            id=uuid.uuid4().hex,
            at=time.time(),
            monotonic=time.clock_gettime(time.CLOCK_BOOTTIME),
            boot=self._boot,
            component=self._component,
            version=self._version,
            pid=os.getpid(),
            operation=operation,
            ok=ok,
            message=_unicode(self._redact(message), MESSAGE_LIMIT),
            subject=_unicode(subject, WORD_LIMIT),
            subject_version=_unicode(subject_version, WORD_LIMIT),
            correlation=_unicode(correlation, WORD_LIMIT),
            duration_ms=duration_ms,
        )
        try:
            if os.fstat(self._descriptor).st_size >= _SEGMENT_BYTES:
                self._roll()
            self._append(msgspec.json.encode(entry) + b"\n")
        except OSError as error:
            self._dropped += 1
            logger.warning("entry %s lost, %s cannot be written: %s", operation, self._segment, error.strerror)
        self._wake.set()
        return entry

    async def deliver(self) -> None:
        """Hand segments to telemetry, oldest first, for ever; waits with growing pauses while it is away."""
        pause = 1.0
        while True:
            try:
                await self._deliver_all()
                pause = 1.0
                await self._wake.wait()
            except (IpcError, OSError) as error:
                logger.debug("entries are kept here for now: %s", error)
                self._wake.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._wake.wait()
                pause = min(pause * 2, _PAUSE_LIMIT)

    async def _deliver_all(self) -> None:
        self._wake.clear()
        for path in self._segments():
            if path != self._segment and not _is_locked(path):
                await self._hand_over(path, 0)
                path.unlink()
        # What is written while we wait for an answer wakes the next round.
        segment = self._segment
        delivered = await self._hand_over(segment, self._delivered)
        if segment != self._segment:
            # It was full meanwhile: the next round hands over the whole of it, and the journal drops second copies.
            return
        self._delivered = delivered
        if self._delivered == os.fstat(self._descriptor).st_size > 0:
            os.ftruncate(self._descriptor, 0)
            self._delivered = 0

    async def _hand_over(self, path: Path, start: int) -> int:
        """Deliver the entries of a segment from `start` on; the offset behind the last one delivered."""
        for end, batch in _batches(path, start):
            try:
                await self._bus.ask(Record(entries=batch), within=5.0)
            except Refused as refusal:
                if refusal.code != "bad-request":
                    raise
                # Asking again would bring the same answer and hold up all that comes after.
                self._dropped += len(batch)
                logger.warning("%d entries given up: %s", len(batch), refusal)
            start = end
        return start

    def _segments(self) -> list[Path]:
        return sorted(self._folder.glob("*.jsonl"))

    def _append(self, line: bytes) -> None:
        """Raises OSError."""
        # One write call: after it the bytes are the kernel's, whatever becomes of us.
        written = os.write(self._descriptor, line)
        if written < len(line):
            # Half a line would spoil the next one.
            os.ftruncate(self._descriptor, os.fstat(self._descriptor).st_size - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _roll(self) -> None:
        before = self._descriptor
        try:
            self._open_segment()
        except OSError as error:
            logger.warning("no new segment, %s grows on: %s", self._segment, error.strerror)
            return
        os.close(before)
        self._keep_budget()

    def _open_segment(self) -> None:
        """Raises OSError; the one before is then still in use."""
        # Wall time orders the segments; the lock tells a successor that this one is still being written.
        segment = self._folder / f"{time.time_ns():020d}-{os.getpid()}.jsonl"
        self._descriptor = os.open(segment, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._segment, self._delivered = segment, 0

    def _keep_budget(self) -> None:
        segments = self._segments()
        total = sum(path.stat().st_size for path in segments)
        for path in segments[:-1]:
            if total <= _BUDGET_BYTES:
                return
            size, lost = path.stat().st_size, path.read_bytes().count(b"\n")
            path.unlink()
            total -= size
            self._dropped += lost
            self.emit(
                "EntriesDropped", f"{lost} entries ({size} bytes) given up: telemetry was away too long", ok=False
            )

    def _telemetry_is_back(self, _: Hello) -> None:
        self._wake.set()


def _batches(path: Path, start: int) -> Iterator[tuple[int, list[Entry]]]:
    """The entries of a segment from `start` on, in handfuls that fit a frame, each with the offset behind it.

    A line that a power failure cut short or damaged is passed over.
    """
    batch: list[Entry] = []
    size, end = 0, start
    with path.open("rb") as file:
        file.seek(start)
        for line in file:
            if size + len(line) > _BATCH_BYTES and batch:
                yield end, batch
                batch, size = [], 0
            end += len(line)
            size += len(line)
            try:
                batch.append(msgspec.json.decode(line, type=Entry))
            except (msgspec.DecodeError, UnicodeDecodeError):
                logger.warning("%s: a damaged line is passed over", path)
    if batch:
        yield end, batch


def _is_locked(path: Path) -> bool:
    """Whether another instance still writes to this segment."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _unicode(text: str, limit: int) -> str:
    """Cut, and without the lone surrogates in which Python keeps a file name that is no UTF-8."""
    return text[:limit].encode("utf-8", "replace").decode()


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
