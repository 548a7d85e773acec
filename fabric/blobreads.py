"""GET and HEAD of a blob: ranges, conditions, and what is said of it."""

import hashlib
import mmap
import os
import re
from pathlib import Path

from starlette.responses import Response

from fabric import blobproperties
from fabric.blobconditions import check_read
from fabric.blobproperties import Content, Properties, md5_of
from fabric.errors import StorageRefused

RANGE = re.compile(r"bytes=([0-9]{1,15})-([0-9]{0,15})")
_RANGE_MD5_LIMIT = 4 * 1024 * 1024


def read(file: Path, headers: dict[str, str], *, only_head: bool) -> Response:
    """The answer to a request that may read it. Raises StorageRefused."""
    properties = blobproperties.stored(file)
    if properties is None:
        raise missing(file)
    return _answer(properties, mapped(file), headers, only_head=only_head)


def made(content: bytes, headers: dict[str, str], *, only_head: bool) -> Response:
    """The same of what lies in no file. Raises StorageRefused."""
    digest = hashlib.sha256(content).hexdigest()
    properties = Properties(etag=f'"0x{digest[:16].upper()}"', md5=md5_of(content))
    return _answer(properties, content, headers, only_head=only_head)


def _answer(properties: Properties, content: Content, headers: dict[str, str], *, only_head: bool) -> Response:
    check_read(headers, properties)
    said = properties.described()
    span = None if only_head else _span(headers.get("x-ms-range", headers.get("range", "")), len(content))
    if span is None:
        if properties.md5:
            said["Content-MD5"] = properties.md5
        return Response(content, headers=said)
    start, end = span
    part = content[start:end]
    return Response(part, 206, said | _of_part(properties, headers, part, start, len(content)))


def mapped(file: Path) -> Content:
    """The file's pages instead of a copy for each client: it is only ever replaced or grown, never cut.

    Raises StorageRefused.
    """
    try:
        with file.open("rb") as stream:
            if os.fstat(stream.fileno()).st_size == 0:
                return b""
            return memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
    except FileNotFoundError as error:
        raise missing(file) from error


def missing(file: Path) -> StorageRefused:
    """What is said of a blob that is not there."""
    return StorageRefused(404, "BlobNotFound", f"there is no blob /{file.parent.name}/{file.name}")


def _of_part(properties: Properties, headers: dict[str, str], part: Content, start: int, size: int) -> dict[str, str]:
    said = {"Content-Range": f"bytes {start}-{start + len(part) - 1}/{size}"}
    if properties.md5:
        said["x-ms-blob-content-md5"] = properties.md5
    if headers.get("x-ms-range-get-content-md5", "").lower() == "true":
        if len(part) > _RANGE_MD5_LIMIT:
            raise StorageRefused(400, "InvalidHeaderValue", f"an MD5 is made of up to {_RANGE_MD5_LIMIT} bytes")
        said["Content-MD5"] = md5_of(part)
    return said


def _span(asked: str, size: int) -> tuple[int, int] | None:
    """First byte, and the one behind the last; None for the whole blob. Raises StorageRefused."""
    match = RANGE.fullmatch(asked)
    if match is None or (match[2] and int(match[2]) < int(match[1])):
        return None
    start, end = int(match[1]), int(match[2]) + 1 if match[2] else size
    if start >= size:
        raise StorageRefused(
            416, "InvalidRange", f"the blob has {size} bytes", headers={"Content-Range": f"bytes */{size}"}
        )
    return start, min(end, size)
