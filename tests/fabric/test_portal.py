"""The portal's files and its stream: nothing foreign runs in the page, and news come while somebody watches."""

import json
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.fabric.conftest import PATIENCE, RunningHost, handler_status, status_blob, vm_of

FOLDER = Path(__file__).resolve().parents[2] / "fabric" / "portal"
SCRIPTS = sorted(FOLDER.glob("*.js"))


@pytest.fixture(scope="module")
def page(host: RunningHost) -> str:
    answer = host.call("portal", "GET", "/")
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    return answer.text


@pytest.fixture(scope="module")
def docs(host: RunningHost) -> str:
    return host.call("portal", "GET", "/docs").text


# -- the files ---------------------------------------------------------------------------------------------------------


def test_the_browser_is_told_to_run_our_files_and_nothing_else(host: RunningHost) -> None:
    for path in ("/", "/docs", "/portal/portal.js", "/portal/icon.svg"):
        answer = host.call("portal", "GET", path)
        rules = dict(one.strip().split(" ", 1) for one in answer.headers["Content-Security-Policy"].split(";"))
        assert rules["default-src"] == "'none'"
        assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == "'self'"
        assert rules["frame-ancestors"] == rules["base-uri"] == rules["form-action"] == "'none'"
        assert rules["require-trusted-types-for"] == "'script'"
        assert "unsafe" not in str(rules)
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_the_markup_holds_no_script_and_no_style(page: str, docs: str) -> None:
    for text, script in ((page, "portal.js"), (docs, "docs.js")):
        assert re.findall(r"<script[^>]*>", text) == [f'<script type="module" src="/portal/{script}">']
        assert not re.findall(r"\s(?:on\w+|style)=|javascript:|<style|<iframe|<object|<embed|<base|https?:", text)


def test_every_file_the_pages_name_is_served(host: RunningHost, page: str, docs: str) -> None:
    named = set(re.findall(r'(?:href|src)="(/portal/[^"]+)"', page + docs))
    for script in SCRIPTS:
        named |= {f"/portal/{one}" for one in re.findall(r'from "\./([\w.]+)"', script.read_text())}
    types = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
    assert {Path(one).name for one in named} == {one.name for one in FOLDER.iterdir()} - {"index.html", "docs.html"}
    for path in sorted(named):
        answer = host.call("portal", "GET", path)
        assert answer.status_code == 200
        assert answer.headers["Content-Type"].partition(";")[0] == types[Path(path).suffix]
        # Asked again, it is not sent again.
        again = host.call("portal", "GET", path, headers={"If-None-Match": answer.headers["ETag"]})
        assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    "name", ["nothing.js", "..%2fapi.py", "%2e%2e", "index.html%00", "../page.py", ".", "a" * 5000]
)
def test_nothing_else_is_served(host: RunningHost, name: str) -> None:
    answer = host.call("portal", "GET", f"/portal/{name}")
    assert answer.status_code == 404
    assert "reason" in answer.json()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_text_gets_in_as_text_only(script: Path) -> None:
    text = script.read_text()
    for sink in ("HTML", "document.write", "eval(", "Function(", ".style", "srcdoc", "import(", ".src ", "javascript:"):
        assert sink not in text, sink
    # One place sets attributes by name, and it knows which are harmless.
    assert text.count("setAttribute(name") == (2 if script.name == "dom.js" else 0)


def test_what_the_page_asks_for_is_there(host: RunningHost) -> None:
    described = host.api("GET", "/openapi.json")["paths"]
    patterns = [re.sub(r"\{[^}]+\}", "X", one) for one in described]
    asked: set[str] = set()
    for script in SCRIPTS:
        found = re.findall(r'["`](/api/[^"`?]*)["`]', script.read_text())
        asked |= {re.sub(r"\$\{[^}]+\}", "X", one) for one in found}
    assert len(asked) > 10
    assert asked <= set(patterns), asked - set(patterns)


def test_the_catalogue_says_what_the_host_takes(host: RunningHost) -> None:
    found = host.api("GET", "/api/fault-catalogue")
    for one in found["faults"]:
        order: dict[str, Any] = {"endpoint": (one["endpoints"] or found["endpoints"])[0], "fault": one["name"]}
        if one["value"]:
            order["value"] = one["value"][0]
        host.api("DELETE", f"/api/faults/{host.api('POST', '/api/faults', json=order)['id']}")
    assert set(found["groups"]["wireserver"]) < set(found["endpoints"])


def test_the_transcript_of_one_vm(host: RunningHost) -> None:
    vm_of(host)
    assert {one["vm"] for one in host.api("GET", "/api/transcript", params={"vm": "vm1"})} == {"vm1"}
    assert host.api("GET", "/api/transcript", params={"vm": "other"}) == []


def test_the_newest_events_only(host: RunningHost) -> None:
    assert host.api("GET", "/api/told", params={"events": 0})["events"] == []
    assert host.call("portal", "GET", "/api/told", params={"events": -1}).status_code == 422


def test_the_output_of_a_run(host: RunningHost) -> None:
    order = {"script": "true", "name": "seen", "output_blobs": True}
    blob = host.api("POST", "/api/runs", json=order)["output_blob"]
    output = host.api("GET", "/api/runs/seen/output")
    assert output["output"] == {"size": 0, "text": "", "cut": False}
    host.call("blob", "PUT", blob, headers={"x-ms-blob-type": "AppendBlob"})
    content = b"\xff" + "ü".encode() * 50_000
    assert host.call("blob", "PUT", f"{blob}&comp=appendblock", data=content).status_code == 201
    output = host.api("GET", "/api/runs/seen/output")["output"]
    assert output == {"size": len(content), "text": "ü" * 32_768, "cut": True}
    host.api("POST", "/api/runs", json={"script": "true", "name": "unseen"})
    for name, reason in (("unseen", "keeps no output blobs"), ("never", "there is no run")):
        answer = host.call("portal", "GET", f"/api/runs/{name}/output")
        assert answer.status_code == 404
        assert reason in answer.json()["reason"]
    host.api("PUT", "/api/goal", json={"handlers": []})


