"""Clients that never finish what they began: they are told, and they take nobody's place."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import uvicorn

from fabric.patience import PatientProtocol

PATIENCE = 20.0


class Impatient(PatientProtocol):
    seconds: ClassVar[float] = 0.3
    at_most: ClassVar[int] = 50


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Reads the whole body, then says how long it was; /begin begins its answer before."""
    size, more = 0, True
    start = {"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]}
    if scope["path"] == "/begin":
        await send(start)
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    if scope["path"] != "/begin":
        await send(start)
    await send({"type": "http.response.body", "body": b"%2d" % size})


@contextlib.asynccontextmanager
async def served(kind: type[PatientProtocol]) -> AsyncIterator[int]:
    """The port of a real server with this protocol."""
    config = uvicorn.Config(application, lifespan="off", log_config=None, http=kind, ws="none")
    server = uvicorn.Server(config)
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        one.listen(200)
        running = asyncio.create_task(server.serve([one]))
        try:
            yield one.getsockname()[1]
        finally:
            server.should_exit = True
            await running


async def answer_to(port: int, *parts: bytes, pause: float = 0.0) -> bytes:
    """All that comes back until the server closes; our side stays open."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with contextlib.suppress(ConnectionError):
        for part in parts:
            writer.write(part)
            await writer.drain()
            # What a slow client is: it lets time pass between its pieces.
            await asyncio.sleep(pause)
    try:
        with contextlib.suppress(ConnectionError):
            return await asyncio.wait_for(reader.read(), PATIENCE)
        return b""
    finally:
        writer.close()


def test_a_head_that_does_not_come_is_not_waited_for() -> None:
    async def tried() -> None:
        async with served(Impatient) as port:
            assert await answer_to(port) == b""
            half = await answer_to(port, b"GET / HTTP/1.1\r\nHost: a\r\n")
            assert half.startswith(b"HTTP/1.1 408 ")
            assert half.endswith(b"in time")
            # Nor the second on a connection.
            second = await answer_to(port, b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HT")
            assert second.startswith(b"HTTP/1.1 200 ")
            assert b"HTTP/1.1 408 " in second

    asyncio.run(tried())


def test_bytes_one_by_one_do_not_prolong_it() -> None:
    async def tried() -> None:
        async with served(Impatient) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            sent = 0
            while not reader.at_eof() and reader.exception() is None and sent < 500:
                writer.write(b"a")
                sent += 1
                with contextlib.suppress(TimeoutError):
                    # Until it is closed, or the next byte is due.
                    await asyncio.wait_for(reader.read(1000), 0.02)
            writer.close()
            assert sent < 500

    asyncio.run(tried())


def test_a_body_that_stops_is_not_waited_for_but_a_slow_one_is() -> None:
    head = b"PUT / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 12\r\n\r\n"

    async def tried() -> None:
        async with served(Impatient) as port:
            stopped = await answer_to(port, head, b"half")
            assert stopped.startswith(b"HTTP/1.1 408 ")
            assert stopped.endswith(b"in time")
            # An answer that has begun is not mixed with another.
            begun = await answer_to(port, head.replace(b"PUT /", b"PUT /begin"), b"half")
            assert begun.startswith(b"HTTP/1.1 200 ")
            assert b"408" not in begun
            slow = await answer_to(port, head, *[b"x"] * 12, pause=0.1)
            assert slow.startswith(b"HTTP/1.1 200 ")

    asyncio.run(tried())


def test_of_too_many_that_say_nothing_the_oldest_go() -> None:
    class Patient(Impatient):
        seconds: ClassVar[float] = PATIENCE * 10

    async def tried() -> None:
        async with served(Patient) as port, contextlib.AsyncExitStack() as stack:
            opened = []
            for _ in range(120):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                stack.callback(writer.close)
                opened.append(reader)
            assert await asyncio.wait_for(opened[0].read(), PATIENCE) == b""
            answer = await answer_to(port, b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert not opened[-1].at_eof()

    asyncio.run(tried())
