"""A bundle: packages and their layers in one zip, for machines without a network.

packages/COMPONENT-VERSION.zip    as `build` made them
layers/SHA256.zip                 each once, named by its listing
.bundle                           what is in it, by SHA-256

It vouches for nothing: each package in it is judged by its own signatures, as if it came from anywhere else.
"""

import shlex
import stat
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from release.archive import Archive, open_archive, pack
from release.disk import Disk
from release.errors import BadPackage, DiskTrouble, ManifestError, ReleaseError
from release.manifest import (
    BUNDLE,
    BYTES_LIMIT,
    LISTING,
    MANIFEST,
    Digest,
    File,
    Layer,
    Manifest,
    Name,
    Version,
    canonical,
    decode_manifest,
    digest,
    is_digest,
)
from release.staging import check_room


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One package, by what it says of itself."""

    component: Name
    version: Version
    digest: Digest
    """Of its manifest."""
    layers: Annotated[tuple[Digest, ...], msgspec.Meta(max_length=500)] = ()

    @property
    def file(self) -> str:
        return f"packages/{self.component}-{self.version}.zip"


class Bundle(msgspec.Struct, frozen=True, kw_only=True):
    """What is in it. Unknown fields are ignored."""

    format: Literal[1] = 1
    packages: Annotated[tuple[Entry, ...], msgspec.Meta(min_length=1, max_length=200)]
    files: Annotated[dict[str, File], msgspec.Meta(max_length=2000)]


def layer_file(sha256: str) -> str:
    """Where a bundle has a layer."""
    return f"layers/{sha256}.zip"


def pack_bundle(packages: Iterable[Path], find_layer: Callable[[Path, Layer], Path]) -> tuple[bytes, Bundle]:
    """The bundle of these packages. `find_layer` tells where a layer that a package names lies.

    The same files give the same bytes. Raises BadPackage; ReleaseError for two contents of one version, and for more
    than a bundle holds.
    """
    contents: dict[str, bytes] = {}
    entries: dict[str, Entry] = {}
    for path in packages:
        entry, manifest = _entry(path)
        if entries.setdefault(entry.file, entry) != entry:
            raise ReleaseError(f"{path} is another build of {entry.component} {entry.version}: take one of the two")
        contents[entry.file] = path.read_bytes()
        for layer in manifest.layers:
            if layer_file(layer.sha256) not in contents:
                contents[layer_file(layer.sha256)] = _layer(find_layer(path, layer), layer)
    if (size := sum(map(len, contents.values()))) > BYTES_LIMIT:
        raise ReleaseError(f"{size} bytes, a bundle holds {BYTES_LIMIT}: make several")
    files = {name: File(digest(data), len(data)) for name, data in contents.items()}
    bundle = Bundle(packages=tuple(entries[name] for name in sorted(entries)), files=files)
    return pack({**contents, BUNDLE: canonical(bundle)}), bundle


def unpack_bundle(path: Path, folder: Path, disk: Disk | None = None) -> Bundle:
    """Its files below `folder`, which is there and empty, each checked against what the bundle says. Raises BadPackage,
    DiskTrouble.
    """
    disk = disk or Disk()
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise BadPackage(path, "is no file")
    except OSError as error:
        raise BadPackage(path, f"cannot be read: {error.strerror}") from error
    with open_archive(path) as archive:
        bundle = _bundle(archive)
        check_room(folder, bundle.files)
        try:
            for name in ("packages", "layers"):
                disk.make_folder(folder / name, 0o700)
            for name, data in archive.contents(bundle.files):
                disk.write(folder / name, data, 0o600)
        except OSError as error:
            raise DiskTrouble(f"{folder} cannot be written", error) from error
    return bundle


def _bundle(archive: Archive) -> Bundle:
    """Raises BadPackage."""
    if archive.has(MANIFEST) and not archive.has(BUNDLE):
        pack = f"agentctl bundle export --out FILE --package {shlex.quote(str(archive.path))}"
        raise BadPackage(archive.path, f"is a package and no bundle; make one of it: {pack}")
    try:
        bundle = msgspec.json.decode(archive.small(BUNDLE), type=Bundle)
    except (ValueError, RecursionError) as error:
        raise BadPackage(archive.path, f"its {BUNDLE} is not ours: {error}") from error
    known = {entry.file for entry in bundle.packages}
    if missing := known - bundle.files.keys():
        raise BadPackage(archive.path, f"{min(missing)} is named and missing")
    for name in bundle.files.keys() - known:
        if not (name.startswith("layers/") and name == layer_file(name[7:71]) and is_digest(name[7:71])):
            raise BadPackage(archive.path, f"holds {name!r}, which is neither a package it names nor a layer")
    return bundle


def _entry(path: Path) -> tuple[Entry, Manifest]:
    with open_archive(path) as archive:
        written = archive.small(MANIFEST)
    try:
        manifest = decode_manifest(written)
    except ManifestError as error:
        raise BadPackage(path, f"its manifest {error}") from error
    layers = tuple(layer.sha256 for layer in manifest.layers)
    return Entry(
        component=manifest.component, version=manifest.version, digest=digest(written), layers=layers
    ), manifest


def _layer(path: Path, layer: Layer) -> bytes:
    with open_archive(path) as archive:
        if digest(archive.small(LISTING)) != layer.sha256:
            raise BadPackage(path, f"is not the layer {layer.name} {layer.version} with digest {layer.sha256}")
    return path.read_bytes()
