"""The beginning of a download that broke off, kept beside its target to be gone on with (RFC 9110, sections 13, 14).

Bytes of two different packages must never meet: a beginning is worth something only together with the strong ETag and
the length of what it begins, and both are compared with what the server says of the rest.
"""

import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

_ETAG_LIMIT = 256
_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})")
_CHUNK = 1 << 20


class DiskError(Exception):
    """An OSError of the disk, dressed so that nobody takes it for one of the network's."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """What the bytes are the beginning of."""

    etag: str
    total: int


class Rest(msgspec.Struct, frozen=True, kw_only=True):
    """What is still to be asked for: from `start` on, of that."""

    start: int
    note: Note


class Part:
    """`.<target>.part`, and `.<target>.note` that says what it is. One thread at a time. Raises DiskError."""

    ENDINGS = (".part", ".note")

    @classmethod
    def of(cls, path: Path) -> "Part":
        """Of one of its two files."""
        return cls(path.with_name(path.stem.removeprefix(".")))

    def __init__(self, target: Path) -> None:
        self._target = target
        self._path = target.with_name(f".{target.name}.part")
        self._note = target.with_name(f".{target.name}.note")

    @property
    def size(self) -> int:
        try:
            return self._path.stat().st_size
        except OSError:
            return 0

    @property
    def changed(self) -> float:
        """UTC, seconds since the epoch; 0 if there are no bytes."""
        try:
            return self._path.stat().st_mtime
        except OSError:
            return 0.0

    def rest(self) -> Rest | None:
        """None if there is nothing to go on with."""
        size = self.size
        try:
            note = msgspec.json.decode(self._note.read_bytes(), type=Note)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        if not 0 < size <= note.total or not strong_etag(note.etag):
            return None
        # A whole one that was never put in its place: its last byte is asked for, and with it whether it is current.
        return Rest(start=min(size, note.total - 1), note=note)

    def begin(self, etag: str, total: int | None) -> None:
        """An empty part. Without a strong ETag and a length it will be of no use later."""
        with _disk():
            self._note.unlink(missing_ok=True)
            self._path.write_bytes(b"")
            if total:
                # Half a note is none: there is then nothing to go on with.
                self._note.write_bytes(msgspec.json.encode(Note(etag=etag, total=total)))

    def digest(self, start: int) -> "hashlib._Hash":
        """SHA-256 of the first `start` bytes; the part is cut to them."""
        found = hashlib.sha256()
        with _disk():
            os.truncate(self._path, start)
            with self._path.open("rb") as file:
                while chunk := file.read(_CHUNK):
                    found.update(chunk)
        return found

    @contextlib.contextmanager
    def appending(self) -> Iterator[Callable[[bytes], None]]:
        """A function that writes at the end; what it was given is on the disk when all went well."""
        with _disk():
            descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

        def write(data: bytes) -> None:
            with _disk():
                left = memoryview(data)
                while left:
                    left = left[os.write(descriptor, left) :]

        try:
            yield write
            with _disk():
                os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def finish(self) -> None:
        """Whole: put it in its place."""
        with _disk():
            self._path.replace(self._target)
            self._note.unlink(missing_ok=True)

    def drop(self) -> None:
        """There is nothing to go on with."""
        for path in (self._note, self._path):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)


def usable_etag(text: str) -> str:
    """An ETag that may be sent back, as it came; empty for what may not.

    Old versions of Azure's blob service send theirs without quotes. `*` would match anything.
    """
    opaque = text.removeprefix("W/")
    usable = 0 < len(opaque) <= _ETAG_LIMIT and opaque.isascii() and opaque.isprintable()
    return text if usable and opaque != "*" and not set(opaque) & set(" ,") else ""


def strong_etag(text: str) -> str:
    """One that stands for these very bytes; empty for a weak one."""
    return "" if text.startswith("W/") else usable_etag(text)


def fits(rest: Rest, content_range: str, etag: str) -> bool:
    """Whether a 206 brings the rest of what we have the beginning of, or the beginning of that rest."""
    match = _CONTENT_RANGE.fullmatch(content_range.strip())
    if match is None or etag != rest.note.etag:
        return False
    start, end, total = (int(one) for one in match.groups())
    return start == rest.start <= end < total == rest.note.total


@contextlib.contextmanager
def _disk() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DiskError(error) from error
