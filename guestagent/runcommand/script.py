"""Scripts as they come and as they are run: byte order marks, carriage returns, execute bits."""

import codecs
import contextlib
import os
import shutil
from pathlib import Path

from guestagent.runcommand.errors import NotSaved
from guestagent.runcommand.record import make_folder

NAME = "script.sh"
_TEXT_ENDINGS = (".sh", ".txt", ".py", ".pl")
_PROGRAM = b"\x7fELF"
_PEEK = 64
# Larger files are data, whatever their name says.
_CONVERT_LIMIT = 16 * 1024 * 1024


def as_unix_text(data: bytes) -> bytes:
    """UTF-8 without a mark, lines ended as here."""
    for mark, encoding in ((codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be")):
        if data.startswith(mark):
            with contextlib.suppress(UnicodeDecodeError):
                data = data[len(mark) :].decode(encoding).encode()
            break
    return data.removeprefix(codecs.BOM_UTF8).replace(b"\r\n", b"\n")


def looks_like_text(name: str, head: bytes) -> bool:
    """By its name, or because it says which interpreter it wants."""
    return name.lower().endswith(_TEXT_ENDINGS) or as_unix_text(head[: len(head) // 2 * 2]).startswith(b"#!")


def convert_file(path: Path) -> None:
    """In place, if it is text. Raises OSError."""
    with path.open("rb") as file:
        head = file.read(_PEEK)
        if not looks_like_text(path.name, head) or os.fstat(file.fileno()).st_size > _CONVERT_LIMIT:
            return
        data = head + file.read()
    converted = as_unix_text(data)
    if converted != data:
        mode = path.stat().st_mode & 0o777
        path.unlink()
        write_executable(path, converted, mode)


def write_executable(path: Path, data: bytes, mode: int = 0o500) -> None:
    """Raises OSError; the file must not be there yet."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        os.fchmod(file.fileno(), mode)


def save(work: Path, data: bytes, *, convert: bool) -> Path:
    """The script of the settings as a file. Raises NotSaved."""
    path = work / NAME
    try:
        write_executable(path, as_unix_text(data) if convert and not data.startswith(_PROGRAM) else data)
    except OSError as error:
        raise NotSaved(f"{path}: {error.strerror}") from error
    return path


def fresh_folder(work: Path) -> None:
    """An empty folder, 0700. Raises NotSaved."""
    try:
        shutil.rmtree(work, ignore_errors=True)
        make_folder(work)
    except OSError as error:
        raise NotSaved(f"{work}: {error.strerror}") from error
