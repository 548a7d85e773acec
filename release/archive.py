"""The zip around a version or layer: written the same way each time, read as if an enemy had made it."""

import hashlib
import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from release.errors import BadPackage
from release.manifest import (
    BUNDLE,
    BYTES_LIMIT,
    FILES_LIMIT,
    LISTING,
    MANIFEST,
    SIGNATURES,
    SIZE_LIMIT,
    File,
    why_unsafe,
)

_OURS = {MANIFEST, SIGNATURES, LISTING, BUNDLE}
_WHAT = {LISTING: "layer", BUNDLE: "bundle"}
_REGULAR = 0o100644 << 16
_CHUNK = 1 << 16
# 5000 files need less than a tenth of it.
_DIRECTORY_LIMIT = 4 << 20

# What zipfile and zlib raise for bytes that are no zip, beside OSError.
_DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    ValueError,
    NotImplementedError,
    RuntimeError,
    OverflowError,
)


def pack(contents: Mapping[str, bytes]) -> bytes:
    """A zip of these files: names in order, one time, one mode."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for name in sorted(contents):
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.create_system = 3
            entry.external_attr = _REGULAR
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, contents[name])
    return target.getvalue()


class Archive:
    """An open zip whose directory has been looked at: plain files with plain names, each once."""

    def __init__(self, path: Path, opened: zipfile.ZipFile, entries: dict[str, zipfile.ZipInfo]) -> None:
        self.path = path
        self._opened = opened
        self._entries = entries

    def has(self, name: str) -> bool:
        return name in self._entries

    def small(self, name: str) -> bytes:
        """One of our own files. Raises BadPackage."""
        if name not in self._entries:
            raise BadPackage(self.path, f"has no {name}: it is no {_WHAT.get(name, 'package')} of ours")
        return b"".join(self._pieces(name, SIZE_LIMIT))

    def contents(self, files: Mapping[str, File]) -> Iterator[tuple[str, bytes]]:
        """Every file in order, each checked before it is given out. Raises BadPackage."""
        self.check_names(files)
        for name in sorted(files):
            data = b"".join(self._pieces(name, files[name].size))
            if len(data) != files[name].size or hashlib.sha256(data).hexdigest() != files[name].sha256:
                raise BadPackage(self.path, f"{name} is not the file that was signed")
            yield name, data

    def check_names(self, files: Mapping[str, File]) -> None:
        """Exactly these files and our own. Raises BadPackage."""
        found = self._entries.keys() - _OURS
        if added := found - files.keys():
            raise BadPackage(self.path, f"{min(added)} is not in its manifest")
        if missing := files.keys() - found:
            raise BadPackage(self.path, f"{min(missing)} is missing")
        for name, file in files.items():
            if self._entries[name].file_size != file.size:
                raise BadPackage(self.path, f"{name} is not as long as its manifest says")

    def _pieces(self, name: str, limit: int) -> Iterator[bytes]:
        # The zip's own idea of sizes is not to be trusted: count what comes out.
        left = limit
        try:
            with self._opened.open(self._entries[name]) as stream:
                while piece := stream.read(_CHUNK):
                    left -= len(piece)
                    if left < 0:
                        raise BadPackage(self.path, f"{name} unpacks to more than {limit} bytes")
                    yield piece
        except _DAMAGE as error:
            raise BadPackage(self.path, f"{name} cannot be unpacked: {error}") from error
        except OSError as error:
            raise BadPackage(self.path, f"cannot be read: {error.strerror}") from error


class _Careful:
    """The zip as the library sees it, which reads a directory whole and makes an object of each entry.

    500 bytes of memory for 50 of the file: nobody could count them before the memory is gone.
    """

    def __init__(self, path: Path, file: BinaryIO) -> None:
        self._path = path
        self._file = file
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        if size < 0:
            # All that is left is asked for of the end only, which has 22 bytes and a comment of less than 64 KiB.
            return self._file.read(1 << 17)
        if size > _DIRECTORY_LIMIT:
            raise BadPackage(self._path, f"has a directory of more than {_DIRECTORY_LIMIT} bytes")
        return self._file.read(size)


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Raises BadPackage for anything but a zip of plain files."""
    with ExitStack() as open_ones:
        try:
            file = open_ones.enter_context(path.open("rb"))
            if (size := path.stat().st_size) > BYTES_LIMIT:
                raise BadPackage(path, f"has {size} bytes, limit {BYTES_LIMIT}")
            careful: Any = _Careful(path, file)
            opened = open_ones.enter_context(zipfile.ZipFile(careful))
        except OSError as error:
            raise BadPackage(path, f"cannot be read: {error.strerror or error}") from error
        except _DAMAGE as error:
            raise BadPackage(path, f"is no zip, or is cut short: {error}") from error
        yield Archive(path, opened, _entries(path, opened))


def _entries(path: Path, opened: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    entries: dict[str, zipfile.ZipInfo] = {}
    infos = opened.infolist()
    if len(infos) > FILES_LIMIT + len(_OURS):
        raise BadPackage(path, f"holds {len(infos)} files, limit {FILES_LIMIT}")
    if sum(info.file_size for info in infos) > BYTES_LIMIT:
        raise BadPackage(path, f"would unpack to more than {BYTES_LIMIT} bytes")
    for info in infos:
        # zipfile cuts a name at NUL and keeps what it was.
        name = info.orig_filename
        if name not in _OURS and (reason := why_unsafe(name)):
            raise BadPackage(path, f"holds {name!r}, which {reason}")
        if name in entries:
            raise BadPackage(path, f"holds {name} twice")
        # Which of rwx it says is of no account: all are written as 0644.
        if (info.external_attr >> 16) & ~0o777 not in {0, stat.S_IFREG}:
            raise BadPackage(path, f"{name} is no plain file (mode {info.external_attr >> 16:o})")
        if info.flag_bits & 1 or info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
            raise BadPackage(path, f"{name} is encrypted or packed in a way that is not ours")
        entries[name] = info
    return entries
