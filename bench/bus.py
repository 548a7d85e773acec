"""Our bus beside bare pyzmq: round trip, requests and events per second.

They take turns, so that a busy machine disturbs all of them.

python -m bench.bus
"""

import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from bench import bus_asyncio, bus_bare, bus_ours
from bench.table import Figures, show

ROUNDS = 10
ROUND_TRIPS = 500
REQUESTS = 4000
IN_FLIGHT = 32
BATCHES = 10
# What a subscriber has not taken yet must fit its queue of 1000, else it is dropped.
BATCH = 500


class Side(Protocol):
    """One way to talk to the other process."""

    def round_trips(self, count: int) -> list[float]:
        """Seconds of each question with its answer, one after the other."""

    def requests(self, count: int, in_flight: int) -> None:
        """So many questions with their answers, several on the way at once."""

    def events(self, batches: int, size: int) -> None:
        """Hear so many; the next batch is announced once all of the last one arrived."""

    def close(self) -> None: ...


@contextmanager
def side(serve: Callable[[Path], None], talk: Callable[[Path], Side]) -> Iterator[Side]:
    """Its other process lives until the block ends."""
    with tempfile.TemporaryDirectory() as directory:
        process = multiprocessing.get_context("spawn").Process(target=serve, args=(Path(directory),), daemon=True)
        process.start()
        try:
            found = talk(Path(directory))
            try:
                yield found
            finally:
                found.close()
        finally:
            process.terminate()
            process.join()


class Readings:
    """Of one side, over all rounds."""

    def __init__(self) -> None:
        self.trips: list[float] = []
        self.requests: list[float] = []
        self.events: list[float] = []

    def take(self, one: Side) -> None:
        self.trips += one.round_trips(ROUND_TRIPS)
        self.requests.append(per_second(REQUESTS, lambda: one.requests(REQUESTS, IN_FLIGHT)))
        self.events.append(per_second(BATCHES * BATCH, lambda: one.events(BATCHES, BATCH)))

    def figures(self) -> Figures:
        percentiles = statistics.quantiles(self.trips, n=100)
        return {
            "round_trip_p50_us": percentiles[49] * 1e6,
            "round_trip_p99_us": percentiles[98] * 1e6,
            "requests_per_s": statistics.median(self.requests),
            "events_per_s": statistics.median(self.events),
        }


def per_second(count: int, work: Callable[[], None]) -> float:
    began = time.perf_counter()
    work()
    return count / (time.perf_counter() - began)


def main() -> None:
    mine, bare, on_loop = Readings(), Readings(), Readings()
    with (
        side(bus_ours.serve, bus_ours.Ours) as ours_side,
        side(bus_bare.serve, bus_bare.Bare) as bare_side,
        side(bus_asyncio.serve, bus_asyncio.OnLoop) as loop_side,
    ):
        for _ in range(ROUNDS):
            mine.take(ours_side)
            bare.take(bare_side)
            on_loop.take(loop_side)
    show("bus", mine.figures(), {"bare pyzmq": bare.figures(), "zmq.asyncio": on_loop.figures()})


if __name__ == "__main__":
    main()
