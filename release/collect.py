"""Versions, layers and downloads that nobody needs any more: what may go, and taking it away.

A version goes as it came: renamed into `staging/`, then removed there, so that what lies in `versions/` is whole.
"""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from release.disk import Disk
from release.errors import DiskTrouble, ManifestError, RecordError
from release.manifest import MANIFEST, File, decode_manifest, is_digest, is_version
from release.record import Record, locked, read
from release.staging import check_room, staging_folder
from release.tree import check_private
from release.unpack import component_folder

Layers = frozenset[str]


class Keep(msgspec.Struct, frozen=True, kw_only=True):
    """What the record does not name and has to stay all the same."""

    versions: frozenset[str] = frozenset()
    """Numbers: running now, wanted."""
    layers: Layers = frozenset()
    """Digests, of a package that is about to be unpacked."""
    in_use: frozenset[Path] = frozenset()
    """Absolute paths that a process runs from or writes to: versions, layers, downloads, or what lies in them."""


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What lies on the disk. Versions are told with the layers they name, None where no manifest can be read."""

    versions: dict[Path, Layers | None]
    others: tuple[Layers | None, ...] = ()
    """Of the other components' versions."""
    layers: frozenset[Path] = frozenset()
    downloads: frozenset[Path] = frozenset()


class Collection(msgspec.Struct, frozen=True):
    """What goes, or went."""

    versions: tuple[Path, ...] = ()
    layers: tuple[Path, ...] = ()
    downloads: tuple[Path, ...] = ()


def plan_collection(record: Record, found: Found, keep: Keep) -> Collection:
    """What may go: nothing that the record, `keep` or a process names, and no layer that a version which stays needs.

    Raises RecordError while a version is on trial: then everything may be needed to go back.
    """
    if record.trial:
        raise RecordError(
            f"{record.component} {record.trial.target.version} is on trial, nothing is removed; wait for its end"
        )
    named = {one.version for one in (record.current, record.previous) if one} | keep.versions
    versions = _free((path for path in found.versions if path.name not in named), keep)
    remaining = [*found.others, *(layers for path, layers in found.versions.items() if path not in versions)]
    # Whose layers are not known may need any.
    known = [layers for layers in remaining if layers is not None]
    needed = keep.layers.union(*known)
    unneeded = (path for path in found.layers if path.name not in needed)
    layers = _free(unneeded, keep) if len(known) == len(remaining) else ()
    return Collection(versions, layers, _free(found.downloads, keep))


def collect(root: Path, component: str, keep: Keep, disk: Disk | None = None) -> Collection:
    """Take away what `plan_collection` says, and what is left over in `staging/`. Gives what went.

    No package may be unpacked for another component meanwhile: its layers could look unneeded. Raises RecordError
    while a version is on trial or without a record, DiskTrouble, RottenTree, ReleaseError while somebody unpacks.
    """
    disk = disk or Disk()
    folder = component_folder(root, component)
    versions, deps = folder / "versions", root / "deps"
    _idle(folder)
    with staging_folder([root, root / "components", folder, versions], disk, folder) as staging:
        # Held for the renames only: removing may take long, and `launch.py` waits for it two seconds.
        with locked(folder):
            plan = plan_collection(_idle(folder), look(root, component), keep)
            _take_away(plan.versions, staging, disk)
        for path in plan.downloads:
            disk.remove(path)
        if deps.is_dir():
            with staging_folder([root, deps], disk) as below:
                _take_away(plan.layers, below, disk)
    return plan


def make_room(
    root: Path, component: str, files: Mapping[str, File], keep: Keep, disk: Disk | None = None
) -> Collection:
    """Collect if there is no room to unpack `files`. Gives what went.

    Raises DiskTrouble when there is not enough room all the same, or nothing may go now; and what `collect` raises.
    """
    try:
        check_room(root, files)
    except DiskTrouble as trouble:
        try:
            gone = collect(root, component, keep, disk)
        except RecordError as error:
            raise trouble from error
        check_room(root, files)
        return gone
    return Collection()


def look(root: Path, component: str) -> Found:
    """What lies there now. Raises DiskTrouble."""
    ours = component_folder(root, component)
    try:
        trees = {path: layers_of(path) for path in root.glob("components/*/versions/*") if is_version(path.name)}
        return Found(
            versions={path: layers for path, layers in trees.items() if path.parent.parent == ours},
            others=tuple(layers for path, layers in trees.items() if path.parent.parent != ours),
            layers=frozenset(path for path in root.glob("deps/*") if is_digest(path.name)),
            downloads=frozenset(_private(ours / "downloads")),
        )
    except OSError as error:
        raise DiskTrouble(f"{error.filename or root} cannot be read", error) from error


def layers_of(tree: Path) -> Layers | None:
    """The digests of the layers a version names; None if its manifest cannot be read."""
    try:
        return frozenset(layer.sha256 for layer in decode_manifest((tree / MANIFEST).read_bytes()).layers)
    except (OSError, ManifestError):
        return None


def _idle(folder: Path) -> Record:
    record = read(folder)
    if record is None:
        raise RecordError(f"{folder} has no record, so what is needed is not known; rebuild it first")
    return record


def _private(folder: Path) -> Iterable[Path]:
    if not os.path.lexists(folder):
        return ()
    check_private(folder)
    return folder.iterdir()


def _free(paths: Iterable[Path], keep: Keep) -> tuple[Path, ...]:
    return tuple(sorted(path for path in paths if not any(used.is_relative_to(path) for used in keep.in_use)))


def _take_away(paths: tuple[Path, ...], staging: Path, disk: Disk) -> None:
    """Into `staging`, which is emptied afterwards; that they are no longer where they were is on disk before."""
    for path in paths:
        disk.replace(path, staging / path.name)
    if paths:
        disk.sync_folder(paths[0].parent)
        disk.sync_folder(staging)
