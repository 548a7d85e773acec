"""One instance of each component: a lock taken before any socket is bound.

ZeroMQ removes and replaces a socket path that is in use without a word, so a second instance would silently take the
first one's messages. The lock is an flock: the kernel drops it whatever ends the process.
"""

import errno
import fcntl
import os
import stat
from pathlib import Path

from ipc.errors import AlreadyRunning, UnsafeDirectory


def make_private_directory(path: Path) -> None:
    """Create `path` with mode 0700, or check that it is ours and nobody else can write to it.

    Raises UnsafeDirectory.
    """
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
    except FileExistsError as error:
        raise UnsafeDirectory(Path(error.filename), "is not a directory") from error
    except OSError as error:
        as_whom = ": run it as who may, or root" if error.errno in {errno.EACCES, errno.EPERM} else ""
        raise UnsafeDirectory(path, f"cannot be made: {error.strerror}{as_whom}") from error
    if not stat.S_ISDIR(found.st_mode):
        raise UnsafeDirectory(path, "is not a directory")
    if found.st_uid != os.geteuid():
        owner = f"belongs to uid {found.st_uid}, we are {os.geteuid()}"
        raise UnsafeDirectory(path, f"{owner}: run it as its owner")
    if found.st_mode & 0o022:
        raise UnsafeDirectory(path, f"can be written to by others (mode {found.st_mode & 0o777:o}): chmod 700 it")


class Lock:
    """Held from construction until `release` or the end of the process."""

    def __init__(self, path: Path, what: str) -> None:
        """Raises AlreadyRunning, naming the holder's pid where it is known."""
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(self._descriptor, 32, 0).decode("ascii", "replace").strip()
            os.close(self._descriptor)
            raise AlreadyRunning(what, f"pid {holder}" if holder else "pid unknown") from error
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        # The file stays: removing it would let two newcomers lock two different inodes.
        os.close(self._descriptor)
