"""Blobs on a disk that is full: what cannot be written whole is not written at all, and 507 says so."""

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests

from tests.fabric.conftest import RunningHost, vm_of

PAGE = 4096
"""What a tmpfs gives."""


@pytest.fixture
def cramped(tmp_path: Path) -> Iterator[RunningHost]:
    """Its blobs have little room."""
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    new = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    mounted = 'mount -t tmpfs -o size=160k tmpfs "$0" && exec "$@"'
    host = RunningHost(tmp_path / "root", *new, "sh", "-c", mounted, str(blobs))
    host.start("--blobs", str(blobs))
    yield host
    assert (host.stop(), host.bugs()) == (0, [])


def put(host: RunningHost, url: str, content: bytes, **headers: str) -> requests.Response:
    return host.call("blob", "PUT", url, data=content, headers=headers)


def known(host: RunningHost, url: str) -> tuple[bytes, str]:
    """Content and ETag."""
    found = host.call("blob", "GET", url)
    assert found.status_code == 200, found.text
    return found.content, found.headers["etag"]


def refused(answer: requests.Response) -> None:
    assert answer.status_code == 507, answer.text
    assert "No space left on device" in answer.text


@pytest.mark.parametrize("size", [PAGE, 30_000])
def test_what_does_not_fit_changes_nothing(cramped: RunningHost, size: int) -> None:
    run = cramped.api("POST", "/api/runs", json={"script": "true", "name": "a", "output_blobs": True})
    grown, block, pages = run["output_blob"], run["error_blob"], vm_of(cramped).status_url()
    created = {"x-ms-blob-type": "PageBlob", "x-ms-blob-content-length": str(PAGE)}
    assert put(cramped, pages, b"", **created).status_code == 201
    assert put(cramped, block, b"", **{"x-ms-blob-type": "BlockBlob"}).status_code == 201
    assert put(cramped, grown, b"", **{"x-ms-blob-type": "AppendBlob"}).status_code == 201
    before = [known(cramped, url) for url in (block, pages)]
    for number in itertools.count():
        length, etag = len(known(cramped, grown)[0]), known(cramped, grown)[1]
        answer = put(cramped, grown + "&comp=appendblock", bytes([number % 256]) * size)
        if answer.status_code != 201:
            break
        assert answer.headers["x-ms-blob-append-offset"] == str(length)
    refused(answer)
    assert known(cramped, grown) == (b"".join(bytes([one % 256]) * size for one in range(number)), etag)
    # The smallest that is left does not take content and what is known of it.
    content = bytes(160 * 1024 - number * size)
    refused(put(cramped, block, content, **{"x-ms-blob-type": "BlockBlob"}))
    if size == PAGE:
        refused(put(cramped, block, b"x", **{"x-ms-blob-type": "BlockBlob"}))
        update = {"x-ms-page-write": "update", "x-ms-range": "bytes=0-511"}
        refused(put(cramped, pages + "&comp=page", b"x" * 512, **update))
    assert [known(cramped, url) for url in (block, pages)] == before
