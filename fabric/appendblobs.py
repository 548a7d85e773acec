"""Append blobs: created empty, grown block by block, each block where its sender thinks it goes."""

import os
import re
from pathlib import Path

from starlette.responses import Response

BLOCK_LIMIT = 4 * 1024 * 1024
"""Bytes of one block, for the API version agents name."""
BLOCKS_LIMIT = 50_000

_NUMBER = re.compile(r"[0-9]{1,15}")


def is_for_append(headers: dict[str, str], query: dict[str, str]) -> bool:
    """Whether a PUT is Put Blob of an append blob, or Append Block."""
    return headers.get("x-ms-blob-type", "").lower() == "appendblob" or query.get("comp") == "appendblock"


def put(file: Path, query: dict[str, str], headers: dict[str, str], body: bytes) -> Response:
    """The answer to such a PUT, once its signature was found good."""
    if query.get("comp") == "appendblock":
        return _append(file, headers, body)
    if body:
        return _refuse(400, "InvalidHeaderValue", "an append blob is created without a body")
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(b"")
    _count_file(file).write_text("0", encoding="ascii")
    return Response(status_code=201)


def forget(file: Path) -> None:
    """A blob of another kind took its place."""
    _count_file(file).unlink(missing_ok=True)


def _append(file: Path, headers: dict[str, str], body: bytes) -> Response:
    if not file.is_file():
        return _refuse(404, "BlobNotFound", "the specified blob does not exist")
    if not _count_file(file).is_file():
        return _refuse(409, "InvalidBlobType", "this is no append blob")
    if not body:
        return _refuse(400, "InvalidHeaderValue", "a block is not empty")
    if len(body) > BLOCK_LIMIT:
        return _refuse(413, "RequestBodyTooLarge", f"a block has up to {BLOCK_LIMIT} bytes")
    size, count = file.stat().st_size, int(_count_file(file).read_text(encoding="ascii"))
    position, most = headers.get("x-ms-blob-condition-appendpos"), headers.get("x-ms-blob-condition-maxsize")
    for value in (position, most):
        if value is not None and not _NUMBER.fullmatch(value):
            return _refuse(400, "InvalidHeaderValue", "a condition is a number of bytes")
    if position is not None and int(position) != size:
        return _refuse(412, "AppendPositionConditionNotMet", f"the blob has {size} bytes")
    if most is not None and size + len(body) > int(most):
        return _refuse(412, "MaxBlobSizeConditionNotMet", f"the blob has {size} bytes")
    if count >= BLOCKS_LIMIT:
        return _refuse(409, "BlockCountExceedsLimit", f"an append blob has up to {BLOCKS_LIMIT} blocks")
    with file.open("ab") as stream:
        stream.write(body)
        stream.flush()
        os.fsync(stream.fileno())
    _count_file(file).write_text(str(count + 1), encoding="ascii")
    told = {"x-ms-blob-append-offset": str(size), "x-ms-blob-committed-block-count": str(count + 1)}
    return Response(status_code=201, headers=told)


def _count_file(file: Path) -> Path:
    """Beside the blob; that it is there says which kind of blob it is."""
    return file.with_name(f".{file.name}.blocks")


def _refuse(status: int, code: str, text: str) -> Response:
    return Response(f"{code}: {text}", status, {"x-ms-error-code": code}, "text/plain")
