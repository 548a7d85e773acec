"""What is known of a blob beside its bytes, in a hidden file beside it."""

import base64
import binascii
import contextlib
import hashlib
import os
import re
import secrets
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Literal

import msgspec

from fabric.errors import StorageRefused
from fabric.files import Unfinished

Kind = Literal["BlockBlob", "PageBlob", "AppendBlob"]
Content = bytes | memoryview

_METADATA = "x-ms-meta-"
_METADATA_LIMIT = 8 * 1024
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_VALUE = re.compile(r"[\x20-\x7e]{0,1024}")
_GIVEN_BACK = ("content-type", "content-encoding", "content-language", "content-disposition", "cache-control")


class Properties(msgspec.Struct, kw_only=True):
    """ETag and time are of the last write."""

    kind: Kind = "BlockBlob"
    etag: str = msgspec.field(default_factory=lambda: f'"0x{secrets.token_hex(8).upper()}"')
    modified: float = msgspec.field(default_factory=time.time)
    md5: str = ""
    """Base64; empty if nobody computed it."""
    headers: dict[str, str] = {}
    """Given back with each GET: content type and metadata."""
    blocks: int = 0
    """Of an append blob."""

    def written(self) -> dict[str, str]:
        """The headers that answer a write."""
        return {"ETag": self.etag, "Last-Modified": formatdate(self.modified, usegmt=True)}

    def described(self) -> dict[str, str]:
        """The headers that answer a read."""
        more = {"x-ms-blob-committed-block-count": str(self.blocks)} if self.kind == "AppendBlob" else {}
        more |= {"x-ms-blob-sequence-number": "0"} if self.kind == "PageBlob" else {}
        return {
            "content-type": "application/octet-stream",
            **self.headers,
            **self.written(),
            "Accept-Ranges": "bytes",
            "x-ms-blob-type": self.kind,
            "x-ms-lease-state": "available",
            "x-ms-lease-status": "unlocked",
            **more,
        }


def stored(file: Path) -> Properties | None:
    """Of a blob, None if there is none. One the host wrote itself has none written down: its file says enough."""
    try:
        found = file.stat()
    except FileNotFoundError:
        return None
    try:
        return msgspec.json.decode(_beside(file).read_bytes(), type=Properties)
    except (FileNotFoundError, msgspec.DecodeError):
        return Properties(etag=f'"0x{found.st_mtime_ns:X}{found.st_ino:X}"', modified=found.st_mtime)


@contextlib.contextmanager
def storing(file: Path, properties: Properties) -> Iterator[None]:
    """They are in force after the block; there is room for them before it. Raises Unwritable."""
    with Unfinished(file.parent) as unfinished:
        unfinished.write(msgspec.json.encode(properties))
        yield
        unfinished.place(_beside(file), lasting=False)


def forget(file: Path) -> None:
    """The host itself put another in its place."""
    _beside(file).unlink(missing_ok=True)


def given(headers: dict[str, str]) -> dict[str, str]:
    """What a PUT wants to have given back later. Raises StorageRefused: a header must not break the answer."""
    found = {name: headers.get(f"x-ms-blob-{name}", headers.get(name, "")) for name in _GIVEN_BACK}
    metadata = {name: value for name, value in headers.items() if name.startswith(_METADATA)}
    if not all(_NAME.fullmatch(name.removeprefix(_METADATA)) for name in metadata):
        raise StorageRefused(400, "InvalidMetadata", "the name of metadata is an identifier")
    if sum(len(name) + len(value) for name, value in metadata.items()) > _METADATA_LIMIT:
        raise StorageRefused(400, "MetadataTooLarge", f"metadata has up to {_METADATA_LIMIT} bytes")
    for name, value in {**found, **metadata}.items():
        if not _VALUE.fullmatch(value):
            raise StorageRefused(400, "InvalidHeaderValue", f"{name} must be printable ASCII")
    return {name: value for name, value in found.items() if value} | metadata


def md5_of(content: Content) -> str:
    """As the headers have it."""
    return base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()


def checked_md5(content: bytes, *claims: str) -> str:
    """The MD5 of a body, which its sender may have sent too. Raises StorageRefused."""
    found = md5_of(content)
    for claim in claims:
        try:
            right = not claim or base64.b64decode(claim, validate=True) == base64.b64decode(found)
        except (binascii.Error, ValueError) as error:
            raise StorageRefused(400, "InvalidMd5", "the MD5 is no base64") from error
        if not right:
            raise StorageRefused(400, "Md5Mismatch", f"the body's MD5 is {found}")
    return found


def _beside(file: Path) -> Path:
    return file.with_name(f".{os.fspath(file.name)}.properties")
