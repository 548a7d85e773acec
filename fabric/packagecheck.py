"""Whether a component's package is what its manifest says. Told, never refused: tests and drills publish bad ones."""

import hashlib
import json
import zipfile
from collections import Counter
from typing import Annotated, Any, BinaryIO

import msgspec

from fabric.componentpackage import ComponentPackage, Digest, component_package
from fabric.errors import BadPackage
from fabric.packages import NO_ZIP, PACKAGE_LIMIT, Careful, small

_OWN = {".manifest", ".signatures"}
_CHUNK = 1 << 16
_SHOWN = 3
"""Reasons; the others are counted."""


class _File(msgspec.Struct, frozen=True):
    sha256: Digest
    size: Annotated[int, msgspec.Meta(ge=0, le=PACKAGE_LIMIT)]


class _Signatures(msgspec.Struct, frozen=True):
    signatures: dict[str, str]


def shortcomings(file: BinaryIO) -> list[str]:
    """Why no agent would take it, each half a sentence; empty if nothing is seen. Whose the signatures are is not
    looked at: that depends on whom an agent trusts. Raises BadPackage for what the host refuses, too.
    """
    package = component_package(file)
    careful: Any = Careful(file)
    try:
        with zipfile.ZipFile(careful) as archive:
            found = [*_names(archive, package), *_contents(archive, package), *_signatures(archive)]
    except NO_ZIP as error:
        found = [f"it cannot be unpacked: {error}"]
    more = [f"{len(found) - _SHOWN} more of that kind"] if len(found) > _SHOWN else []
    return [*found[:_SHOWN], *more]


def _names(archive: zipfile.ZipFile, package: ComponentPackage) -> list[str]:
    """zipfile cuts a name at NUL and keeps what it was."""
    counted = Counter(one.orig_filename for one in archive.infolist())
    twice = [f"it holds {_said(name)} {count} times" for name, count in sorted(counted.items()) if count > 1]
    added = sorted(counted.keys() - package.files.keys() - _OWN)
    outside = [f"its manifest has {_said(name)}, which leads out" for name in sorted(package.files) if _leads_out(name)]
    return [*twice, *(f"{_said(name)} is not in its manifest" for name in added), *outside]


def _contents(archive: zipfile.ZipFile, package: ComponentPackage) -> list[str]:
    """Raises NO_ZIP."""
    wrong = []
    for name, said in sorted(package.files.items()):
        try:
            file = msgspec.convert(said, _File)
        except msgspec.ValidationError:
            wrong.append(f"its manifest does not give {_said(name)} a size and a SHA-256")
            continue
        if not _is(archive, name, file):
            wrong.append(f"{_said(name)} is not the file in its manifest")
    return wrong


def _is(archive: zipfile.ZipFile, name: str, file: _File) -> bool:
    """What comes out is counted: the zip's own idea of sizes is its maker's. Raises NO_ZIP."""
    if archive.getinfo(name).compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        return False  # the others' decoders have no limit on what a few bytes become
    left, digest = file.size, hashlib.sha256()
    with archive.open(name) as stream:
        while left >= 0 and (piece := stream.read(_CHUNK)):
            left -= len(piece)
            digest.update(piece)
    return left == 0 and digest.hexdigest() == file.sha256


def _signatures(archive: zipfile.ZipFile) -> list[str]:
    try:
        found = msgspec.convert(json.loads(small(archive, archive.getinfo(".signatures"))), _Signatures)
    except (*NO_ZIP, BadPackage, RecursionError):
        return ["its .signatures cannot be read"]
    return [] if found.signatures else ["nobody signed it"]


def _leads_out(name: str) -> bool:
    return name.startswith("/") or "\\" in name or any(part in {"", ".", ".."} for part in name.split("/"))


def _said(name: str) -> str:
    return repr(name[:100])
