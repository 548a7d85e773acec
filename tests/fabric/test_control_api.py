"""The control API: what it answers, and a reason for whatever it refuses."""

import json
from typing import Any

import pytest

from tests.fabric.conftest import NAME, RunningHost, package, vm_of

ORDER = {"name": NAME, "version": "1.0.0"}


@pytest.fixture(autouse=True, scope="module")
def _published(host: RunningHost) -> None:
    host.api("PUT", "/api/packages", data=package())


def refused(host: RunningHost, method: str, path: str, status: int, **what: Any) -> str:
    """The reason."""
    answer = host.call("portal", method, path, **what)
    assert answer.status_code == status, answer.text
    assert set(answer.json()) == {"reason"}
    reason = answer.json()["reason"]
    assert reason
    assert len(reason) < 1000
    return str(reason)


def test_told_before_anything_was_told(own_host: RunningHost) -> None:
    told = own_host.told()
    assert (told["ready"], told["heartbeats"], told["health"], told["status"]) == (None, 0, None, None)
    assert (told["events"], told["observations"]) == ([], {})


def test_the_vm_is_listed(host: RunningHost) -> None:
    host.api("POST", "/api/extensions", json=ORDER)
    (one,) = host.api("GET", "/api/vms")
    vm = vm_of(host)
    assert one["container_id"] == vm.container_id
    assert str(one["incarnation"]) == vm.incarnation
    assert NAME in one["extensions"]


def test_extensions_are_listed_with_what_was_ordered(host: RunningHost) -> None:
    added = host.api("POST", "/api/extensions", json={**ORDER, "settings": {"a": [1]}, "protected": {"b": 2}})
    (listed,) = [one for one in host.api("GET", "/api/extensions") if one["name"] == NAME]
    assert listed == added
    assert (listed["public"], listed["state"], listed["has_settings"]) == ({"a": [1]}, "enabled", True)


def test_the_description_names_every_path_and_the_bodies(host: RunningHost) -> None:
    description = host.api("GET", "/openapi.json")
    assert {"/api/told", "/api/vms", "/api/extensions", "/api/packages", "/api/faults", "/api/transcript"} <= set(
        description["paths"]
    )
    body = description["paths"]["/api/extensions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert set(body["properties"]) == {"name", "version", "settings", "protected", "fast_track"}


def test_the_readable_description_loads_nothing_from_elsewhere(host: RunningHost) -> None:
    answer = host.call("portal", "GET", "/docs")
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "/portal/docs.js" in answer.text
    assert "//" not in answer.text.replace("<!doctype html>", "")
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert host.call("portal", "GET", "/redoc").status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/api/nothing", 404),
        ("GET", "/api/extensions/x", 405),
        ("DELETE", f"/api/extensions/{NAME}/../../x", 404),
        ("DELETE", "/api/extensions/a%2Fb", 404),
        ("DELETE", "/api/extensions/Nobody.Knows", 404),
        ("DELETE", "/api/extensions/%00", 404),
        ("DELETE", "/api/told", 405),
        ("POST", "/", 405),
        ("PATCH", "/api/faults", 405),
        ("GET", "/api/%2e%2e/state.json", 404),
        ("DELETE", f"/api/extensions/{NAME}?now=perhaps", 422),
    ],
)
def test_what_is_not_there(host: RunningHost, method: str, path: str, status: int) -> None:
    refused(host, method, path, status)


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels):
        value = {"a": value}
    return value


@pytest.mark.parametrize(
    ("order", "word"),
    [
        ({}, "name"),
        ({"name": NAME}, "version"),
        ({**ORDER, "name": 1}, "name"),
        ({**ORDER, "name": "a" * 201}, "name"),
        ({**ORDER, "settings": []}, "settings"),
        ({**ORDER, "settings": "x"}, "settings"),
        ({**ORDER, "protected": 1}, "protected"),
        ({**ORDER, "fast_track": "yes"}, "fast_track"),
        ({**ORDER, "unknown": 1}, "unknown"),
        ([ORDER], "object"),
        ({**ORDER, "settings": nested(150)}, "deeper"),
        ({**ORDER, "protected": nested(150)}, "deeper"),
    ],
)
def test_an_order_that_is_wrong_is_400_and_names_the_field(host: RunningHost, order: object, word: str) -> None:
    assert word in refused(host, "POST", "/api/extensions", 400, json=order)


JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"{",
        b"\xff\xfe",
        b"\0",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"name": "a", "version": "1", "settings": {"a": NaN}}',
        b'{"name": "a", "version": "1", "settings": {"a": "\\ud800"}}',
        b'{"name": "a", "version": "1", "settings": {"a": 1e999}}',
        b'{"name": "a", "version": "1", "settings": {"a": ' + b"9" * 5000 + b"}}",
    ],
    ids=range(11),
)
def test_what_is_no_json_is_400(host: RunningHost, body: bytes) -> None:
    refused(host, "POST", "/api/extensions", 400, data=body, headers=JSON)


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "application/jsonx", ""])
@pytest.mark.parametrize("path", ["/api/extensions", "/api/faults"])
def test_a_wrong_content_type_is_415(host: RunningHost, path: str, content_type: str) -> None:
    headers = {"Content-Type": content_type}
    assert "application/json" in refused(host, "POST", path, 415, data=json.dumps(ORDER).encode(), headers=headers)


