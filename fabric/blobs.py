"""The blob store: block, page and append blobs in files, addressed by signed URLs."""

import asyncio
import hmac
import mmap
import os
import re
from collections.abc import Callable
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from fabric import appendblobs, bodies
from fabric.errors import Refused, Unknown
from fabric.files import Unfinished, forget_unfinished, write_whole

UPLOAD_LIMIT = 64 * 1024 * 1024
"""Of one PUT, and of a page blob (Azure's for the API version agents name)."""
_PAGES_LIMIT = 4 * 1024 * 1024
_PATH = re.compile(r"/(status|packages|manifests|agents|output)/[A-Za-z0-9][A-Za-z0-9._-]{0,200}")
_RANGE = re.compile(r"bytes=([0-9]{1,15})-([0-9]{0,15})")

Sign = Callable[[str, str], str]
"""Of a path and permissions, `r` or `rw`."""
Content = bytes | memoryview
OnWritten = Callable[[str, bytes, str], None]
Make = Callable[[str, str, bool], bytes | None]
"""Content that depends on the base URL one asks at (second); the third: as it was before the newest change."""


class BlobStore:
    """Files below one folder; `written(path, content, channel)` hears of each finished write."""

    def __init__(self, folder: Path, sign: Sign, written: OnWritten, make: Make) -> None:
        self._folder = folder
        self._sign = sign
        self._written = written
        self._make = make
        self._block_blobs: set[str] = set()
        # What the VM writes is told in the order it was written.
        self._writing = asyncio.Lock()
        self._incoming = folder / "packages"
        self._incoming.mkdir(parents=True, exist_ok=True)
        for one in folder.iterdir():
            forget_unfinished(one)

    def put(self, path: str, content: bytes) -> None:
        """Write a whole blob. Raises Unknown for a path that is none of ours."""
        file = self._file(path)
        file.parent.mkdir(exist_ok=True)
        write_whole(file, content)
        appendblobs.forget(file)

    def incoming(self) -> Unfinished:
        """Room for a package whose name is not known yet. Raises Unwritable."""
        return Unfinished(self._incoming)

    def take(self, path: str, unfinished: Unfinished) -> None:
        """Make a blob of what came in. Raises Unknown, Unwritable."""
        unfinished.place(self._file(path))

    def get(self, path: str) -> bytes:
        """Raises Unknown."""
        try:
            return self._file(path).read_bytes()
        except FileNotFoundError as error:
            raise Unknown(f"there is no blob {path}") from error

    def tail(self, path: str, limit: int) -> tuple[int, bytes]:
        """How long it is, and its end; nothing of one that was not written yet. Raises Unknown: no blob path."""
        try:
            with self._file(path).open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - limit))
                return size, file.read(limit)
        except FileNotFoundError:
            return 0, b""

    def paths(self, prefix: str) -> list[str]:
        """All blobs whose path begins so."""
        found = (f"/{one.parent.name}/{one.name}" for one in self._folder.glob("*/*") if not one.name.startswith("."))
        return sorted(path for path in found if path.startswith(prefix))

    def download(self, path: str, query: dict[str, str], base: str, *, replayed: bool = False) -> Content:
        """A GET as the blob service takes it, by this base URL. Raises Refused, Unknown."""
        self._authorize(path, query, "r")
        made = self._make(path, base, replayed)
        if made is not None:
            return made
        try:
            return _mapped(self._file(path))
        except FileNotFoundError as error:
            raise Unknown(f"there is no blob {path}") from error

    async def upload(
        self, path: str, query: dict[str, str], headers: dict[str, str], body: bytes, channel: str
    ) -> None:
        """A PUT as the blob service takes it, directly or through HostGAPlugin. Raises Refused, Unknown."""
        self._authorize(path, query, "w")
        async with self._writing:
            if query.get("comp") == "page":
                await self._write_pages(path, headers, body, channel)
                return
            match headers.get("x-ms-blob-type"):
                case "BlockBlob":
                    await asyncio.to_thread(self.put, path, body)
                    self._block_blobs.add(path)
                    self._written(path, body, channel)
                case "PageBlob":
                    await self._create_pages(path, headers.get("x-ms-blob-content-length", ""), body)
                case _:
                    raise Refused(400, "x-ms-blob-type must be BlockBlob or PageBlob")

    async def answer(self, request: Request, base: str, *, replayed: bool = False) -> Response:
        """GET, HEAD and PUT of one blob by its URL. Raises FabricError."""
        path, query = request.scope["path"], dict(request.query_params)
        if request.method == "PUT":
            body = await bodies.read(request, UPLOAD_LIMIT)
            headers = {name.lower(): value for name, value in request.headers.items()}
            if appendblobs.is_for_append(headers, query):
                self._authorize(path, query, "w")
                return await asyncio.to_thread(appendblobs.put, self._file(path), query, headers, body)
            await self.upload(path, query, dict(request.headers), body, "direct")
            return Response(status_code=201)
        if request.method not in {"GET", "HEAD"}:
            raise Refused(405, "blobs are read by GET and HEAD and written by PUT")
        return _ranged(self.download(path, query, base, replayed=replayed), request.headers.get("range", ""))

    def _authorize(self, path: str, query: dict[str, str], permission: str) -> None:
        if not _PATH.fullmatch(path):
            raise Unknown("there is no such blob")
        granted = query.get("sp", "")
        if not hmac.compare_digest(query.get("sig", "").encode(), self._sign(path, granted).encode()):
            raise Refused(403, "AuthenticationFailed: the signature is not ours")
        if permission not in granted:
            raise Refused(403, f"AuthorizationPermissionMismatch: the signature grants {granted}")

    async def _create_pages(self, path: str, length: str, body: bytes) -> None:
        if body:
            raise Refused(400, "a page blob is created without a body, its pages come after")
        if not re.fullmatch("[0-9]{1,15}", length) or int(length) % 512 or int(length) > UPLOAD_LIMIT:
            raise Refused(400, f"x-ms-blob-content-length must be a multiple of 512 up to {UPLOAD_LIMIT}")
        await asyncio.to_thread(self.put, path, bytes(int(length)))
        self._block_blobs.discard(path)

    async def _write_pages(self, path: str, headers: dict[str, str], body: bytes, channel: str) -> None:
        if headers.get("x-ms-page-write", "").lower() != "update":
            raise Refused(400, "x-ms-page-write must be update")
        match = _RANGE.fullmatch(headers.get("x-ms-range", ""))
        if match is None or not match[2]:
            raise Refused(400, "x-ms-range must be bytes=START-END")
        start, end = int(match[1]), int(match[2])
        if start % 512 or (end + 1) % 512 or end < start:
            raise Refused(400, "x-ms-range must be whole pages of 512 bytes")
        content = bytearray(await asyncio.to_thread(self.get, path))
        if path in self._block_blobs:
            raise Refused(409, "InvalidBlobType: this is a block blob")
        if end >= len(content):
            raise Refused(416, f"x-ms-range ends behind the blob's {len(content)} bytes")
        if end - start + 1 != len(body):
            raise Refused(400, f"x-ms-range says {end - start + 1} bytes, the body has {len(body)}")
        if len(body) > _PAGES_LIMIT:
            raise Refused(413, f"one request writes up to {_PAGES_LIMIT} bytes of pages")
        content[start : end + 1] = body
        await asyncio.to_thread(self.put, path, bytes(content))
        if end + 1 == len(content):
            self._written(path, bytes(content), channel)

    def _file(self, path: str) -> Path:
        if not _PATH.fullmatch(path):
            raise Unknown(f"{path[:100]!r} is no blob path")
        return self._folder / path[1:]


def _mapped(path: Path) -> Content:
    """The file's pages instead of a copy for each client. It is only ever replaced, never cut."""
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            return b""
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _ranged(content: Content, asked: str) -> Response:
    match = _RANGE.fullmatch(asked)
    if match is None:
        return Response(content, media_type="application/octet-stream", headers={"x-ms-version": "2018-03-28"})
    start, end = int(match[1]), int(match[2]) if match[2] else len(content) - 1
    end = min(end, len(content) - 1)
    if start > end:
        return Response(status_code=416, headers={"Content-Range": f"bytes */{len(content)}"})
    headers = {"Content-Range": f"bytes {start}-{end}/{len(content)}"}
    return Response(content[start : end + 1], 206, headers, "application/octet-stream")
