"""One client, two stores: Azurite and ours answer alike, or a test says how they differ and why."""

import base64
import hashlib
import itertools
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from typing import Protocol

import pytest
import requests

from tests.azurite.conftest import Azurite
from tests.fabric.conftest import RunningHost, running, vm_of

pytestmark = pytest.mark.timeout(600)

OLD = "Mon, 01 Jan 2018 00:00:00 GMT"
FUTURE = "Thu, 01 Jan 2099 00:00:00 GMT"
HELLO = b"hello world"

numbers = itertools.count()


class Store(Protocol):
    """Gives out signed URLs."""

    name: str

    def fresh(self) -> str:
        """Of a blob nobody has written, which may be read and written."""

    def readable(self) -> str:
        """Of a blob that may only be read."""


class TheirStore:
    name = "azurite"

    def __init__(self, azurite: Azurite) -> None:
        self._azurite = azurite

    def fresh(self) -> str:
        return self._azurite.url(f"blob{next(numbers)}", permissions="rw")

    def readable(self) -> str:
        name = f"blob{next(numbers)}"
        assert call("PUT", self._azurite.url(name), HELLO, x_ms_blob_type="BlockBlob").status_code == 201
        return self._azurite.url(name, permissions="r")


class OurStore:
    name = "ours"

    def __init__(self, host: RunningHost) -> None:
        self._host = host

    def fresh(self) -> str:
        order = {"script": "true", "name": f"blob{next(numbers)}", "output_blobs": True}
        return str(self._host.api("POST", "/api/runs", json=order)["output_blob"])

    def readable(self) -> str:
        return vm_of(self._host).config().findtext("GuestAgentExtension/GAFamilies/GAFamily/Uris/Uri") or ""


@pytest.fixture(scope="module")
def their_store(azurite: Azurite) -> TheirStore:
    return TheirStore(azurite)


@pytest.fixture(scope="module")
def our_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OurStore]:
    with running(tmp_path_factory.mktemp("host") / "root") as host:
        yield OurStore(host)


@pytest.fixture(params=["their_store", "our_store"])
def store(request: pytest.FixtureRequest) -> Store:
    found: Store = request.getfixturevalue(request.param)
    return found


