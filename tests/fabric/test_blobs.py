"""The blob store: signatures, block and page blobs, ranges, names."""

import json
import re
from pathlib import Path

import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fabric.conftest import (
    NAME,
    RunningHost,
    Vm,
    handler_status,
    kept,
    package,
    status_blob,
    status_line,
    vm_of,
)

BLOCK = {"x-ms-blob-type": "BlockBlob", "x-ms-version": "2014-02-14"}


@pytest.fixture(scope="module")
def data(host: RunningHost) -> bytes:
    """The published package all tests read."""
    made = package(files={"bin": bytes(range(256)) * 40})
    host.api("PUT", "/api/packages", data=made)
    host.api("POST", "/api/extensions", json={"name": NAME, "version": "1.0.0"})
    return made


@pytest.fixture(scope="module")
def manifest_url(host: RunningHost, data: bytes) -> str:
    (plugin,) = vm_of(host).config().findall(f"Plugins/Plugin[@name='{NAME}']")
    return plugin.get("location", "")


@pytest.fixture(scope="module")
def package_url(host: RunningHost, manifest_url: str) -> str:
    (url,) = re.findall("<Uri>([^<]+)</Uri>", host.call("blob", "GET", manifest_url).text)
    return str(url).replace("&amp;", "&")


@pytest.fixture
def _no_status(host: RunningHost) -> None:
    """As if the VM had never written a status."""
    (host.root / "fabric" / "blobs" / "status" / "vm1.status").unlink(missing_ok=True)


def put(host: RunningHost, url: str, content: bytes, **headers: str) -> requests.Response:
    return host.call("blob", "PUT", url, data=content, headers=headers)


def without_signature(url: str) -> list[str]:
    return [
        url.partition("?")[0],
        re.sub(r"sig=\w+", "sig=", url),
        re.sub(r"sig=\w+", "sig=%00%ff", url),
        re.sub(r"sig=(\w)", lambda match: f"sig={'0' if match[1] != '0' else '1'}", url),
        url.replace("sig=", "Sig="),
    ]


# -- reading -------------------------------------------------------------------------------------------------------


def test_a_manifest_lists_the_versions_of_its_handler_and_of_no_other(host: RunningHost) -> None:
    one, other = "Contoso.Many", "Contoso.Many_Extra"
    for name, version in ((one, "1.0.0"), (one, "1.10.0"), (other, "7.0.0"), (one, "2.0.0-rc1")):
        host.add(name, version)
    config = vm_of(host).config()
    for name, versions in ((one, ["1.0.0", "1.10.0", "2.0.0-rc1"]), (other, ["7.0.0"])):
        (plugin,) = config.findall(f"Plugins/Plugin[@name='{name}']")
        text = host.call("blob", "GET", plugin.get("location", "")).text
        assert text.index("<Plugins>") < text.index("<InternalPlugins")
        assert sorted(re.findall("<Version>([^<]+)</Version>", text)) == versions
        assert len(re.findall("<Uri>", text)) == len(versions)


def test_the_agent_manifest_of_the_goal_state_is_there(host: RunningHost, manifest_url: str) -> None:
    url = vm_of(host).config().findtext("GuestAgentExtension/GAFamilies/GAFamily/Uris/Uri") or ""
    assert host.call("blob", "GET", url).text.count("<Plugins") == 1


def test_a_package_comes_back_as_it_was(host: RunningHost, package_url: str, data: bytes) -> None:
    answer = host.call("blob", "GET", package_url)
    assert answer.status_code == 200
    assert answer.content == data
    head = host.call("blob", "HEAD", package_url)
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(data)))


def test_nothing_is_read_without_the_signature(host: RunningHost, package_url: str, manifest_url: str) -> None:
    for url in (package_url, manifest_url):
        for wrong in without_signature(url):
            answer = host.call("blob", "GET", wrong)
            assert answer.status_code == 403, wrong
            assert "signature" in answer.text
    # A signature is for one blob.
    crossed = package_url.partition("?")[0] + "?" + manifest_url.partition("?")[2]
    assert host.call("blob", "GET", crossed).status_code == 403


@pytest.mark.usefixtures("_no_status")
def test_a_blob_that_was_never_written_is_404(host: RunningHost) -> None:
    answer = host.call("blob", "GET", vm_of(host).status_url())
    assert answer.status_code == 404
    assert "vm1.status" in answer.text


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [("bytes=0-0", 0, 1), ("bytes=5-99", 5, 100), ("bytes=100-", 100, None), ("bytes=7-99999999999", 7, None)],
)
def test_ranges(host: RunningHost, package_url: str, data: bytes, asked: str, start: int, end: int | None) -> None:
    answer = host.call("blob", "GET", package_url, headers={"Range": asked})
    assert answer.status_code == 206
    assert answer.content == data[start:end]
    assert answer.headers["Content-Range"] == f"bytes {start}-{start + len(answer.content) - 1}/{len(data)}"


