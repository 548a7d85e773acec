"""resolv.conf itself, where nobody owns it: only in `own` mode.

Killed at any moment, the file is the old one or the new one, and the old one is kept until it is back. Which of both it
is says its first line.
"""

import errno
import os
from pathlib import Path

from ipc.statefile import sync_directory, write_atomically
from netagent.dns.errors import DnsError, NotOurs
from netagent.dns.wanted import DnsWanted, Old
from netagent.files import read_regular
from netagent.resolver import read_resolver

MARK = "# Written by netagent; what was here before comes back when netagent is set off or stopped."

_SIZE_LIMIT = 64 * 1024
_KEPT = ("options", "sortlist")
_NOTHING = b"\0nothing was there\n"
"""Kept in place of a file that did not exist; no resolv.conf begins with a zero byte."""


class ResolvFile:
    """`backup`: in netagent's state folder."""

    def __init__(self, path: Path, backup: Path) -> None:
        self._path = path
        self._backup = backup
        # One name: what a kill leaves is written over by the next.
        self._temporary = path.with_name(f".{path.name}.netagent")

    def apply(self, wanted: DnsWanted, _: Old = ()) -> None:
        """Raises DnsError; NotOurs for a file that is somebody's."""
        try:
            before = self._read()
            deleted = before is None and self._backup.exists()
            if not deleted and not _is_ours(before):
                # Whoever wrote it since, wrote what is to come back.
                self._backup.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                write_atomically(self._backup, _NOTHING if before is None else before)
            kept = self._backup.read_bytes() if self._backup.exists() else b""
            content = _content(wanted, kept)
            if content != before:
                self._write(content)
        except OSError as error:
            raise self._failed("written", error) from error

    def undo(self, _: DnsWanted | None = None) -> None:
        """What was there before; nothing where somebody else has written since. Raises DnsError."""
        try:
            self._temporary.unlink(missing_ok=True)
            if not self._backup.exists():
                return
            if _is_ours(self._read()):
                before = self._backup.read_bytes()
                if before == _NOTHING:
                    self._path.unlink()
                    sync_directory(self._path.parent)
                else:
                    self._write(before)
            self._backup.unlink()
        except NotOurs:
            self._backup.unlink()
        except OSError as error:
            raise self._failed("given back", error) from error

    def _read(self) -> bytes | None:
        if self._path.is_symlink():
            raise NotOurs(f"{self._path} leads to {self._path.readlink()}, whose owner is not known: set DNS off")
        try:
            data = read_regular(self._path, _SIZE_LIMIT + 1)
        except FileNotFoundError:
            return None
        if len(data) > _SIZE_LIMIT:
            raise NotOurs(f"{self._path} is larger than {_SIZE_LIMIT} bytes: set DNS off, or look at it")
        manager = read_resolver(self._path).manager
        if manager != "file":
            raise NotOurs(f"{self._path} belongs to {manager}: set DNS off, or let it go first")
        return data

    def _write(self, content: bytes) -> None:
        try:
            mode = self._path.stat().st_mode & 0o777
        except FileNotFoundError:
            mode = 0o644
        descriptor = os.open(
            self._temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, mode
        )
        try:
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(file.fileno(), mode)
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            self._temporary.replace(self._path)
            sync_directory(self._path.parent)
        except OSError as error:
            self._temporary.unlink(missing_ok=True)
            if error.errno != errno.EBUSY:
                raise
            self._write_in_place(content)

    def _write_in_place(self, content: bytes) -> None:
        """A file that is a mount of its own cannot be replaced. One write, then the rest is cut off."""
        with self._path.open("r+b", buffering=0) as file:
            file.write(content)
            file.truncate(len(content))
            os.fsync(file.fileno())

    def _failed(self, what: str, error: OSError) -> DnsError:
        return DnsError(f"{self._path} cannot be {what}: {error.strerror}: mend the disk, or set DNS off")


def _is_ours(data: bytes | None) -> bool:
    return data is not None and data.startswith(MARK.encode())


def _content(wanted: DnsWanted, before: bytes) -> bytes:
    """The user's options stay."""
    lines = [MARK, *(f"nameserver {one}" for one in wanted.nameservers)]
    if wanted.search:
        lines.append(f"search {' '.join(wanted.search)}")
    kept = before.decode("utf-8", "replace").splitlines() if not before.startswith(_NOTHING) else []
    lines += [line for line in kept if line.startswith(_KEPT)]
    return ("\n".join(lines) + "\n").encode()
