"""Fetching manifests and packages: each mirror, directly and through the host (protocol: channels)."""

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from guestagent.errors import DownloadError, PackageError
from guestagent.handlermanifest import HandlerManifest
from guestagent.layout import HandlerFolder
from guestagent.package import PACKAGE_LIMIT, unpack
from wire.deadline import Deadline
from wire.errors import DocumentError, WireError
from wire.hostplugin import HostPlugin
from wire.http import BODY_LIMIT, HttpClient
from wire.manifest import Package, choose, parse_manifest
from wire.redact import redact

Channel = Literal["direct", "host"]
T = TypeVar("T")

_BUDGET_SECONDS = 300.0
_MANIFEST_SECONDS = 60.0

logger = logging.getLogger("guestagent")


class Fetched(msgspec.Struct, frozen=True, kw_only=True):
    """A package that is unpacked."""

    folder: HandlerFolder
    manifest: HandlerManifest


class Artifacts:
    """Blocking. The channel that worked last is tried first."""

    def __init__(self, client: HttpClient, lib: Path, log: Path) -> None:
        self._client = client
        self._lib = lib
        self._log = log
        self._first: Channel = "direct"

    def choose(self, plugin: HostPlugin, name: str, version: str, locations: Iterable[str]) -> tuple[Package, str]:
        """The package for this version, and the manifest's URL. Raises DownloadError, DocumentError."""

        def fetch(url: str, channel: Channel) -> tuple[Package, ...]:
            if channel == "host":
                return parse_manifest(plugin.fetch(url, seconds=_MANIFEST_SECONDS))
            deadline = Deadline.after(_MANIFEST_SECONDS)
            return parse_manifest(self._client.request("GET", url, deadline=deadline, limit=BODY_LIMIT).body)

        packages, url = self._from_somewhere(f"manifest of {name}", list(locations), fetch, code=-1)
        return choose(packages, version), url

    def fetch(self, plugin: HostPlugin, folder: HandlerFolder, package: Package, manifest_url: str) -> Fetched:
        """Download and unpack; a mirror whose zip is bad has failed. Raises DownloadError, PackageError."""

        def bring(url: str, channel: Channel) -> HandlerManifest:
            if channel == "host":
                deadline = Deadline.after(_BUDGET_SECONDS)
                plugin.download(url, folder.package, manifest=manifest_url, limit=PACKAGE_LIMIT, deadline=deadline)
            else:
                deadline = Deadline.after(_BUDGET_SECONDS)
                self._client.download(url, folder.package, deadline=deadline, limit=PACKAGE_LIMIT)
            try:
                return unpack(folder.package, folder.path)
            finally:
                folder.package.unlink(missing_ok=True)

        what = f"package {folder.name} {folder.version}"
        manifest, _ = self._from_somewhere(what, list(package.uris), bring, code=1001)
        return Fetched(folder=folder, manifest=manifest)

    def _from_somewhere(
        self, what: str, urls: list[str], bring: Callable[[str, Channel], T], *, code: int
    ) -> tuple[T, str]:
        """The first success over all mirrors and both channels."""
        failures: list[str] = []
        last: PackageError | None = None
        budget = Deadline.after(_BUDGET_SECONDS)
        other: dict[Channel, Channel] = {"direct": "host", "host": "direct"}
        for url in urls:
            for channel in (self._first, other[self._first]):
                if budget.left() == 0:
                    break
                try:
                    found = bring(url, channel)
                except (WireError, PackageError) as error:
                    failures.append(f"{channel}: {error}")
                    last = error if isinstance(error, PackageError) else last
                    logger.info("%s, %s: %s", what, channel, error)
                else:
                    self._first = channel
                    return found, url
        # What every mirror agrees is a bad package is the package's fault, not the network's.
        if last is not None and len([one for one in failures if str(last) in one]) == len(failures):
            raise PackageError(f"{what}: {last}", last.code)
        raise DownloadError(redact(f"{what} could not be downloaded: {'; '.join(failures) or 'no URL is given'}"), code)


def as_agent_error(error: DocumentError) -> PackageError:
    """A manifest without the wanted version, as it is told to the host."""
    return PackageError(str(error), -1)
