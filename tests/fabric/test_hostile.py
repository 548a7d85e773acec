"""Hostile input: each is refused with a reason, nobody else is held up, and the host goes on."""

import re
import resource
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.fabric.conftest import NAME, PATIENCE, RunningHost, Vm, package, status_line, vm_of

SERVERS = ["wireserver", "hostgaplugin", "imds", "blob", "portal"]
MIB = 1024 * 1024


@pytest.fixture(autouse=True)
def _goes_on(host: RunningHost) -> Iterator[None]:
    """After each test everybody is still answered by the same process."""
    yield
    assert vm_of(host).health().status_code == 200
    assert host.call("hostgaplugin", "GET", "/health").status_code == 200
    assert host.told()["ready"] is True


def reason(answer: bytes) -> bytes:
    """The body of a refusal, which must be one."""
    assert 400 <= status_line(answer) < 500, answer[:300]
    text = answer.partition(b"\r\n\r\n")[2]
    assert text
    return text


MALFORMED = {
    "no HTTP": b"hello\r\n\r\n",
    "binary": bytes(range(256)) + b"\r\n\r\n",
    "TLS": bytes.fromhex("16030100c8010000c40303") + b"x" * 300,
    "a NUL in the path": b"GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n",
    "a NUL in a header": b"GET / HTTP/1.1\r\nHost: a\r\nx-ms-version: a\0b\r\n\r\n",
    "a blank in a header's name": b"GET / HTTP/1.1\r\nHost: a\r\nx ms: b\r\n\r\n",
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "two lengths": b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "a negative length": b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
    "a length that is none": b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n",
    "an endless length": b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: " + b"9" * 50 + b"\r\n\r\n",
    "an unknown transfer": b"PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
    "a huge header": b"GET / HTTP/1.1\r\nHost: a\r\nx: " + b"a" * 300_000 + b"\r\n\r\n",
    "many headers": b"GET / HTTP/1.1\r\nHost: a\r\n" + b"x: y\r\n" * 50_000 + b"\r\n",
    "a huge path": b"GET /" + b"a" * 300_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
}


@pytest.mark.parametrize("server", SERVERS)
@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_requests(host: RunningHost, server: str, data: bytes) -> None:
    answer = host.raw(server, data)
    # A connection may be reset before the refusal is read, if more than it takes was on its way.
    if answer or len(data) < 100_000:
        assert b"Invalid HTTP request" in reason(answer)


@pytest.mark.parametrize("server", SERVERS)
def test_a_chunk_that_is_none(host: RunningHost, server: str) -> None:
    paths = {"wireserver": "POST /HealthService", "hostgaplugin": "PUT /vmAgentLog", "portal": "PUT /api/packages"}
    line = paths.get(server, "PUT /status/vm1.status")
    vm = vm_of(host)
    ids = f"x-ms-version: 2015-09-01\r\nx-ms-containerid: {vm.container_id}"
    head = f"{line} HTTP/1.1\r\nHost: a\r\n{ids}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    reason(host.raw(server, head + b"zz\r\nhello\r\n"))


@pytest.mark.parametrize("server", SERVERS)
def test_websockets_and_other_upgrades_are_plain_requests(host: RunningHost, server: str) -> None:
    upgrade = b"Connection: Upgrade, close\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13"
    answer = host.raw(server, b"GET /nothing HTTP/1.1\r\nHost: a\r\n" + upgrade + b"\r\n\r\n")
    assert reason(answer)


# -- bodies --------------------------------------------------------------------------------------------------------


def chunked(parts: int, size: int) -> Iterator[bytes]:
    """A body nobody has announced the length of."""
    part = b" " * size
    for _ in range(parts):
        yield part


POSTS = [
    ("wireserver", "POST", "/machine?comp=health", 1),
    ("wireserver", "POST", "/machine?comp=telemetrydata", 1),
    ("wireserver", "POST", "/machine?comp=roleProperties", 1),
    ("wireserver", "POST", "/HealthService", 1),
    ("hostgaplugin", "PUT", "/status", 16),
    ("blob", "PUT", "", 64),
    ("portal", "POST", "/api/extensions", 1),
    ("portal", "POST", "/api/faults", 1),
]


