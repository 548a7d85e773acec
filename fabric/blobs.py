"""The blob store: block, page and append blobs in files, addressed by signed URLs."""

import asyncio
import hmac
import os
import re
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from xml.sax.saxutils import escape

from starlette.requests import Request
from starlette.responses import Response

from fabric import appendblobs, blobproperties, blobreads, bodies, pageblobs
from fabric.blobconditions import check_write
from fabric.blobproperties import Content, Properties
from fabric.errors import FabricError, StorageRefused, Unknown
from fabric.files import Unfinished, forget_unfinished, writable, write_whole

UPLOAD_LIMIT = 64 * 1024 * 1024
"""Of one PUT (Azure's for the API version agents name)."""
_LAYER = re.compile(r"/agents/layers/[0-9a-f]{64}\.zip")
_PATH = re.compile(rf"/(status|packages|manifests|agents|output)/[A-Za-z0-9][A-Za-z0-9._-]{{0,200}}|{_LAYER.pattern}")
_VERSION = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_CODES = {404: "ResourceNotFound", 413: "RequestBodyTooLarge", 507: "InternalError"}

Sign = Callable[[str, str], str]
"""Of a path and permissions, `r` or `rw`."""
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
        blobproperties.forget(file)

    def incoming(self) -> Unfinished:
        """Room for a package whose name is not known yet. Raises Unwritable."""
        return Unfinished(self._incoming)

    def take(self, path: str, unfinished: Unfinished) -> None:
        """Make a blob of what came in. Raises Unknown, Unwritable."""
        file = self._file(path)
        file.parent.mkdir(exist_ok=True)
        unfinished.place(file)
        blobproperties.forget(file)

    def copy(self, path: str, source: Path) -> None:
        """Make a blob of a file that is only ever replaced. Raises Unknown, Unwritable."""
        file = self._file(path)
        with writable(file):
            file.parent.mkdir(parents=True, exist_ok=True)
        try:
            file.hardlink_to(source)
        except FileExistsError:
            return
        except OSError:
            # Blobs may be on another file system.
            with self.incoming() as incoming, writable(file), source.open("rb") as content:
                shutil.copyfileobj(content, incoming.file)
                incoming.place(file)

    def drop(self, path: str) -> None:
        """There is no such blob any more. Raises Unknown, Unwritable."""
        file = self._file(path)
        with writable(file):
            file.unlink(missing_ok=True)
        blobproperties.forget(file)

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
        """All blobs whose path begins so: with a whole folder."""
        folder = prefix.split("/")[1]
        found = (f"/{folder}/{one.name}" for one in (self._folder / folder).glob("*") if not one.name.startswith("."))
        return sorted(path for path in found if path.startswith(prefix))

    def download(self, path: str, query: dict[str, str], base: str, *, replayed: bool = False) -> Content:
        """A whole blob, as the blob service gives it by this base URL. Raises StorageRefused, Unknown."""
        self._authorize(path, query, "r")
        made = self._make(path, base, replayed)
        return made if made is not None else blobreads.mapped(self._file(path))

    async def upload(
        self, path: str, query: dict[str, str], headers: dict[str, str], body: bytes, channel: str
    ) -> dict[str, str]:
        """A PUT as the blob service takes it, directly or through HostGAPlugin; headers in small letters.

        The headers of the answer. Raises FabricError.
        """
        self._authorize(path, query, "w")
        async with self._writing:
            said, whole = await asyncio.to_thread(self._write, self._file(path), query, headers, body)
            if whole is not None:
                self._written(path, whole, channel)
        return {**said, "x-ms-request-server-encrypted": "true"}

    async def answer(self, request: Request, base: str, *, replayed: bool = False) -> Response:
        """GET, HEAD and PUT of one blob by its URL below `base`."""
        query = dict(request.query_params)
        headers = {name.lower(): value for name, value in request.headers.items()}
        try:
            response = await self._answer(request, query, headers, base, replayed=replayed)
        except FabricError as error:
            response = _refusal(error)
        version = headers.get("x-ms-version", query.get("sv", ""))
        response.headers["x-ms-version"] = version if _VERSION.fullmatch(version) else "2018-03-28"
        response.headers["x-ms-request-id"] = str(uuid.uuid4())
        if client := headers.get("x-ms-client-request-id", "")[:1024]:
            response.headers["x-ms-client-request-id"] = client
        return response

    async def _answer(
        self, request: Request, query: dict[str, str], headers: dict[str, str], base: str, *, replayed: bool
    ) -> Response:
        path = request.scope["path"]
        match request.method:
            case "PUT":
                body = await bodies.read(request, UPLOAD_LIMIT)
                said = await self.upload(path, query, headers, body, "direct")
                return Response(status_code=201, headers=said)
            case "GET" | "HEAD":
                self._authorize(path, query, "r")
                if "comp" in query:
                    raise _unknown_comp(query)
                only_head, made = request.method == "HEAD", self._make(path, base, replayed)
                if made is not None:
                    return blobreads.made(made, headers, only_head=only_head)
                return blobreads.read(self._file(path), headers, only_head=only_head)
        raise StorageRefused(405, "UnsupportedHttpVerb", "blobs are read by GET and HEAD and written by PUT")

    def _write(
        self, file: Path, query: dict[str, str], headers: dict[str, str], body: bytes
    ) -> tuple[dict[str, str], bytes | None]:
        """The headers of the answer; the whole content if this write made it whole."""
        file.parent.mkdir(exist_ok=True)
        match query.get("comp"), headers.get("x-ms-blob-type"):
            case "page", _:
                return pageblobs.write(file, headers, body)
            case "appendblock", _:
                return appendblobs.append(file, headers, body), None
            case None, "BlockBlob":
                return _put_block_blob(file, headers, body), body
            case None, "PageBlob":
                return pageblobs.create(file, headers, body), None
            case None, "AppendBlob":
                return appendblobs.create(file, headers, body), None
            case None, kind:
                code = "InvalidHeaderValue" if kind else "MissingRequiredHeader"
                raise StorageRefused(400, code, "x-ms-blob-type must be BlockBlob, PageBlob or AppendBlob")
        raise _unknown_comp(query)

    def _authorize(self, path: str, query: dict[str, str], permission: str) -> None:
        if not _PATH.fullmatch(path):
            raise Unknown("there is no such blob")
        if permission == "r" and _LAYER.fullmatch(path):
            # Named by its content and asked for with its package's signature, as one of a whole container would be.
            return
        granted = query.get("sp", "")
        if not hmac.compare_digest(query.get("sig", "").encode(), self._sign(path, granted).encode()):
            raise StorageRefused(403, "AuthenticationFailed", "the signature is not ours")
        if permission not in granted:
            raise StorageRefused(403, "AuthorizationPermissionMismatch", f"the signature grants {granted}")

    def _file(self, path: str) -> Path:
        if not _PATH.fullmatch(path):
            raise Unknown(f"{path[:100]!r} is no blob path")
        return self._folder / path[1:]


