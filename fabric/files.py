"""Files that are old or new, never between."""

import contextlib
import fcntl
import hashlib
import io
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from fabric.errors import Unwritable


class Unfinished:
    """A file on its way: gone at the end of the block unless it was put in its place. Raises Unwritable."""

    def __init__(self, folder: Path) -> None:
        with writable(folder):
            descriptor, name = _begun(folder)
        self._path = Path(name)
        self.file: io.BufferedRandom = os.fdopen(descriptor, "w+b")

    def write(self, part: bytes) -> None:
        with writable(self._path.parent):
            self.file.write(part)
            # A full disk says so now, while nothing has changed.
            self.file.flush()

    def sha256(self) -> str:
        """Of what was written so far."""
        self.file.seek(0)
        return hashlib.file_digest(self.file, "sha256").hexdigest()

    def place(self, path: Path, mode: int = 0o644, *, lasting: bool = True) -> None:
        """In the same folder; of several at once, the last. `lasting` waits for the disk."""
        with writable(path):
            self.file.flush()
            os.fchmod(self.file.fileno(), mode)
            if lasting:
                os.fsync(self.file.fileno())
            self._path.replace(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._path.unlink(missing_ok=True)
        # What could not be written before cannot be now either.
        with contextlib.suppress(OSError):
            self.file.close()


def write_whole(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Raises Unwritable."""
    with Unfinished(path.parent) as unfinished:
        unfinished.write(data)
        unfinished.place(path, mode)


def forget_unfinished(folder: Path) -> None:
    """Remove what a host left that was killed while it wrote; not what another worker is writing."""
    for left in folder.glob(".*.tmp"):
        # It may have come to its place meanwhile.
        with contextlib.suppress(FileNotFoundError), left.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            left.unlink()


def _begun(folder: Path) -> tuple[int, str]:
    """A new file, open and held for as long as it is open. Raises OSError."""
    while True:
        descriptor, name = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=folder)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH)
            if os.fstat(descriptor).st_nlink:
                return descriptor, name
        except OSError:
            os.close(descriptor)
            Path(name).unlink(missing_ok=True)
            raise
        # Between the two calls it was taken for a killed host's.
        os.close(descriptor)


@contextlib.contextmanager
def writable(path: Path) -> Iterator[None]:
    """What the system refuses in this block is Unwritable."""
    try:
        yield
    except OSError as error:
        raise Unwritable(f"{path} cannot be written: {error.strerror}") from error
