"""Between a VM's cable and its bridge: packets are delayed, lost or doubled, by a seed. Sleeps while none comes."""

import heapq
import itertools
import random
import selectors
import socket
import sys
import time

import msgspec

from fabric.lab.plan import Fault

_ALL_PROTOCOLS = 3
_PACKET = 263
_IGNORE_OUTGOING = 23
_FRAME = 65600
_QUEUE = 10000
"""As many packets wait at most; more are lost, as in a switch."""


def outcome(fault: Fault, chance: random.Random) -> list[float]:
    """How late each copy of one packet is to arrive; none of a lost one. As many draws for every packet."""
    lost = chance.random() < fault.loss
    twice = chance.random() < fault.duplicate
    late = max(0.0, fault.delay + fault.jitter * chance.uniform(-1, 1))
    return [] if lost else [late, late] if twice else [late]


def chances(fault: Fault) -> dict[str, random.Random | None]:
    """Per direction, so that traffic the one way changes nothing the other way. None: all packets pass."""
    return {
        one: random.Random(f"{fault.seed}/{one}")  # noqa: S311  # repeatable is what it is for
        if fault.direction in {one, "both"}
        else None
        for one in ("out", "in")
    }


def relay(vm_side: socket.socket, bridge_side: socket.socket, fault: Fault) -> None:
    """Until an interface goes."""
    chance = chances(fault)
    ways = {vm_side: (bridge_side, chance["out"]), bridge_side: (vm_side, chance["in"])}
    waiting: list[tuple[float, int, socket.socket, bytes]] = []
    order = itertools.count()
    with selectors.DefaultSelector() as selector:
        for one in ways:
            one.setblocking(False)
            selector.register(one, selectors.EVENT_READ)
        while True:
            pause = max(0.0, waiting[0][0] - time.monotonic()) if waiting else None
            for key, _ in selector.select(pause):
                source: socket.socket = key.fileobj  # type: ignore[assignment]
                to, draw = ways[source]
                try:
                    frame = source.recv(_FRAME)
                except OSError:
                    # The link is down, and may come up again.
                    continue
                now = time.monotonic()
                for late in outcome(fault, draw) if draw else [0.0]:
                    if len(waiting) < _QUEUE:
                        heapq.heappush(waiting, (now + late, next(order), to, frame))
            while waiting and waiting[0][0] <= time.monotonic():
                _, _, to, frame = heapq.heappop(waiting)
                try:
                    to.send(frame)
                except OSError:
                    # The other end is down or its queue full: the packet is lost, as on a wire.
                    continue


def _tap(interface: str) -> socket.socket:
    one = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL_PROTOCOLS))
    one.setsockopt(_PACKET, _IGNORE_OUTGOING, 1)
    one.bind((interface, _ALL_PROTOCOLS))
    return one


def main() -> None:
    """`python -m fabric.lab.relay VM_SIDE BRIDGE_SIDE FAULT`, in the namespace of both."""
    fault = msgspec.json.decode(sys.argv[3], type=Fault)
    with _tap(sys.argv[1]) as vm_side, _tap(sys.argv[2]) as bridge_side:
        print("ready", flush=True)  # noqa: T201  # its caller waits for it
        relay(vm_side, bridge_side, fault)


if __name__ == "__main__":
    main()
