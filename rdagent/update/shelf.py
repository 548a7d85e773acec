"""What lies on the disk: the record of each component, and its versions. Blocking: call it in a thread."""

import contextlib
import logging
import os
from collections.abc import Callable
from pathlib import Path

from ipc.places import Places
from rdagent.update.decision import OnDisk
from release import record as records
from release.errors import ManifestError, ReleaseError
from release.manifest import MANIFEST, decode_manifest, digest, is_version
from release.record import Chosen, Record
from release.signing import Trust
from release.tree import check_layer, check_version
from release.unpack import component_folder

LAUNCHERS_SLOT = ".state.launch"
"""What launch.py writes before it renames it to a slot of the record."""

logger = logging.getLogger("rdagent")


class Shelf:
    """The records are written by us, by launch.py and by watchdog.py, so they are read anew each time."""

    def __init__(self, places: Places, trust: Callable[[str], Trust]) -> None:
        """`trust`: the keys for packages of a component; may raise ReleaseError."""
        self.root = places.installed
        self._trust = trust

    def folder(self, component: str) -> Path:
        return component_folder(self.root, component)

    def record(self, component: str) -> Record:
        """The one in force; made anew from the signed versions if it is lost; that of the base install if none was."""
        folder = self.folder(component)
        found = records.read(folder)
        if found is not None:
            return found
        if any((folder / slot).exists() for slot in records.SLOTS) or (folder / "current").is_symlink():
            with contextlib.suppress(ReleaseError):
                rebuilt = records.rebuild(self.root, component, self._trust(component))
                logger.warning("the record of %s is lost; made anew: %s", component, rebuilt.current or "base install")
                return rebuilt
        return Record(component=component)

    def change(self, component: str, change: Callable[[Record], Record]) -> Record:
        """On disk when this returns; the link `current` follows. Raises ReleaseError."""
        folder = self.folder(component)
        self.make_folder(component)
        with records.locked(folder):
            before = self.record(component)
            after = change(before)
            if after != before:
                after = records.write(folder, after)
            with contextlib.suppress(ReleaseError):  # for people only
                records.show_current(folder, after)
        return after

    def make_folder(self, component: str) -> Path:
        """Of its own, whatever the umask says: launch.py believes no other. Raises ReleaseError."""
        folder = self.folder(component)
        for path in (self.root, folder.parent, folder):
            try:
                path.mkdir(mode=0o755, parents=True)
                path.chmod(0o755)
            except FileExistsError:
                continue
            except OSError as error:
                raise ReleaseError(f"{path} cannot be made: {error.strerror}") from error
        return folder

    def check_writable(self, component: str) -> None:
        """Raises ReleaseError if the record could not be written."""
        probe = self.folder(component) / ".writable"
        try:
            probe.write_bytes(b"?")
            probe.unlink()
        except OSError as error:
            raise ReleaseError(f"{probe} cannot be written: {error.strerror}") from error

    def check_countable(self, component: str) -> None:
        """Raises ReleaseError if launch.py could not count a try: it takes the lock, and writes a file of its own."""
        folder = self.folder(component)
        probe = folder / LAUNCHERS_SLOT
        with records.locked(folder):
            try:
                slots = [folder / slot for slot in records.SLOTS]
                size = max((slot.stat().st_size for slot in slots if slot.exists()), default=0)
                descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
                with os.fdopen(descriptor, "wb") as file:
                    file.write(bytes(size))
                probe.unlink()
            except OSError as error:
                raise ReleaseError(f"{probe} cannot be written: {error.strerror}") from error

    def check_whole(self, component: str, version: Chosen) -> None:
        """Read every file of it, and of its layers. It was signed, or it would not be there. Raises RottenTree."""
        manifest = check_version(self.folder(component) / "versions" / version.version, version.digest)
        for layer in manifest.layers:
            check_layer(self.root / "deps" / layer.sha256, layer)

    def on_disk(self, component: str) -> tuple[OnDisk, ...]:
        """Versions that have a manifest; whether every file fits is looked at before one is tried."""
        found = []
        with contextlib.suppress(OSError):
            for tree in sorted((self.folder(component) / "versions").iterdir()):
                with contextlib.suppress(OSError, ManifestError):
                    written = (tree / MANIFEST).read_bytes()
                    manifest = decode_manifest(written)
                    if is_version(tree.name) and manifest.version == tree.name:
                        found.append(
                            OnDisk(
                                version=manifest.version,
                                digest=digest(written),
                                floor=manifest.floor,
                                min_python=manifest.min_python,
                            )
                        )
        return tuple(found)
