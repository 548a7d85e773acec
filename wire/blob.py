"""Uploading the status blob, as a plan both channels carry out (protocol: upload)."""

import time
from collections.abc import Callable, Iterator

import msgspec

from wire.deadline import Deadline
from wire.errors import Refused
from wire.extensions import StatusBlob
from wire.http import HttpClient

STORAGE_VERSION = "2014-02-14"
_PAGE = 512
_PAGES_AT_ONCE = 4 * 1024 * 1024


class Put(msgspec.Struct, frozen=True, kw_only=True):
    """One PUT to the blob store."""

    url: str
    headers: dict[str, str]
    body: bytes


def plan_upload(
    blob: StatusBlob, content: bytes, *, padding: bytes, clock: Callable[[], float] = time.time
) -> list[Put]:
    """The PUTs that store `content`; page blobs are filled up to whole pages with `padding` (one byte)."""
    date = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(clock()))
    common = {"x-ms-date": date, "x-ms-version": STORAGE_VERSION}
    if blob.kind == "BlockBlob":
        headers = {"Content-Length": str(len(content)), "x-ms-blob-type": "BlockBlob", **common}
        return [Put(url=blob.url, headers=headers, body=content)]
    padded = content + padding * (-len(content) % _PAGE)
    create = {
        "Content-Length": "0",
        "x-ms-blob-content-length": str(len(padded)),
        "x-ms-blob-type": "PageBlob",
        **common,
    }
    return [Put(url=blob.url, headers=create, body=b""), *_pages(blob.url, padded, common)]


def upload_directly(client: HttpClient, blob: StatusBlob, content: bytes, *, seconds: float = 20.0) -> None:
    """Store `content` by PUTs to the blob's own URL. Raises HostError; any answer but 201 is one."""
    deadline = Deadline.after(seconds)
    for put in plan_upload(blob, content, padding=b"\0"):
        answer = client.request("PUT", put.url, headers=put.headers, body=put.body, deadline=deadline)
        if answer.status != 201:
            raise Refused(put.url, answer.status, "the blob store did not create it")


def _pages(url: str, padded: bytes, common: dict[str, str]) -> Iterator[Put]:
    target = f"{url}{'&' if '?' in url else '?'}comp=page"
    for start in range(0, len(padded), _PAGES_AT_ONCE):
        body = padded[start : start + _PAGES_AT_ONCE]
        yield Put(
            url=target,
            headers={
                "Content-Length": str(len(body)),
                "x-ms-range": f"bytes={start}-{start + len(body) - 1}",
                "x-ms-page-write": "update",
                **common,
            },
            body=body,
        )
