"""The fastest that pyzmq does with the same bytes, in two processes: blocking sockets, ready frames, no checks."""

import contextlib
import time
from pathlib import Path

import zmq

from bench.bus_ours import ANSWER, SPEAKER
from ipc.contract.guestagent import GetStatus, GoalStateArrived
from ipc.frame import Header, Kind, encode
from ipc.message import Message
from ipc.places import Places


def frames(kind: Kind, message: Message, deadline: float | None = None) -> list[bytes]:
    """What ours would send."""
    sender = "bench/12345/0a1b2c3d"
    return encode(
        Header(
            id=f"{sender}/1234", kind=kind, name=message.wire_name(), sender=sender, version="1.0.0", deadline=deadline
        ),
        message,
    )


QUESTION = frames("request", GetStatus(), deadline=12345.678901)
REPLY = frames("reply", ANSWER)


def event(batch: int) -> list[bytes]:
    return frames("event", GoalStateArrived(goal_state=f"incarnation_{batch}"))


def serve(directory: Path) -> None:
    """The other process: answers, and announces as many events as it is asked for. Until SIGTERM."""
    places = Places.under(directory)
    places.run.mkdir(parents=True, exist_ok=True)
    context = zmq.Context()
    answers, events = context.socket(zmq.ROUTER), context.socket(zmq.PUB)
    answers.bind(f"ipc://{places.requests_socket(SPEAKER)}")
    events.bind(f"ipc://{places.events_socket(SPEAKER)}")
    while True:
        peer, *question = answers.recv_multipart()
        if question != QUESTION:
            batch, size = map(int, question)
            announced = event(batch)
            for _ in range(size):
                events.send_multipart(announced)
        answers.send_multipart([peer, *REPLY])


class Bare:
    """This process: asks and hears."""

    def __init__(self, directory: Path) -> None:
        places = Places.under(directory)
        self._context = zmq.Context()
        self._asking, self._hearing = self._context.socket(zmq.DEALER), self._context.socket(zmq.SUB)
        self._asking.connect(f"ipc://{places.requests_socket(SPEAKER)}")
        self._hearing.setsockopt(zmq.SUBSCRIBE, b"")
        self._hearing.connect(f"ipc://{places.events_socket(SPEAKER)}")
        self._batch = 0
        self._hearing.setsockopt(zmq.RCVTIMEO, 100)
        # Nothing is lost any more once the subscription has arrived there.
        heard = False
        while not heard:
            with contextlib.suppress(zmq.Again):
                self.events(1, 1)
                heard = True
        self._hearing.setsockopt(zmq.RCVTIMEO, -1)

    def round_trips(self, count: int) -> list[float]:
        times = []
        for _ in range(count):
            began = time.perf_counter()
            self._asking.send_multipart(QUESTION)
            self._asking.recv_multipart()
            times.append(time.perf_counter() - began)
        return times

    def requests(self, count: int, in_flight: int) -> None:
        for _ in range(in_flight):
            self._asking.send_multipart(QUESTION)
        for _ in range(count - in_flight):
            self._asking.recv_multipart()
            self._asking.send_multipart(QUESTION)
        for _ in range(in_flight):
            self._asking.recv_multipart()

    def events(self, batches: int, size: int) -> None:
        for _ in range(batches):
            self._batch += 1
            expected, heard = event(self._batch), 0
            self._asking.send_multipart([b"%d" % self._batch, b"%d" % size])
            self._asking.recv_multipart()
            while heard < size:
                heard += self._hearing.recv_multipart() == expected

    def close(self) -> None:
        self._asking.close(0)
        self._hearing.close(0)
        self._context.term()
