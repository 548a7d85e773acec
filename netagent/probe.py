"""Answers the load balancer's probes on the goal state's probe ports: 200 while Ready, 503 with the reason otherwise.

Only answers: nothing is opened in a firewall, and a port that a program of the user holds is left to it. A probe by
mere TCP handshake is answered by the kernel, so it says that we run, not that the VM is Ready.
"""

import asyncio
import errno
import os
import socket
import time

import msgspec

SECONDS = 5.0
"""For one connection, whatever it does."""
CONNECTIONS = 64
_PORTS = 64
_REQUEST_BYTES = 8 * 1024
_REASON_CHARACTERS = 200
_BACKLOG = 128
_METHODS = {b"GET", b"HEAD"}
_VERSIONS = {b"HTTP/1.0", b"HTTP/1.1"}
_PHRASES = {200: "OK", 400: "Bad Request", 405: "Method Not Allowed", 503: "Service Unavailable"}


class Counter(msgspec.Struct, kw_only=True):
    """What came to one port since it was opened."""

    probes: int = 0
    """Connections."""
    last_at: float = 0.0
    """Seconds since 1970; 0: never."""
    last_source: str = ""
    answers: dict[int, int] = {}
    """HTTP status: how often."""


class ProbeResponder:
    """Set `ready` and `reason` at any time: the next answer tells."""

    def __init__(self, *, seconds: float = SECONDS, connections: int = CONNECTIONS) -> None:
        self.ready = False
        self.reason = "starting"
        self.problems: dict[int, str] = {}
        """Why a wanted port is not answered."""
        self.counters: dict[int, Counter] = {}
        """Of each port that is answered."""
        self._seconds = seconds
        self._limit = connections
        self._servers: dict[int, asyncio.Server] = {}
        self._open: dict[_Connection, None] = {}

    @property
    def ports(self) -> tuple[int, ...]:
        """Those that are answered."""
        return tuple(sorted(self._servers))

    async def serve(self, ports: tuple[int, ...]) -> None:
        """Exactly these from now on. Called again, it tries again what was a problem."""
        wanted = dict.fromkeys(ports)
        for port in set(self._servers) - set(wanted):
            self._close(port)
        self.problems = {}
        for number, port in enumerate(wanted):
            if port in self._servers:
                continue
            if number >= _PORTS:
                self.problems[port] = f"the goal state names {len(wanted)} probe ports, only {_PORTS} are answered"
                continue
            try:
                await self._listen(port)
            except OSError as error:
                self.problems[port] = _problem(port, error)

    async def close(self) -> None:
        await self.serve(())

    def answer(self) -> tuple[int, str]:
        """Status and the one line that says why."""
        if self.ready:
            return 200, "ready"
        line = "".join(mark if mark.isprintable() else " " for mark in self.reason[:_REASON_CHARACTERS])
        return 503, f"not ready: {line}"

    async def _listen(self, port: int) -> None:
        if not 0 < port < 65536:
            raise OSError(errno.EINVAL, "is no port")
        counter = Counter()

        def connection() -> asyncio.Protocol:
            return _Connection(self, port, counter, self._seconds)

        listening = _socket(port)
        try:
            server = await asyncio.get_running_loop().create_server(connection, sock=listening, backlog=_BACKLOG)
        except OSError:
            listening.close()
            raise
        self._servers[port], self.counters[port] = server, counter

    def _close(self, port: int) -> None:
        self._servers.pop(port).close()
        del self.counters[port]
        for one in [one for one in self._open if one.port == port]:
            one.abort()

    def opened(self, one: "_Connection") -> None:
        # The oldest goes: who opens many and says nothing must not keep the prober out, which speaks at once.
        if len(self._open) >= self._limit:
            oldest = next(iter(self._open))
            del self._open[oldest]
            oldest.abort()
        self._open[one] = None

    def closed(self, one: "_Connection") -> None:
        self._open.pop(one, None)


class _Connection(asyncio.Protocol):
    """One request, one answer."""

    def __init__(self, responder: ProbeResponder, port: int, counter: Counter, seconds: float) -> None:
        self.port = port
        self._responder = responder
        self._counter = counter
        self._seconds = seconds
        self._received = bytearray()
        self._answered = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101  # for mypy
        self._transport = transport
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self.abort)
        source = transport.get_extra_info("peername")
        self._counter.probes += 1
        self._counter.last_at = time.time()
        self._counter.last_source = str(source[0]).removeprefix("::ffff:") if source else ""
        self._responder.opened(self)

    def data_received(self, data: bytes) -> None:
        if self._answered:
            return
        self._received += data
        status = judge(bytes(self._received))
        if status is not None:
            self._answer(status)

    def eof_received(self) -> bool:
        if not self._answered and self._received:
            self._answer(400)
        return False

    def connection_lost(self, _: Exception | None) -> None:
        self._timer.cancel()
        self._responder.closed(self)

    def abort(self) -> None:
        self._transport.abort()

    def _answer(self, status: int) -> None:
        self._answered = True
        reason = _PHRASES[status].lower()
        if status == 200:
            status, reason = self._responder.answer()
        self._counter.answers[status] = self._counter.answers.get(status, 0) + 1
        body = f"{reason}\n".encode()
        head = [
            f"HTTP/1.1 {status} {_PHRASES[status]}",
            "Content-Type: text/plain; charset=utf-8",
            f"Content-Length: {len(body)}",
            "Cache-Control: no-store",
            "Connection: close",
        ]
        if status == 405:
            head.append("Allow: GET, HEAD")
        answer = "\r\n".join([*head, "", ""]).encode()
        self._transport.write(answer if self._received.startswith(b"HEAD ") else answer + body)
        self._transport.close()


def judge(received: bytes) -> int | None:
    """200 for a probe, another status for what is none, None while more has to come. Pure."""
    line, end, _ = received.partition(b"\n")
    if end:
        words = line.rstrip(b"\r").split(b" ")
        if len(words) != 3 or not words[1] or words[2] not in _VERSIONS:
            return 400
        if words[0] not in _METHODS:
            return 405
        if b"\r\n\r\n" in received or b"\n\n" in received:
            return 200
    return 400 if len(received) > _REQUEST_BYTES else None


def _socket(port: int) -> socket.socket:
    """At all addresses of both families; IPv4 alone where there is no IPv6. Raises OSError."""
    try:
        one = socket.socket(socket.AF_INET6, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    except OSError:
        return _bound(socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC), port)
    one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    return _bound(one, port)


def _bound(one: socket.socket, port: int) -> socket.socket:
    try:
        # A port we left a moment ago is free again. What listens elsewhere is not disturbed by it.
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind(("", port))
        one.setblocking(False)
    except OSError:
        one.close()
        raise
    return one


def _problem(port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} is taken by another program, which is left to answer the probes"
    if error.errno in {errno.EACCES, errno.EPERM}:
        return f"port {port} is not allowed: give netagent CAP_NET_BIND_SERVICE"
    return f"port {port}: {os.strerror(error.errno) if error.errno else error}"
