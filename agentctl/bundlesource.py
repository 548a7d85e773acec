"""Packages and layers out of a component repository (TUF) into a folder, for a bundle."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from tuf.api.exceptions import DownloadError, DownloadHTTPError, ExpiredMetadataError, RepositoryError
from tuf.api.metadata import Metadata, Targets
from tuf.ngclient import Updater
from tuf.ngclient.urllib3_fetcher import Urllib3Fetcher
from urllib3.exceptions import HTTPError

from agentctl.errors import CommandError
from release.manifest import Digest, Version, is_version, version_key

_ROOT_LIMIT = 1 << 20
_WHAT_NEXT = "Is that the repository ([update] repository, or --repository URL), and does it run?"


class Package(msgspec.Struct, frozen=True, kw_only=True):
    """What the repository says of one."""

    component: str
    version: Version
    channel: str
    layers: tuple[Digest, ...] = ()

    @property
    def target(self) -> str:
        return f"packages/{self.component}/{self.component}-{self.version}.zip"


class _Fetcher(Urllib3Fetcher):
    """The library's own, which tells afterwards what it was asked for last: its errors do not."""

    url = ""

    def _fetch(self, url: str) -> Iterator[bytes]:
        self.url = url
        return super()._fetch(url)


class Source:
    """A repository as its signed metadata describes it now."""

    def __init__(self, url: str, root: Path, folder: Path) -> None:
        """`root`: whom to trust; `folder`: an empty one to work in. Raises CommandError."""
        self._url, self._folder = url.rstrip("/"), folder
        self._fetcher = _Fetcher()
        (folder / "metadata").mkdir()
        (folder / "layers").mkdir()
        try:
            bootstrap = root.read_bytes()[:_ROOT_LIMIT]
        except OSError as error:
            raise CommandError(
                f"{root} cannot be read: {error.strerror}. It says whom to trust: put the repository's root.json "
                "there, or say where it is with --trust-root"
            ) from error
        with self._refusals():
            self._updater = Updater(
                metadata_dir=str(folder / "metadata"),
                metadata_base_url=f"{self._url}/metadata/",
                target_base_url=f"{self._url}/targets/",
                bootstrap=bootstrap,
                fetcher=self._fetcher,
            )
            self._updater.refresh()

    def packages(self, component: str) -> list[Package]:
        """Oldest first. Raises CommandError."""
        with self._refusals():
            # Asking for any of its targets loads and checks the component's role.
            self._updater.get_targetinfo(f"packages/{component}/{component}-0.0.zip")
            file = self._folder / "metadata" / f"{component}.json"
            targets = Metadata[Targets].from_bytes(file.read_bytes()).signed.targets if file.is_file() else {}
        found = [one for target in targets.values() if (one := _package(target.custom)) is not None]
        mine = [one for one in found if one.component == component and one.target in targets]
        return sorted(mine, key=lambda one: version_key(one.version))

    def fetch(self, package: Package) -> Path:
        """With its layers, in `layers/` beside it. Raises CommandError."""
        for sha256 in package.layers:
            self._fetch(f"layers/{sha256}.zip", self._folder / "layers" / f"{sha256}.zip")
        path = self._folder / f"{package.component}-{package.version}.zip"
        self._fetch(package.target, path)
        return path

    def _fetch(self, target: str, path: Path) -> None:
        if path.exists():
            return
        with self._refusals():
            info = self._updater.get_targetinfo(target)
            if info is None:
                raise CommandError(f"{self._url} has no {target} (any more)")
            self._updater.download_target(info, str(path))

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        try:
            yield
        except ExpiredMetadataError as error:
            raise CommandError(f"{self._url}: {error}. Is this machine's clock right?") from error
        except DownloadHTTPError as error:
            raise CommandError(f"{self._fetcher.url}: HTTP status {error.status_code}. {_WHAT_NEXT}") from error
        except (DownloadError, HTTPError) as error:
            raise CommandError(f"{self._fetcher.url or self._url}: {_cause(error)}. {_WHAT_NEXT}") from error
        except RepositoryError as error:
            about = f"{self._fetcher.url or self._url} cannot be believed: {error}"
            raise CommandError(f"{about}. Is the root of trust the right one (--trust-root)?") from error
        except (OSError, ValueError) as error:
            raise CommandError(f"{self._url}: {error}") from error


def _cause(error: BaseException) -> str:
    """What the libraries wrap, some without a word: the system's reason where there is one."""
    chain: list[BaseException] = []
    one: BaseException | None = error
    while one is not None and one not in chain:
        chain.append(one)
        inner = getattr(one, "reason", None)
        one = inner if isinstance(inner, BaseException) else one.__cause__
    for found in reversed(chain):
        if isinstance(found, TimeoutError):
            return "no answer in time"
        if isinstance(found, OSError) and found.strerror:
            return found.strerror
    return next((text for found in reversed(chain) if (text := str(found))), type(error).__name__)


def choose(source: Source, wanted: Sequence[tuple[str, str]], components: Sequence[str], channel: str) -> list[Package]:
    """The packages named, or the newest of each component on `channel`. Raises CommandError."""
    if not wanted:
        newest = [[one for one in source.packages(name) if one.channel == channel][-1:] for name in components]
        found = [one for each in newest for one in each]
        if not found:
            raise CommandError(f"the repository has nothing on the channel {channel}: see azfabric publish --list")
        return found
    found = []
    for component, version in wanted:
        known = source.packages(component)
        same = [one for one in known if is_version(version) and version_key(one.version) == version_key(version)]
        if not same:
            there = ", ".join(one.version for one in known) or "none"
            raise CommandError(f"the repository has no {component} {version}; it has: {there}")
        found += same
    return found


def _package(custom: Any) -> Package | None:
    try:
        return msgspec.convert(custom, Package)
    except ValueError:
        return None  # a layer, or from a time after us