def call(method: str, url: str, data: bytes | None = None, /, **headers: str) -> requests.Response:
    """Headers with `_` for `-`."""
    sent = {"x-ms-version": "2018-03-28", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return requests.request(method, url, data=data, headers=sent, timeout=30)


def put(url: str, content: bytes = HELLO, /, **headers: str) -> requests.Response:
    return call("PUT", url, content, x_ms_blob_type="BlockBlob", **headers)


def made(store: Store, content: bytes = HELLO, /, **headers: str) -> str:
    url = store.fresh()
    assert put(url, content, **headers).status_code == 201
    return url


def paged(store: Store, size: int = 1536) -> str:
    url = store.fresh()
    answer = call("PUT", url, b"", x_ms_blob_type="PageBlob", x_ms_blob_content_length=str(size))
    assert answer.status_code == 201
    return url


def pages(url: str, asked: str, content: bytes, /, **headers: str) -> requests.Response:
    sent = {"x_ms_range": asked, "x_ms_page_write": "update", **headers}
    return call("PUT", f"{url}&comp=page", content, **sent)


def grown(store: Store, *blocks: bytes) -> str:
    url = store.fresh()
    assert call("PUT", url, b"", x_ms_blob_type="AppendBlob").status_code == 201
    for block in blocks:
        assert append(url, block).status_code == 201
    return url


def append(url: str, block: bytes, /, **headers: str) -> requests.Response:
    return call("PUT", f"{url}&comp=appendblock", block, **headers)


def md5(content: bytes) -> str:
    return base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode()


def refused(answer: requests.Response, status: int, code: str) -> None:
    """As both refuse: the code in a header, and in XML if there may be a body."""
    assert (answer.status_code, answer.headers.get("x-ms-error-code")) == (status, code), answer.text
    assert answer.headers["x-ms-request-id"]
    if answer.request.method != "HEAD" and status != 304:
        assert answer.headers["Content-Type"] == "application/xml"
        document = ET.fromstring(answer.content)  # noqa: S314  # what a store of ours says
        assert (document.tag, document.findtext("Code")) == ("Error", code)
        assert document.findtext("Message")


# -- block blobs -----------------------------------------------------------------------------------------------------


def test_a_block_blob_comes_back_with_what_was_said_of_it(store: Store) -> None:
    url = store.fresh()
    said = {"x_ms_meta_word": "b", "Content_Type": "text/plain", "x_ms_blob_cache_control": "no-cache"}
    answer = put(url, HELLO, Content_MD5=md5(HELLO), x_ms_client_request_id="abc", **said)
    assert answer.status_code == 201
    assert answer.headers["Content-MD5"] == md5(HELLO)
    assert answer.headers["x-ms-request-server-encrypted"] == "true"
    assert answer.headers["x-ms-client-request-id"] == "abc"
    for method in ("GET", "HEAD"):
        read = call(method, url)
        assert (read.status_code, read.content) == (200, HELLO if method == "GET" else b"")
        for name in ("ETag", "Last-Modified", "Content-MD5"):
            assert read.headers[name] == answer.headers[name]
        expected = {
            "Content-Length": "11",
            "Content-Type": "text/plain",
            "Cache-Control": "no-cache",
            "Accept-Ranges": "bytes",
            "x-ms-blob-type": "BlockBlob",
            "x-ms-meta-word": "b",
            "x-ms-lease-state": "available",
            "x-ms-lease-status": "unlocked",
        }
        assert {name: read.headers.get(name) for name in expected} == expected
        assert re.fullmatch(r"[0-9-]{10}", read.headers["x-ms-version"])
        assert read.headers["x-ms-request-id"] != answer.headers["x-ms-request-id"]
        assert read.headers["Date"].endswith("GMT")


def test_each_write_is_another_etag_and_forgets_what_was_said_before(store: Store) -> None:
    url = made(store, HELLO, x_ms_meta_word="b", Content_Type="text/plain")
    etag = call("HEAD", url).headers["ETag"]
    again = put(url)
    assert again.headers["ETag"] not in {etag, put(url).headers["ETag"]}
    read = call("GET", url)
    assert "x-ms-meta-word" not in read.headers
    assert read.headers["Content-Type"] == "application/octet-stream"


def test_an_empty_blob(store: Store) -> None:
    url = made(store, b"")
    read = call("GET", url)
    assert (read.status_code, read.content, read.headers["Content-Length"]) == (200, b"", "0")


def test_a_body_that_is_not_what_its_md5_says_is_refused(store: Store) -> None:
    url = made(store)
    # Azure documents Md5Mismatch and InvalidMd5; Azurite says InvalidOperation of a block blob.
    theirs = store.name == "azurite"
    refused(put(url, b"other", Content_MD5=md5(HELLO)), 400, "InvalidOperation" if theirs else "Md5Mismatch")
    refused(put(url, b"other", x_ms_blob_content_md5=md5(HELLO)), 400, "InvalidOperation" if theirs else "Md5Mismatch")
    refused(put(url, b"other", Content_MD5="?"), 400, "InvalidOperation" if theirs else "InvalidMd5")
    assert call("GET", url).content == HELLO


@pytest.mark.parametrize("kind", [None, "Foo"])
def test_the_kind_of_blob_must_be_said(store: Store, kind: str | None) -> None:
    # Azurite gives these no body and no code.
    assert call("PUT", store.fresh(), HELLO, **({"x_ms_blob_type": kind} if kind else {})).status_code == 400


def test_a_blob_that_is_not_there(store: Store) -> None:
    url = store.fresh()
    for method in ("GET", "HEAD"):
        refused(call(method, url), 404, "BlobNotFound")


# -- ranges ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Range", "x_ms_range"])
@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [("bytes=0-0", 0, 1), ("bytes=2-4", 2, 5), ("bytes=6-", 6, 11), ("bytes=6-99", 6, 11), ("bytes=0-10", 0, 11)],
)
def test_ranges(store: Store, name: str, asked: str, start: int, end: int) -> None:
    url = made(store)
    read = call("GET", url, **{name: asked})
    assert (read.status_code, read.content) == (206, HELLO[start:end])
    assert read.headers["Content-Range"] == f"bytes {start}-{end - 1}/11"
    # The MD5 of the whole has a name of its own here.
    assert "Content-MD5" not in read.headers
    assert read.headers["x-ms-blob-content-md5"] == md5(HELLO)


