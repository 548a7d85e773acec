"""How long a client may take: a connection that brings no request, or half of one, is not kept for ever."""

import asyncio
import resource
from typing import Any, ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol


class PatientProtocol(H11Protocol):
    """uvicorn's own limit begins after an answer, and ends with the first byte of the next request."""

    seconds: ClassVar[float] = 20.0
    """For the whole head of a request, and for each further piece of a body."""
    at_most: ClassVar[int] = 0
    """Connections that owe a head; the oldest of more are closed. 0: half of the files the process may open."""
    _owing: "ClassVar[dict[PatientProtocol, None]]" = {}
    """All of them, the oldest first."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self._watch()
        if len(self._owing) > (self.at_most or resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2):
            next(iter(self._owing)).give_up()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forgive()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._watch()

    def give_up(self) -> None:
        """Say why, if no answer has begun, and close."""
        self._forgive()
        half_a_head = self.conn.our_state is h11.IDLE and self.conn.trailing_data[0]
        half_a_body = self.conn.our_state is h11.SEND_RESPONSE and self.conn.their_state is h11.SEND_BODY
        if half_a_head or half_a_body:
            reason = b"the rest of the request did not come in time"
            head = b"HTTP/1.1 408 Request Timeout\r\ncontent-type: text/plain\r\nconnection: close\r\n"
            self.transport.write(head + b"content-length: %d\r\n\r\n" % len(reason) + reason)
        self.transport.close()

    def _watch(self) -> None:
        state = self.conn.their_state
        if self.transport.is_closing():
            self._forgive()
        elif state is h11.SEND_BODY:
            self._forgive()
            self._timer = self.loop.call_later(self.seconds, self._too_slow)
        elif state is h11.IDLE and (self.cycle is None or self.conn.trailing_data[0]):
            # Bytes one by one do not prolong it.
            if self not in self._owing:
                self._forgive()
                self._owing[self] = None
                self._timer = self.loop.call_later(self.seconds, self._too_slow)
        else:
            self._forgive()

    def _forgive(self) -> None:
        self._owing.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        if self.flow.read_paused:
            # It is we who do not read.
            self._watch()
        else:
            self.give_up()
