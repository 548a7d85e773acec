"""The two streams: kept whole in files, their ends shown."""

import contextlib
import os
import shutil
from pathlib import Path

from guestagent.runcommand.errors import NoOutput
from guestagent.runcommand.place import Place
from guestagent.runcommand.record import make_folder
from wire.redact import redact

TAIL = 4096
"""Bytes of each stream that a status shows."""

KEPT_RUNS = 20
"""Outputs kept per name."""

# Looked at before the tail is cut off, so that a secret is whole when it is looked for.
_CONTEXT = 8192


def tail(path: Path, limit: int = TAIL) -> str:
    """The last `limit` bytes as text: what is no UTF-8 replaced, NULs dropped, secrets taken out."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - limit - _CONTEXT))
            data = file.read(limit + _CONTEXT)
    except OSError:
        return ""
    text = redact(data.decode("utf-8", "replace").replace("\0", ""))
    # A character cut in two is dropped, not replaced: it was whole in the stream.
    return text.encode()[-limit:].decode("utf-8", "ignore")


def open_both(place: Place) -> tuple[int, int]:
    """Descriptors of both files, empty, for a script to write to. Raises NoOutput."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        make_folder(place.stdout.parent)
        out = os.open(place.stdout, flags, 0o600)
        try:
            return out, os.open(place.stderr, flags, 0o600)
        except OSError:
            os.close(out)
            raise
    except OSError as error:
        raise NoOutput(f"{place.stdout.parent}: {error.strerror}") from error


def link_beside_script(place: Place) -> None:
    """`stdout` and `stderr` where the original has them, unless the order brought files of those names."""
    for path in (place.stdout, place.stderr):
        with contextlib.suppress(OSError):
            (place.work / path.name).symlink_to(path)


def forget_old(place: Place) -> None:
    """Keep the outputs of the newest runs of this name."""
    numbers = sorted(
        (int(path.name) for path in place.outputs.glob("*") if path.name.isascii() and path.name.isdigit()),
        reverse=True,
    )
    for number in numbers[KEPT_RUNS:]:
        shutil.rmtree(place.outputs / str(number), ignore_errors=True)
