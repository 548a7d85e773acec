"""One at a time, among the threads of a process and the workers of a host."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from fabric.errors import Busy
from fabric.files import writable

_PAUSE = 0.01
"""Seconds between two tries."""


@contextlib.contextmanager
def locked(file: Path, seconds: float) -> Iterator[None]:
    """Nobody else is in such a block with that file (flock(2)); the kernel ends it for who is killed in it. Blocking.

    Raises Unwritable, and Busy if it is somebody else's for so long.
    """
    with writable(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        # Each one opens it anew: that is what keeps threads apart, too.
        lock = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _take(lock, file, seconds)
        yield
    finally:
        os.close(lock)


def _take(lock: int, file: Path, seconds: float) -> None:
    until = time.monotonic() + seconds
    while not _is_taken(lock, file):
        if time.monotonic() >= until:
            raise Busy(f"another worker of this host has held {file} for {seconds:g} s: try again, or end that worker")
        time.sleep(_PAUSE)


def _is_taken(lock: int, file: Path) -> bool:
    with writable(file):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True
