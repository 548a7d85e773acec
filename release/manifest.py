"""What a package says of itself: bytes to values and back, and nothing else.

A manifest has one spelling only (JSON, keys sorted, no spaces, ASCII), so its SHA-256 names the whole version: the
signature covers it, the record remembers it, `launch.py` compares it. A layer's listing is written the same way.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from release.errors import ManifestError

MANIFEST = ".manifest"
SIGNATURES = ".signatures"
LISTING = ".layer"
"""The manifest of a layer; its SHA-256 is the layer's name."""
BUNDLE = ".bundle"
"""What a bundle holds, see release/bundle.py."""

SIZE_LIMIT = 1 << 20
FILES_LIMIT = 5000
BYTES_LIMIT = 256 << 20
"""All files of one version or layer together."""

_NUMBER = "(0|[1-9][0-9]{0,8})"
VERSION_PATTERN = rf"\A{_NUMBER}(\.{_NUMBER}){{1,3}}\Z"
DIGEST_PATTERN = r"\A[0-9a-f]{64}\Z"

Name = Annotated[str, msgspec.Meta(pattern=r"\A[a-z][a-z0-9_]{0,63}\Z")]
Version = Annotated[str, msgspec.Meta(pattern=VERSION_PATTERN)]
Digest = Annotated[str, msgspec.Meta(pattern=DIGEST_PATTERN)]
"""SHA-256, hexadecimal."""
Word = Annotated[str, msgspec.Meta(max_length=100)]
Small = Annotated[int, msgspec.Meta(ge=0, le=1 << 30)]
S = TypeVar("S", bound=msgspec.Struct)


class File(msgspec.Struct, frozen=True):
    """One file. All have mode 0644; folders are those the paths need."""

    sha256: Digest
    size: Small


class Layer(msgspec.Struct, frozen=True):
    """One third-party package that a version needs; it lies in `deps/<sha256>/`."""

    name: Word
    version: Word
    sha256: Digest


class Protocol(msgspec.Struct, frozen=True):
    """Contract versions (major, minor) the component can speak, see ipc/contract/__init__.py."""

    min: tuple[Small, Small]
    max: tuple[Small, Small]


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """Of one version of one component. Unknown fields are ignored; new fields have defaults."""

    format: Literal[1] = 1
    component: Name
    version: Version
    min_python: Version
    protocol: Protocol
    floor: Version = "0.0.0"
    """No version below this may follow this one."""
    platform: Word = "any"
    """Where its layers run, e.g. `linux-x86_64`."""
    abi: Word = "any"
    """The one Python its layers run with, e.g. `cpython-311`."""
    files: dict[str, File]
    layers: tuple[Layer, ...] = ()


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """The files of one layer."""

    format: Literal[1] = 1
    name: Word
    version: Word
    platform: Word = "any"
    abi: Word = "any"
    files: dict[str, File]


def canonical(value: Any) -> bytes:
    """The one spelling of a value."""
    return json.dumps(msgspec.to_builtins(value), sort_keys=True, separators=(",", ":")).encode("ascii")


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def decode_manifest(data: bytes) -> Manifest:
    """Raises ManifestError for anything else."""
    manifest = _decode(data, Manifest)
    if manifest.protocol.min > manifest.protocol.max:
        raise ManifestError("has a protocol range that is upside down")
    if version_key(manifest.floor) > version_key(manifest.version):
        raise ManifestError(f"has the version {manifest.version}, below its own floor {manifest.floor}")
    _check_files(manifest.files)
    return manifest


def decode_listing(data: bytes) -> Listing:
    """Raises ManifestError for anything else."""
    listing = _decode(data, Listing)
    _check_files(listing.files)
    return listing


def _decode(data: bytes, kind: type[S]) -> S:
    if len(data) > SIZE_LIMIT:
        raise ManifestError(f"has {len(data)} bytes, limit {SIZE_LIMIT}")
    try:
        raw = json.loads(data)
        # Also says no to doubled keys: whoever reads the first and whoever reads the last would see two manifests.
        if json.dumps(raw, sort_keys=True, separators=(",", ":")).encode("ascii") != data:
            raise ManifestError("is not in its one spelling (sorted keys, no spaces, ASCII)")
        return msgspec.convert(raw, kind)
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"is no {kind.__name__.lower()} of ours: {_reason(error)}") from error


def _reason(error: ValueError | RecursionError) -> str:
    match error:
        case msgspec.ValidationError():
            return str(error)
        case json.JSONDecodeError() | UnicodeDecodeError():
            return f"no JSON: {error}"
        case RecursionError():
            return "nested too deeply"
        case _:
            return "a number of too many digits"  # all that is left; Python's words speak to programmers


def _check_files(files: dict[str, File]) -> None:
    if not 0 < len(files) <= FILES_LIMIT:
        raise ManifestError(f"has {len(files)} files, allowed are 1 to {FILES_LIMIT}")
    if (size := sum(file.size for file in files.values())) > BYTES_LIMIT:
        raise ManifestError(f"has files of {size} bytes in all, limit {BYTES_LIMIT}")
    for path in files:
        if reason := why_unsafe(path):
            raise ManifestError(f"has a file {path!r}, which {reason}")
    if both := folders_of(files) & files.keys():
        raise ManifestError(f"has {min(both)!r} as a file and a folder")


def why_unsafe(path: str) -> str:
    """Why this path may not be written below a folder of ours; empty if it may."""
    if path.startswith("/"):
        return "is absolute"
    if "\\" in path:
        return "has a backslash"
    if not path.isprintable():  # says no to NUL, newlines and lone surrogates too
        return "has unprintable characters"
    if any(part in {"", ".", ".."} for part in path.split("/")):
        return "leads out of its folder or is not plain"
    if len(path.encode()) > 1000 or any(len(part.encode()) > 200 for part in path.split("/")):
        return "is too long"
    if path in {MANIFEST, SIGNATURES, LISTING, BUNDLE}:
        return "is a name of our own"
    return ""


def folders_of(files: Mapping[str, File]) -> set[str]:
    """Every folder the paths need, without the top one."""
    return {path[: match.start()] for path in files for match in re.finditer("/", path)}


def is_version(text: str) -> bool:
    """Whether a package of ours can have this number. Pre-releases and other junk cannot."""
    return re.fullmatch(VERSION_PATTERN, text) is not None


def is_digest(text: str) -> bool:
    return re.fullmatch(DIGEST_PATTERN, text) is not None


def same_version(one: str, other: str) -> bool:
    """1.2 and 1.2.0 are the same. Either may be junk, which is the same as nothing."""
    return is_version(one) and is_version(other) and version_key(one) == version_key(other)


def version_key(version: str) -> tuple[int, ...]:
    """For comparing; 1.2 and 1.2.0 are equal. `version` has passed VERSION_PATTERN."""
    numbers = [int(part) for part in version.split(".")]
    return tuple([*numbers, 0, 0, 0][:4])
