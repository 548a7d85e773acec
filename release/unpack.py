"""A package to a version on disk: nothing is written before the signatures hold; it is there whole or not at all.

ROOT/components/COMPONENT/versions/VERSION/    code, .manifest, .signatures
ROOT/components/COMPONENT/staging/             what is being unpacked; whatever lies here is left over
ROOT/deps/SHA256/                              layers, shared by all versions that name them
"""

import os
import platform
import sys
import sysconfig
from collections.abc import Iterable
from pathlib import Path

import msgspec

from release.archive import Archive, open_archive
from release.disk import Disk
from release.errors import BadPackage, ManifestError, RottenTree, Unfit
from release.manifest import (
    LISTING,
    MANIFEST,
    SIGNATURES,
    File,
    Layer,
    Listing,
    Manifest,
    decode_listing,
    decode_manifest,
    digest,
    folders_of,
    version_key,
)
from release.signing import Trust, claimed, signers
from release.staging import check_room, staging_folder
from release.tree import check_layer, check_version


class Package(msgspec.Struct, frozen=True):
    """An opened package whose signatures hold."""

    manifest: Manifest
    digest: str
    signers: list[str]


class Machine(msgspec.Struct, frozen=True):
    """What a package has to fit."""

    python: str
    platform: str
    abi: str


def this_machine() -> Machine:
    return Machine(platform.python_version(), sysconfig.get_platform(), str(sys.implementation.cache_tag))


def component_folder(root: Path, component: str) -> Path:
    return root / "components" / component


def verify_package(path: Path, trust: Trust) -> Package:
    """Check signatures and every file, writing nothing. Raises BadPackage, Untrusted."""
    with open_archive(path) as archive:
        package, _, _ = _signed(archive, trust)
        for _ in archive.contents(package.manifest.files):
            pass
    return package


def claimed_signers(path: Path) -> list[str]:
    """Names of the keys that signed a package, by its own word, its files checked. Raises BadPackage, BadSignatures."""
    with open_archive(path) as archive:
        for _ in archive.contents(_manifest(archive)[0].files):
            pass
        return claimed(archive.small(SIGNATURES))


def read_manifest(path: Path) -> Manifest:
    """What a package says of itself, whoever made it. Raises BadPackage."""
    with open_archive(path) as archive:
        return _manifest(archive)[0]


def read_listing(path: Path) -> Listing:
    """What a layer says of itself, whoever made it. Raises BadPackage."""
    with open_archive(path) as archive:
        return _listing(path, archive.small(LISTING))


def unpack(path: Path, root: Path, component: str, trust: Trust, machine: Machine, disk: Disk | None = None) -> Package:
    """Put the package's version under `root`; if it is there and whole already, nothing is done.

    Raises BadPackage, Untrusted, Unfit, DiskTrouble; RottenTree when what was written does not read back.
    """
    disk = disk or Disk()
    with open_archive(path) as archive:
        package, manifest, signatures = _signed(archive, trust)
        archive.check_names(package.manifest.files)
        _check_fit(package.manifest, component, machine)
        _check_layers(root, package.manifest.layers)
        folder = component_folder(root, component)
        target = folder / "versions" / package.manifest.version
        if not _is_there(target, package):
            extra = {MANIFEST: manifest, SIGNATURES: signatures}
            with staging_folder([root, root / "components", folder, target.parent], disk, folder) as staging:
                _put(archive, package.manifest.files, extra, staging / package.manifest.version, target, disk)
                check_version(target, package.digest)
    return package