def test_a_range_outside_is_416(host: RunningHost, package_url: str, data: bytes) -> None:
    for asked in (f"bytes={len(data)}-", "bytes=99999999-99999999999"):
        answer = host.call("blob", "GET", package_url, headers={"Range": asked})
        assert answer.status_code == 416
        assert answer.headers["Content-Range"] == f"bytes */{len(data)}"


@pytest.mark.parametrize(
    "asked", ["bytes=", "bytes=a-b", "lines=1-2", "bytes=0-1,4-5", "bytes=-", "bytes=9-3", "x" * 1000]
)
def test_a_range_that_is_none_is_ignored(host: RunningHost, package_url: str, data: bytes, asked: str) -> None:
    answer = host.call("blob", "GET", package_url, headers={"Range": asked})
    assert (answer.status_code, answer.content) == (200, data)


@pytest.mark.parametrize("method", ["POST", "DELETE", "PATCH", "OPTIONS"])
def test_other_methods_are_refused_and_harm_nothing(
    host: RunningHost, package_url: str, data: bytes, method: str
) -> None:
    answer = host.call("blob", method, package_url)
    assert answer.status_code == 405
    assert answer.text
    assert host.call("blob", "GET", package_url).content == data


NAMES = [
    "/status/..%2f..%2fstate.json",
    "/status/../../state.json",
    "/../state.json",
    "/%2e%2e/state.json",
    "/status/%2e%2e",
    "/status/.vm1.status.tmp",
    "/status/",
    "/status",
    "/",
    "//etc/passwd",
    "/etc/passwd",
    "/status/a%00b",
    "/status/a%0a",
    "/sta%0Atus/vm1.status",
    "/status/a/b",
    "/status/%2fetc%2fpasswd",
    "/status/" + "a" * 300,
    "/Status/vm1.status",
    "/secrets/a",
    "/status/\\..\\a",
    "/status/%ff",
]


@pytest.mark.parametrize("path", NAMES)
def test_names_that_are_none_reach_no_file(host: RunningHost, path: str, vm: Vm) -> None:
    before = {one: one.stat().st_mtime_ns for one in (host.root / "fabric" / "blobs").rglob("*")}
    query = vm.status_url().partition("?")[2]
    for method, headers in (("GET", ""), ("PUT", "x-ms-blob-type: BlockBlob\r\nContent-Length: 1\r\n")):
        body = "x" if method == "PUT" else ""
        data = f"{method} {path}?{query} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{headers}\r\n{body}".encode()
        answer = host.raw("blob", data)
        assert status_line(answer) in {400, 404}
        assert answer.partition(b"\r\n\r\n")[2]
        assert b"signing_secret" not in answer
    assert {one: one.stat().st_mtime_ns for one in (host.root / "fabric" / "blobs").rglob("*")} == before


# -- writing -------------------------------------------------------------------------------------------------------


def test_a_status_blob_written_directly_arrives(host: RunningHost) -> None:
    url = vm_of(host).status_url()
    before = host.told()["status_count"]
    for number in (1, 2):
        blob = status_blob(handler_status(sequence=number))
        assert put(host, url, blob, **BLOCK).status_code == 201
        told = host.told()
        assert told["status"] == json.loads(blob)
        assert (told["status_count"], told["status_by"]) == (before + number, "direct")
        assert host.call("blob", "GET", url).content == blob


def test_what_is_no_json_is_kept_as_text(host: RunningHost) -> None:
    vm = vm_of(host)
    assert put(host, vm.status_url(), b"\xffno json", **BLOCK).status_code == 201
    assert host.told()["status"] == "\ufffdno json"


@pytest.mark.usefixtures("_no_status")
def test_nothing_is_written_without_the_signature(host: RunningHost) -> None:
    url = vm_of(host).status_url()
    before = host.told()["status_count"]
    for wrong in [*without_signature(url), url.replace("vm1.status", "vm2.status")]:
        answer = put(host, wrong, b"{}", **BLOCK)
        assert answer.status_code == 403, wrong
        assert answer.text
    assert host.told()["status_count"] == before
    assert host.call("blob", "GET", url).status_code == 404


