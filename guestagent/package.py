"""Unpacking a handler's zip: nothing is written before everything in it was found harmless."""

import contextlib
import errno
import os
import shutil
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import msgspec

from guestagent import staging
from guestagent.errors import PackageError
from guestagent.handlermanifest import SIZE_LIMIT, HandlerManifest, parse_handler_manifest

PACKAGE_LIMIT = 1024 * 1024 * 1024
"""Bytes of the zip."""

MANIFEST = "HandlerManifest.json"
VALIDATED = "package_validated"
# What we remember of a handler in its folder; a package zipped from an installed one brings an old one along.
_OURS = {PurePosixPath(name) for name in ("config/HandlerState", "config/HandlerStatus", VALIDATED)}
_ENTRY_LIMIT = 50_000
_UNPACKED_LIMIT = 4 * 1024 * 1024 * 1024
# Text compresses a hundredfold at best; what goes beyond is meant to fill the disk.
# Of the zip's list of entries: 160 for each of them.
_DIRECTORY_LIMIT = 8 * 1024 * 1024
_RATIO_LIMIT = 200
_RATIO_MATTERS_FROM = 64 * 1024 * 1024


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """How much a package may hold."""

    entries: int = _ENTRY_LIMIT
    unpacked: int = _UNPACKED_LIMIT
    ratio: int = _RATIO_LIMIT
    ratio_matters_from: int = _RATIO_MATTERS_FROM


def unpack(
    package: Path | BinaryIO,
    target: Path,
    limits: Limits | None = None,
    approve: Callable[[HandlerManifest], None] | None = None,
) -> HandlerManifest:
    """Unpack into `target`, which appears whole or not at all, every file u+x, the manifest at its root.

    Raises PackageError (the package), OSError (the disk), and what `approve` raises. An existing `target` is replaced.
    """
    with staging.claimed(target) as folder:
        manifest = _unpack(package, folder, limits or Limits())
        if approve is not None:
            approve(manifest)
        staging.put_in_place(folder, target)
    return manifest


def mend(package: Path | BinaryIO, target: Path, limits: Limits | None = None) -> HandlerManifest:
    """Put back the files of the package; what else lies in `target`, settings, status, the handler's own, stays.

    Each file is the old one or the new one. Raises PackageError, OSError.
    """
    with staging.claimed(target) as folder:
        manifest = _unpack(package, folder, limits or Limits())
        if target.is_dir():
            staging.lay_over(folder, target)
        else:
            staging.put_in_place(folder, target)
    return manifest


def _unpack(package: Path | BinaryIO, folder: Path, limits: Limits) -> HandlerManifest:
    with _opened(package) as archive:
        status = package.stat() if isinstance(package, Path) else os.fstat(package.fileno())
        for entry, path in check(archive, status.st_size, limits):
            _extract(archive, entry, folder / path)
    return _place_manifest(folder)


def check(archive: zipfile.ZipFile, size: int, limits: Limits) -> list[tuple[zipfile.ZipInfo, PurePosixPath]]:
    """Every entry with the relative path it may be written to. Raises PackageError, naming the entry.

    `size` is the zip's own: what its entries say of theirs may be pretended.
    """
    infos = archive.infolist()
    if len(infos) > limits.entries:
        raise PackageError(f"the zip has {len(infos)} entries, limit {limits.entries}")
    total = sum(info.file_size for info in infos)
    packed = min(size, sum(info.compress_size for info in infos)) or 1
    if total > limits.unpacked:
        raise PackageError(f"the zip unpacks to {total} bytes, limit {limits.unpacked}")
    if total > limits.ratio_matters_from and total > packed * limits.ratio:
        raise PackageError(f"the zip unpacks to {total // packed} times its size: a bomb")
    found: dict[PurePosixPath, zipfile.ZipInfo] = {}
    for info in infos:
        path = _safe_path(info)
        if path in found and not (_is_folder(info) and _is_folder(found[path])):
            raise PackageError(f"the zip holds {_shown(info)} twice")
        found[path] = info
    for path in found:
        for parent in path.parents:
            if parent in found and not _is_folder(found[parent]):
                raise PackageError(f"the zip holds {str(parent)[:100]!r} as a file and as a folder")
    return [(info, path) for path, info in found.items() if path.parts and path not in _OURS]