# -- the stream --------------------------------------------------------------------------------------------------------


class Stream:
    """`GET /api/stream` on a socket of its own; news as they come."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._file = connection.makefile("rb")
        self.count = 0

    def news(self) -> dict[str, Any] | None:
        """None: it ended."""
        while line := self._file.readline():
            if line.startswith(b"data: ") and line != b"data: {}\n":
                self.count += 1
                found: dict[str, Any] = json.loads(line[len(b"data: ") :])
                return found
        return None

    def until(self, name: str, wanted: Any) -> Any:
        """The first news in which `wanted` is true of what stands under that name."""
        while (found := self.news()) is not None:
            if name in found and wanted(found[name]):
                return found[name]
        pytest.fail("the stream ended")


@contextmanager
def streamed(host: RunningHost) -> Iterator[Stream]:
    with socket.create_connection(host.address("portal"), PATIENCE) as connection:
        asked = host.endpoints["portal"].removeprefix("http://")
        connection.sendall(f"GET /api/stream HTTP/1.1\r\nHost: {asked}\r\n\r\n".encode())
        yield Stream(connection)


@pytest.fixture
def watching(host: RunningHost) -> Iterator[Stream]:
    with streamed(host) as stream:
        yield stream


def test_the_first_news_are_everything(host: RunningHost, watching: Stream) -> None:
    first = watching.news()
    assert first is not None
    assert first["all"] is True
    assert [one["name"] for one in first["vms"]] == [one["name"] for one in host.api("GET", "/api/vms")]
    assert first["faults"] == host.api("GET", "/api/faults")
    answer = host.raw("portal", b"HEAD /api/stream HTTP/1.0\r\n\r\n")
    assert b"405" in answer


def test_what_changes_comes_and_nothing_else(host: RunningHost, watching: Stream) -> None:
    watching.news()
    host.fault("imds", "reset")
    assert [one["endpoint"] for one in watching.until("faults", bool)] == ["imds"]
    host.api("DELETE", "/api/faults")
    assert watching.until("faults", lambda faults: faults == []) == []
    host.api("POST", "/api/hold", json={"on": True})
    assert watching.until("vms", lambda vms: any(one["on_hold"] for one in vms))
    host.api("POST", "/api/hold", json={"on": False})
    host.api("POST", "/api/vms", json={"name": "more", "own_ports": True})
    assert watching.until("vms", lambda vms: "more" in {one["name"] for one in vms})
    host.api("DELETE", "/api/vms/more")
    assert watching.until("gone", bool) == ["more"]


def test_what_a_vm_tells_comes_and_many_words_at_once(host: RunningHost, watching: Stream) -> None:
    watching.news()
    vm = vm_of(host)
    before = host.told()["heartbeats"]
    for _ in range(60):
        vm.health()
    vm.report(status_blob(handler_status()))
    watching.until("vms", lambda vms: any(one["heartbeats"] == before + 60 and one["status_at"] for one in vms))
    assert watching.count < 60


def test_the_same_events_again_are_news_too(host: RunningHost, watching: Stream) -> None:
    """Nothing that a list shows has changed, and still the page must ask again."""
    watching.news()
    observation = {"Name": "a", "OperationSuccess": "True"}
    params = "".join(f'<Param Name="{name}" Value="{value}" T="mt:wstr" />' for name, value in observation.items())
    event = f'<Provider id="p"><Event id="1"><![CDATA[{params}]]></Event></Provider>'
    body = f'<?xml version="1.0"?><TelemetryData version="1.0">{event}</TelemetryData>'
    headers = {
        "x-ms-version": "2012-11-30",
        "x-ms-agent-name": "WALinuxAgent",
        "Content-Type": "text/xml;charset=utf-8",
    }
    host.call("wireserver", "POST", "/machine?comp=telemetrydata", data=body, headers=headers)
    assert [one["name"] for one in watching.until("vms", bool)] == ["vm1"]


def test_what_nobody_tells_is_looked_for(host: RunningHost, watching: Stream) -> None:
    """A fault whose time is up; what another worker of a fleet heard is found likewise."""
    watching.news()
    host.api("POST", "/api/faults", json={"endpoint": "imds", "fault": "reset", "last": 2})
    watching.until("faults", bool)
    assert watching.until("faults", lambda faults: faults == []) == []


def test_one_who_comes_later_and_one_who_goes(host: RunningHost, watching: Stream) -> None:
    watching.news()
    with streamed(host) as other:
        first = other.news()
        assert first is not None
        assert first["all"]
    host.fault("imds", "reset")
    assert watching.until("faults", bool)
    host.api("DELETE", "/api/faults")


def test_more_pages_than_one_host_wants(tmp_path: Path) -> None:
    host = RunningHost(tmp_path)
    host.start()
    try:
        watchers = [streamed(host) for _ in range(200)]
        streams = [one.__enter__() for one in watchers]
        assert all(one.news() for one in streams)
        answer = host.call("portal", "GET", "/api/stream")
        assert answer.status_code == 503
        assert "close some" in answer.json()["reason"]
        watchers.pop().__exit__(None, None, None)
        host.fault("imds", "reset")
        assert all(one.until("faults", bool) for one in streams[:-1])
        # They do not keep it from ending, and each of them is told so.
        assert host.stop() == 0
        assert all(one.news() is None for one in streams[:-1])
        assert host.bugs() == []
    finally:
        host.kill()