def test_what_the_vm_may_only_read_it_cannot_write(
    host: RunningHost, package_url: str, manifest_url: str, data: bytes
) -> None:
    for url in (package_url, manifest_url, package_url.replace("sp=r", "sp=rw")):
        assert put(host, url, b"mine", **BLOCK).status_code == 403
    assert host.call("blob", "GET", package_url).content == data


@pytest.mark.parametrize("kind", ["", "blockblob", "AnyBlob"])
def test_the_kind_of_blob_must_be_said(host: RunningHost, vm: Vm, kind: str) -> None:
    answer = put(host, vm.status_url(), b"{}", **({"x-ms-blob-type": kind} if kind else {}))
    assert answer.status_code == 400
    assert "x-ms-blob-type" in answer.text


def created(host: RunningHost, url: str, length: str) -> requests.Response:
    return put(host, url, b"", **{"x-ms-blob-type": "PageBlob", "x-ms-blob-content-length": length})


def written(host: RunningHost, url: str, asked: str, content: bytes, **headers: str) -> requests.Response:
    return put(host, f"{url}&comp=page", content, **{"x-ms-range": asked, "x-ms-page-write": "update", **headers})


def test_a_page_blob_in_parts_arrives_with_the_last_page(host: RunningHost) -> None:
    url = vm_of(host).status_url()
    blob = status_blob(*(handler_status(sequence=number) for number in range(8)))
    padded = blob.ljust(-len(blob) % 512 + len(blob), b"\0")
    before = host.told()["status_count"]
    assert created(host, url, str(len(padded))).status_code == 201
    assert host.call("blob", "GET", url).content == bytes(len(padded))
    for start in range(0, len(padded), 1024):
        assert host.told()["status_count"] == before
        part = padded[start : start + 1024]
        assert written(host, url, f"bytes={start}-{start + len(part) - 1}", part).status_code == 201
    told = host.told()
    assert (told["status_count"], told["status_by"]) == (before + 1, "direct")
    assert told["status"] == json.loads(blob)


@pytest.mark.parametrize("length", ["", "0x200", "511", "-512", "512.0", "\u00b2", "9" * 5000, str(1024**4), "5 12"])
def test_a_page_blob_has_a_length_in_pages(host: RunningHost, vm: Vm, length: str) -> None:
    answer = created(host, vm.status_url(), length)
    assert answer.status_code == 400
    assert "x-ms-blob-content-length" in answer.text


def test_a_page_blob_is_created_empty(host: RunningHost, vm: Vm) -> None:
    headers = {"x-ms-blob-type": "PageBlob", "x-ms-blob-content-length": "512"}
    assert put(host, vm.status_url(), b"x" * 512, **headers).status_code == 400


@pytest.mark.parametrize(
    ("asked", "size", "status"),
    [
        ("bytes=0-511", 512, 201),
        ("bytes=512-1535", 1024, 201),
        ("bytes=0-511", 511, 400),
        ("bytes=0-511", 1024, 416),
        ("bytes=0-510", 511, 400),
        ("bytes=1-512", 512, 416),
        ("bytes=511-0", 0, 416),
        ("bytes=0-", 512, 416),
        ("bytes=-512", 512, 416),
        ("0-511", 512, 416),
        ("", 512, 416),
        ("bytes=1536-2047", 512, 416),
        ("bytes=1024-2047", 1024, 416),
        ("bytes=99999999999488-99999999999999", 512, 416),
    ],
)
def test_page_ranges(host: RunningHost, vm: Vm, asked: str, size: int, status: int) -> None:
    url = vm.status_url()
    assert created(host, url, "1536").status_code == 201
    answer = written(host, url, asked, b"x" * size)
    assert answer.status_code == status
    assert status == 201 or "x-ms-range" in answer.text
    stored = host.call("blob", "GET", url).content
    assert stored.count(b"x") == (size if status == 201 else 0)
    assert len(stored) == 1536


def test_pages_are_at_most_4_mib_a_request(host: RunningHost, vm: Vm) -> None:
    mib = 1024 * 1024
    url = vm.status_url()
    assert created(host, url, str(8 * mib)).status_code == 201
    assert written(host, url, f"bytes=0-{4 * mib - 1}", bytes(4 * mib)).status_code == 201
    assert written(host, url, f"bytes=0-{4 * mib + 511}", bytes(4 * mib + 512)).status_code == 413


def test_a_page_write_must_say_update(host: RunningHost, vm: Vm) -> None:
    url = vm.status_url()
    created(host, url, "512")
    answer = written(host, url, "bytes=0-511", b"x" * 512, **{"x-ms-page-write": "erase"})
    assert answer.status_code == 400
    assert "x-ms-page-write" in answer.text