def unpack_layer(path: Path, root: Path, layer: Layer, disk: Disk | None = None) -> None:
    """Put a layer that a signed manifest names under `root/deps`. Raises BadPackage, DiskTrouble, RottenTree."""
    disk = disk or Disk()
    target = root / "deps" / layer.sha256
    with open_archive(path) as archive:
        written = archive.small(LISTING)
        if digest(written) != layer.sha256:
            raise BadPackage(path, f"is not the layer {layer.name} {layer.version} with digest {layer.sha256}")
        listing = _listing(path, written)
        archive.check_names(listing.files)
        if target.exists():
            try:
                check_layer(target, layer)
            except RottenTree:
                pass
            else:
                return
        with staging_folder([root, root / "deps"], disk) as staging:
            _put(archive, listing.files, {LISTING: written}, staging / layer.sha256, target, disk)
            check_layer(target, layer)


def _manifest(archive: Archive) -> tuple[Manifest, bytes]:
    written = archive.small(MANIFEST)
    try:
        return decode_manifest(written), written
    except ManifestError as error:
        raise BadPackage(archive.path, f"its manifest {error}") from error


def _listing(path: Path, written: bytes) -> Listing:
    try:
        return decode_listing(written)
    except ManifestError as error:
        raise BadPackage(path, f"its listing {error}") from error


def _signed(archive: Archive, trust: Trust) -> tuple[Package, bytes, bytes]:
    written, signatures = archive.small(MANIFEST), archive.small(SIGNATURES)
    # Before anything is believed: the parser is for those whom we know.
    names = signers(written, signatures, trust)
    manifest, _ = _manifest(archive)
    return Package(manifest, digest(written), names), written, signatures


def _check_fit(manifest: Manifest, component: str, machine: Machine) -> None:
    what = f"{manifest.component} {manifest.version}"
    if manifest.component != component:
        raise Unfit(f"this is {what}, wanted is {component}: take the package of {component}")
    # A release candidate's number is `3.14.0rc1`.
    found = ".".join(machine.python.split(".")[:2])
    if version_key(manifest.min_python) > version_key(found):
        raise Unfit(f"{what} needs Python {manifest.min_python}, here is {machine.python}")
    if manifest.platform not in {"any", machine.platform}:
        raise Unfit(f"{what} is for {manifest.platform}, this is {machine.platform}")
    if manifest.abi not in {"any", machine.abi}:
        raise Unfit(f"the layers of {what} are for {manifest.abi}, this is {machine.abi}")


def _check_layers(root: Path, layers: Iterable[Layer]) -> None:
    for layer in layers:
        try:
            check_layer(root / "deps" / layer.sha256, layer)
        except RottenTree as error:
            raise Unfit(
                f"unpack the layer {layer.name} {layer.version} ({layer.sha256}) first: {error.reason}"
            ) from error


def _is_there(target: Path, package: Package) -> bool:
    """Raises Unfit when another content has that number; a rotten folder does not count."""
    try:
        check_version(target)
        there = digest((target / MANIFEST).read_bytes())
    except (OSError, RottenTree):
        return False
    if there != package.digest:
        raise Unfit(
            f"{target} holds another build of {package.manifest.version}, and one number has one content: give the "
            "new build a number of its own, or remove that folder if nothing runs from it"
        )
    return True


def _put(
    archive: Archive, files: dict[str, File], extra: dict[str, bytes], staging: Path, target: Path, disk: Disk
) -> None:
    check_room(target.parent, files)
    folders = sorted(folders_of(files))
    disk.make_folder(staging)
    for inside in folders:
        disk.make_folder(staging / inside)
    for name, data in archive.contents(files):
        disk.write(staging / name, data)
    for name, data in extra.items():
        disk.write(staging / name, data)
    for inside in reversed(folders):
        disk.sync_folder(staging / inside)
    disk.sync_folder(staging)
    if os.path.lexists(target):
        # Rotten, or we would not be here; nothing can run from it. It may be a link to nowhere.
        disk.replace(target, staging.with_name(f"{target.name}.rotten"))
    disk.replace(staging, target)
    disk.sync_folder(target.parent)
    disk.sync_folder(staging.parent)
    disk.remove(staging.with_name(f"{target.name}.rotten"))
