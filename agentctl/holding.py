"""What ends a command from outside: Ctrl-C, SIGTERM, and SIGHUP when the terminal is gone; at a moment that suits.

By handlers, not by a mask: that is of one thread, and a signal to the process then finds another.
"""

import os
import select
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Handler = Callable[[int, FrameType | None], object]


@contextmanager
def handled(handler: Handler, which: Sequence[signal.Signals] = ENDINGS) -> Iterator[None]:
    """In the block these are handled so. One that is ignored already (nohup, a job of `sh`) stays ignored."""
    before = {one: found for one in which if (found := signal.getsignal(one)) != signal.SIG_IGN}
    try:
        for one in before:
            signal.signal(one, handler)
        yield
    finally:
        for one, found in before.items():
            signal.signal(one, found)


def interrupted(number: int, _: FrameType | None) -> NoReturn:
    """A handler. Raises KeyboardInterrupt."""
    _noted(number)
    raise KeyboardInterrupt


@contextmanager
def passed_over() -> Iterator[None]:
    """Whatever arrives in the block changes nothing."""
    with handled(lambda number, _: _noted(number)):
        yield


@contextmanager
def held(*, impatience: bool = True) -> Iterator[None]:
    """What arrives in the block counts at its end; a second one at once, if `impatience`. Raises KeyboardInterrupt."""
    arrived = []

    def note(number: int, _: FrameType | None) -> None:
        _noted(number)
        arrived.append(number)
        if impatience and len(arrived) > 1:
            raise KeyboardInterrupt

    with handled(note):
        yield
    if arrived:
        raise KeyboardInterrupt


@contextmanager
def heard(which: Sequence[signal.Signals]) -> Iterator[socket.socket]:
    """In the block each of these that arrives is one byte to receive, its number, and nothing else."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.setblocking(False)
        before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        try:
            with handled(lambda number, _: _noted(number), which):
                yield ours
        finally:
            signal.set_wakeup_fd(before)


def _noted(number: int) -> None:
    """What is printed on a terminal that is gone has to go somewhere: the rest is still to be done."""
    if number != signal.SIGHUP:
        return
    for descriptor in (1, 2):
        look = select.poll()
        look.register(descriptor, 0)
        if any(events & (select.POLLERR | select.POLLHUP) for _, events in look.poll(0)):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, descriptor)
            os.close(nowhere)
