"""Packages of a bundle to versions on the disk. They lie there then; nothing begins before somebody asks for one."""

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

from ipc.contract.rdagent import ImportedBundle
from ipc.places import COMPONENTS, Places
from rdagent.update.errand import ErrandError, send
from rdagent.update.install import Installer, InstallError
from rdagent.update.memory import Memory
from rdagent.update.offers import Offer
from rdagent.update.unbundler import Answer, Order
from release.bundle import Entry
from release.manifest import version_key

_UNPACK_SECONDS = 120.0
_KEPT = 4
"""Versions of one component that a bundle brought and that stay, whether taken or not."""


class BundleError(Exception):
    """Nothing of it was taken. One line."""


class Bundles:
    """One at a time."""

    def __init__(self, places: Places, installer: Installer, memory: Memory, floor: Callable[[str], str]) -> None:
        """`floor`: the oldest version of a component that may follow what runs."""
        self._folder = places.state_of("rdagent") / "bundle"
        self._installer = installer
        self._memory = memory
        self._floor = floor
        self._at_work = asyncio.Lock()

    async def take(self, path: str) -> ImportedBundle:
        """Whatever of it is signed and fit for this machine. Raises BundleError."""
        if not Path(path).is_absolute() or "\0" in path:
            raise BundleError(f"{path[:200]!r} is no absolute path")
        if self._at_work.locked():
            raise BundleError("another bundle is being taken: wait for its end")
        async with self._at_work:
            try:
                await asyncio.to_thread(_empty, self._folder)
                return await self._take_each(await self._unpacked(path))
            except OSError as error:
                raise BundleError(f"{self._folder} cannot be written: {error.strerror or error}") from error
            finally:
                await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    async def _take_each(self, entries: tuple[Entry, ...]) -> ImportedBundle:
        taken, refused = [], []
        for entry in entries:
            name = f"{entry.component} {entry.version}"
            try:
                await self._take(entry)
            except InstallError as error:
                refused.append(f"{name}: {error.reason}")
                continue
            taken.append(name)
            before = [one for one in self._memory.now.imported.get(entry.component, []) if one != entry.version]
            kept = [*before, entry.version][-_KEPT:]
            self._memory.change(imported={**self._memory.now.imported, entry.component: kept})
        return ImportedBundle(versions=taken, refused=refused)

    async def _take(self, entry: Entry) -> None:
        """Raises InstallError."""
        if entry.component not in COMPONENTS:
            raise InstallError(f"is none of {', '.join(COMPONENTS)}", final=True)
        floor = self._floor(entry.component)
        if version_key(entry.version) < version_key(floor):
            raise InstallError(f"is below {floor}, the floor of what runs: what that wrote it cannot read", final=True)
        offer = Offer(component=entry.component, version=entry.version, wanted_by="operator", digest=entry.digest)
        await self._installer.take(offer, self._folder / entry.file, self._folder / "layers")

    async def _unpacked(self, path: str) -> tuple[Entry, ...]:
        """Raises BundleError."""
        order = Order(path, str(self._folder))
        try:
            answer = await send("rdagent.update.unbundler", order, Answer, seconds=_UNPACK_SECONDS)
        except ErrandError as error:
            raise BundleError(f"{path} was not unpacked: {error}") from error
        if answer.reason:
            raise BundleError(answer.reason)
        return answer.packages


def _empty(folder: Path) -> None:
    """Left-overs of one who was killed go."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True)
