"""ZeroMQ sockets on an asyncio loop.

libzmq's descriptor is edge-triggered: it becomes readable once and stays silent until everything was taken. So each
wake-up takes what there is, and each send looks whether something came. (zmq.asyncio does the same and costs 3 MB a
process.)
"""

import asyncio
from collections.abc import Callable

import zmq

from ipc.frame import BODY_LIMIT, HEADER_LIMIT

QUEUE_LIMIT = 1000
"""Messages held per peer; past that a request is refused to its sender and an event is dropped."""

# Plain numbers: arithmetic on pyzmq's flags costs as much as sending a frame.
_NOW = int(zmq.NOBLOCK)
_MORE_FOLLOWS = int(zmq.NOBLOCK | zmq.SNDMORE)
_READABLE = int(zmq.POLLIN)

# One turn of the loop takes no more than this, so that a flood cannot starve timers.
_BURST = 64

# How often a neighbour that is away is looked for: milliseconds at first, doubled up to the second. A look costs 20 us.
# Whoever asks should not wait longer than the neighbour is away, and lets go of its socket when there is no answer.
_LOOK_WHILE_ASKING = (10, 40)
_LOOK = (100, 1000)

OnFrames = Callable[[list[bytes]], None]


class LoopSocket:
    """A non-blocking ZeroMQ socket whose messages are handed to a function on the loop."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], kind: int, on_frames: OnFrames | None = None) -> None:
        self._socket = context.socket(kind)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.SNDHWM, QUEUE_LIMIT)
        self._socket.setsockopt(zmq.RCVHWM, QUEUE_LIMIT)
        self._socket.setsockopt(zmq.MAXMSGSIZE, HEADER_LIMIT + BODY_LIMIT)
        first, longest = _LOOK_WHILE_ASKING if kind == zmq.DEALER else _LOOK
        self._socket.setsockopt(zmq.RECONNECT_IVL, first)
        self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, longest)
        self._on_frames = on_frames
        self._loop = asyncio.get_running_loop()
        self._looked_at = [(self._socket, _READABLE)]
        self._closed = False
        if kind == zmq.XPUB:
            self._socket.setsockopt(zmq.XPUB_VERBOSE, 1)  # tell of each subscriber, not of the first one only
        self._take_is_due = False
        if on_frames is not None:
            self._loop.add_reader(self._socket.FD, self._woken)
            # Messages that came in before the reader was there raise no edge.
            self._take_soon()

    def bind(self, path: str) -> None:
        self._socket.bind(f"ipc://{path}")

    def connect(self, path: str) -> None:
        self._socket.connect(f"ipc://{path}")

    def subscribe_all(self) -> None:
        self._socket.setsockopt(zmq.SUBSCRIBE, b"")

    def send(self, frames: list[bytes]) -> bool:
        """False if the queue to the peer is full."""
        *first, last = frames
        try:
            for frame in first:
                self._socket.send(frame, _MORE_FOLLOWS)
            # A message whose first frame was taken is taken whole, or dropped whole.
            self._socket.send(last, _NOW)
        except zmq.Again:
            return False
        finally:
            # Even an attempt may swallow the descriptor's edge.
            if self._on_frames is not None and not self._take_is_due and self._has_come():
                self._take_soon()
        return True

    def close(self) -> None:
        if self._on_frames is not None and not self._closed:
            self._loop.remove_reader(self._socket.FD)
        self._closed = True
        self._socket.close()

    def _woken(self) -> None:
        # One burst a turn: what is due will take this too.
        if not self._take_is_due:
            self._take()

    def _has_come(self) -> bool:
        """Costs a third of an attempt to receive that fails. After a no, the descriptor tells when that changes."""
        return bool(zmq.zmq_poll(self._looked_at, 0))

    def _take_soon(self) -> None:
        self._take_is_due = True
        self._loop.call_soon(self._take)

    def _take(self) -> None:
        self._take_is_due = False
        if self._on_frames is None or self._closed:
            return
        for _ in range(_BURST):
            try:
                frames = self._receive()
            except zmq.Again:
                return
            self._on_frames(frames)
            if self._closed or not self._has_come():
                return
        self._take_soon()

    def _receive(self) -> list[bytes]:
        """As recv_multipart, at half its price: the frame itself says whether another follows."""
        frames = []
        more = True
        while more:
            frame = self._socket.recv(_NOW, copy=False)
            frames.append(frame.bytes)
            more = frame.more
        return frames