def test_more_about_ranges(store: Store) -> None:
    url = made(store)
    read = call("GET", url, Range="bytes=0-0", x_ms_range="bytes=1-2", x_ms_range_get_content_md5="true")
    assert (read.content, read.headers["Content-MD5"]) == (b"el", md5(b"el"))
    head = call("HEAD", url, Range="bytes=1-2")
    assert (head.status_code, head.headers["Content-Length"]) == (200, "11")
    # Last before first is no range at all; Azurite makes 500 of what is less like one.
    assert call("GET", url, Range="bytes=5-3").status_code == 200


def test_a_range_behind_the_end(store: Store) -> None:
    # bytes=11- too is behind it; Azurite answers with nothing, from 11 to 10.
    for asked in ("bytes=99-", "bytes=99-100", *(["bytes=11-"] if store.name == "ours" else [])):
        read = call("GET", made(store), Range=asked)
        refused(read, 416, "InvalidRange")
        assert read.headers["Content-Range"] == "bytes */11"


# -- conditions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "status", "code"),
    [
        ("If-None-Match", "own", 304, "ConditionNotMet"),
        ("If-None-Match", '"x"', 200, ""),
        ("If-None-Match", "*", 400, "UnsatisfiableCondition"),
        ("If-Match", "own", 200, ""),
        ("If-Match", "*", 200, ""),
        ("If-Match", '"x"', 412, "ConditionNotMet"),
        ("If-Modified-Since", OLD, 200, ""),
        ("If-Modified-Since", FUTURE, 304, "ConditionNotMet"),
        ("If-Modified-Since", "own", 304, "ConditionNotMet"),
        ("If-Unmodified-Since", OLD, 412, "ConditionNotMet"),
        ("If-Unmodified-Since", "own", 200, ""),
    ],
)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_reading_on_condition(store: Store, method: str, name: str, value: str, status: int, code: str) -> None:
    url = made(store)
    own = call("HEAD", url).headers["ETag" if "Match" in name else "Last-Modified"]
    answer = call(method, url, **{name: own if value == "own" else value})
    if code:
        refused(answer, status, code)
        assert status != 304 or answer.content == b""
    else:
        assert answer.status_code == status


@pytest.mark.parametrize(
    ("name", "value", "status", "code"),
    [
        ("If-None-Match", "own", 412, "ConditionNotMet"),
        ("If-None-Match", '"x"', 201, ""),
        ("If-None-Match", "*", 409, "BlobAlreadyExists"),
        ("If-Match", "own", 201, ""),
        ("If-Match", "*", 201, ""),
        ("If-Match", '"x"', 412, "ConditionNotMet"),
        ("If-Modified-Since", OLD, 201, ""),
        ("If-Modified-Since", FUTURE, 412, "ConditionNotMet"),
        ("If-Unmodified-Since", OLD, 412, "ConditionNotMet"),
        ("If-Unmodified-Since", "own", 201, ""),
    ],
)
@pytest.mark.parametrize("kind", ["BlockBlob", "PageBlob", "AppendBlob"])
def test_writing_on_condition(store: Store, kind: str, name: str, value: str, status: int, code: str) -> None:
    url = made(store)
    own = call("HEAD", url).headers["ETag" if "Match" in name else "Last-Modified"]
    headers = {name: own if value == "own" else value, "x_ms_blob_type": kind}
    body = b"other" if kind == "BlockBlob" else b""
    answer = call("PUT", url, body, x_ms_blob_content_length="0", **headers)
    if code:
        refused(answer, status, code)
        assert call("GET", url).content == HELLO
    else:
        assert answer.status_code == status, answer.text
        assert call("GET", url).content == body


def test_writing_what_is_not_there_on_condition(store: Store) -> None:
    url = store.fresh()
    refused(put(url, HELLO, If_Match='"x"'), 412, "ConditionNotMet")
    # If-Match: * asks for a blob that is there, whatever it is; Azurite writes it all the same.
    if store.name == "ours":
        refused(put(url, HELLO, If_Match="*"), 412, "ConditionNotMet")
    assert put(url, HELLO, If_None_Match="*").status_code == 201