@pytest.mark.parametrize(("server", "method", "path", "mib"), POSTS)
def test_a_body_past_the_limit_is_413_announced_or_not(
    host: RunningHost, vm: Vm, server: str, method: str, path: str, mib: int
) -> None:
    headers = {**(vm.plugin if server == "hostgaplugin" else Vm.WIRE), "Content-Type": "application/json"}
    headers |= {"x-ms-blob-type": "BlockBlob"} if server == "blob" else {}
    url = path or vm.status_url()
    answer = host.call(server, method, url, data=chunked(mib + 1, MIB), headers=headers)
    assert (answer.status_code, "limited to" in answer.text) == (413, True)
    # Announced: refused before anything of it has come.
    target = url.removeprefix(host.endpoints[server])
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"{method} {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{lines}"
    answered = host.raw(server, f"{head}Content-Length: {mib * MIB + 1}\r\n\r\n".encode())
    assert status_line(answered) == 413


def test_a_package_past_the_limit_is_413(host: RunningHost) -> None:
    head = f"PUT /api/packages HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {512 * MIB + 1}\r\n\r\n"
    answer = host.raw("portal", head.encode())
    assert status_line(answer) == 413
    assert b"limited to" in reason(answer)


def test_a_body_at_the_limit_is_taken(host: RunningHost) -> None:
    body = b'{"Observations": []}'.ljust(MIB)
    answer = host.call("wireserver", "POST", "/HealthService", data=body)
    assert answer.status_code == 200


XML = {
    "nothing": b"",
    "no XML": b"hello",
    "half": b"<Health><Container>",
    "a NUL": b"<Health>\0</Health>",
    "not UTF-8": b"<Health>\xff</Health>",
    "an unknown encoding": b'<?xml version="1.0" encoding="klingon"?><Health/>',
    "no text encoding": b'<?xml version="1.0" encoding="hex"?><Health/>',
    "two bytes": b'<?xml version="1.0" encoding="shift_jis"?><Health/>',
    "idna": b'<?xml version="1.0" encoding="idna"?><Health/>',
    "a billion laughs": b'<!DOCTYPE a [<!ENTITY b "c"><!ENTITY d "&b;&b;">]><a>&d;</a>',
    "an external entity": b'<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>',
}


@pytest.mark.parametrize("body", XML.values(), ids=XML.keys())
@pytest.mark.parametrize("kind", ["health", "telemetrydata"])
def test_xml_that_cannot_be_read(host: RunningHost, kind: str, body: bytes) -> None:
    path = f"/machine?comp={kind}"
    answer = host.call("wireserver", "POST", path, data=body, headers=Vm.WIRE)
    assert answer.status_code == 400
    assert "cannot be read" in answer.text
    if kind == "telemetrydata":
        inner = body.replace(b"<", b"&lt;").replace(b"&b;", b"&amp;b;").replace(b"&d;", b"&amp;d;")
        whole = b'<TelemetryData><Provider id="x"><Event id="1">' + inner + b"</Event></Provider></TelemetryData>"
        if body not in {b"", b"hello"}:
            answer = host.call("wireserver", "POST", path, data=whole, headers=Vm.WIRE)
            assert answer.status_code == 400


def test_deep_xml_is_read_or_refused(host: RunningHost) -> None:
    deep = b"<a>" * 140_000 + b"</a>" * 140_000
    for kind in ("health", "telemetrydata"):
        answer = host.call("wireserver", "POST", f"/machine?comp={kind}", data=deep[:MIB], headers=Vm.WIRE)
        assert answer.status_code in {200, 400, 410}


