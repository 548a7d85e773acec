"""The HTTP client against hosts that lie, drip, hang and break off."""

import base64
import json
import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wire.blob import upload_directly
from wire.deadline import Deadline
from wire.download import Downloaded
from wire.errors import (
    DocumentError,
    Gone,
    HostError,
    InvalidContainer,
    Refused,
    TimedOut,
    TooLarge,
    Truncated,
    Unreachable,
)
from wire.extensions import StatusBlob
from wire.health import HealthReport, Observation
from wire.hostplugin import HostPlugin
from wire.http import HttpClient
from wire.retry import Policy
from wire.wireserver import WireServer

QUICK = Policy(attempts=3, first_pause=0.01, longest_pause=0.01)


@pytest.fixture
def client() -> HttpClient:
    return HttpClient("azvmagent/test")


def get(client: HttpClient, url: str, seconds: float = 5.0, **what: Any) -> bytes:
    return client.request("GET", url, deadline=Deadline.after(seconds), **what).body


def test_a_redirect_is_refused_with_where_it_leads_and_its_body_is_not_taken_in(
    client: HttpClient, host: Any, replies: Callable[..., Any]
) -> None:
    """The library below reads a redirect's body whole, before anybody can bound it."""
    where = "Location: http://127.0.0.1:9/?sig=CANARY\r\n"
    host.answer(replies(b"moved", status="302 Found", headers=where))
    with pytest.raises(Refused) as caught:
        get(client, host.url)
    assert (caught.value.status, caught.value.location) == (302, "http://127.0.0.1:9/?sig=CANARY")
    assert "CANARY" not in str(caught.value)
    # More than is ever sent: whoever wanted all of it would wait for the deadline.
    host.answer(replies(b"x", status="302 Found", headers=where, announced=5_000_000_000))
    with pytest.raises(Refused):
        get(client, host.url)


def test_a_head_is_not_refused_for_the_size_of_what_it_describes(
    client: HttpClient, host: Any, replies: Callable[..., Any]
) -> None:
    host.answer(replies(b"", announced=5_000_000_000))
    answer = client.request("HEAD", host.url, deadline=Deadline.after(5.0))
    assert (answer.headers["Content-Length"], answer.body) == ("5000000000", b"")


def hang(connection: Any, _: bytes) -> None:
    """Until the client goes away."""
    connection.recv(1)


def test_what_is_sent(client: HttpClient, host: Any, replies: Callable[..., Any]) -> None:
    host.answer(replies(b"hello"))
    assert get(client, f"{host.url}/a?b=c", headers={"x-one": "1"}) == b"hello"
    head = host.requests[0].decode().lower()
    assert head.startswith("get /a?b=c http/1.1\r\n")
    assert "user-agent: azvmagent/test" in head
    assert "accept-encoding: identity" in head
    assert "x-one: 1" in head


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ({"status": "404 Not Found", "body": b"no such thing"}, Refused),
        ({"status": "410 Gone"}, Gone),
        ({"status": "400 Bad Request", "body": b"InvalidContainerConfiguration"}, InvalidContainer),
        ({"status": "302 Found", "headers": "Location: http://127.0.0.1:9/\r\n"}, Refused),
        ({"body": b"half", "announced": 8}, Truncated),
        ({"body": b"x" * 2000}, TooLarge),
        ({"body": b"", "announced": 5_000_000_000}, TooLarge),
    ],
)
def test_each_kind_of_bad_answer_has_its_error(
    client: HttpClient, host: Any, replies: Callable[..., Any], answer: dict[str, Any], error: type[HostError]
) -> None:
    host.answer(replies(**answer))
    with pytest.raises(error) as caught:
        get(client, host.url, limit=1000)
    assert type(caught.value) is error
    assert host.url in str(caught.value)


@pytest.mark.parametrize(
    "rubbish", [b"", b"\x00\xff" * 50, b"HTTP/1.1 banana\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Le"]
)
def test_rubbish_and_a_closed_connection_are_host_errors(client: HttpClient, host: Any, rubbish: bytes) -> None:
    host.answer(lambda connection, _: connection.sendall(rubbish))
    with pytest.raises(HostError):
        get(client, host.url)


