"""Every step that changes the disk, one method each, so that a test can stop us before any of them.

Raises OSError as the system does.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path


def _go_on(_step: str, _path: Path) -> None:
    pass


class Disk:
    """`before` is told each step and its path ahead of doing it."""

    def __init__(self, before: Callable[[str, Path], object] = _go_on) -> None:
        self._before = before

    def make_folder(self, path: Path, mode: int = 0o755) -> None:
        """A new one; raises FileExistsError."""
        self._before("mkdir", path)
        path.mkdir(mode)
        # The umask may have taken bits away.
        path.chmod(mode)

    def write(self, path: Path, data: bytes, mode: int = 0o644) -> None:
        """A new file, on disk when this returns; its name is not, before the folder is synced."""
        self._before("create", path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(path, flags, mode), "wb") as file:
            self._before("write", path)
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            self._before("fsync", path)
            os.fsync(file.fileno())

    def replace(self, source: Path, target: Path) -> None:
        self._before("rename", target)
        source.replace(target)

    def sync_folder(self, path: Path) -> None:
        """Make what was created, renamed or removed in it survive a power cut."""
        self._before("fsync-folder", path)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def link(self, path: Path, to: str) -> None:
        """Point the symbolic link `path` elsewhere, in one step; a reader never misses it."""
        temporary = path.with_name(f".{path.name}.tmp")
        self.remove(temporary)
        self._before("symlink", path)
        temporary.symlink_to(to)
        self.replace(temporary, path)
        self.sync_folder(path.parent)

    def remove(self, path: Path) -> None:
        """A file, a link or a whole folder, if it is there."""
        if not os.path.lexists(path):
            return
        self._before("remove", path)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
