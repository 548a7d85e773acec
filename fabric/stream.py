"""News for pages that watch: one look at the host for all of them, sent to each as server-sent events."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.responses import StreamingResponse

from fabric.errors import FabricError, Refused
from fabric.host import Host
from fabric.state import Told
from fabric.vmorders import listed

PAUSE = 0.5
"""Seconds between two looks, at least."""
FALLBACK = 3.0
"""Seconds until a look that nothing asked for: other workers of a fleet do not wake this one."""
WATCHERS_LIMIT = 200
_SHARE = 20
"""A look is followed by a pause at least so many times as long."""
_SILENCE = 10.0
"""Seconds after which a page hears something, so that it knows that the line holds."""


class Pulse:
    """One loop's object. It looks only while somebody watches, and once for all who do."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._watchers = 0
        self._looking: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._beat = asyncio.Event()
        self._topics: set[str] = set()
        # The number of the newest look that saw something, and of the look that saw each thing change last.
        self._number = 0
        self._vms: dict[str, tuple[int, bytes]] = {}
        self._gone: dict[str, int] = {}
        self._faults: tuple[int, bytes] = (0, b"")
        self._lines = 0
        self._trouble = ""

    def admit(self) -> None:
        """Raises Refused: too many watch already."""
        if self._watchers >= WATCHERS_LIMIT:
            raise Refused(503, f"{WATCHERS_LIMIT} pages watch this host already: close some")

    async def watch(self) -> AsyncIterator[bytes]:
        """Server-sent events until the host ends: first everything there is, then what changed."""
        self._watchers += 1
        try:
            if self._looking is None:
                self._host.changes.listen(self._heard)
                self._looking = asyncio.create_task(self._look_for_ever())
            yield b"retry: 1000\n\n"
            # Somebody may have changed something since the others' last look.
            self._look()
            seen = 0
            while not self._host.closing:
                if self._number > seen:
                    yield self._news(seen)
                    seen = self._number
                elif seen:
                    yield b"event: still\ndata: {}\n\n"
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._beat.wait(), _SILENCE)
        finally:
            self._watchers -= 1
            if not self._watchers and self._looking is not None:
                self._host.changes.unlisten(self._heard)
                self._looking.cancel()
                self._looking = None

    async def _look_for_ever(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._host.closing:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), FALLBACK)
            self._wake.clear()
            began = loop.time()
            if self._look():
                self._tell()
            await asyncio.sleep(max(PAUSE, _SHARE * (loop.time() - began)))

    def _heard(self, topic: str) -> None:
        self._topics.add(topic)
        self._wake.set()
        if self._host.closing:
            self._tell()

    def _tell(self) -> None:
        self._beat.set()
        self._beat = asyncio.Event()

    def _look(self) -> bool:
        """Whether there is something new."""
        topics, self._topics = self._topics, set()
        number = self._number + 1
        try:
            told = self._host.ledger.summaries()
            found = {vm.name: msgspec.json.encode(listed(vm, told.get(vm.name, Told()))) for vm in self._host.vms()}
            faults = msgspec.json.encode(self._host.faults.listed())
            trouble = ""
        except FabricError as error:
            # Say so, and go on showing what was known.
            found, faults = {name: shown for name, (_, shown) in self._vms.items()}, self._faults[1]
            trouble = str(error)
        news = trouble != self._trouble
        self._trouble = trouble
        for name, shown in found.items():
            if self._vms.get(name, (0, b""))[1] != shown or topics & {name, f"{name}/told"}:
                self._vms[name] = (number, shown)
                self._gone.pop(name, None)
                news = True
        for name in self._vms.keys() - found.keys():
            del self._vms[name]
            self._gone[name] = number
            news = True
        if faults != self._faults[1]:
            self._faults = (number, faults)
            news = True
        if "transcript" in topics:
            self._lines = number
            news = True
        if news:
            self._number = number
        return news

    def _news(self, seen: int) -> bytes:
        """What changed after that look; everything after none."""
        document: dict[str, Any] = {
            "at": self._host.clock.now(),
            "all": seen == 0,
            "vms": [msgspec.Raw(shown) for number, shown in self._vms.values() if number > seen],
            "gone": [name for name, number in self._gone.items() if number > seen],
            "lines": self._lines > seen,
            "trouble": self._trouble,
        }
        if self._faults[0] > seen:
            document["faults"] = msgspec.Raw(self._faults[1])
        return b"event: news\ndata: " + msgspec.json.encode(document) + b"\n\n"


def add_routes(api: FastAPI, host: Host) -> None:
    """Into the control API."""
    pulse = Pulse(host)

    @api.get("/api/stream", response_class=StreamingResponse)
    async def stream() -> StreamingResponse:
        """Server-sent events `news`: VMs and faults as they change, at most twice a second; ends with the host."""
        pulse.admit()
        headers = {"Cache-Control": "no-store"}
        return StreamingResponse(pulse.watch(), media_type="text/event-stream", headers=headers)
