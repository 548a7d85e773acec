"""The machine's host name, and when it changes: the kernel says so, nobody has to look again and again."""

import asyncio
import contextlib
import os
import select
from collections.abc import AsyncIterator
from pathlib import Path

_FILE = Path("/proc/sys/kernel/hostname")
_SIZE = 256


async def host_names() -> AsyncIterator[str]:
    """The present one, and each one after it. Raises OSError where /proc does not have it."""
    loop = asyncio.get_running_loop()
    changed = asyncio.Event()
    descriptor = os.open(_FILE, os.O_RDONLY | os.O_CLOEXEC)
    # The file is readable at any time; only POLLPRI means news (proc(5)), which asyncio cannot wait for by itself.
    news = select.epoll()
    try:
        news.register(descriptor, select.EPOLLPRI)
        loop.add_reader(news, changed.set)
        while True:
            changed.clear()
            news.poll(0)
            # Reading is what takes the news.
            yield os.pread(descriptor, _SIZE, 0).decode("utf-8", "replace").strip()
            await changed.wait()
    finally:
        with contextlib.suppress(ValueError):
            loop.remove_reader(news)
        news.close()
        os.close(descriptor)


def host_name() -> str:
    """The present one; empty if /proc does not say."""
    with contextlib.suppress(OSError):
        return _FILE.read_text().strip()
    return ""
