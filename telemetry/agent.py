"""telemetry's loops and answers around the journal."""

import asyncio
import contextlib
import logging
import math
import random
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TypeVar

import msgspec

from ipc.child import module_command
from ipc.component import Component
from ipc.contract.every import HealthReport
from ipc.contract.telemetry import Entry, GetTimeline, JournalGrew, Record, Recorded, Timeline
from ipc.errors import Refused
from ipc.record import Emitter
from telemetry.config import Settings
from telemetry.extensionevents import Collected, bound_agent_events, collect, remove
from telemetry.journal import Journal, JournalError

T = TypeVar("T")

_BATCH = 200
_REPLY_ENTRIES = 200
_REPLY_BYTES = 200 * 1024
# More than the uploader takes by itself.
_UPLOAD_SECONDS = 60.0
_LONGEST_PAUSE = 600.0

logger = logging.getLogger("telemetry")


class Telemetry:
    """Owns the journal; all of its work happens in one thread."""

    def __init__(
        self,
        component: Component,
        settings: Settings,
        journal: Journal,
        find_wireserver: Callable[[], str],
        redact: Callable[[str], str],
    ) -> None:
        self._component = component
        self._settings = settings
        self._journal = journal
        self._find_wireserver = find_wireserver
        self._redact = redact
        self._thread = ThreadPoolExecutor(1, "journal")
        self._grew = asyncio.Event()

    async def record(self, request: Record) -> Recorded:
        """The reply says that the entries are on the disk."""
        entries = [self._taken_in(one) for one in request.entries]
        try:
            new = await self._do(lambda: self._journal.add(entries))
        except JournalError as error:
            self._component.judge(HealthReport(state="degraded", what=str(error)))
            raise Refused(Record.wire_name(), "not-now", str(error)) from error
        self._component.judge(HealthReport(state="ok"))
        if new:
            self._grew.set()
        return Recorded(count=len(entries))

    async def timeline(self, request: GetTimeline) -> Timeline:
        """As many entries as were asked for and fit a frame."""
        limit = max(1, min(request.limit, _REPLY_ENTRIES))
        try:
            found, dropped, last = await self._do(lambda: self._read(request, limit))
        except JournalError as error:
            raise Refused(GetTimeline.wire_name(), "not-now", str(error)) from error
        entries, cursor = _fitting(found, newest=request.after is None)
        return Timeline(entries=entries, cursor=cursor if entries else request.after or last, dropped=dropped)

    async def announce(self) -> None:
        """Say that the journal grew, several entries at once, for ever."""
        while True:
            await self._grew.wait()
            await asyncio.sleep(0.1)
            self._grew.clear()
            with contextlib.suppress(JournalError):
                self._component.announce(JournalGrew(cursor=await self._do(self._journal.last)))

    async def collect(self, emitter: Emitter, log: Path, lib: Path) -> None:
        """Keep what extensions dropped into their events folders, for ever."""
        while self._settings.extension_events_period:
            await asyncio.sleep(self._settings.extension_events_period)
            try:
                passes = await self._do(lambda: self._collect(log, lib))
            except (JournalError, OSError) as error:
                logger.warning("extension events: %s (left where they are)", error)
                continue
            for one in passes:
                if one.entries:
                    self._grew.set()
                if one.dropped:
                    text = ", ".join(f"{count} {reason}" for reason, count in sorted(one.dropped.items()))
                    emitter.emit("ExtensionEvents", f"given up: {text}", ok=False, subject=one.handler)

    def _collect(self, log: Path, lib: Path) -> list[Collected]:
        """Kept first, removed then: a crash in between keeps the same ids. Raises JournalError, OSError."""
        passes = []
        for one in collect(log):
            clean = [msgspec.structs.replace(entry, message=self._redact(entry.message)) for entry in one.entries]
            self._journal.add(clean)
            remove(one)
            passes.append(one)
        bound_agent_events(lib / "events")
        return passes

    async def upload(self, emitter: Emitter) -> None:
        """Post what the host does not have yet, for ever; failures keep everything and are waited out."""
        pause, failing = self._settings.upload_period, ""
        while self._settings.upload:
            await asyncio.sleep(pause * random.uniform(0.8, 1.0))  # noqa: S311  # spreading, not secrecy
            try:
                reason = await self._upload_waiting()
            except JournalError as error:
                reason = str(error)
            if reason and not failing:
                logger.warning("upload: %s (kept, and tried again with growing pauses)", reason)
                emitter.emit("Upload", reason, ok=False)
            elif failing and not reason:
                emitter.emit("Upload", "the host takes events again")
            failing = reason
            pause = min(pause * 2, _LONGEST_PAUSE) if reason else self._settings.upload_period

    def close(self) -> None:
        self._thread.shutdown()
        self._journal.close()

    def _taken_in(self, entry: Entry) -> Entry:
        """Redacted once more; and JSON has no word for a number that is none."""
        return msgspec.structs.replace(
            entry,
            message=self._redact(entry.message),
            at=entry.at if math.isfinite(entry.at) else 0.0,
            monotonic=entry.monotonic if math.isfinite(entry.monotonic) else 0.0,
        )

    async def _upload_waiting(self) -> str:
        """Why not everything was taken; empty when it was."""
        while waiting := await self._do(lambda: self._journal.waiting(_BATCH)):
            taken, reason = await _run_uploader(self._find_wireserver(), [entry for _, entry in waiting])
            if taken:
                last = waiting[min(taken, len(waiting)) - 1][0]
                await self._do(partial(self._journal.uploaded, last))
            if reason:
                return reason
            if taken == len(waiting) < _BATCH:
                break
        return ""

    def _read(self, request: GetTimeline, limit: int) -> tuple[list[tuple[int, Entry]], int, int]:
        found = self._journal.read(
            after=request.after, limit=limit, component=request.component, subject=request.subject
        )
        return found, self._journal.dropped(), self._journal.last()

    async def _do(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


async def _run_uploader(wireserver: str, entries: list[Entry]) -> tuple[int, str]:
    lines = b"".join(msgspec.json.encode(entry) + b"\n" for entry in entries)
    child = await asyncio.create_subprocess_exec(
        *module_command("telemetry.uploader", wireserver),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_UPLOAD_SECONDS):
            out, err = await child.communicate(lines)
    except TimeoutError:
        return 0, f"the uploader took longer than {_UPLOAD_SECONDS:g} s"
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    reason = err.decode("utf-8", "replace").strip().splitlines()
    taken = int(out) if out.strip().isdigit() else 0
    return taken, "" if child.returncode == 0 else reason[
        -1
    ] if reason else f"the uploader ended with {child.returncode}"


def _fitting(found: list[tuple[int, Entry]], *, newest: bool) -> tuple[list[Entry], int]:
    """What fits one frame: the newest of the newest, or the first of those behind a cursor."""
    kept: list[tuple[int, Entry]] = []
    size = 0
    for one in reversed(found) if newest else found:
        size += len(msgspec.json.encode(one[1]))
        if size > _REPLY_BYTES and kept:
            break
        kept.append(one)
    if newest:
        kept.reverse()
    return [entry for _, entry in kept], kept[-1][0] if kept else 0
