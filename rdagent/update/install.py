"""From an offer to a version on the disk: what is missing is fetched, everything is checked, nothing runs yet."""

import asyncio
import contextlib
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

from ipc.places import Places
from rdagent.config import UpdateSettings
from rdagent.update.downloads import Downloads
from rdagent.update.errand import ErrandError, send
from rdagent.update.offers import Offer
from rdagent.update.shelf import Shelf
from rdagent.update.source import SourceError
from rdagent.update.stager import Answer, Order, Problem
from release.errors import ReleaseError, RottenTree
from release.manifest import same_version
from release.record import Chosen
from release.signing import Thresholds
from wire.http import HttpClient

_STAGE_SECONDS = 300.0


class InstallError(Exception):
    """It cannot be had."""

    def __init__(self, reason: str, *, final: bool, damaged: bool = False, problem: Problem | None = None) -> None:
        """`final`: another try would end the same way; `damaged`: perhaps it was damaged on its way.

        `problem`: what the check of the package ended with.
        """
        super().__init__(reason)
        self.reason = reason
        self.final = final
        self.damaged = damaged
        self.problem = problem


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
        self._downloads = Downloads(settings.repository, places, client)
        self._in_use = in_use
        self.alone = asyncio.Lock()
        """Held while something is unpacked: layers of a package that is not there yet look unneeded."""

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
            by_url = await self._downloads.package(offer, package)
            # What the repository gives is as it was published; what a URL gives may be mended by another try.
            stage = partial(self._stage, offer, package, damage_is_final=not by_url)
            seen = await stage(None)
            layers = await self._downloads.layers(offer, seen.missing, downloads, by_url=by_url)
            async with self.alone:
                staged = await stage(layers)
        except SourceError as error:
            raise InstallError(f"{offer.name} cannot be had: {error.reason}", final=False) from error
        except OSError as error:
            raise InstallError(f"{downloads}: {error.strerror or error}", final=False) from error
        except InstallError as error:
            if error.final:  # what is not fit for us is not kept
                await asyncio.to_thread(shutil.rmtree, downloads, ignore_errors=True)
            raise
        # Unpacked they are on the disk a second time.
        await asyncio.to_thread(shutil.rmtree, downloads, ignore_errors=True)
        return Chosen(staged.version, staged.digest)

    async def take(self, offer: Offer, package: Path, layers: Path) -> Chosen:
        """From files: its package, and a folder of layers called by their SHA-256. Raises InstallError."""
        if there := await asyncio.to_thread(self._is_there, offer):
            return there
        try:
            await asyncio.to_thread(self._shelf.make_folder, offer.component)
        except ReleaseError as error:
            raise InstallError(str(error), final=False) from error
        async with self.alone:
            seen = await self._stage(offer, package, None)
            found = {one.sha256: layers / f"{one.sha256}.zip" for one in seen.missing}
            there_are = {name: str(path) for name, path in found.items() if await asyncio.to_thread(path.is_file)}
            staged = await self._stage(offer, package, there_are)
        return Chosen(staged.version, staged.digest)

    def _is_there(self, offer: Offer) -> Chosen | None:
        """Never fetch what is on the disk and whole."""
        for one in self._shelf.on_disk(offer.component):
            if same_version(one.version, offer.version) and offer.digest in {"", one.digest}:
                with contextlib.suppress(RottenTree):
                    there = Chosen(one.version, one.digest)
                    self._shelf.check_whole(offer.component, there)
                    return there
        return None

    async def _stage(
        self, offer: Offer, package: Path, layers: dict[str, str] | None, *, damage_is_final: bool = True
    ) -> Answer:
        """Raises InstallError."""
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
        damaged = answer.problem == "damaged"
        final = answer.problem in {"untrusted", "badly signed", "unfit"} or (damaged and damage_is_final)
        raise InstallError(
            f"{_WORDS[answer.problem]}: {answer.reason}", final=final, damaged=damaged, problem=answer.problem
        )


_WORDS: dict[Problem, str] = {
    "untrusted": "not for us",
    "badly signed": "not for us",
    "unfit": "not fit for this machine",
    "damaged": "damaged",
    "disk": "the disk",
    "failed": "could not be unpacked",
    "trust": "no package can be checked",
}


async def _ask(order: Order) -> Answer:
    try:
        return await send("rdagent.update.stager", order, Answer, seconds=_STAGE_SECONDS)
    except ErrandError as error:
        return Answer(problem="failed", reason=str(error))


def _make_folder(path: Path) -> None:
    path.mkdir(mode=0o755, exist_ok=True)
    path.chmod(0o755)
