"""One package on its way from one mirror: confirmed or downloaded, unpacked, and only then kept."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO
from urllib.parse import parse_qs, urlsplit

import msgspec

from guestagent.cache import Cache, Held
from guestagent.errors import PackageError
from guestagent.handlermanifest import HandlerManifest
from guestagent.layout import HandlerFolder
from guestagent.mirrors import CHANNELS, Attempt, Channel
from guestagent.package import PACKAGE_LIMIT, unpack
from wire.download import Downloaded, Patience, Unchanged
from wire.hostplugin import HostPlugin
from wire.http import HttpClient
from wire.part import Part

Approve = Callable[[Path, HandlerManifest], None]
"""Looks at a zip and its manifest before it is put in place; raises what ends the matter."""

_ANSWER_SECONDS = 30.0
# With a copy at hand, nobody is waited for long.
_ANSWER_WITH_COPY = 10.0
# Slower than this, a mirror is not worth while as long as another is left.
_SLOWEST = 32 * 1024.0


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be had."""

    folder: HandlerFolder
    plugin: HostPlugin
    manifest_url: str
    fast_track: bool
    approve: Approve | None
    held: Held | None
    """The copy that is here."""


class Way:
    """From any mirror into the handler's folder and into the cache."""

    def __init__(self, client: HttpClient, cache: Cache, order: Order) -> None:
        self._client = client
        self._cache = cache
        self._order = order

    def bring(self, attempt: Attempt) -> HandlerManifest:
        """By one mirror and channel. Raises HostError, PackageError, OSError, and what `approve` raises."""
        target = self._target(attempt.url, attempt.channel)
        in_one_piece = False
        try:
            while True:
                done = self._cache.with_room(lambda: self._download(attempt, target))
                if done == "unchanged":
                    return self._confirmed()
                try:
                    manifest = self._unpack(target, target)
                except PackageError:
                    if in_one_piece or not done.resumed:
                        raise
                    # Put together from several answers, it may be damaged by that.
                    in_one_piece = True
                else:
                    self._keep(target, done, attempt.url)
                    return manifest
        finally:
            target.unlink(missing_ok=True)

    def unpack_copy(self, held: Held) -> HandlerManifest:
        """Raises PackageError, OSError, and what `approve` raises."""
        # Another process can read it by this path, whatever becomes of its name.
        return self._unpack(held.file, Path(f"/proc/{os.getpid()}/fd/{held.file.fileno()}"))

    def forget_parts(self, urls: tuple[str, ...]) -> None:
        """It is here now: what broke off elsewhere is of no use any more."""
        for url in urls:
            for channel in CHANNELS:
                Part(self._target(url, channel)).drop()

    def _confirmed(self) -> HandlerManifest:
        held, folder = self._order.held, self._order.folder
        if held is None:
            raise PackageError(f"{folder.name} {folder.version} is unchanged, and no copy is here")
        manifest = self.unpack_copy(held)
        self._cache.confirm(folder.name, folder.version)
        return manifest

    def _keep(self, target: Path, done: Downloaded, url: str) -> None:
        folder = self._order.folder
        self._cache.put_package(
            folder.name, folder.version, target, done.sha256, location=_location(url), etag=done.etag
        )

    def _download(self, attempt: Attempt, target: Path) -> Downloaded | Unchanged:
        held = self._order.held
        known = held.etags.get(_location(attempt.url), "") if held else ""
        patience = Patience(
            answer_within=_ANSWER_WITH_COPY if held else _ANSWER_SECONDS, slowest=_SLOWEST if attempt.hurried else 0.0
        )
        if attempt.channel == "direct":
            return self._client.download(
                attempt.url, target, deadline=attempt.deadline, limit=PACKAGE_LIMIT, known=known, patience=patience
            )
        return self._order.plugin.download(
            attempt.url,
            target,
            manifest=self._order.manifest_url,
            deadline=attempt.deadline,
            limit=PACKAGE_LIMIT,
            fast_track=self._order.fast_track,
            known=known,
            patience=patience,
        )

    def _unpack(self, package: Path | BinaryIO, path: Path) -> HandlerManifest:
        def approve(manifest: HandlerManifest) -> None:
            if self._order.approve is not None:
                self._order.approve(path, manifest)

        return self._cache.with_room(lambda: unpack(package, self._order.folder.path, approve=approve))

    def _target(self, url: str, channel: Channel) -> Path:
        """What broke off by one way is gone on with by the same."""
        way = hashlib.sha256(f"{channel} {_location(url)}".encode("utf-8", "surrogatepass")).hexdigest()[:16]
        return self._order.folder.package.with_suffix(f".{way}.zip")


def _location(url: str) -> str:
    """Signatures are made anew again and again; what they are for stays the same."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return url
    return parts._replace(query="").geturl() if "sig" in parse_qs(parts.query) else url