def _safe_path(info: zipfile.ZipInfo) -> PurePosixPath:
    name = info.filename.replace("\\", "/")
    kind = stat.S_IFMT(info.external_attr >> 16)
    if kind not in {0, stat.S_IFREG, stat.S_IFDIR}:
        raise PackageError(f"the zip holds {_shown(info)}, which is a link or a device")
    if info.flag_bits & 0x1:
        raise PackageError(f"the zip holds {_shown(info)} encrypted")
    if info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        # zipfile unpacks the others in memory, as large as they please.
        raise PackageError(f"the zip holds {_shown(info)}, compressed by method {info.compress_type}")
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or (len(name) > 1 and name[1] == ":"):
        raise PackageError(f"the zip holds {_shown(info)}, a path that leads out of it")
    nameless = not path.parts and not _is_folder(info)
    unprintable = any(ord(one) < 32 or one == "\x7f" for one in name)
    if nameless or unprintable or any(len(os.fsencode(part)) > 255 for part in path.parts):
        raise PackageError(f"the zip holds {_shown(info)}, a name no file can have")
    if len(os.fsencode(name)) > 1024:
        raise PackageError(f"the zip holds {_shown(info)}, a path too long")
    return path


def _is_folder(info: zipfile.ZipInfo) -> bool:
    return info.filename.endswith(("/", "\\"))


class _Careful:
    """The zip as the library sees it, which reads its directory whole and makes an object of each entry.

    500 bytes of memory for 50 of the file: nobody could count them before the memory is gone.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        if size < 0:
            # All that is left is asked for of the end only, which has 22 bytes and a comment of less than 64 KiB.
            return self._file.read(1 << 17)
        if size > _DIRECTORY_LIMIT:
            raise PackageError(f"the zip has a directory of more than {_DIRECTORY_LIMIT} bytes")
        return self._file.read(size)


@contextlib.contextmanager
def _opened(package: Path | BinaryIO) -> Iterator[zipfile.ZipFile]:
    """Raises PackageError for whatever zipfile says of a bad zip."""
    name = package.name if isinstance(package, Path) else "the zip"
    try:
        with contextlib.ExitStack() as open_ones:
            file = open_ones.enter_context(package.open("rb")) if isinstance(package, Path) else package
            careful: Any = _Careful(file)
            yield open_ones.enter_context(zipfile.ZipFile(careful))
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError) as error:
        raise PackageError(f"{name} is no usable zip: {error}") from error
    except OSError as error:
        # Asked for an offset no file can have; all else is the disk's fault.
        if error.errno != errno.EINVAL:
            raise
        raise PackageError(f"{name} is no usable zip: it names places outside of itself") from error
    except zlib.error as error:
        raise PackageError(f"{name} is damaged: {error}") from error


def _extract(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path) -> None:
    if _is_folder(entry):
        path.mkdir(parents=True, exist_ok=True)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with archive.open(entry) as source, path.open("xb") as file:
        # zipfile gives no more than the directory says, and compares the checksum.
        shutil.copyfileobj(source, file, 1 << 20)
    # Zips made elsewhere carry no modes, and real packages lack the execute bit on their own scripts.
    path.chmod(0o755)


def _place_manifest(folder: Path) -> HandlerManifest:
    """The manifest at the folder's root, taken from wherever it lies. Raises PackageError (1002, 1003)."""
    at_root = folder / MANIFEST
    if not at_root.is_file():
        deeper = [path for path in folder.rglob(MANIFEST) if path.is_file()]
        if at_root.exists() or not deeper:
            raise PackageError(f"the zip holds no {MANIFEST}", 1002)
        shutil.copyfile(min(deeper, key=lambda path: (len(path.parts), str(path))), at_root)
    with at_root.open("rb") as file:
        data = file.read(SIZE_LIMIT + 1)
    manifest = parse_handler_manifest(data)
    at_root.write_bytes(data.removeprefix(b"\xef\xbb\xbf"))
    return manifest


def _shown(info: zipfile.ZipInfo) -> str:
    return repr(info.filename[:100])