def test_nobody_there(client: HttpClient, host: Any, replies: Callable[..., Any]) -> None:
    with pytest.raises(Unreachable):
        get(client, "http://127.0.0.1:9/")
    with pytest.raises(HostError):
        get(client, "http://[not a url/")
    host.answer(replies())


@pytest.mark.parametrize("where", ["before the answer", "in the head", "in the body"])
def test_a_host_that_drips_does_not_outlive_the_deadline(client: HttpClient, host: Any, where: str) -> None:
    parts = {
        "before the answer": b"",
        "in the head": b"HTTP/1.1 200 OK\r\n",
        "in the body": b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n",
    }
    gone = threading.Event()

    def drip(connection: Any, _: bytes) -> None:
        connection.sendall(parts[where])
        if where == "before the answer":
            hang(connection, b"")
        # A byte now and then keeps every per-read timeout content.
        while not gone.wait(0.05):
            connection.sendall(b"x")

    host.answer(drip)
    began = time.monotonic()
    with pytest.raises(TimedOut):
        get(client, host.url, seconds=0.5)
    gone.set()
    assert time.monotonic() - began < 5, "far more than the deadline"


def test_close_ends_a_conversation_under_way(client: HttpClient, host: Any) -> None:
    reached = threading.Event()

    def wait_for_ever(connection: Any, _: bytes) -> None:
        reached.set()
        hang(connection, b"")

    host.answer(wait_for_ever)

    def close_when_reached() -> None:
        reached.wait(10)
        client.close()

    closer = threading.Thread(target=close_when_reached)
    closer.start()
    with pytest.raises(Unreachable, match="the client is closed"):
        get(client, host.url, seconds=60)
    closer.join()


def test_transient_answers_are_asked_again_and_final_ones_are_not(
    client: HttpClient, host: Any, replies: Callable[..., Any]
) -> None:
    host.answer(replies(status="503 Busy"), replies(status="500 Oops"), replies(b"at last"))
    assert get(client, host.url, policy=QUICK) == b"at last"
    assert len(host.requests) == 3
    for status in ("404 Not Found", "410 Gone", "403 Forbidden"):
        host.answer(replies(status=status))
        before = len(host.requests)
        with pytest.raises(Refused):
            get(client, host.url, policy=QUICK)
        assert len(host.requests) == before + 1


def test_a_download_appears_whole_or_not_at_all(
    client: HttpClient, host: Any, replies: Callable[..., Any], tmp_path: Path
) -> None:
    target = tmp_path / "package.zip"
    host.answer(replies(b"x" * 100_000, announced=200_000))
    with pytest.raises(Truncated):
        client.download(host.url, target, deadline=Deadline.after(5), limit=10**6)
    assert list(tmp_path.iterdir()) == []
    host.answer(replies(b"x" * 100_000, announced=90_000), replies(b"y" * 100_000))
    done = client.download(host.url, target, deadline=Deadline.after(5), limit=10**6)
    assert isinstance(done, Downloaded)
    assert done.size == target.stat().st_size
    assert [path.name for path in tmp_path.iterdir()] == ["package.zip"]


