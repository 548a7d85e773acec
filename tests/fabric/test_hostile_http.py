"""HTTP at its edges, at every server: taken as the standard has it, or refused with a reason."""

import re
import socket
from collections.abc import Iterator

import pytest

from tests.fabric.conftest import NAME, PATIENCE, RunningHost, Vm, package, received, status_line, vm_of

SERVERS = ["wireserver", "hostgaplugin", "imds", "blob", "portal"]
GET = {
    "wireserver": "/?comp=versions",
    "hostgaplugin": "/health",
    "imds": "/metadata/versions",
    "blob": "/status/nobody.status",
    "portal": "/api/faults",
}
"""A question each server answers at once."""


@pytest.fixture(autouse=True)
def _goes_on(host: RunningHost) -> Iterator[None]:
    """After each test everybody is still answered, and nothing of it was unexpected."""
    yield
    assert vm_of(host).health().status_code == 200
    assert host.bugs() == []


def refused(answer: bytes) -> None:
    assert 400 <= status_line(answer) < 500, answer[:300]
    assert answer.partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize("server", SERVERS)
def test_pipelined_requests_are_answered_in_turn(host: RunningHost, server: str) -> None:
    one = f"GET {GET[server]} HTTP/1.1\r\nHost: a\r\nMetadata: true\r\n"
    answer = host.raw(server, f"{one}\r\n{one}\r\n{one}Connection: close\r\n\r\n".encode())
    assert len(re.findall(rb"HTTP/1\.1 \d{3} ", answer)) == 3


@pytest.mark.parametrize("server", SERVERS)
def test_http_1_0_is_answered_and_closed(host: RunningHost, server: str) -> None:
    answer = host.raw(server, f"GET {GET[server]} HTTP/1.0\r\nMetadata: true\r\n\r\n".encode())
    assert status_line(answer) == (403 if server == "blob" else 200)


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize(
    "query", ["%ff=%fe", "vm=%ff", "comp=%00", "comp=goalstate&comp=versions", "%", "=&&=", "a" * 9000]
)
def test_queries_that_are_no_text(host: RunningHost, server: str, query: str) -> None:
    path = GET[server].partition("?")[0]
    answer = host.raw(server, f"GET {path}?{query} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
    assert 200 <= status_line(answer) < 500


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize(
    "lie",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"Content-Length: +5\r\n\r\nhello",
        b"Content-Length: 5, 6\r\n\r\nhello",
        b"Transfer-Encoding: chunked\r\n\r\n-1\r\nhello\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffffffffffff\r\nhello",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nhelloXX0\r\n\r\n",
        b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n",
    ],
    ids=["both", "plus", "two", "negative", "endless", "longer", "twice", "hidden"],
)
def test_lengths_that_lie_are_refused_and_smuggle_nothing(host: RunningHost, server: str, lie: bytes) -> None:
    """Whatever comes of the first request, the second that hides behind it is never answered as one."""
    paths = {"wireserver": "POST /HealthService", "hostgaplugin": "PUT /vmAgentLog", "portal": "PUT /api/packages"}
    ids = f"x-ms-version: 2015-09-01\r\nx-ms-containerid: {vm_of(host).container_id}\r\n"
    head = f"{paths.get(server, 'PUT /status/vm1.status')} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{ids}".encode()
    answer = host.raw(server, head + lie)
    assert len(re.findall(rb"HTTP/1\.1 \d{3} ", answer)) == 1
    if b"Content-Length: 5\r\nTransfer" not in lie:
        refused(answer)


@pytest.mark.parametrize(
    ("server", "line", "status"),
    [("wireserver", "POST /HealthService", 400), ("portal", "PUT /api/packages", 400), ("blob", "PUT /status/x", 403)],
)
def test_who_expects_100_is_told_to_go_on_or_refused(host: RunningHost, server: str, line: str, status: int) -> None:
    head = f"{line} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nConnection: close\r\nContent-Length: 4\r\n\r\n"
    with socket.create_connection(host.address(server), PATIENCE) as connection:
        connection.sendall(host.named(server, head.encode()))
        first = connection.recv(4096)
        if first.startswith(b"HTTP/1.1 100 "):
            connection.sendall(b"junk")
        answer = first.partition(b"\r\n\r\n")[2] + received(connection)
    assert status_line(answer if answer.startswith(b"HTTP/") else first + answer) == status