# -- page blobs ------------------------------------------------------------------------------------------------------


def test_a_page_blob_is_zeros_until_its_pages_come(store: Store) -> None:
    url = paged(store)
    assert call("GET", url).content == bytes(1536)
    written = pages(url, "bytes=512-1023", b"x" * 512)
    assert (written.status_code, written.headers["x-ms-blob-sequence-number"]) == (201, "0")
    read = call("GET", url)
    assert read.headers["ETag"] == written.headers["ETag"]
    assert read.headers["x-ms-blob-type"] == "PageBlob"
    assert read.content == bytes(512) + b"x" * 512 + bytes(512)
    assert call("GET", url, Range="bytes=1022-1025").content == b"xx\0\0"
    # The older header's name does too.
    sent = {"Range": "bytes=0-511", "x_ms_page_write": "update"}
    assert call("PUT", f"{url}&comp=page", b"y" * 512, **sent).status_code == 201
    assert pages(url, "bytes=512-1023", b"", x_ms_page_write="clear").status_code == 201
    assert call("GET", url).content == b"y" * 512 + bytes(1024)


@pytest.mark.parametrize("length", ["511", "x", None])
def test_a_page_blob_has_whole_pages(store: Store, length: str | None) -> None:
    headers = {"x_ms_blob_content_length": length} if length else {}
    assert call("PUT", store.fresh(), b"", x_ms_blob_type="PageBlob", **headers).status_code == 400


def test_a_page_blob_is_created_empty(store: Store) -> None:
    answer = call("PUT", store.fresh(), b"x" * 512, x_ms_blob_type="PageBlob", x_ms_blob_content_length="512")
    assert answer.status_code == 400


@pytest.mark.parametrize(
    ("asked", "size", "status"),
    [
        ("bytes=0-511", 512, 201),
        ("bytes=512-1535", 1024, 201),
        ("bytes=0-511", 511, 400),
        ("bytes=0-510", 511, 400),
        ("bytes=0-511", 1024, 416),
        ("bytes=1-512", 512, 416),
        ("bytes=511-0", 0, 416),
        ("bytes=0-", 512, 416),
        ("bytes=1536-2047", 512, 416),
    ],
)
def test_pages(store: Store, asked: str, size: int, status: int) -> None:
    url = paged(store)
    answer = pages(url, asked, b"x" * size)
    # Azure documents these codes; Azurite has words of its own.
    theirs = {400: "InvalidOperation", 416: "Requested Range Not Satisfiable"}
    ours = {400: "InvalidHeaderValue", 416: "InvalidPageRange"}
    if status == 201:
        assert answer.status_code == 201
    else:
        refused(answer, status, (ours if store.name == "ours" else theirs)[status])
    assert call("GET", url).content.count(b"x") == (size if status == 201 else 0)


def test_pages_that_end_behind_the_end(store: Store) -> None:
    answer = pages(paged(store), "bytes=1024-2047", b"x" * 1024)
    # Azurite takes them as long as they begin before it.
    assert answer.status_code == (201 if store.name == "azurite" else 416)


def test_pages_are_for_page_blobs(store: Store) -> None:
    refused(pages(made(store), "bytes=0-511", b"x" * 512), 409, "InvalidBlobType")
    refused(pages(store.fresh(), "bytes=0-511", b"x" * 512), 404, "BlobNotFound")
    refused(pages(paged(store), "bytes=0-511", b"x" * 512, If_Match='"x"'), 412, "ConditionNotMet")
    assert pages(paged(store), "bytes=0-511", b"x" * 512, x_ms_page_write="erase").status_code == 400


# -- append blobs ----------------------------------------------------------------------------------------------------


