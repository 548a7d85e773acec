"""Packages of our components as they are handed in: what `.manifest` in one says, and which layer a zip holds."""

import hashlib
import json
import zipfile
from typing import Annotated, Any, BinaryIO, TypeVar

import msgspec

from fabric.errors import BadPackage
from fabric.packages import NO_ZIP, Careful, small

_NUMBER = "(0|[1-9][0-9]{0,8})"
COMPONENT_PATTERN = r"^[a-z][a-z0-9_]{0,62}$"
VERSION_PATTERN = rf"^{_NUMBER}(\.{_NUMBER}){{1,3}}$"
DIGEST_PATTERN = "^[0-9a-f]{64}$"

Digest = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
"""SHA-256, hexadecimal."""
Version = Annotated[str, msgspec.Meta(pattern=rf"\A{_NUMBER}(\.{_NUMBER}){{1,3}}\Z")]
_ENTRIES_LIMIT = 10_000

S = TypeVar("S", bound=msgspec.Struct)


class Layer(msgspec.Struct, frozen=True):
    """A third-party package that a version needs, by the digest of its listing."""

    name: Annotated[str, msgspec.Meta(max_length=100)]
    version: Annotated[str, msgspec.Meta(max_length=100)]
    sha256: Digest


class ComponentPackage(msgspec.Struct, frozen=True, kw_only=True):
    """What a package says of itself, and the SHA-256 of how it says it."""

    component: Annotated[str, msgspec.Meta(pattern=r"\A[a-z][a-z0-9_]{0,62}\Z")]
    version: Version
    floor: Version = "0.0.0"
    layers: tuple[Layer, ...] = ()
    files: dict[str, Any]
    digest: str = ""


class _Listing(msgspec.Struct, frozen=True):
    name: str
    files: dict[str, Any]


def component_package(file: BinaryIO) -> ComponentPackage:
    """Read a package's manifest. Signatures and contents are the agent's business. Raises BadPackage."""
    manifest, names = _own(file, ".manifest")
    found = _decoded(manifest, ".manifest", ComponentPackage)
    if ".signatures" not in names:
        raise BadPackage("the package has no .signatures: build it with agentctl package build")
    if missing := found.files.keys() - names:
        raise BadPackage(f"{min(missing)[:100]!r} is in its manifest, and missing in the package")
    return msgspec.structs.replace(found, digest=hashlib.sha256(manifest).hexdigest())


def layer_digest(file: BinaryIO) -> str:
    """The name of the layer a zip holds: SHA-256 of its listing. Raises BadPackage."""
    listing, _ = _own(file, ".layer")
    _decoded(listing, ".layer", _Listing)
    return hashlib.sha256(listing).hexdigest()


def _own(file: BinaryIO, name: str) -> tuple[bytes, set[str]]:
    """That entry, and the names of all. Raises BadPackage."""
    careful: Any = Careful(file)
    try:
        with zipfile.ZipFile(careful) as archive:
            entries = archive.infolist()
            if len(entries) > _ENTRIES_LIMIT:
                raise BadPackage(f"the zip holds {len(entries)} files, limit {_ENTRIES_LIMIT}")
            found = [one for one in entries if one.filename == name]
            if len(found) != 1:
                raise BadPackage(f"the zip holds {name} {len(found)} times: no package by agentctl package build")
            return small(archive, found[0]), {one.filename for one in entries}
    except NO_ZIP as error:
        raise BadPackage(f"this is no usable zip: {error}") from error


def _decoded(data: bytes, name: str, kind: type[S]) -> S:
    try:
        raw = json.loads(data)
        # One spelling only: the digest of the bytes names the content.
        if json.dumps(raw, sort_keys=True, separators=(",", ":")).encode("ascii") != data:
            raise BadPackage(f"{name} is not in its one spelling (sorted keys, no spaces, ASCII)")
        return msgspec.convert(raw, kind)
    except (ValueError, RecursionError) as error:
        raise BadPackage(f"{name} cannot be used: {error}") from error
