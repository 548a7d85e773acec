"""ZeroMQ sockets on an asyncio loop.

libzmq's descriptor is edge-triggered: it becomes readable once and stays silent until everything was taken. So each
wake-up, and each send, is followed by taking what there is. (zmq.asyncio does the same and costs 3 MB a process.)
"""

import asyncio
from collections.abc import Callable

import zmq

from ipc.frame import BODY_LIMIT, HEADER_LIMIT

QUEUE_LIMIT = 1000
"""Messages held per peer; past that a request is refused to its sender and an event is dropped."""

# One turn of the loop takes no more than this, so that a flood cannot starve timers.
_BURST = 64

OnFrames = Callable[[list[bytes]], None]


class LoopSocket:
    """A non-blocking ZeroMQ socket whose messages are handed to a function on the loop."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], kind: int, on_frames: OnFrames | None = None) -> None:
        self._socket = context.socket(kind)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.setsockopt(zmq.SNDHWM, QUEUE_LIMIT)
        self._socket.setsockopt(zmq.RCVHWM, QUEUE_LIMIT)
        self._socket.setsockopt(zmq.MAXMSGSIZE, HEADER_LIMIT + BODY_LIMIT)
        # A neighbour that is away is looked for ten times a second at first, once a second later.
        self._socket.setsockopt(zmq.RECONNECT_IVL, 100)
        self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, 1000)
        self._on_frames = on_frames
        self._loop = asyncio.get_running_loop()
        self._closed = False
        if kind == zmq.XPUB:
            self._socket.setsockopt(zmq.XPUB_VERBOSE, 1)  # tell of each subscriber, not of the first one only
        if on_frames is not None:
            self._loop.add_reader(self._socket.FD, self._take)
            # Messages that came in before the reader was there raise no edge.
            self._loop.call_soon(self._take)

    def bind(self, path: str) -> None:
        self._socket.bind(f"ipc://{path}")

    def connect(self, path: str) -> None:
        self._socket.connect(f"ipc://{path}")

    def subscribe_all(self) -> None:
        self._socket.setsockopt(zmq.SUBSCRIBE, b"")

    def send(self, frames: list[bytes]) -> bool:
        """False if the queue to the peer is full."""
        try:
            self._socket.send_multipart(frames, zmq.NOBLOCK)
        except zmq.Again:
            return False
        if self._on_frames is not None:
            self._loop.call_soon(self._take)
        return True

    def close(self) -> None:
        if self._on_frames is not None and not self._closed:
            self._loop.remove_reader(self._socket.FD)
        self._closed = True
        self._socket.close()

    def _take(self) -> None:
        if self._on_frames is None:
            return
        for _ in range(_BURST):
            if self._closed:
                return
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._on_frames(frames)
        self._loop.call_soon(self._take)
