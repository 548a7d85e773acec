"""State on disk: JSON documents written whole or not at all, read back with their types checked."""

import os
from pathlib import Path
from typing import TypeVar

import msgspec

from ipc.enumeration import mended
from ipc.errors import StateError

S = TypeVar("S", bound=msgspec.Struct)


def write_atomically(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Put `data` at `path` so that a reader, or a machine that loses power, sees the old content or the new.

    Raises OSError (the disk is full, read-only, gone); the old content is then untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            # The umask may have taken bits away, and a leftover of an earlier crash may have had others.
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make a rename or unlink in `directory` survive a power cut."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_state(path: Path, state: msgspec.Struct) -> None:
    """Write a state struct; the folder is made (0700) if missing. Raises OSError."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    write_atomically(path, msgspec.json.format(msgspec.json.encode(state), indent=1))


def read_state(path: Path, kind: type[S]) -> S | None:
    """Read a state struct back; None if there is none yet.

    Unknown fields (a newer version wrote them) are ignored, unknown words are read as in messages. Raises StateError
    for anything that is not a `kind`.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StateError(path, f"cannot be read: {error.strerror}") from error
    try:
        try:
            return msgspec.json.decode(data, type=kind)
        except msgspec.ValidationError:
            known_words = mended(msgspec.json.decode(data), kind)
            return msgspec.json.decode(msgspec.json.encode(known_words), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise StateError(path, f"is damaged: {error}") from error
