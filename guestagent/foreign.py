"""Reading files that extensions write: only regular ones, never through a link, and never waiting for anybody.

A pipe in the place of a status file would otherwise hold whoever opens it for ever; a link would show the host what it
leads to.
"""

import os
import stat
from pathlib import Path

import msgspec


class NotAFile(OSError):
    """A pipe, a device, a folder or a link stands where a file should."""


class Content(msgspec.Struct, frozen=True):
    """What a file held when it was read."""

    data: bytes
    written_at: float
    """UTC, seconds since the epoch."""


def read(path: Path, limit: int) -> Content:
    """At most `limit` bytes. Raises NotAFile, OSError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if path.is_symlink():
            raise NotAFile(error.errno, "is a link, not a file", str(path)) from error
        raise
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode):
        os.close(descriptor)
        raise NotAFile(0, "is not a regular file", str(path))
    with os.fdopen(descriptor, "rb") as file:
        return Content(file.read(limit), found.st_mtime)
