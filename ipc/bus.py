"""Asking neighbours and hearing their events."""

import asyncio
import itertools
import logging
import os
import secrets
import time
from collections.abc import Callable
from typing import TypeVar

import zmq

from ipc.contract import EVENTS
from ipc.errors import FrameError, NoAnswer, Refused
from ipc.frame import Header, Kind, RefusalBody, decode_body, decode_header, encode, why_foreign
from ipc.message import Event, R, Request
from ipc.places import Places
from ipc.sockets import LoopSocket

E = TypeVar("E", bound=Event)

logger = logging.getLogger("ipc")


class BadFrames:
    """Counts frames that are no message of ours, and logs the first of each kind."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    def note(self, origin: str, error: FrameError) -> None:
        key = f"{origin}/{error.kind}"
        self.counts[key] = self.counts.get(key, 0) + 1
        if self.counts[key] == 1:
            logger.warning("bad frame from %s (further ones of this kind are only counted): %s", origin, error)


class Bus:
    """One process's side of all conversations it starts. Use from one event loop, close when done."""

    def __init__(self, places: Places, sender: str, version: str) -> None:
        """`sender` is the component's (or tool's) name; two instances may share it."""
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.bad_frames = BadFrames()
        self._places = places
        self._version = version
        self._sender = f"{sender}/{os.getpid()}/{secrets.token_hex(4)}"
        self._numbers = itertools.count(1)
        self._asking: dict[str, LoopSocket] = {}
        self._hearing: dict[str, LoopSocket] = {}
        self._waiting: dict[str, asyncio.Future[tuple[Header, bytes] | None]] = {}
        self._questions: dict[str, int] = {}
        self._listeners: dict[str, list[Callable[[Event], None]]] = {}

    async def ask(self, request: Request[R], *, to: str = "", within: float = 2.0) -> R:
        """Ask the component that speaks `request` (or `to`, for what every component answers).

        Raises Refused (it said no, or speaks another major version), NoAnswer (nobody did within `within` seconds),
        FrameError (the answer is garbage).
        """
        component = to or request.speaker
        header = self.header("request", request.wire_name(), deadline=time.monotonic() + within)
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[tuple[Header, bytes] | None] = loop.create_future()
        self._waiting[header.id] = answer
        self._questions[component] = self._questions.get(component, 0) + 1
        # A plain timer: a timeout block costs twice as much.
        timer = loop.call_later(within, _give_up, answer)
        try:
            if not self._connected(component).send(encode(header, request)):
                raise NoAnswer(component, header.name, "too many requests are waiting for it")
            found = await answer
        finally:
            timer.cancel()
            del self._waiting[header.id]
            self._questions[component] -= 1
        if found is None:
            self._let_go(component)
            raise NoAnswer(component, header.name, f"nothing within {within:g} s")
        answered, body = found
        if why := why_foreign(answered):
            raise Refused(header.name, "unsupported", why)
        if answered.kind == "refusal":
            refusal = decode_body(body, RefusalBody)
            raise Refused(header.name, refusal.code, refusal.reason)
        reply: R = decode_body(body, request.reply)  # type: ignore[assignment]  # R is bound to this very class
        return reply

    def on(self, kind: type[E], listener: Callable[[E], None], *, of: str = "") -> None:
        """Call `listener` for each such event of its speaker (or of `of`, for what every component announces).

        Events wake: one may be lost while its speaker restarts.
        """
        component = of or kind.speaker
        self._listeners.setdefault(f"{component}:{kind.wire_name()}", []).append(listener)  # type: ignore[arg-type]  # only fed `kind`
        if component not in self._hearing:
            socket = LoopSocket(self.context, zmq.SUB, lambda frames: self._heard(component, frames))
            socket.subscribe_all()
            socket.connect(str(self._places.events_socket(component)))
            self._hearing[component] = socket

    def header(self, kind: Kind, name: str, *, answers: str | None = None, deadline: float | None = None) -> Header:
        """A header of ours, with a fresh id or that of the question it answers."""
        return Header(
            id=f"{self._sender}/{next(self._numbers)}" if answers is None else answers,
            kind=kind,
            name=name,
            sender=self._sender,
            version=self._version,
            deadline=deadline,
        )

    def close(self) -> None:
        for socket in (*self._asking.values(), *self._hearing.values()):
            socket.close()
        self.context.term()

    def _connected(self, component: str) -> LoopSocket:
        socket = self._asking.get(component)
        if socket is None:
            socket = LoopSocket(self.context, zmq.DEALER, lambda frames: self._answered(component, frames))
            socket.connect(str(self._places.requests_socket(component)))
            self._asking[component] = socket
        return socket

    def _let_go(self, component: str) -> None:
        """A neighbour that does not answer is looked for often, so not while nobody waits for it."""
        if not self._questions[component] and (socket := self._asking.pop(component, None)):
            socket.close()

    def _answered(self, component: str, frames: list[bytes]) -> None:
        try:
            header = decode_header(frames)
        except FrameError as error:
            self.bad_frames.note(component, error)
            return
        waiting = self._waiting.get(header.id)
        # A late answer to a question nobody waits for any more is dropped here.
        if waiting is not None and not waiting.done():
            waiting.set_result((header, frames[1]))

    def _heard(self, component: str, frames: list[bytes]) -> None:
        try:
            header = decode_header(frames)
            kind = EVENTS.get(header.name)
            if kind is None:
                return  # a newer neighbour's event
            event = _event(header, frames[1], kind)
        except FrameError as error:
            self.bad_frames.note(component, error)
            return
        for listener in self._listeners.get(f"{component}:{header.name}", ()):
            listener(event)


def _event(header: Header, body: bytes, kind: type[E]) -> E:
    """Raises FrameError (`body`, `protocol`)."""
    if why := why_foreign(header):
        raise FrameError("protocol", why)
    return decode_body(body, kind)


def _give_up(answer: "asyncio.Future[tuple[Header, bytes] | None]") -> None:
    if not answer.done():
        answer.set_result(None)