OBSERVATIONS = [
    b"",
    b"null",
    b"[]",
    b"{}",
    b'{"Observations": null}',
    b'{"Observations": [1]}',
    b'{"Observations": [[["a", 1]]]}',
    b'{"Observations": [[[null, 1]]]}',
    b'{"Observations": [{}]}',
    b'{"Observations": [{"ObservationName": {"a": 1}, "IsHealthy": true}]}',
    b'{"Observations": [{"ObservationName": "a", "IsHealthy": "yes"}]}',
    b'{"Observations": ' + b"[" * 500_000,
    b'{"Observations": [{"ObservationName": "\\ud800", "IsHealthy": true}]}',
    b"\xff",
]


@pytest.mark.parametrize("body", OBSERVATIONS, ids=range(len(OBSERVATIONS)))
def test_observations_that_cannot_be_read(host: RunningHost, body: bytes) -> None:
    before = host.told()["observations"]
    answer = host.call("wireserver", "POST", "/HealthService", data=body)
    assert answer.status_code == 400
    assert "cannot be read" in answer.text
    assert host.told()["observations"] == before


def test_observations_of_ever_new_names_are_refused_in_the_end(host: RunningHost) -> None:
    many = [{"ObservationName": f"n{number}", "IsHealthy": True} for number in range(200)]
    answer = host.call("wireserver", "POST", "/HealthService", json={"Observations": many})
    assert answer.status_code == 400
    assert "names" in answer.text
    assert len(host.told()["observations"]) < 100


def test_observations_are_kept_no_longer_than_the_protocol_has_them(host: RunningHost) -> None:
    one = {"ObservationName": "n" * 500, "IsHealthy": False, "Description": "d" * 500_000, "Value": "v" * 129}
    assert host.call("wireserver", "POST", "/HealthService", json={"Observations": [one]}).status_code == 200
    kept = host.told()["observations"]["n" * 64]
    assert (len(kept["Description"]), len(kept["Value"]), kept["IsHealthy"]) == (128, 128, False)


def test_telemetry_without_end_keeps_the_newest(host: RunningHost) -> None:
    text = "x" * 900_000
    for number in range(8):
        event = f'<Event id="{number}">&lt;Param Name="Message" Value="{text}" T="mt:wstr" /&gt;</Event>'
        body = f'<TelemetryData><Provider id="x">{event}</Provider></TelemetryData>'.encode()
        answer = host.call("wireserver", "POST", "/machine?comp=telemetrydata", data=body, headers=Vm.WIRE)
        assert answer.status_code == 200
    kept = [one["event_id"] for one in host.told()["events"]]
    assert kept == ["4", "5", "6", "7"]
    assert len(vm_of(host).vm_settings())


@pytest.mark.parametrize(
    "body",
    [
        b"<Provider>" * 5_000 + b"<Event/>" * 10 + b"</Provider>" * 5_000,
        b"<TelemetryData><Provider id='a'><Provider id='b'><Event/></Provider></Provider></TelemetryData>",
        b"<TelemetryData><Event/></TelemetryData>",
        b"<TelemetryData><Provider id='a'><Other/></Provider></TelemetryData>",
    ],
)
def test_telemetry_of_another_shape_is_refused(host: RunningHost, body: bytes) -> None:
    """A provider within a provider would have its events counted once for each."""
    before = host.told()["events"]
    answer = host.call("wireserver", "POST", "/machine?comp=telemetrydata", data=body, headers=Vm.WIRE)
    assert (answer.status_code, answer.text) == (400, "telemetry is Providers that hold Events, and nothing else")
    assert host.told()["events"] == before


# -- clients that take their time, or go ---------------------------------------------------------------------------


@pytest.mark.parametrize("server", SERVERS)
def test_slow_clients_hold_up_nobody(host: RunningHost, server: str) -> None:
    with ExitStack() as stack:
        for data in [b"", b"G", b"PUT /status HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nx"] * 60:
            connection = stack.enter_context(socket.create_connection(host.address(server), PATIENCE))
            connection.sendall(data)
        assert vm_of(host).health().status_code == 200
        assert host.told()["ready"] is True


