"""The instance metadata service."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fabric.conftest import RunningHost

HEADERS = {"Metadata": "true"}
VERSION = "2018-02-01"
PATH = f"/metadata/instance?api-version={VERSION}"


def got(host: RunningHost, path: str, version: str = VERSION, **query: str) -> Any:
    """The JSON below /metadata/; must be given."""
    answer = host.call("imds", "GET", f"/metadata/{path}", params={"api-version": version, **query}, headers=HEADERS)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_the_instance_has_what_agents_ask_for(host: RunningHost) -> None:
    instance = got(host, "instance")
    for name in ("location", "subscriptionId", "resourceGroupName", "vmId", "publisher", "offer", "sku", "version"):
        assert isinstance(instance["compute"][name], str)
    interface = instance["network"]["interface"][0]
    assert interface["macAddress"]
    assert interface["ipv4"]["ipAddress"][0]["privateIpAddress"] == "127.0.0.1"


@pytest.mark.parametrize("part", ["compute", "network"])
def test_parts_are_the_same_as_in_the_whole(host: RunningHost, part: str) -> None:
    answer = host.call("imds", "GET", PATH.replace("instance", f"instance/{part}"), headers={"Metadata": "True"})
    assert answer.json() == got(host, "instance")[part]


def test_a_vm_is_told_its_own_name_address_and_mac(own_host: RunningHost) -> None:
    order = {"name": "other", "own_ports": True, "mac": "00:0d:3a:0b:00:07"}
    added = own_host.api("POST", "/api/vms", json=order)
    url = added["imds"] + "/metadata/instance"
    answer = own_host.call("imds", "GET", url, params={"api-version": VERSION}, headers=HEADERS).json()
    assert answer["compute"]["name"] == "other"
    assert answer["network"]["interface"][0]["macAddress"] == "000D3A0B0007"
    first = got(own_host, "instance")
    assert first["compute"]["name"] == "vm1"
    # Where nobody said one, each has its own all the same.
    assert first["network"]["interface"][0]["macAddress"] not in {"", "000D3A0B0007"}
    assert first["compute"]["vmId"] != answer["compute"]["vmId"]
    wrong = own_host.call("portal", "POST", "/api/vms", json={**order, "name": "third", "mac": "00:0d:3a:0b:00:07\n"})
    assert (wrong.status_code, "mac" in wrong.json()["reason"]) == (400, True)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("compute/name", "vm1"),
        ("compute/osType/", "Linux"),
        ("network/interface/0/ipv4/ipAddress/0/privateIpAddress", "127.0.0.1"),
        ("network/interface/0/ipv4/subnet/0/prefix", "8"),
        ("", "compute/\nnetwork/"),
        ("network/interface", "0/"),
    ],
)
def test_text_is_one_value_or_a_list_of_names(host: RunningHost, path: str, expected: str) -> None:
    answer = host.call("imds", "GET", f"/metadata/instance/{path}?api-version={VERSION}&format=text", headers=HEADERS)
    assert (answer.status_code, answer.text) == (200, expected)
    assert answer.headers["Content-Type"].startswith("text/plain")


def test_each_version_has_the_fields_of_its_time(host: RunningHost) -> None:
    first, old, new = (got(host, "instance/compute", one) for one in ("2017-04-02", "2018-02-01", "2021-02-01"))
    assert "subscriptionId" not in first
    assert {"subscriptionId", "zone"} <= set(old)
    assert "tagsList" not in old
    assert {"tagsList", "osProfile", "userData", "storageProfile"} <= set(new)


def test_the_versions_are_listed_and_each_of_them_is_taken(host: RunningHost) -> None:
    answer = host.call("imds", "GET", "/metadata/versions", headers=HEADERS)
    versions = answer.json()["apiVersions"]
    assert {VERSION, "2021-02-01"} <= set(versions)
    for one in versions:
        assert got(host, "instance/compute", one)["name"] == "vm1"


@pytest.mark.parametrize("query", ["", "?api-version=", "?api-version=2018-02-02", "?api-version=latest"])
def test_a_version_nobody_knows_is_refused_with_those_there_are(host: RunningHost, query: str) -> None:
    answer = host.call("imds", "GET", f"/metadata/instance{query}", headers=HEADERS)
    assert answer.status_code == 400
    assert "api-version" in answer.json()["error"]
    newest = answer.json()["newest-versions"]
    assert newest == sorted(newest, reverse=True)
    assert got(host, "instance", newest[0])


def test_nothing_is_scheduled_and_nothing_can_be_started(host: RunningHost) -> None:
    assert got(host, "scheduledevents", "2020-07-01") == {"DocumentIncarnation": 1, "Events": []}
    url = "/metadata/scheduledevents?api-version=2020-07-01"
    order = {"StartRequests": [{"EventId": "f020ba2e"}]}
    answer = host.call("imds", "POST", url, headers=HEADERS, json=order)
    assert (answer.status_code, "f020ba2e" in answer.json()["error"]) == (400, True)
    for body in (b"", b"[]", b'{"StartRequests": 1}', b"\xff", b'{"StartRequests": ' + b"[" * 100_000):
        assert host.call("imds", "POST", url, headers=HEADERS, data=body).status_code == 400
    assert host.call("imds", "POST", url, headers=HEADERS, data=bytes(1024 * 1024 + 1)).status_code == 413


def test_what_only_azure_has_is_an_honest_no(host: RunningHost) -> None:
    identity = "/metadata/identity/oauth2/token?api-version=2018-02-01"
    for path, status, word in (
        (identity, 400, "resource"),
        (identity + "&resource=https://storage.azure.com/", 400, "Identity not found"),
        ("/metadata/attested/document?api-version=2020-09-01", 404, "signed"),
        ("/metadata/loadbalancer?api-version=2020-10-01", 404, "load balancer"),
    ):
        answer = host.call("imds", "GET", path, headers=HEADERS)
        assert (answer.status_code, word in answer.text) == (status, True), answer.text


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", PATH, {}, 400),
        ("GET", PATH, {"Metadata": "false"}, 400),
        ("GET", PATH, {"Metadata": "true", "X-Forwarded-For": "10.0.0.1"}, 400),
        ("GET", "/metadata/versions", {}, 400),
        ("GET", "/metadata/instance", HEADERS, 400),
        ("GET", f"{PATH}&format=xml", HEADERS, 400),
        ("GET", f"/metadata/instance/compute/name?api-version={VERSION}", HEADERS, 400),
        ("GET", f"/metadata/nothing?api-version={VERSION}", HEADERS, 404),
        ("GET", f"/metadata/instance/compute/nothing?api-version={VERSION}", HEADERS, 404),
        ("GET", f"/metadata/instance/network/interface/1?api-version={VERSION}", HEADERS, 404),
        ("GET", f"/metadata/instance/network/interface/-1?api-version={VERSION}", HEADERS, 404),
        ("GET", f"/metadata/instance/%2e%2e%2fversions?api-version={VERSION}", HEADERS, 404),
        ("GET", "/", {**HEADERS}, 400),
        ("POST", PATH, HEADERS, 405),
        ("PUT", PATH, HEADERS, 405),
        ("DELETE", PATH, HEADERS, 405),
        ("HEAD", PATH, HEADERS, 405),
    ],
)
def test_a_wrong_question_gets_an_error_document(
    host: RunningHost, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    answer = host.call("imds", method, path, headers=headers)
    assert answer.status_code == status
    assert method == "HEAD" or answer.json()["error"]


@settings(max_examples=150, deadline=None)
@given(path=st.lists(st.text(max_size=20), max_size=6), query=st.dictionaries(st.text(max_size=8), st.text(max_size=8)))
def test_any_question_has_an_answer(host: RunningHost, path: list[str], query: dict[str, str]) -> None:
    where = "/metadata/instance/" + "/".join(path)
    answer = host.call("imds", "GET", where, params={"api-version": VERSION, **query}, headers=HEADERS)
    assert answer.status_code in {200, 400, 404}
