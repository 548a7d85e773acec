"""Append blobs: created empty, grown block by block, each block where its sender thinks it goes."""

import os
import re
from pathlib import Path

from fabric import blobproperties
from fabric.blobconditions import check_write
from fabric.blobproperties import Properties
from fabric.blobreads import missing
from fabric.errors import StorageRefused
from fabric.files import writable, write_whole

BLOCK_LIMIT = 4 * 1024 * 1024
"""Bytes of one block, for the API version agents name."""
BLOCKS_LIMIT = 50_000

_NUMBER = re.compile(r"[0-9]{1,15}")


def create(file: Path, headers: dict[str, str], body: bytes) -> dict[str, str]:
    """The headers of the answer. Raises StorageRefused, Unwritable."""
    if body:
        raise StorageRefused(400, "InvalidHeaderValue", "an append blob is created without a body")
    check_write(headers, blobproperties.stored(file))
    properties = Properties(kind="AppendBlob", headers=blobproperties.given(headers))
    # A new file: who reads the old one has its pages mapped.
    with blobproperties.storing(file, properties):
        write_whole(file, b"")
    return properties.written()


def append(file: Path, headers: dict[str, str], body: bytes) -> dict[str, str]:
    """The headers of the answer. Raises StorageRefused, Unwritable."""
    properties = blobproperties.stored(file)
    if properties is None:
        raise missing(file)
    if properties.kind != "AppendBlob":
        raise StorageRefused(409, "InvalidBlobType", "this is no append blob")
    check_write(headers, properties)
    if not body:
        raise StorageRefused(400, "InvalidHeaderValue", "a block is not empty")
    if len(body) > BLOCK_LIMIT:
        raise StorageRefused(413, "RequestBodyTooLarge", f"a block has up to {BLOCK_LIMIT} bytes")
    blobproperties.checked_md5(body, headers.get("content-md5", ""))
    size = file.stat().st_size
    _check_place(headers, size, len(body))
    if properties.blocks >= BLOCKS_LIMIT:
        raise StorageRefused(409, "BlockCountExceedsLimit", f"an append blob has up to {BLOCKS_LIMIT} blocks")
    properties = Properties(kind="AppendBlob", headers=properties.headers, blocks=properties.blocks + 1)
    with blobproperties.storing(file, properties):
        _grow(file, size, body)
    return {
        **properties.written(),
        "x-ms-blob-append-offset": str(size),
        "x-ms-blob-committed-block-count": str(properties.blocks),
    }


def _grow(file: Path, size: int, body: bytes) -> None:
    """By all of it or by nothing. Raises Unwritable."""
    with writable(file), file.open("ab", buffering=0) as stream:
        try:
            rest = memoryview(body)
            while rest:
                rest = rest[stream.write(rest) :]
            os.fsync(stream.fileno())
        except OSError:
            stream.truncate(size)
            raise


def _check_place(headers: dict[str, str], size: int, more: int) -> None:
    position, most = headers.get("x-ms-blob-condition-appendpos"), headers.get("x-ms-blob-condition-maxsize")
    for value in (position, most):
        if value is not None and not _NUMBER.fullmatch(value):
            raise StorageRefused(400, "InvalidHeaderValue", "a condition is a number of bytes")
    if position is not None and int(position) != size:
        raise StorageRefused(412, "AppendPositionConditionNotMet", f"the blob has {size} bytes")
    if most is not None and size + more > int(most):
        raise StorageRefused(412, "MaxBlobSizeConditionNotMet", f"the blob has {size} bytes")