def test_no_log_line_and_no_error_holds_a_signature(
    client: HttpClient, host: Any, replies: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    host.answer(replies(status="403 Forbidden", body=b"https://b/x?sig=CANARY denied"))
    with pytest.raises(Refused) as caught:
        get(client, f"{host.url}/blob?sv=1&sig=CANARY")
    assert "CANARY" not in str(caught.value)
    assert "CANARY" not in "\n".join(record.getMessage() for record in caplog.records if record.name == "wire")


def test_proxies_of_the_environment_are_not_used(
    client: HttpClient, host: Any, replies: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    host.answer(replies(b"direct"))
    assert get(client, host.url) == b"direct"


def test_wireserver_calls(client: HttpClient, host: Any, replies: Callable[..., Any], documents: Any) -> None:
    server = WireServer(client, host.url)
    host.answer(replies(documents.GOAL_STATE))
    goal_state = server.goal_state(known="3", wait=25)
    head = host.requests[-1].decode()
    assert head.startswith("GET /machine/?comp=goalstate ")
    for line in ("x-ms-version: 2012-11-30", "x-ms-agent-name: WALinuxAgent", "Prefer: wait=25", 'If-None-Match: "3"'):
        assert line in head
    host.answer(replies())
    report = HealthReport(state="NotReady", substatus="Provisioning", description="a < b & " + "x" * 5000)
    server.report_health(report, goal_state)
    sent = host.requests[-1].decode()
    assert sent.startswith("POST /machine?comp=health ")
    assert "<GoalStateIncarnation>4</GoalStateIncarnation>" in sent
    assert "<State>NotReady</State><Details><SubStatus>Provisioning</SubStatus><Description>a &lt; b &amp; x" in sent
    assert sent.count("x") < 3800
    server.observe("azvmagent", [Observation(name="n" * 99, healthy=False, description="d" * 200)])
    body = json.loads(host.requests[-1].partition(b"\r\n\r\n")[2])
    assert len(body["Observations"][0]["ObservationName"]) == 64
    host.answer(replies(b"<Versions><Supported><Version>2015-04-05</Version></Supported></Versions>"))
    with pytest.raises(DocumentError, match="2012-11-30 is not among"):
        server.check_version()


def test_host_plugin_calls(client: HttpClient, host: Any, replies: Callable[..., Any], documents: Any) -> None:
    plugin = HostPlugin(client, host.url, "c1", "n1")
    host.answer(replies(documents.VM_SETTINGS, headers='ETag: "7"\r\n'))
    found = plugin.vm_settings(known='"6"', wait=5)
    assert not isinstance(found, str)
    assert found.etag == '"7"'
    head = host.requests[-1].decode()
    for line in ("x-ms-containerid: c1", "x-ms-host-config-name: n1", 'if-none-match: "6"', "Prefer: wait=5"):
        assert line in head
    host.answer(replies(status="304 Not Modified"))
    assert plugin.vm_settings(known='"7"') == "unchanged"
    host.answer(replies(status="404 Not Found"))
    assert plugin.vm_settings() == "unsupported"
    host.answer(replies(documents.VM_SETTINGS))
    with pytest.raises(DocumentError, match="without a usable ETag"):
        plugin.vm_settings()


@pytest.mark.parametrize("size", [10, 512, 5 * 1024 * 1024])
def test_a_page_blob_is_created_and_written_in_whole_pages(
    client: HttpClient, host: Any, replies: Callable[..., Any], size: int
) -> None:
    host.answer(replies(status="201 Created"))
    upload_directly(client, StatusBlob(url=f"{host.url}/s?sig=x", kind="PageBlob"), b"j" * size)
    create, *pages = host.requests
    padded = -(-size // 512) * 512
    assert f"x-ms-blob-content-length: {padded}" in create.decode()
    written = b"".join(page.partition(b"\r\n\r\n")[2] for page in pages)
    assert written == b"j" * size + b"\0" * (padded - size)
    assert all(b"PUT /s?sig=x&comp=page " in page for page in pages)


def test_the_host_plugin_is_given_whole_pages_filled_up_with_blanks(
    client: HttpClient, host: Any, replies: Callable[..., Any]
) -> None:
    host.answer(replies())
    HostPlugin(client, host.url, "c", "n").put_status(StatusBlob(url="http://b/s", kind="PageBlob"), b"{}")
    create, page = (json.loads(one.partition(b"\r\n\r\n")[2]) for one in host.requests)
    assert {"headerName": "x-ms-blob-content-length", "headerValue": "512"} in create["headers"]
    assert base64.b64decode(page["content"]) == b"{}" + b" " * 510


def test_the_host_plugin_is_ordered_to_do_the_same(client: HttpClient, host: Any, replies: Callable[..., Any]) -> None:
    host.answer(replies())
    HostPlugin(client, host.url, "c", "n").put_status(StatusBlob(url="http://b/s?sig=x"), b"{}")
    order = json.loads(host.requests[0].partition(b"\r\n\r\n")[2])
    assert order["requestUri"] == "http://b/s?sig=x"
    assert base64.b64decode(order["content"]) == b"{}"
    assert {"headerName": "x-ms-blob-type", "headerValue": "BlockBlob"} in order["headers"]


def test_a_status_blob_that_is_not_created_is_refused(
    client: HttpClient, host: Any, replies: Callable[..., Any]
) -> None:
    host.answer(replies(status="200 OK"))
    with pytest.raises(Refused, match="did not create"):
        upload_directly(client, StatusBlob(url=f"{host.url}/s"), b"{}")
