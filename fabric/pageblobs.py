"""Page blobs: created full of zeros, written in pages of 512 bytes."""

import re
from pathlib import Path

from fabric import blobproperties
from fabric.blobconditions import check_write
from fabric.blobproperties import Properties
from fabric.blobreads import RANGE, missing
from fabric.errors import StorageRefused
from fabric.files import write_whole

SIZE_LIMIT = 64 * 1024 * 1024
_PAGE = 512
_PAGES_LIMIT = 4 * 1024 * 1024


def create(file: Path, headers: dict[str, str], body: bytes) -> dict[str, str]:
    """The headers of the answer. Raises StorageRefused, Unwritable."""
    if body:
        raise StorageRefused(400, "InvalidHeaderValue", "a page blob is created without a body, its pages come after")
    length = headers.get("x-ms-blob-content-length", "")
    if not re.fullmatch("[0-9]{1,15}", length) or int(length) % _PAGE or int(length) > SIZE_LIMIT:
        reason = f"x-ms-blob-content-length must be a multiple of {_PAGE} up to {SIZE_LIMIT}"
        raise StorageRefused(400, "InvalidHeaderValue" if length else "MissingRequiredHeader", reason)
    check_write(headers, blobproperties.stored(file))
    properties = Properties(kind="PageBlob", headers=blobproperties.given(headers))
    with blobproperties.storing(file, properties):
        write_whole(file, bytes(int(length)))
    return properties.written()


def write(file: Path, headers: dict[str, str], body: bytes) -> tuple[dict[str, str], bytes | None]:
    """The headers of the answer; the whole content once its last page was written. Raises as `create`."""
    word = headers.get("x-ms-page-write", "").lower()
    if word not in {"update", "clear"}:
        raise StorageRefused(400, "InvalidHeaderValue", "x-ms-page-write must be update or clear")
    properties = blobproperties.stored(file)
    if properties is None:
        raise missing(file)
    if properties.kind != "PageBlob":
        raise StorageRefused(409, "InvalidBlobType", f"this is a {properties.kind}")
    check_write(headers, properties)
    blobproperties.checked_md5(body, headers.get("content-md5", ""))
    if len(body) > _PAGES_LIMIT:
        raise StorageRefused(413, "RequestBodyTooLarge", f"one request writes up to {_PAGES_LIMIT} bytes of pages")
    if len(body) % _PAGE or (body and word == "clear"):
        reason = f"x-ms-range is for whole pages, cleared ones have no body: this one has {len(body)} bytes"
        raise StorageRefused(400, "InvalidHeaderValue", reason)
    content = bytearray(file.read_bytes())
    start, end = _pages(headers.get("x-ms-range", headers.get("range", "")), len(content))
    if word == "update" and end - start != len(body):
        raise _invalid(f"x-ms-range says {end - start} bytes, the body has {len(body)}")
    content[start:end] = body or bytes(end - start)
    properties = Properties(kind="PageBlob", headers=properties.headers)
    with blobproperties.storing(file, properties):
        write_whole(file, bytes(content))
    whole = bytes(content) if end == len(content) else None
    return {**properties.written(), "x-ms-blob-sequence-number": "0"}, whole


def _pages(asked: str, size: int) -> tuple[int, int]:
    match = RANGE.fullmatch(asked)
    if match is None or not match[2]:
        raise _invalid("x-ms-range must be bytes=START-END")
    start, end = int(match[1]), int(match[2]) + 1
    if start % _PAGE or end % _PAGE or end <= start:
        raise _invalid(f"x-ms-range must be whole pages of {_PAGE} bytes")
    if end > size:
        raise _invalid(f"x-ms-range ends behind the blob's {size} bytes")
    return start, end


def _invalid(reason: str) -> StorageRefused:
    return StorageRefused(416, "InvalidPageRange", reason)
