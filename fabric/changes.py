"""Who waits for what: a VM's wishes changed, or something was told."""

import asyncio
from collections import defaultdict
from collections.abc import Callable

ANYTHING = ""
"""The topic of whoever watches all of it."""


class Changes:
    """One loop's object."""

    def __init__(self) -> None:
        self.closing = False
        self._waiting: defaultdict[str, set[asyncio.Future[None]]] = defaultdict(set)
        self._listeners: list[Callable[[str], None]] = []

    def listen(self, listener: Callable[[str], None]) -> None:
        """Call it with every topic that is told; also with ANYTHING, when the host ends."""
        self._listeners.append(listener)

    def unlisten(self, listener: Callable[[str], None]) -> None:
        self._listeners.remove(listener)

    def tell(self, topic: str) -> None:
        """Wake who waits for this, and who watches everything."""
        for listener in self._listeners:
            listener(topic)
        for name in {topic, ANYTHING}:
            for one in self._waiting.pop(name, ()):
                if not one.done():
                    one.set_result(None)

    async def wait(self, topic: str, done: Callable[[], bool], seconds: float) -> None:
        """Return when `done()`, the time is up, or the host ends."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while not self.closing and not done():
            left = until - loop.time()
            if left <= 0:
                return
            waiter: asyncio.Future[None] = loop.create_future()
            self._waiting[topic].add(waiter)
            try:
                await asyncio.wait([waiter], timeout=left)
            finally:
                self._waiting[topic].discard(waiter)
                if not self._waiting[topic]:
                    del self._waiting[topic]

    def close(self) -> None:
        """Wake everybody."""
        self.closing = True
        for topic in {*self._waiting, ANYTHING}:
            self.tell(topic)