def test_a_content_type_with_a_charset_is_right(host: RunningHost) -> None:
    headers = {"Content-Type": "Application/JSON; charset=utf-8"}
    host.api("POST", "/api/extensions", data=json.dumps(ORDER).encode(), headers=headers)


UNPUBLISHED = [
    ("No.Package", "1.0.0"),
    (NAME, "9.9.9"),
    # The file of Contoso.Tools_Greeter 1.0.0 has this name too.
    ("Contoso.Tools", "Greeter_1.0.0"),
    ("../x", "1"),
    ("a\0b", "1"),
    ("", ""),
]


@pytest.mark.parametrize(("name", "version"), UNPUBLISHED)
def test_what_was_not_published_cannot_be_wanted(host: RunningHost, name: str, version: str) -> None:
    host.api("PUT", "/api/packages", data=package("Contoso.Tools_Greeter"))
    before = vm_of(host).incarnation
    reason = refused(host, "POST", "/api/extensions", 404, json={"name": name, "version": version})
    assert "PUT /api/packages" in reason
    assert vm_of(host).incarnation == before


def test_settings_arrive_whatever_they_hold(host: RunningHost) -> None:
    settings = {
        "big": 2**80,
        "float": 0.1,
        "text": "\x00\x1f\x7f\x85\u2028\ufffe\uffff\U0001f600</script>]]>&amp;",
        "": {"\0": []},
        "deep": nested(80),
    }
    host.api("POST", "/api/extensions", json={**ORDER, "settings": settings})
    vm = vm_of(host)
    (plugin,) = vm.config().findall(f"PluginSettings/Plugin[@name='{NAME}']")
    runtime = json.loads(plugin.findtext("RuntimeSettings") or "")
    assert runtime["runtimeSettings"][0]["handlerSettings"]["publicSettings"] == settings
    (entry,) = [one for one in vm.vm_settings()["extensionGoalStates"] if one["name"] == NAME]
    assert json.loads(entry["settings"][0]["publicSettings"]) == settings


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", ""])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/api/faults"),
        ("DELETE", "/api/faults"),
        ("PUT", "/api/packages"),
        ("DELETE", f"/api/extensions/{NAME}"),
    ],
)
def test_a_page_elsewhere_cannot_order_the_host_about(host: RunningHost, method: str, path: str, origin: str) -> None:
    before = vm_of(host).incarnation
    reason = refused(host, method, path, 403, headers={"Origin": origin}, data=package())
    assert "own page" in reason
    assert vm_of(host).incarnation == before


def test_the_own_page_can(host: RunningHost) -> None:
    host.api("DELETE", "/api/faults", headers={"Origin": host.endpoints["portal"]})


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ({"name": "noDot"}, "--name"),
        ({"name": "../../etc.passwd"}, "--name"),
        ({"name": "a.b\0"}, "--name"),
        ({"name": "a.b/c"}, "--name"),
        ({"name": "a." + "b" * 150}, "--name"),
        ({"name": "a" * 201}, "name"),
        ({"version": "latest"}, "--version"),
        ({"version": "1/../2"}, "--version"),
        ({"version": "\u0661.\u0662"}, "--version"),
        ({"version": "1.0\n"}, "--version"),
        ({"version": "1" * 81}, "version"),
        ({"file_name": "x" * 301}, "file_name"),
    ],
)
def test_a_package_with_a_name_that_is_none(host: RunningHost, query: dict[str, str], word: str) -> None:
    answer = host.call("portal", "PUT", "/api/packages", params=query, data=package())
    assert answer.status_code in {400, 422}
    assert word in answer.json()["reason"]


def test_a_package_is_called_what_was_said_or_what_it_says(host: RunningHost) -> None:
    for query, called in (
        ({}, {"name": NAME, "version": "1.0.0"}),
        ({"file_name": "A.B-2.0.0.zip"}, {"name": NAME, "version": "1.0.0"}),
        ({"name": "A.B"}, {"name": "A.B", "version": "1.0.0"}),
        ({"name": "A.B", "version": "3.0.0"}, {"name": "A.B", "version": "3.0.0"}),
    ):
        assert host.api("PUT", "/api/packages", data=package(), params=query) == called
        host.api("POST", "/api/extensions", json=called)


def test_a_page_that_calls_the_portal_by_another_name_reads_nothing(host: RunningHost) -> None:
    """A name of its own that leads here is how a page elsewhere would get around the browser's rule."""
    for method, path in (("GET", "/api/told"), ("GET", "/"), ("POST", "/api/move")):
        answer = host.call("portal", method, path, headers={"Host": "evil.example"})
        assert answer.status_code == 403, path
        assert host.endpoints["portal"] in answer.text
    port = host.address("portal")[1]
    assert host.call("portal", "GET", "/api/told", headers={"Host": f"localhost:{port}"}).status_code == 200