@pytest.mark.usefixtures("_no_status")
def test_pages_of_a_blob_that_is_none(host: RunningHost) -> None:
    url = vm_of(host).status_url()
    assert written(host, url, "bytes=0-511", b"x" * 512).status_code == 404
    # Pages need a page blob.
    assert put(host, url, b"{}".ljust(512), **BLOCK).status_code == 201
    assert written(host, url, "bytes=0-511", b"x" * 512).status_code == 409


def test_each_refusal_says_why_through_hostgaplugin_too(host: RunningHost, vm: Vm) -> None:
    answer = vm.order(vm.status_url(), {"x-ms-blob-type": "PageBlob", "x-ms-blob-content-length": "511"})
    assert answer.status_code == 502
    assert "400" in answer.text
    assert "x-ms-blob-content-length" in answer.text


@pytest.mark.parametrize("value", ["a\r\nSet-Cookie: b", "a\0", "\u20ac", "\xe9", "a" * 2000])
@pytest.mark.parametrize("name", ["Content-Type", "x-ms-blob-content-type", "x-ms-meta-note"])
def test_headers_ordered_through_hostgaplugin_cannot_break_an_answer(vm: Vm, name: str, value: str) -> None:
    # In JSON they may hold what no header may.
    answer = vm.order(vm.status_url(), {"x-ms-blob-type": "BlockBlob", name: value}, b"{}")
    assert answer.status_code == 502
    assert "400" in answer.text


def test_who_reads_an_append_blob_is_safe_from_its_being_made_anew(host: RunningHost) -> None:
    order = {"script": "true", "name": "reader", "output_blobs": True}
    url = host.api("POST", "/api/runs", json=order)["output_blob"]
    anew = {"x-ms-blob-type": "AppendBlob"}
    assert put(host, url, b"", **anew).status_code == 201
    block = b"x" * 1024 * 1024
    assert put(host, f"{url}&comp=appendblock", block).status_code == 201
    host.fault("outputblob", "drip", 1_000_000, 1)
    with requests.get(url, stream=True, timeout=30) as slow:
        got = slow.raw.read(1000)
        # Its pages must not vanish under the one who sends them: that ends a process.
        assert put(host, url, b"", **anew).status_code == 201
        assert got + slow.raw.read() == block
    assert host.call("blob", "GET", url).content == b""


HOSTILE = [
    b"[" * 100_000 + b"]" * 100_000,
    b'{"a":' * 900 + b"1" + b"}" * 900,
    b'{"aggregateStatus": {"handlerAggregateStatus": [{"handlerName": ["x"]}, {"handlerName": {}}, 1, null]}}',
    b'{"aggregateStatus": {"handlerAggregateStatus": "x"}}',
    b'{"aggregateStatus": []}',
    b"9" * 5000,
    b'{"a": 123456789012345678901234567890}',
    b'"\\ud800"',
    b"",
    b"null",
    b"\0" * 1000,
    b"   ",
]


@pytest.mark.parametrize("blob", HOSTILE, ids=range(len(HOSTILE)))
def test_whatever_a_status_blob_holds_the_host_goes_on(host: RunningHost, vm: Vm, blob: bytes) -> None:
    assert put(host, vm.status_url(), blob, **BLOCK).status_code == 201
    assert vm.report(blob).status_code == 200
    host.told()
    # What was told is also written down, with what comes after it.
    host.add("Contoso.Tools.After", settings={})
    assert b"Contoso.Tools.After" in kept(host)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=5) | st.sampled_from(["handlerName"]), inner, max_size=3)
    ),
    max_leaves=10,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(inner=json_values)
def test_any_json_in_the_place_of_handlers(host: RunningHost, inner: object) -> None:
    vm = vm_of(host)
    for document in (inner, {"aggregateStatus": inner}, {"aggregateStatus": {"handlerAggregateStatus": inner}}):
        assert vm.report(json.dumps(document).encode()).status_code == 200
        assert host.told()["status"] == document


def test_the_files_are_only_the_blobs(host: RunningHost, data: bytes, manifest_url: str) -> None:
    blobs = host.root / "fabric" / "blobs"
    assert {one.relative_to(blobs).parts[0] for one in blobs.rglob("*") if one.is_file()} <= {
        "agents",
        "manifests",
        "packages",
        "output",
        "status",
    }
    assert not list(Path(blobs).rglob("*.tmp"))