def test_clients_that_go_in_the_middle_of_a_body(host: RunningHost, vm: Vm) -> None:
    ids = "".join(f"{name}: {value}\r\n" for name, value in vm.plugin.items())
    status = vm.status_url().removeprefix(host.endpoints["blob"])
    for server, line in (
        ("wireserver", "POST /HealthService"),
        ("hostgaplugin", "PUT /status"),
        ("hostgaplugin", "PUT /vmAgentLog"),
        ("blob", f"PUT {status}"),
        ("portal", "PUT /api/packages"),
        ("portal", "POST /api/faults"),
    ):
        head = f"{line} HTTP/1.1\r\nHost: a\r\n{ids}Content-Type: application/json\r\nContent-Length: 1000\r\n\r\nhalf"
        with socket.create_connection(host.address(server), PATIENCE) as connection:
            connection.sendall(head.encode())


def test_clients_that_do_not_read_what_they_asked_for(host: RunningHost) -> None:
    host.api("PUT", "/api/packages", data=package("Contoso.Tools.Large", files={"x": bytes(8 * MIB)}))
    host.api("POST", "/api/extensions", json={"name": "Contoso.Tools.Large", "version": "1.0.0"})
    vm = vm_of(host)
    (plugin,) = vm.config().findall("Plugins/Plugin[@name='Contoso.Tools.Large']")
    manifest = host.call("blob", "GET", plugin.get("location", "")).text
    url = manifest.partition("<Uri>")[2].partition("</Uri>")[0].replace("&amp;", "&")
    path = url.removeprefix(host.endpoints["blob"])
    with ExitStack() as stack:
        for _ in range(10):
            connection = stack.enter_context(socket.create_connection(host.address("blob"), PATIENCE))
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
        assert host.call("blob", "GET", url).content.count(b"\0") >= 8 * MIB


# -- the disk ------------------------------------------------------------------------------------------------------


def test_a_disk_that_takes_no_more_is_said_and_nothing_half_is_left(own_host: RunningHost) -> None:
    own_host.add(settings={"a": 1})
    vm = vm_of(own_host)
    limits = resource.prlimit(own_host.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(own_host.pid, resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        answers = [
            own_host.call("portal", "PUT", "/api/packages", data=package("A.B", files={"x": bytes(MIB)})),
            own_host.call("portal", "POST", "/api/extensions", json={"name": NAME, "version": "1.0.0"}),
            own_host.call("blob", "PUT", vm.status_url(), data=bytes(MIB), headers={"x-ms-blob-type": "BlockBlob"}),
        ]
        for answer in answers:
            assert answer.status_code == 507
            assert re.search("cannot be written|state.sqlite: .*disk", answer.text)
        assert vm_of(own_host).incarnation == vm.incarnation
    finally:
        resource.prlimit(own_host.pid, resource.RLIMIT_FSIZE, limits)
    assert not list((own_host.root / "fabric").rglob(".*.tmp"))
    assert [one["name"] for one in own_host.api("GET", "/api/extensions")] == [NAME]
    own_host.add(settings={"a": 2})
    assert int(vm_of(own_host).incarnation) == int(vm.incarnation) + 1


# -- packages ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [b"", b"no zip", package()[:-10], package().replace(b"HandlerManifest.json", b"HandlerManifest.jsom")],
    ids=["empty", "no zip", "cut", "no manifest"],
)
def test_what_is_no_package_is_refused_with_a_reason(host: RunningHost, data: bytes) -> None:
    answer = host.call("portal", "PUT", "/api/packages", data=data, params={"name": "Bad.Package", "version": "1.0.0"})
    assert answer.status_code == 400
    assert "zip" in answer.json()["reason"]
    order = {"name": "Bad.Package", "version": "1.0.0"}
    assert host.call("portal", "POST", "/api/extensions", json=order).status_code == 404


def test_a_zip_that_would_unpack_without_end_is_passed_on_unopened(host: RunningHost) -> None:
    """The VM's agent is to refuse it; the host looks at the manifest only."""
    data = package("Contoso.Tools.Bomb", files={"bomb": bytes(20 * MIB)})
    assert host.api("PUT", "/api/packages", data=data)["name"] == "Contoso.Tools.Bomb"
