"""pyzmq's own asyncio sockets with the same bytes, in two processes: what the loop costs, before types and checks."""

import asyncio
import contextlib
import time
from pathlib import Path

import zmq.asyncio

from bench.bus_bare import QUESTION, REPLY, event
from bench.bus_ours import SPEAKER
from ipc.places import Places


def serve(directory: Path) -> None:
    """The other process: answers, and announces as many events as it is asked for. Until SIGTERM."""
    places = Places.under(directory)
    places.run.mkdir(parents=True, exist_ok=True)

    async def live() -> None:
        context = zmq.asyncio.Context()
        answers, events = context.socket(zmq.ROUTER), context.socket(zmq.PUB)
        answers.bind(f"ipc://{places.requests_socket(SPEAKER)}")
        events.bind(f"ipc://{places.events_socket(SPEAKER)}")
        while True:
            peer, *question = await answers.recv_multipart()
            if question != QUESTION:
                batch, size = map(int, question)
                announced = event(batch)
                for _ in range(size):
                    await events.send_multipart(announced)
            await answers.send_multipart([peer, *REPLY])

    asyncio.run(live())


class OnLoop:
    """This process: asks and hears."""

    def __init__(self, directory: Path) -> None:
        places = Places.under(directory)
        self._runner = asyncio.Runner()
        self._batch = 0
        self._runner.run(self._start(places))

    def round_trips(self, count: int) -> list[float]:
        async def talk() -> list[float]:
            times = []
            for _ in range(count):
                began = time.perf_counter()
                await self._asking.send_multipart(QUESTION)
                await self._asking.recv_multipart()
                times.append(time.perf_counter() - began)
            return times

        return self._runner.run(talk())

    def requests(self, count: int, in_flight: int) -> None:
        async def talk() -> None:
            for _ in range(in_flight):
                await self._asking.send_multipart(QUESTION)
            for _ in range(count - in_flight):
                await self._asking.recv_multipart()
                await self._asking.send_multipart(QUESTION)
            for _ in range(in_flight):
                await self._asking.recv_multipart()

        self._runner.run(talk())

    def events(self, batches: int, size: int) -> None:
        async def listen() -> None:
            for _ in range(batches):
                await self._hear(size)

        self._runner.run(listen())

    def close(self) -> None:
        self._context.destroy(0)
        self._runner.close()

    async def _start(self, places: Places) -> None:
        self._context = zmq.asyncio.Context()
        self._asking, self._hearing = self._context.socket(zmq.DEALER), self._context.socket(zmq.SUB)
        self._asking.connect(f"ipc://{places.requests_socket(SPEAKER)}")
        self._hearing.setsockopt(zmq.SUBSCRIBE, b"")
        self._hearing.connect(f"ipc://{places.events_socket(SPEAKER)}")
        # Nothing is lost any more once the subscription has arrived there.
        heard = False
        while not heard:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    await self._hear(1)
                heard = True

    async def _hear(self, size: int) -> None:
        self._batch += 1
        expected, heard = event(self._batch), 0
        await self._asking.send_multipart([b"%d" % self._batch, b"%d" % size])
        await self._asking.recv_multipart()
        while heard < size:
            heard += await self._hearing.recv_multipart() == expected