def test_who_announces_too_much_is_refused_before_sending_it(host: RunningHost) -> None:
    head = "POST /HealthService HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 99999999\r\n\r\n"
    answer = host.raw("wireserver", head.encode())
    assert status_line(answer) == 413


NAMES = [
    "..", "%2e%2e", "%252e%252e", "..%2f..%2fstate.sqlite", "..%5c..%5cx", "%00", "vm1%00.zip", "%ff", "%c0%ae%c0%ae",
    "\N{FULLWIDTH FULL STOP}\N{FULLWIDTH FULL STOP}", "vm1\N{ZERO WIDTH SPACE}", "CON",
    "a" * 300, "'; DROP TABLE vm; --", "<script>", "%0d%0aSet-Cookie:x",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["vms", "extensions", "runs", "faults"])
def test_names_that_are_none_are_refused_by_the_control_api(host: RunningHost, kind: str, name: str) -> None:
    head = f"DELETE /api/{kind}/".encode() + quoted(name)
    answer = host.raw("portal", head + b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    refused(answer)
    assert b"Set-Cookie" not in answer.partition(b"\r\n\r\n")[0]
    order = host.call("portal", "POST", "/api/vms", json={"name": name, "address": "127.0.0.77"})
    assert (order.status_code, "reason" in order.json()) == (400, True) if name != "CON" else order.status_code == 200
    if name == "CON":
        host.api("DELETE", "/api/vms/CON")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("folder", ["packages", "status", "output", "manifests", "agents"])
def test_names_that_are_none_are_no_blobs(host: RunningHost, folder: str, name: str) -> None:
    for method in ("GET", "PUT"):
        head = (
            f"{method} /{folder}/".encode()
            + quoted(name)
            + b"?sp=rw&sig=x HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n"
        )
        answer = host.raw("blob", head + b"Connection: close\r\n\r\n")
        refused(answer)


@pytest.mark.parametrize("name", NAMES)
def test_names_that_are_none_are_not_fetched_through_the_plugin(host: RunningHost, vm: Vm, name: str) -> None:
    base = host.endpoints["blob"]
    location = f"{base}/packages/".encode() + quoted(name)
    head = b"GET /extensionArtifact HTTP/1.1\r\nHost: a\r\nConnection: close\r\nx-ms-artifact-location: " + location
    ids = "".join(f"{key}: {value}\r\n" for key, value in vm.plugin.items()).encode()
    answer = host.raw("hostgaplugin", head + b"\r\n" + ids + b"\r\n")
    assert status_line(answer) in {403, 404, 502}


def test_the_plugin_asks_nobody_but_this_hosts_storage(host: RunningHost, vm: Vm) -> None:
    """Else whoever asks could have the host ask elsewhere for it."""
    for url in ("http://127.0.0.1:1/x", "file:///etc/passwd", "ftp://x/y", host.endpoints["portal"] + "/api/told", ""):
        answer = host.call(
            "hostgaplugin", "GET", "/extensionArtifact", headers={**vm.plugin, "x-ms-artifact-location": url}
        )
        assert (answer.status_code, "no blob of this host" in answer.text) == (502, True), url
        assert vm.order(url, {"x-ms-blob-type": "BlockBlob"}, b"x").status_code == 502


def test_settings_of_a_wrong_type_are_refused_before_anything_is_kept(host: RunningHost) -> None:
    host.api("PUT", "/api/packages", data=package())
    before = vm_of(host).incarnation
    for path, body in (
        ("/api/certificates", {"ec": "yes"}),
        ("/api/hold", {"on": 1}),
        ("/api/required-features", {"names": ["x" * 101]}),
        ("/api/probe-ports", {"ports": [70000]}),
        ("/api/runs", {"script": ""}),
        ("/api/extensions", {"name": NAME}),
        ("/api/vms", {"name": "a", "mac": "no"}),
    ):
        answer = host.call("portal", "POST", path, json=body)
        assert (answer.status_code, list(answer.json())) == (400, ["reason"]), path
        wrong = host.call("portal", "POST", path, data=b"{}", headers={"Content-Type": "text/plain"})
        assert wrong.status_code == 415, path
        large = host.call(
            "portal", "POST", path, data=bytes(1024 * 1024 + 1), headers={"Content-Type": "application/json"}
        )
        assert large.status_code == 413, path
    assert vm_of(host).incarnation == before


def quoted(name: str) -> bytes:
    """What is no ASCII and no blank as HTTP must have it; escapes stay as they are."""
    return b"".join(b"%%%02x" % one if one > 126 or one in b" <>'" else bytes([one]) for one in name.encode())