def test_an_append_blob_grows(store: Store) -> None:
    url = grown(store)
    told = []
    for block in (b"one", b"three"):
        answer = append(url, block)
        names = ("x-ms-blob-append-offset", "x-ms-blob-committed-block-count")
        told.append((answer.status_code, *(answer.headers[name] for name in names)))
    assert told == [(201, "0", "1"), (201, "3", "2")]
    read = call("GET", url)
    assert read.content == b"onethree"
    assert read.headers["ETag"] == answer.headers["ETag"]
    assert (read.headers["x-ms-blob-type"], read.headers["x-ms-blob-committed-block-count"]) == ("AppendBlob", "2")


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"x_ms_blob_condition_appendpos": "3"}, 201, ""),
        ({"x_ms_blob_condition_appendpos": "0"}, 412, "AppendPositionConditionNotMet"),
        ({"x_ms_blob_condition_maxsize": "6"}, 201, ""),
        ({"x_ms_blob_condition_maxsize": "5"}, 412, "MaxBlobSizeConditionNotMet"),
        (
            {"x_ms_blob_condition_maxsize": "5", "x_ms_blob_condition_appendpos": "0"},
            412,
            "AppendPositionConditionNotMet",
        ),
        ({"If_Match": '"x"'}, 412, "ConditionNotMet"),
        ({"Content_MD5": md5(b"other")}, 400, "Md5Mismatch"),
    ],
)
def test_appending_on_condition(store: Store, headers: dict[str, str], status: int, code: str) -> None:
    url = grown(store, b"one")
    answer = append(url, b"two", **headers)
    if code:
        refused(answer, status, code)
    assert answer.status_code == status
    assert call("GET", url).content == (b"one" if code else b"onetwo")


def test_what_cannot_be_appended(store: Store) -> None:
    refused(append(grown(store), b""), 400, "InvalidHeaderValue")
    refused(append(made(store), b"x"), 409, "InvalidBlobType")
    refused(append(store.fresh(), b"x"), 404, "BlobNotFound")
    assert append(grown(store), b"x", x_ms_blob_condition_appendpos="x").status_code == 400
    assert call("PUT", store.fresh(), b"x", x_ms_blob_type="AppendBlob").status_code == 400


def test_a_blob_of_one_kind_gives_way_to_another(store: Store) -> None:
    url = paged(store)
    assert put(url).status_code == 201
    assert call("GET", url).headers["x-ms-blob-type"] == "BlockBlob"
    assert call("PUT", url, b"", x_ms_blob_type="AppendBlob").status_code == 201
    assert append(url, b"x").status_code == 201
    assert call("PUT", url, b"", x_ms_blob_type="PageBlob", x_ms_blob_content_length="512").status_code == 201
    refused(append(url, b"x"), 409, "InvalidBlobType")
    assert pages(url, "bytes=0-511", b"y" * 512).status_code == 201
    assert call("GET", url).content == b"y" * 512


# -- who may -----------------------------------------------------------------------------------------------------------


def test_without_a_good_signature_nothing_is_read_or_written(store: Store) -> None:
    url = made(store)
    # Azure says AuthenticationFailed of a signature that is wrong; Azurite, of any of these, AuthorizationFailure.
    code = "AuthorizationFailure" if store.name == "azurite" else "AuthenticationFailed"
    plain = url.partition("?")[0]
    for wrong in (plain, re.sub("sig=[^&]+", "sig=AAAA", url), re.sub("&sig=[^&]+", "", url)):
        refused(call("GET", wrong), 403, code)
        refused(put(wrong, b"mine"), 403, code)
    more = re.sub("sp=[a-z]+", "sp=rwdlac", url)
    refused(put(more, b"mine"), 403, code)
    assert call("GET", url).content == HELLO


def test_who_may_only_read_cannot_write(store: Store) -> None:
    url = store.readable()
    before = call("GET", url)
    assert before.status_code == 200
    refused(put(url, b"mine"), 403, "AuthorizationPermissionMismatch")
    refused(append(url, b"mine"), 403, "AuthorizationPermissionMismatch")
    assert call("GET", url).content == before.content


def test_what_a_store_does_not_do(store: Store) -> None:
    url = made(store)
    if store.name == "azurite":
        # It overlooks a `comp` it does not know.
        assert call("GET", f"{url}&comp=foo").status_code == 200
        refused(call("DELETE", url), 403, "AuthorizationPermissionMismatch")
    else:
        # What a client asks in vain should be seen; no VM is ever given a signature to delete with.
        refused(call("GET", f"{url}&comp=foo"), 400, "InvalidQueryParameterValue")
        refused(put(f"{url}&comp=foo", b"mine"), 400, "InvalidQueryParameterValue")
        refused(call("DELETE", url), 405, "UnsupportedHttpVerb")
    assert call("GET", url).content == HELLO
