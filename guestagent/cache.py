"""Every manifest and package that was ever good, so that what is installed never needs the repository again.

A blob lies at `<kind>/<key>/<sha256>`: its name says what it must be, and it is compared with its name on every use.
What else is known of it stands in `index.json`, which can be lost: without it a package is merely fetched anew instead
of confirmed. Bounded; what was used longest ago goes first, what is pinned never. A disk that refuses costs a copy, and
nothing else. Blocking; may be used from several threads at once.
"""

import contextlib
import errno
import hashlib
import logging
import os
import re
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import BinaryIO, Literal, TypeVar

import msgspec

from ipc.statefile import sync_directory, write_atomically

Kind = Literal["packages", "manifests"]
KINDS: tuple[Kind, ...] = ("packages", "manifests")
NameAndVersion = tuple[str, str]
T = TypeVar("T")

# Keys become folders' names.
_NAME = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)+", re.ASCII)
_VERSION = re.compile(r"[0-9][0-9A-Za-z.-]*", re.ASCII)
_KEY_LIMIT = 220
_DIGEST = re.compile(r"[0-9a-f]{64}")
_ETAGS = 8
_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})

logger = logging.getLogger("guestagent")


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """What the index knows of a blob."""

    digest: str
    size: int
    at: float
    """UTC, seconds since the epoch, when the repository last said so."""
    url: str = ""
    """Manifests: where it came from. May hold a signature."""
    etags: dict[str, str] = {}
    """Packages: by location without its signature, newest last."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """The last good one of a handler."""

    data: bytes
    url: str
    at: float


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """A package, compared with its digest just now, and open: it may be evicted meanwhile."""

    file: BinaryIO
    at: float
    etags: dict[str, str]


class _Index(msgspec.Struct, kw_only=True):
    """Each entry is read by itself: a damaged one costs itself."""

    packages: dict[str, msgspec.Raw] = {}
    manifests: dict[str, msgspec.Raw] = {}


_Place = tuple[Kind, str]


class Cache:
    """One per process; the component's lock sees to it that there is one process."""

    def __init__(
        self, folder: Path, *, limit_bytes: int, limit_entries: int, clock: Callable[[], float] = time.time
    ) -> None:
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._limit_entries = limit_entries
        self._clock = clock
        self._lock = threading.RLock()
        self._pinned: frozenset[_Place] | None = None
        self._entries: dict[_Place, Entry] = {}
        self._used: dict[_Place, int] = {}
        self.problem = ""
        """Why the newest copy could not be kept; empty if it could."""
        self._load()

    # -- reading ---------------------------------------------------------------------------------------------------

    def manifest(self, name: str) -> Manifest | None:
        """The last good manifest of a handler."""
        with self._open(("manifests", name)) as (file, entry):
            return Manifest(data=file.read(), url=entry.url, at=entry.at) if file and entry else None

    @contextlib.contextmanager
    def package(self, name: str, version: str) -> Iterator[Held | None]:
        """The bytes of a package, as long as the context lasts."""
        with self._open(_package(name, version)) as (file, entry):
            yield Held(file=file, at=entry.at, etags=entry.etags) if file and entry else None

    def versions(self, name: str) -> dict[str, float]:
        """The packages of a handler that are here, with the time the repository last told of them."""
        with self._lock:
            keys = [key.rpartition("__") for kind, key in self._entries if kind == "packages"]
            return {key[2]: self._entries[_package(name, key[2])].at for key in keys if key[0] == name}

    @property
    def size(self) -> int:
        """Bytes of all blobs."""
        with self._lock:
            return sum(entry.size for entry in self._entries.values())

    # -- writing ---------------------------------------------------------------------------------------------------

    def put_manifest(self, name: str, data: bytes, url: str) -> None:
        """Keep a manifest that parses."""

        def write(path: Path) -> None:
            path.write_bytes(data)

        entry = Entry(digest=hashlib.sha256(data).hexdigest(), size=len(data), at=self._clock(), url=url)
        self._put(("manifests", name), entry, write)

    def put_package(self, name: str, version: str, file: Path, digest: str, *, location: str, etag: str) -> None:
        """Keep a package that could be unpacked; `file` is left where it is."""

        def write(path: Path) -> None:
            # On one file system it costs no room at all.
            try:
                os.link(file, path)
            except OSError:
                shutil.copyfile(file, path)

        try:
            size = file.stat().st_size
        except OSError as error:
            self._not_kept(error)
            return
        etags = {location: etag} if etag else {}
        entry = Entry(digest=digest, size=size, at=self._clock(), etags=etags)
        self._put(_package(name, version), entry, write)

    def confirm(self, name: str, version: str) -> None:
        """The repository said that the bytes are still the right ones."""
        place = _package(name, version)
        with self._lock:
            if place in self._entries:
                self._entries[place] = msgspec.structs.replace(self._entries[place], at=self._clock())
                self._save()

    # -- bounds ----------------------------------------------------------------------------------------------------

    def pin(self, versions: Collection[NameAndVersion]) -> None:
        """What is installed, or needed for the way back. Nothing is evicted before this was first said."""
        packages = {_package(name, version) for name, version in versions}
        manifests: set[_Place] = {("manifests", name) for name, _ in versions}
        with self._lock:
            self._pinned = frozenset(packages | manifests)
            self._evict(newest=None)

    def shrink(self) -> int:
        """Somebody needs the disk more: give up all that is not pinned. How many bytes that were."""
        with self._lock:
            before = self.size
            for place in self._evictable():
                self._remove(place)
            self._save()
            return before - self.size

    def with_room(self, act: Callable[[], T]) -> T:
        """On a full disk, once more after copies nobody needs were given up. Raises OSError."""
        try:
            return act()
        except OSError as error:
            if error.errno not in _DISK_FULL or not self.shrink():
                raise
        return act()

    # -- inside ----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _open(self, place: _Place) -> Iterator[tuple[BinaryIO | None, Entry | None]]:
        # A damaged one is given up; another may have been put in its place meanwhile.
        while (entry := self._entries.get(place)) is not None:
            file = self._verified(place, entry)
            if file is not None:
                with file:
                    yield file, entry
                return
        yield None, None

    def _verified(self, place: _Place, entry: Entry) -> BinaryIO | None:
        path = self._blob(place, entry)
        reason = "is not what it was"
        try:
            file = path.open("rb")
            if hashlib.file_digest(file, "sha256").hexdigest() == entry.digest:
                file.seek(0)
                self._touch(place, path)
                return file
            file.close()
        except OSError as error:
            reason = f"cannot be read: {error.strerror}"
        with self._lock:
            if self._entries.get(place) is entry:
                logger.warning("the copy of %s %s, and is given up", place[1], reason)
                self._remove(place)
                self._save()
        return None

    def _put(self, place: _Place, entry: Entry, write: Callable[[Path], None]) -> None:
        if not _usable(place):
            return
        path = self._blob(place, entry)
        temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
        try:
            for folder in (path.parent.parent, path.parent):
                folder.mkdir(mode=0o700, exist_ok=True)
            write(temporary)
            _synchronize(temporary)
            with self._lock:
                temporary.replace(path)
                sync_directory(path.parent)
                before = self._entries.get(place)
                if before is not None and before.digest == entry.digest:
                    entry = msgspec.structs.replace(entry, etags=_newest({**before.etags, **entry.etags}))
                self._entries[place] = entry
                self.problem = ""
                self._touch(place, path)
                self._save()
                if before is not None and before.digest != entry.digest:
                    self._blob(place, before).unlink(missing_ok=True)
                self._evict(newest=place)
        except OSError as error:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
            self._not_kept(error)

    def _not_kept(self, error: OSError) -> None:
        if not self.problem:
            logger.warning("no copy could be kept for a time without the repository: %s", error)
        self.problem = str(error)

    def _evict(self, newest: _Place | None) -> None:
        """What has just come stays, whatever its size: it is about to be installed, and pinned."""
        size, count = self.size, len(self._entries)
        for place in self._evictable():
            if size <= self._limit_bytes and count <= self._limit_entries:
                break
            if place != newest:
                size -= self._entries[place].size
                count -= 1
                self._remove(place)
        self._save()

    def _evictable(self) -> list[_Place]:
        """Used longest ago first."""
        if self._pinned is None:
            return []
        return sorted(self._entries.keys() - self._pinned, key=lambda place: self._used.get(place, 0))

    def _remove(self, place: _Place) -> None:
        entry = self._entries.pop(place)
        self._used.pop(place, None)
        path = self._blob(place, entry)
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
            path.parent.rmdir()

    def _touch(self, place: _Place, path: Path) -> None:
        """The time of a blob is the time of its last use: the order outlives the index."""
        with self._lock:
            now = max([int(self._clock() * 1e9), *(used + 1 for used in self._used.values())])
            if place in self._entries:
                self._used[place] = now
        with contextlib.suppress(OSError):
            os.utime(path, ns=(now, now))

    def _blob(self, place: _Place, entry: Entry) -> Path:
        return self._folder / place[0] / place[1] / entry.digest

    def _save(self) -> None:
        found: dict[Kind, dict[str, Entry]] = {"packages": {}, "manifests": {}}
        for (kind, key), entry in self._entries.items():
            found[kind][key] = entry
        try:
            write_atomically(self._folder / "index.json", msgspec.json.format(msgspec.json.encode(found), indent=1))
        except OSError as error:
            # The blobs' names say the same.
            self._not_kept(error)

    def _load(self) -> None:
        """What lies in the folders, and what the index knows of it; all else there is left of puts that were killed."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            self._not_kept(error)
            return
        index = _read_index(self._folder / "index.json")
        for kind in KINDS:
            known = index.packages if kind == "packages" else index.manifests
            for folder in sorted((self._folder / kind).glob("*")):
                if _usable((kind, folder.name)) and folder.is_dir():
                    try:
                        self._load_one((kind, folder.name), folder, known.get(folder.name))
                    except OSError as error:
                        logger.warning("the copy of %s cannot be read: %s", folder.name, error)
        self._save()

    def _load_one(self, place: _Place, folder: Path, record: msgspec.Raw | None) -> None:
        blobs = {path.name: path.stat() for path in folder.iterdir() if _DIGEST.fullmatch(path.name)}
        entry = _read_entry(record)
        if entry is None or entry.digest not in blobs:
            newest = max(blobs, key=lambda name: blobs[name].st_mtime_ns, default=None)
            if newest is None:
                shutil.rmtree(folder, ignore_errors=True)
                return
            entry = Entry(digest=newest, size=0, at=blobs[newest].st_mtime)
        status = blobs[entry.digest]
        self._entries[place] = msgspec.structs.replace(entry, size=status.st_size)
        self._used[place] = status.st_mtime_ns
        for path in folder.iterdir():
            if path.name != entry.digest:
                with contextlib.suppress(OSError):
                    path.unlink()


def _package(name: str, version: str) -> _Place:
    return "packages", f"{name}__{version}"


def _usable(place: _Place) -> bool:
    """Whether it can be a folder's name, and comes from nowhere else."""
    kind, key = place
    name, _, version = key.rpartition("__") if kind == "packages" else (key, "", "0")
    return bool(_NAME.fullmatch(name) and _VERSION.fullmatch(version)) and len(key) <= _KEY_LIMIT


def _newest(etags: dict[str, str]) -> dict[str, str]:
    return dict(list(etags.items())[-_ETAGS:])


def _synchronize(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fchmod(descriptor, 0o600)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_index(path: Path) -> _Index:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Index)
    except FileNotFoundError:
        return _Index()
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        logger.warning("%s is damaged, and written anew from what lies beside it: %s", path, error)
        return _Index()


def _read_entry(record: msgspec.Raw | None) -> Entry | None:
    if record is None:
        return None
    try:
        return msgspec.json.decode(record, type=Entry)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        logger.warning("an entry of the index is damaged: %s", error)
        return None
