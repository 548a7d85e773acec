"""The blob store: block, page and append blobs in files, addressed by signed URLs."""

import hmac
import re
from collections.abc import Callable
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

from fabric import appendblobs
from fabric.errors import Unknown
from fabric.state import write_whole

BLOB_LIMIT = 512 * 1024 * 1024
_PATH = re.compile(r"/(status|packages|manifests|agents|output)/[A-Za-z0-9][A-Za-z0-9._-]{0,200}")
_RANGE = re.compile(r"bytes=(\d{1,15})-(\d{0,15})")

OnWritten = Callable[[str, bytes, str], None]


class BlobStore:
    """Files below one folder; `written(path, content, channel)` hears of each finished write."""

    def __init__(self, folder: Path, sign: Callable[[str], str], written: OnWritten) -> None:
        self._folder = folder
        self._sign = sign
        self._written = written
        folder.mkdir(parents=True, exist_ok=True)

    def put(self, path: str, content: bytes) -> None:
        """Write a whole blob. Raises Unknown for a path that is none of ours."""
        file = self._file(path)
        file.parent.mkdir(exist_ok=True)
        write_whole(file, content)
        appendblobs.forget(file)

    def get(self, path: str) -> bytes:
        """Raises Unknown."""
        try:
            return self._file(path).read_bytes()
        except FileNotFoundError as error:
            raise Unknown(f"there is no blob {path}") from error

    def paths(self, prefix: str) -> list[str]:
        """All blobs whose path begins so."""
        found = (f"/{one.parent.name}/{one.name}" for one in self._folder.glob("*/*") if not one.name.startswith("."))
        return sorted(path for path in found if path.startswith(prefix))

    def upload(self, path: str, query: dict[str, str], headers: dict[str, str], body: bytes, channel: str) -> int:
        """A PUT as the blob service takes it, directly or through HostGAPlugin; the HTTP status."""
        if not _PATH.fullmatch(path):
            return 404
        if not hmac.compare_digest(query.get("sig", "").encode(), self._sign(path).encode()):
            return 403
        kind = headers.get("x-ms-blob-type", "")
        if query.get("comp") == "page":
            return self._write_pages(path, headers, body, channel)
        if kind == "BlockBlob":
            self.put(path, body)
            self._written(path, body, channel)
            return 201
        if kind == "PageBlob" and not body:
            return self._create_pages(path, headers.get("x-ms-blob-content-length", ""))
        return 400

    async def answer(self, request: Request) -> Response:
        """GET, HEAD and PUT of one blob by its URL."""
        path, query = request.url.path, dict(request.query_params)
        if request.method == "PUT":
            headers = {name.lower(): value for name, value in request.headers.items()}
            body = await request.body()
            if appendblobs.is_for_append(headers, query) and _PATH.fullmatch(path) and self._is_signed(path, query):
                return appendblobs.put(self._file(path), query, headers, body)
            return Response(status_code=self.upload(path, query, headers, body, "direct"))
        if not _PATH.fullmatch(path):
            return Response("no such blob", 404)
        if not hmac.compare_digest(query.get("sig", "").encode(), self._sign(path).encode()):
            return Response("AuthenticationFailed: the signature is not ours", 403)
        try:
            content = self.get(path)
        except Unknown as error:
            return Response(str(error), 404)
        return _ranged(content, request.headers.get("range", ""))

    def _is_signed(self, path: str, query: dict[str, str]) -> bool:
        return hmac.compare_digest(query.get("sig", "").encode(), self._sign(path).encode())

    def _create_pages(self, path: str, length: str) -> int:
        if not length.isdigit() or int(length) % 512 or int(length) > BLOB_LIMIT:
            return 400
        self.put(path, bytes(int(length)))
        return 201

    def _write_pages(self, path: str, headers: dict[str, str], body: bytes, channel: str) -> int:
        match = _RANGE.fullmatch(headers.get("x-ms-range", ""))
        if match is None or not match[2] or headers.get("x-ms-page-write", "").lower() != "update":
            return 400
        start, end = int(match[1]), int(match[2])
        if start % 512 or (end + 1) % 512 or end - start + 1 != len(body):
            return 400
        try:
            content = bytearray(self.get(path))
        except Unknown:
            return 404
        if end >= len(content):
            return 416
        content[start : end + 1] = body
        self.put(path, bytes(content))
        if end + 1 == len(content):
            self._written(path, bytes(content), channel)
        return 201

    def _file(self, path: str) -> Path:
        if not _PATH.fullmatch(path):
            raise Unknown(f"{path[:100]!r} is no blob path")
        return self._folder / path[1:]


def _ranged(content: bytes, asked: str) -> Response:
    match = _RANGE.fullmatch(asked)
    if match is None:
        return Response(content, media_type="application/octet-stream", headers={"x-ms-version": "2018-03-28"})
    start, end = int(match[1]), int(match[2]) if match[2] else len(content) - 1
    end = min(end, len(content) - 1)
    if start > end:
        return Response(status_code=416, headers={"Content-Range": f"bytes */{len(content)}"})
    headers = {"Content-Range": f"bytes {start}-{end}/{len(content)}"}
    return Response(content[start : end + 1], 206, headers, "application/octet-stream")
