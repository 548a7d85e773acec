"""Manifests and packages: from the mirrors, and when they are away, from the copies kept for that day.

Twice, Azure's VMs stood still because an artifact repository became unreadable: it was asked before anything was done
to what lay on the disk already. Here it is asked only for what is not there, and what was good once is kept.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

import msgspec

from guestagent import staging
from guestagent.cache import Cache, Manifest, NameAndVersion
from guestagent.errors import ConfigurationError, DownloadError, PackageError, VersionMissing
from guestagent.fetching import Approve, Order, Way
from guestagent.handlermanifest import HandlerManifest
from guestagent.layout import HandlerFolder
from guestagent.mirrors import Attempt, Mirrors
from guestagent.package import mend
from wire.deadline import Deadline
from wire.errors import DocumentError
from wire.hostplugin import HostPlugin
from wire.http import HttpClient
from wire.manifest import Package, choose, parse_manifest
from wire.part import Part
from wire.version import BadVersion, Version, best

_BUDGET_SECONDS = 300.0
_MANIFEST_SECONDS = 30.0
# With a copy at hand, nobody is waited for long.
_BUDGET_WITH_COPY = 60.0
_MANIFEST_WITH_COPY = 10.0
_PART_SECONDS = 24 * 3600.0

logger = logging.getLogger("guestagent")


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """Which package it is to be."""

    package: Package
    manifest_url: str
    """Empty if it is not known any more."""
    stale_since: float | None = None
    """The repository did not say so now, but at this time (UTC, seconds since the epoch)."""
    reason: str = ""
    """Then: what it said instead."""


class Fetched(msgspec.Struct, frozen=True, kw_only=True):
    """A package that is unpacked."""

    folder: HandlerFolder
    manifest: HandlerManifest
    stale_since: float | None = None
    """It is the copy that the repository confirmed at this time, and not now."""
    reason: str = ""
    """Then: what each mirror said."""


class Artifacts:
    """Blocking; may be used from several threads at once."""

    def __init__(
        self,
        client: HttpClient,
        lib: Path,
        cache: Cache,
        came: Callable[[str, bytes], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`came` is told of each manifest that was good: handler and bytes."""
        self._client = client
        self._lib = lib
        self._cache = cache
        self._came = came
        self._clock = clock
        self._mirrors = Mirrors()
        self._lock = threading.Lock()
        self._folders: dict[str, threading.Lock] = {}
        self._pinned: set[NameAndVersion] | None = None
        self._away: dict[tuple[str, str], float] = {}

    # -- how things are --------------------------------------------------------------------------------------------

    @property
    def unreachable_since(self) -> float | None:
        """Since when something that is wanted cannot be had; None when nothing is wrong."""
        return min(self.unreachable.values(), default=None)

    @property
    def unreachable(self) -> dict[str, float]:
        """The same by handler."""
        found: dict[str, float] = {}
        with self._lock:
            for (_, name), since in self._away.items():
                found[name] = min(since, found.get(name, since))
        return found

    @property
    def problem(self) -> str:
        """Why copies cannot be kept for the time being; empty if they can."""
        return self._cache.problem

    def has(self, name: str, version: str) -> bool:
        """Whether there is a copy. It is compared with its digest when it is used."""
        return version in self._cache.versions(name)

    def wanted(self, names: Collection[str]) -> None:
        """The handlers of the goal state: what could not be had for others is of no interest any more."""
        with self._lock:
            self._away = {key: since for key, since in self._away.items() if key[1] in names}

    def pin(self, versions: Iterable[NameAndVersion]) -> None:
        """What is installed, or needed for the way back: its copies stay. So do those fetched since, until the next."""
        with self._lock:
            self._pinned = set(versions)
            self._cache.pin(self._pinned)

    def clean(self) -> None:
        """Before anything else: what an earlier us left when it was killed. Parts of downloads are of use for a day."""
        try:
            staging.clean(self._lib)
            for path in self._lib.glob(".*__*.zip.*"):
                if path.suffix in Part.ENDINGS and Part.of(path).changed < self._clock() - _PART_SECONDS:
                    Part.of(path).drop()
            for path in self._lib.glob("*__*.????????????????.zip"):
                path.unlink(missing_ok=True)
        except OSError as error:
            logger.warning("what was left of downloads cannot be removed: %s", error)

    # -- which version ---------------------------------------------------------------------------------------------

    def choose(
        self, plugin: HostPlugin, name: str, version: str, locations: Iterable[str], *, fast_track: bool = False
    ) -> Choice:
        """The package for this version, by the first mirror whose manifest has it, else as it was last known.

        Raises DownloadError, VersionMissing, ConfigurationError.
        """
        _check_version(version)
        held = self._cache.manifest(name)
        answered = False

        def bring(attempt: Attempt) -> tuple[Package, bytes]:
            nonlocal answered
            left = attempt.deadline.left()
            seconds = min(left, _MANIFEST_SECONDS if held is None else _MANIFEST_WITH_COPY)
            if attempt.channel == "host":
                data = plugin.fetch(attempt.url, fast_track=fast_track, seconds=seconds)
            else:
                data = self._client.request("GET", attempt.url, deadline=Deadline.after(seconds)).body
            packages = parse_manifest(data)
            answered = True
            return choose(packages, version), data

        seconds = _BUDGET_SECONDS if held is None else _BUDGET_WITH_COPY
        try:
            found = self._mirrors.bring(f"manifest of {name}", tuple(locations), bring, seconds=seconds, code=-1)
        except DownloadError as error:
            if not answered:
                self._is_away("manifest", name)
            return self._remembered(name, version, held, error, answered=answered)
        self._is_back("manifest", name)
        package, data = found.what
        self._cache.put_manifest(name, data, found.url)
        self._came(name, data)
        return Choice(package=package, manifest_url=found.url)

    def _remembered(
        self, name: str, version: str, held: Manifest | None, error: DownloadError, *, answered: bool
    ) -> Choice:
        """As the last good manifest had it, else what is here of it.

        When manifests come and have lost the version, a copy of the package must be here: what was withdrawn is not to
        be fetched once more. Raises DownloadError.
        """
        package = _chosen(held, version) if held is not None else None
        if held is not None and package is not None and (not answered or self.has(name, package.version)):
            return Choice(package=package, manifest_url=held.url, stale_since=held.at, reason=str(error))
        here = {Version(one): at for one, at in self._cache.versions(name).items() if _is_version(one)}
        newest = best(Version(version), here)
        if newest is not None:
            package = Package(version=newest.text, uris=())
            return Choice(package=package, manifest_url="", stale_since=here[newest], reason=str(error))
        if answered:
            raise VersionMissing(str(error), error.code, error.mirrors) from error
        raise error

    # -- bytes -----------------------------------------------------------------------------------------------------

    def fetch(
        self,
        plugin: HostPlugin,
        folder: HandlerFolder,
        package: Package,
        manifest_url: str,
        *,
        approve: Approve | None = None,
        fast_track: bool = False,
    ) -> Fetched:
        """Have the package, unpacked: confirmed, or downloaded, or else the copy that is here.

        A mirror whose zip is bad has failed. Raises DownloadError (nobody brought it), PackageError (what came is bad
        everywhere), OSError (the disk), and whatever `approve` raises, after which no other mirror is tried.
        """
        with self._alone(folder), self._cache.package(folder.name, folder.version) as held:
            order = Order(
                folder=folder,
                plugin=plugin,
                manifest_url=manifest_url,
                fast_track=fast_track,
                approve=approve,
                held=held,
            )
            way = Way(self._client, self._cache, order)
            what = f"package {folder.name} {folder.version}"
            seconds = _BUDGET_SECONDS if held is None else _BUDGET_WITH_COPY
            try:
                found = self._mirrors.bring(what, package.uris, way.bring, seconds=seconds, code=1001)
            except (DownloadError, PackageError) as error:
                if isinstance(error, DownloadError) and package.uris:
                    self._is_away("package", folder.name)
                if held is None:
                    raise
                manifest = way.unpack_copy(held)
                fetched = Fetched(folder=folder, manifest=manifest, stale_since=held.at, reason=str(error))
            else:
                self._is_back("package", folder.name)
                way.forget_parts(package.uris)
                fetched = Fetched(folder=folder, manifest=found.what)
        self._pin_too(folder)
        return fetched

    def restore(self, folder: HandlerFolder) -> HandlerManifest:
        """Put the package's files back into a folder that was damaged or removed; what else lies in it stays.

        Raises PackageError if no copy is here, OSError.
        """
        with self._alone(folder), self._cache.package(folder.name, folder.version) as held:
            if held is None:
                raise PackageError(f"no copy of {folder.name} {folder.version} is here to be restored from")
            manifest = self._cache.with_room(lambda: mend(held.file, folder.path))
        self._pin_too(folder)
        return manifest

    # -- inside ----------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _alone(self, folder: HandlerFolder) -> Iterator[None]:
        """One thread at a time for each folder: one that was given up may still be at it."""
        with self._lock:
            lock = self._folders.setdefault(folder.path.name, threading.Lock())
        with lock:
            yield

    def _pin_too(self, folder: HandlerFolder) -> None:
        with self._lock:
            if self._pinned is not None:
                self._pinned.add((folder.name, folder.version))
                self._cache.pin(self._pinned)

    def _is_away(self, what: str, name: str) -> None:
        with self._lock:
            self._away.setdefault((what, name), self._clock())

    def _is_back(self, what: str, name: str) -> None:
        with self._lock:
            self._away.pop((what, name), None)


def _check_version(version: str) -> None:
    try:
        Version(version)
    except BadVersion as error:
        raise ConfigurationError(str(error)) from error


def _is_version(text: str) -> bool:
    try:
        Version(text)
    except BadVersion:
        return False
    return True


def _chosen(held: Manifest, version: str) -> Package | None:
    try:
        return choose(parse_manifest(held.data), version)
    except DocumentError:
        return None
