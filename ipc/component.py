"""What every component is: a lock, two sockets, its answers, its loops, and an end."""

import asyncio
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine
from types import TracebackType
from typing import Any, TypeVar

import zmq

from ipc import takeover
from ipc.bus import Bus
from ipc.contract import PROTOCOL, REQUESTS
from ipc.contract.every import Describe, Description, Health, HealthReport, Hello
from ipc.errors import FrameError, RefusalCode, Refused
from ipc.frame import Header, Kind, RefusalBody, decode_body, decode_header, encode, why_foreign
from ipc.lock import make_private_directory
from ipc.message import Event, R, Reply, Request
from ipc.places import Places
from ipc.sockets import LoopSocket

# Requests being answered at once; past that the asker is told to come back.
_IN_FLIGHT_LIMIT = 64

Q = TypeVar("Q", bound=Request[Any])
Handler = Callable[[Any], Awaitable[Reply]]

logger = logging.getLogger("ipc")


class Component:
    """An `async with` block around one component's life: lock, sockets, dispatch; then `run` its loops."""

    def __init__(self, name: str, version: str, places: Places) -> None:
        """Takes the lock and binds. Raises UnsafeDirectory or AlreadyRunning. Call on a running event loop."""
        self.name = name
        self.version = version
        self.started_at = time.time()
        self._health = HealthReport(state="ok", since=self.started_at)
        self._handlers: dict[str, Handler] = {}
        self._in_flight: set[asyncio.Task[None]] = set()
        places.check_socket_lengths()
        make_private_directory(places.run)
        self._lock = takeover.lock(places, name)
        self.bus = Bus(places, name, version)
        self._requests = LoopSocket(self.bus.context, zmq.ROUTER, self._received)
        # XPUB tells of subscribers; a PUB socket's Hello would be gone before a neighbour has connected again.
        self._events = LoopSocket(self.bus.context, zmq.XPUB, self._subscribed)
        self._greeting = False
        self._stopping = asyncio.Event()
        self._requests.bind(str(places.requests_socket(name)))
        self._events.bind(str(places.events_socket(name)))
        self.answer(Describe, self._describe)
        self.answer(Health, self._report_health)

    async def __aenter__(self) -> "Component":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self._in_flight:
            task.cancel()
        await asyncio.gather(*self._in_flight, return_exceptions=True)
        self._requests.close()
        self._events.close()
        self.bus.close()
        self._lock.release()

    def answer(self, kind: type[Request[R]], handler: Callable[[Q], Awaitable[R]]) -> None:
        """Have `handler` answer requests of `kind`. It may raise Refused; anything else it raises is a bug."""
        self._handlers[kind.wire_name()] = handler

    def announce(self, event: Event) -> None:
        """Publish to whoever listens now."""
        self._events.send(encode(self.bus.header("event", event.wire_name()), event))

    def judge(self, health: HealthReport) -> None:
        """Say how this component is; `since` is kept while the state and what it is about stay the same."""
        before = self._health
        if (health.state, health.what) != (before.state, before.what):
            self._health = HealthReport(
                state=health.state,
                what=health.what,
                since=health.since if health.since is not None else time.time(),
                limit_seconds=health.limit_seconds,
            )

    async def run(self, *loops: Coroutine[Any, Any, None]) -> None:
        """Run the component's loops until SIGTERM or SIGINT; a loop that fails ends the process with its error."""
        stopping = self._stopping
        running_loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            running_loop.add_signal_handler(number, stopping.set)
        self._greeting = True
        self._greet()
        logger.info("%s %s runs", self.name, self.version)
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(loop) for loop in loops]
                await stopping.wait()
                for task in tasks:
                    task.cancel()
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                running_loop.remove_signal_handler(number)
        logger.info("%s ends", self.name)

    def end(self) -> None:
        """Have `run` return, as a signal would."""
        self._stopping.set()

    def _greet(self) -> None:
        self.announce(Hello(component=self.name, version=self.version, pid=os.getpid()))

    def _subscribed(self, frames: list[bytes]) -> None:
        """A neighbour listens from now on: it hears that we are here, however late it connected."""
        if self._greeting and frames[0][:1] == b"\x01":
            self._greet()

    async def _describe(self, _: Describe) -> Description:
        return Description(
            component=self.name,
            version=self.version,
            pid=os.getpid(),
            protocol_major=PROTOCOL[0],
            protocol_minor=PROTOCOL[1],
            started_at=self.started_at,
            digest=os.environ.get("AZVMAGENT_DIGEST", ""),
        )

    async def _report_health(self, _: Health) -> HealthReport:
        return self._health

    def _received(self, frames: list[bytes]) -> None:
        peer, rest = frames[0], frames[1:]
        try:
            header = decode_header(rest)
        except FrameError as error:
            self.bus.bad_frames.note("a peer", error)
            self._refuse(peer, _stranger(rest), "bad-request", str(error))
            return
        if header.kind != "request":
            return
        if why := why_foreign(header):
            self.bus.bad_frames.note(header.sender.partition("/")[0], FrameError("protocol", why))
            self._refuse(peer, header, "unsupported", why)
            return
        if header.deadline is not None and header.deadline < time.monotonic():
            return  # it waited in a queue while we were away; its sender has given up
        if len(self._in_flight) >= _IN_FLIGHT_LIMIT:
            self._refuse(peer, header, "busy", f"{_IN_FLIGHT_LIMIT} requests are being answered")
            return
        task = asyncio.get_running_loop().create_task(self._dispatch(peer, header, rest[1]))
        self._in_flight.add(task)

    async def _dispatch(self, peer: bytes, header: Header, body: bytes) -> None:
        try:
            await self._answer(peer, header, body)
        finally:
            # Here rather than by a callback: that comes a turn later, and meanwhile others would be refused.
            if (task := asyncio.current_task()) is not None:
                self._in_flight.discard(task)

    async def _answer(self, peer: bytes, header: Header, body: bytes) -> None:
        kind, handler = REQUESTS.get(header.name), self._handlers.get(header.name)
        if kind is None or handler is None:
            self._refuse(peer, header, "unsupported", f"{self.name} {self.version} does not answer {header.name}")
            return
        try:
            request = decode_body(body, kind)
        except FrameError as error:
            self.bus.bad_frames.note(header.sender.partition("/")[0], error)
            self._refuse(peer, header, "bad-request", str(error))
            return
        try:
            reply = await handler(request)
            frames = encode(self._answer_header(header, "reply", reply.wire_name()), reply)
        except Refused as refusal:
            self._refuse(peer, header, refusal.code, refusal.reason)
        except Exception as error:  # the one broad handler of all: a bug in one answer must not end the process
            logger.exception("bug while answering %s", header.name)
            self._refuse(peer, header, "failed", f"{type(error).__name__} while answering, see the log of {self.name}")
        else:
            self._requests.send([peer, *frames])

    def _refuse(self, peer: bytes, header: Header, code: RefusalCode, reason: str) -> None:
        answer = self._answer_header(header, "refusal", header.name)
        self._requests.send([peer, *encode(answer, RefusalBody(code=code, reason=reason[:1000]))])

    def _answer_header(self, header: Header, kind: Kind, name: str) -> Header:
        return self.bus.header(kind, name, answers=header.id)


def _stranger(frames: list[bytes]) -> Header:
    """A header to refuse to when the real one could not be read; the id says so."""
    return Header(id="unreadable", kind="request", name=f"{len(frames)} frames", sender="unknown", version="")
