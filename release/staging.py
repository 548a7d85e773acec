"""Where something is made ready or taken away: a folder of its own, locked, and room that was asked for first."""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from release.disk import Disk
from release.errors import DiskTrouble, ReleaseError
from release.manifest import File, folders_of
from release.tree import check_private

_RESERVE = 4 << 20
"""Bytes that stay free: a full disk hurts more than an old version."""
_BLOCK = 4096


@contextmanager
def staging_folder(folders: list[Path], disk: Disk, beside: Path | None = None) -> Iterator[Path]:
    """A folder to unpack in, empty, locked against a second one; `folders`, outermost first, are made and must be ours.

    Raises ReleaseError while somebody else is in it, RottenTree; every OSError inside becomes DiskTrouble.
    """
    staging = (beside or folders[-1]) / "staging"
    try:
        for path in (*folders, staging):
            if not os.path.lexists(path):
                disk.make_folder(path)
                disk.sync_folder(path.parent)
            check_private(path)
        descriptor = os.open(staging, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _empty(staging, disk)
            try:
                yield staging
            finally:
                # After a failure this gives the room back at once; what cannot be removed now is removed next time.
                with contextlib.suppress(OSError):
                    _empty(staging, disk)
        finally:
            os.close(descriptor)
    except BlockingIOError:
        raise ReleaseError(f"{staging} is in use: another unpack or collection is at work, wait for its end") from None
    except OSError as error:
        raise DiskTrouble(f"{error.filename or staging} cannot be written", error) from error


def sweep(root: Path, disk: Disk | None = None) -> None:
    """Remove what somebody who was killed left in `staging`, of all components and of the layers.

    A folder that is in use, or cannot be written, is left alone.
    """
    for staging in (*root.glob("components/*/staging"), *root.glob("deps/staging")):
        with contextlib.suppress(ReleaseError), staging_folder([staging.parent], disk or Disk()):
            pass


def _empty(staging: Path, disk: Disk) -> None:
    for left_over in list(staging.iterdir()):
        disk.remove(left_over)


def check_room(folder: Path, files: Mapping[str, File]) -> None:
    """Twice what will be written and a reserve, asked before the first byte. Raises DiskTrouble."""
    needed = 2 * sum(file.size + _BLOCK for file in files.values()) + _RESERVE
    inodes = len(files) + len(folders_of(files)) + 16
    there = os.statvfs(folder)
    no_room = OSError(errno.ENOSPC, "")
    if (free := there.f_bavail * there.f_frsize) < needed:
        no_room.strerror = f"{free >> 20} MiB free, {-(-needed >> 20)} MiB are needed: make room, then try again"
        raise DiskTrouble(f"{folder}", no_room)
    # Some file systems, btrfs among them, count none.
    if there.f_files and there.f_favail < inodes:
        no_room.strerror = f"{there.f_favail} inodes free, {inodes} are needed: remove files, then try again"
        raise DiskTrouble(f"{folder}", no_room)
