"""Folders that appear whole or not at all, whenever we are killed, and the leftovers of those who were."""

import contextlib
import fcntl
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

_UNFINISHED = re.compile(
    r"\.(?P<target>[A-Za-z0-9_.]+-[0-9][A-Za-z0-9.]*)\.(?P<kind>staging|[0-9a-f]{8}-old)", re.ASCII
)


@contextlib.contextmanager
def claimed(target: Path) -> Iterator[Path]:
    """An empty folder beside `target` that nobody else touches; gone afterwards, unless it was put in place.

    Whoever works on the same target waits. The kernel frees it if we are killed. Raises OSError.
    """
    folder = _staging(target)
    descriptor = _claim(folder)
    try:
        _empty(folder)
        yield folder
    finally:
        # Once it was put in place, that name is for the next one.
        if _is(folder, descriptor):
            shutil.rmtree(folder, ignore_errors=True)
        os.close(descriptor)


def put_in_place(folder: Path, target: Path) -> None:
    """The old target or the new one, `clean` sees to that. Raises OSError."""
    # A name of its own: while the old one is being removed, the next one may put another in place.
    old = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}-old")
    if target.exists() or target.is_symlink():
        target.rename(old)
    folder.rename(target)
    _remove(old)


def lay_over(folder: Path, target: Path) -> None:
    """Move everything into a target that stays where it is, file by file. Never follows a link. Raises OSError."""
    for path in sorted(folder.rglob("*")):
        there = target / path.relative_to(folder)
        if path.is_dir():
            if there.is_symlink() or not there.is_dir():
                _remove(there)
                there.mkdir()
        else:
            if there.is_dir() and not there.is_symlink():
                _remove(there)
            path.replace(there)


def clean(lib: Path) -> None:
    """Remove what killed ones left; what is being worked on is not touched. Raises OSError."""
    found: dict[str, list[Path]] = {}
    for path in lib.glob(".*"):
        if match := _UNFINISHED.fullmatch(path.name):
            found.setdefault(match["target"], []).extend([path] if match["kind"] != "staging" else [])
    for name, olds in found.items():
        target = lib / name
        with contextlib.suppress(BlockingIOError):
            descriptor = _claim(_staging(target), wait=False)
            try:
                for old in olds:
                    if not target.exists():
                        # Killed between the two renames.
                        with contextlib.suppress(FileNotFoundError):
                            old.rename(target)
                    _remove(old)
                _remove(_staging(target))
            finally:
                os.close(descriptor)


def _staging(target: Path) -> Path:
    return target.with_name(f".{target.name}.staging")


def _claim(folder: Path, *, wait: bool = True) -> int:
    """The descriptor that holds the lock. Raises BlockingIOError when somebody else does and we do not wait."""
    while True:
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError:
            os.close(descriptor)
            raise
        if _is(folder, descriptor):
            return descriptor
        # Whoever held it has put it in place, or removed it.
        os.close(descriptor)


def _is(folder: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(folder.stat(follow_symlinks=False), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        _remove(path)


def _remove(path: Path) -> None:
    """Whatever it is, as far as it can be. A link itself, not what it leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
