"""Whether a folder is what its manifest says: every file, no other, nothing that is no plain file."""

import hashlib
import os
import stat
from pathlib import Path

from release.errors import ManifestError, RottenTree
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
)


def check_version(folder: Path, wanted: str | None = None) -> Manifest:
    """Check the version in `folder` against its manifest, and that against the digest, if one is given.

    Raises RottenTree, naming the first thing that is wrong. Does not look at signatures.
    """
    data = _read(folder, MANIFEST, wanted)
    try:
        manifest = decode_manifest(data)
    except ManifestError as error:
        raise RottenTree(folder, f"its manifest {error}") from error
    _check(folder, manifest.files, {MANIFEST, SIGNATURES})
    return manifest


def check_layer(folder: Path, layer: Layer) -> Listing:
    """Check a layer against the digest its users name. Raises RottenTree."""
    data = _read(folder, LISTING, layer.sha256)
    try:
        listing = decode_listing(data)
    except ManifestError as error:
        raise RottenTree(folder, f"its listing {error}") from error
    _check(folder, listing.files, {LISTING})
    return listing


def check_private(folder: Path) -> None:
    """A folder of ours must be a real one that nobody else can write to. Raises RottenTree, OSError."""
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise RottenTree(folder, "is not a folder but a link or something else; remove it")
    if status.st_uid not in {0, os.geteuid()} or status.st_mode & 0o022:
        raise RottenTree(folder, "could be written to by others; make it yours alone: chmod go-w, chown")


def _read(folder: Path, name: str, wanted: str | None) -> bytes:
    try:
        check_private(folder)
        data = (folder / name).read_bytes()
    except OSError as error:
        raise RottenTree(folder, f"{name} cannot be read: {error.strerror}") from error
    if wanted is not None and digest(data) != wanted:
        raise RottenTree(folder, f"{name} is not the one that was installed")
    return data


def _check(folder: Path, files: dict[str, File], besides: set[str]) -> None:
    folders = folders_of(files)
    left = dict(files)
    waiting = [""]
    try:
        while waiting:
            inside = waiting.pop()
            with os.scandir(folder / inside) as entries:
                for entry in entries:
                    path = f"{inside}/{entry.name}" if inside else entry.name
                    if entry.is_dir(follow_symlinks=False) and path in folders:
                        waiting.append(path)
                    elif entry.is_file(follow_symlinks=False) and path in besides:
                        continue
                    elif entry.is_file(follow_symlinks=False) and path in left:
                        _check_file(folder, path, left.pop(path))
                    else:
                        raise RottenTree(folder, f"{path} does not belong there")
    except OSError as error:
        raise RottenTree(folder, f"{error.filename} cannot be read: {error.strerror}") from error
    if left:
        raise RottenTree(folder, f"{min(left)} is missing")


def _check_file(folder: Path, path: str, file: File) -> None:
    with (folder / path).open("rb") as opened:
        found = os.fstat(opened.fileno()).st_size
        if found != file.size:
            raise RottenTree(folder, f"{path} has {found} bytes instead of {file.size}")
        if hashlib.file_digest(opened, "sha256").hexdigest() != file.sha256:
            raise RottenTree(folder, f"{path} has changed")
