"""From an offer to a version on the disk: what is missing is fetched, everything is checked, nothing runs yet."""

import asyncio
import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec

from ipc.child import module_command
from ipc.places import Places
from rdagent.config import UpdateSettings
from rdagent.update.fetch import fetch_by_url, layer_url
from rdagent.update.offers import Offer
from rdagent.update.repository import Repository
from rdagent.update.shelf import Shelf
from rdagent.update.source import SourceError, layer_target
from rdagent.update.stager import Answer, Order, Problem
from release.errors import ReleaseError, RottenTree
from release.manifest import BYTES_LIMIT, Layer
from release.record import Chosen
from release.signing import Thresholds
from release.tree import check_layer, check_version
from wire.deadline import Deadline
from wire.http import HttpClient

_STAGE_SECONDS = 300.0
_FETCH_SECONDS = 900.0


class InstallError(Exception):
    """It cannot be had. `final`: another try would end the same way, until something else is offered."""

    def __init__(self, reason: str, *, final: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.final = final


class Installer:
    """Keeps nothing but what lies on the disk."""

    def __init__(
        self,
        places: Places,
        settings: UpdateSettings,
        shelf: Shelf,
        client: HttpClient,
        in_use: Callable[[], set[Path]],
    ) -> None:
        self._places = places
        self._settings = settings
        self._shelf = shelf
        self._client = client
        self._in_use = in_use

    async def install(self, offer: Offer) -> Chosen:
        """The version lies there whole when this returns. Raises InstallError."""
        if there := await asyncio.to_thread(self._is_there, offer):
            return there
        try:
            downloads = await asyncio.to_thread(self._shelf.make_folder, offer.component) / "downloads"
        except ReleaseError as error:
            raise InstallError(str(error), final=False) from error
        try:
            await asyncio.to_thread(_make_folder, downloads)
            package = downloads / f"{offer.component}-{offer.version}.zip"
            from_url = await self._fetch_package(offer, package)
            seen = await self._stage(offer, package, None)
            layers = {
                layer.sha256: str(await self._fetch_layer(offer, layer, from_url, downloads)) for layer in seen.missing
            }
            staged = await self._stage(offer, package, layers)
        except OSError as error:
            raise InstallError(f"{downloads}: {error.strerror or error}", final=False) from error
        # Unpacked they are on the disk a second time.
        await asyncio.to_thread(shutil.rmtree, downloads, ignore_errors=True)
        return Chosen(offer.version, staged.digest)

    def _is_there(self, offer: Offer) -> Chosen | None:
        """Never fetch what is on the disk and whole. It was signed, or it would not be there."""
        for one in self._shelf.on_disk(offer.component):
            if one.version == offer.version and offer.digest in {"", one.digest}:
                with contextlib.suppress(RottenTree):
                    manifest = check_version(self._shelf.folder(offer.component) / "versions" / one.version, one.digest)
                    for layer in manifest.layers:
                        check_layer(self._shelf.root / "deps" / layer.sha256, layer)
                    return Chosen(one.version, one.digest)
        return None

    async def _fetch_package(self, offer: Offer, path: Path) -> str:
        """By which URL it came; empty: from the repository, or it lay there. Raises InstallError."""
        if await asyncio.to_thread(path.exists):
            return next(iter(offer.urls), "")
        problem = SourceError("missing", "nobody says where it is to be had")
        if offer.target and self._settings.repository:
            try:
                await self._repository.fetch(offer.target, path)
            except SourceError as error:
                problem = error
            else:
                return ""
        if offer.urls:
            try:
                return await self._by_url(list(offer.urls), path)
            except SourceError as error:
                problem = error
        raise _failed(offer, "its package", problem)

    async def _fetch_layer(self, offer: Offer, layer: Layer, from_url: str, downloads: Path) -> Path:
        """Raises InstallError."""
        path = downloads / f"{layer.sha256}.zip"
        if await asyncio.to_thread(path.exists):
            return path
        urls = [layer_url(url, layer.sha256) for url in ([from_url] if from_url else [])]
        urls += [other for url in offer.urls if (other := layer_url(url, layer.sha256)) not in urls]
        problem = SourceError("missing", "nobody says where it is to be had")
        if self._settings.repository and not from_url:
            try:
                await self._repository.fetch(layer_target(layer.sha256), path)
            except SourceError as error:
                problem = error
            else:
                return path
        if urls:
            try:
                await self._by_url(urls, path)
            except SourceError as error:
                problem = error
            else:
                return path
        raise _failed(offer, f"its layer {layer.name} {layer.version}", problem)

    @property
    def _repository(self) -> Repository:
        return Repository(self._settings.repository, self._places)

    async def _by_url(self, urls: list[str], path: Path) -> str:
        deadline = Deadline.after(_FETCH_SECONDS)
        return await asyncio.to_thread(fetch_by_url, self._client, urls, path, limit=BYTES_LIMIT, deadline=deadline)

    async def _stage(self, offer: Offer, package: Path, layers: dict[str, str] | None) -> Answer:
        """Raises InstallError. What is not fit for us is not kept."""
        order = Order(
            component=offer.component,
            version=offer.version,
            digest=offer.digest,
            package=str(package),
            root=str(self._shelf.root),
            trust=str(self._places.trust),
            thresholds=Thresholds(self._settings.threshold, self._settings.rdagent_threshold),
            layers=layers,
            in_use=[str(path) for path in await asyncio.to_thread(self._in_use)],
        )
        answer = await _ask(order)
        if answer.problem is None:
            return answer
        if answer.problem in {"untrusted", "damaged", "unfit"}:
            await asyncio.to_thread(shutil.rmtree, package.parent, ignore_errors=True)
        final = answer.problem in {"untrusted", "unfit", "damaged"}
        raise InstallError(f"{_WORDS[answer.problem]}: {answer.reason}", final=final)


_WORDS: dict[Problem, str] = {
    "untrusted": "not for us",
    "unfit": "not fit for this machine",
    "damaged": "damaged",
    "disk": "the disk",
    "failed": "could not be unpacked",
}


async def _ask(order: Order) -> Answer:
    pipe = asyncio.subprocess.PIPE
    try:
        child = await asyncio.create_subprocess_exec(
            *module_command("rdagent.update.stager"), stdin=pipe, stdout=pipe, stderr=pipe
        )
    except OSError as error:
        return Answer(problem="failed", reason=f"the stager cannot be started: {error.strerror}")
    try:
        async with asyncio.timeout(_STAGE_SECONDS):
            said, cried = await child.communicate(msgspec.json.encode(order))
    except TimeoutError:
        return Answer(problem="failed", reason=f"the stager took longer than {_STAGE_SECONDS:g} s")
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    try:
        return msgspec.json.decode(said, type=Answer)
    except (msgspec.DecodeError, UnicodeDecodeError):
        last = cried.decode(errors="replace").strip().rpartition("\n")[2][:300]
        return Answer(problem="failed", reason=f"the stager ended with status {child.returncode}: {last}")


def _make_folder(path: Path) -> None:
    path.mkdir(mode=0o755, exist_ok=True)
    path.chmod(0o755)


def _failed(offer: Offer, what: str, error: SourceError) -> InstallError:
    # Only what is signed is final; what a server says today it may not say tomorrow.
    return InstallError(f"{what} of {offer.name} cannot be had: {error.reason}", final=False)