def _put_block_blob(file: Path, headers: dict[str, str], body: bytes) -> dict[str, str]:
    md5 = blobproperties.checked_md5(body, headers.get("content-md5", ""), headers.get("x-ms-blob-content-md5", ""))
    check_write(headers, blobproperties.stored(file))
    properties = Properties(md5=md5, headers=blobproperties.given(headers))
    with blobproperties.storing(file, properties):
        write_whole(file, body)
    return {**properties.written(), "Content-MD5": md5}


def _unknown_comp(query: dict[str, str]) -> StorageRefused:
    return StorageRefused(400, "InvalidQueryParameterValue", f"comp={query['comp'][:40]!r} is not served here")


def _refusal(error: FabricError) -> Response:
    """As the service refuses: XML, with the code in a header too."""
    code = error.code if isinstance(error, StorageRefused) else _CODES.get(error.status, "InvalidInput")
    headers = {"x-ms-error-code": code, **(error.headers if isinstance(error, StorageRefused) else {})}
    if error.status == 304:
        return Response(status_code=304, headers=headers)
    text = f"<Code>{code}</Code><Message>{escape(str(error))}</Message>"
    body = f'<?xml version="1.0" encoding="utf-8"?><Error>{text}</Error>'
    return Response(body, error.status, headers, "application/xml")
