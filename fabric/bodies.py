"""Bodies as they come in, bounded in size and JSON in depth too; and as they go out."""

import re
from collections.abc import AsyncIterator
from typing import Any, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from fabric.errors import FabricError, Refused, TooLarge

DOCUMENT_LIMIT = 1024 * 1024
"""What a VM or an operator has to say in one XML or JSON document."""
DEPTH_LIMIT = 100
"""Levels of JSON: what comes in is kept and given out again inside other documents."""

T = TypeVar("T")

_BRACKET = re.compile(rb'"(?:[^"\\]|\\.)*+"|[\[{]|[\]}]', re.DOTALL)


async def parts(request: Request, limit: int) -> AsyncIterator[bytes]:
    """The body as it arrives. Raises TooLarge past the limit, at once if the body announces it."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > limit:
        raise TooLarge(f"bodies are limited to {limit} bytes here")
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise TooLarge(f"bodies are limited to {limit} bytes here")
        yield part


async def read(request: Request, limit: int = DOCUMENT_LIMIT) -> bytes:
    """The whole body. Raises TooLarge."""
    return b"".join([part async for part in parts(request, limit)])


async def order(request: Request, kind: type[T], limit: int = DOCUMENT_LIMIT) -> T:
    """What a JSON body asks for. Raises FabricError."""
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if content_type != "application/json":
        raise Refused(415, "the body must be JSON, with Content-Type: application/json")
    return parse_json(await read(request, limit), kind)


def parse_json(data: bytes, kind: type[T]) -> T:
    """One JSON document of that type. Raises FabricError, which says what is wrong with it."""
    if deep(data):
        raise FabricError(f"JSON deeper than {DEPTH_LIMIT} levels")
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise FabricError(str(error)) from error


def deep(data: bytes) -> bool:
    """Whether JSON has more than DEPTH_LIMIT levels: the parser's own limit depends on who calls it."""
    if data.count(b"[") + data.count(b"{") <= DEPTH_LIMIT:
        return False
    level = 0
    for match in _BRACKET.finditer(data):
        token = match[0]
        level += 1 if token in b"[{" else -1 if token in b"]}" else 0
        if level > DEPTH_LIMIT:
            return True
    return False


def json(value: Any) -> Response:
    """By msgspec: FastAPI's encoder would walk a status blob of any size in Python."""
    return Response(msgspec.json.encode(value), media_type="application/json")
