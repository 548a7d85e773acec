"""Each fault does on the wire what it says, as often as it says, and nowhere else."""

import re
import socket
import xml.etree.ElementTree as ET
from contextlib import closing
from time import monotonic
from typing import Any

import pytest
import requests

from fabric.faults import ENDPOINTS
from tests.fabric.conftest import PATIENCE, RunningHost, Vm, parsed, received, status_blob, status_line, vm_of

pytestmark = pytest.mark.usefixtures("vm")

VERSIONS = b"GET /?comp=versions HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


def requests_of(vm: Vm) -> dict[str, tuple[str, str, str, dict[str, Any]]]:
    """For each endpoint a request it answers: server, method, path, what else."""
    (plugin,) = vm.config().findall("Plugins/Plugin")
    location = plugin.get("location", "")
    (package,) = re.findall("<Uri>([^<]+)</Uri>", vm.host.call("blob", "GET", location).text)
    wire: dict[str, Any] = {"headers": Vm.WIRE}
    hgap: dict[str, Any] = {"headers": vm.plugin}
    agents = {"x-ms-artifact-location": f"{vm.host.endpoints['blob']}/agents/Prod.xml"}
    post: dict[str, Any] = {"headers": Vm.WIRE, "data": b"<RoleProperties/>"}
    return {
        "versions": ("wireserver", "GET", "/?comp=versions", {}),
        "goalstate": ("wireserver", "GET", "/machine/?comp=goalstate", wire),
        "hostingenvironment": ("wireserver", "GET", vm.urls["HostingEnvironmentConfig"], wire),
        "sharedconfig": ("wireserver", "GET", vm.urls["SharedConfig"], wire),
        "extensionsconfig": ("wireserver", "GET", vm.urls["ExtensionsConfig"], wire),
        "certificates": ("wireserver", "GET", vm.urls["Certificates"], wire),
        "health": ("wireserver", "POST", "/machine?comp=health", post),
        "healthservice": ("wireserver", "POST", "/HealthService", {"json": {"Observations": []}}),
        "telemetry": ("wireserver", "POST", "/machine?comp=telemetrydata", post),
        "roleproperties": ("wireserver", "POST", "/machine?comp=roleProperties", post),
        "pluginversions": ("hostgaplugin", "GET", "/versions", hgap),
        "vmsettings": ("hostgaplugin", "GET", "/vmSettings", hgap),
        "artifact": ("hostgaplugin", "GET", "/extensionArtifact", hgap),
        "agentartifact": ("hostgaplugin", "GET", "/extensionArtifact", {"headers": {**vm.plugin, **agents}}),
        "status": ("hostgaplugin", "PUT", "/status", hgap),
        "agentlog": ("hostgaplugin", "PUT", "/vmAgentLog", hgap),
        "pluginhealth": ("hostgaplugin", "GET", "/health", {}),
        "imds": ("imds", "GET", "/metadata/instance?api-version=2018-02-01", {"headers": {"Metadata": "true"}}),
        "manifest": ("blob", "GET", location, {}),
        "agentmanifest": ("blob", "GET", "/agents/Prod.xml", {}),
        "agentpackage": ("blob", "GET", "/agents/rdagent_1.0.0.zip", {}),
        "package": ("blob", "GET", package.replace("&amp;", "&"), {}),
        "outputblob": ("blob", "GET", "/output/run-0-output", {}),
        "repositorymetadata": ("blob", "GET", "/repository/metadata/timestamp.json", {}),
        "repositorytargets": ("blob", "GET", "/repository/targets/layers/x.zip", {}),
        "statusblob": ("blob", "PUT", vm.status_url(), {"data": b"{}", "headers": {"x-ms-blob-type": "BlockBlob"}}),
    }


@pytest.fixture(scope="module", autouse=True)
def _wanted(host: RunningHost) -> None:
    host.add(settings={})


def test_a_status_at_each_endpoint_and_at_no_other(host: RunningHost) -> None:
    calls = requests_of(vm_of(host))
    assert set(calls) == set(ENDPOINTS)
    for spoiled in ENDPOINTS:
        host.fault(spoiled, "status", 418)
        for name, (server, method, path, what) in calls.items():
            status = host.call(server, method, path, **what).status_code
            assert (status == 418) == (name == spoiled), f"{spoiled} spoiled, {name} asked"
        host.api("DELETE", "/api/faults")


@pytest.mark.parametrize("status", [200, 204, 205, 301, 304, 400, 403, 410, 429, 500, 503, 599])
def test_any_final_status_is_a_whole_answer(host: RunningHost, status: int) -> None:
    host.fault("versions", "status", status)
    answer = host.raw("wireserver", VERSIONS)
    assert status_line(answer) == status
    head, _, body = answer.partition(b"\r\n\r\n")
    announced = re.search(rb"content-length: (\d+)", head)
    if status in {204, 304}:
        assert body == b""
    else:
        assert announced
        assert len(body) == int(announced[1])
        assert b"a fault asked for" in body


def test_reset_is_a_connection_closed_without_a_byte(host: RunningHost) -> None:
    host.fault("versions", "reset")
    assert host.raw("wireserver", VERSIONS) == b""
    with pytest.raises(requests.ConnectionError):
        host.call("wireserver", "GET", "/?comp=versions")


def test_truncate_announces_the_whole_and_sends_half(host: RunningHost) -> None:
    whole = host.call("wireserver", "GET", "/?comp=versions").content
    host.fault("versions", "truncate")
    head, _, body = host.raw("wireserver", VERSIONS).partition(b"\r\n\r\n")
    assert status_line(head) == 200
    assert f"content-length: {len(whole)}".encode() in head.lower()
    assert body == whole[: len(whole) // 2]


def test_truncate_of_an_empty_answer_is_no_whole_answer_either(host: RunningHost) -> None:
    host.fault("pluginhealth", "truncate")
    with pytest.raises(requests.RequestException):
        host.call("hostgaplugin", "GET", "/health")


def test_drip_sends_the_whole_answer_slowly(host: RunningHost) -> None:
    whole = host.call("wireserver", "GET", "/?comp=versions").content
    host.fault("versions", "drip", 400)
    start = monotonic()
    answer = host.raw("wireserver", VERSIONS)
    # A lower bound, which no load can break: the last of the bytes must not come sooner.
    assert monotonic() - start > len(whole) / 400 * 0.8
    assert answer.partition(b"\r\n\r\n")[2] == whole


def test_slow_answers_rightly_and_late_while_others_are_served(host: RunningHost) -> None:
    host.fault("versions", "slow", 1.5, count=1)
    with closing(socket.create_connection(host.address("wireserver"), PATIENCE)) as connection:
        start = monotonic()
        connection.sendall(VERSIONS)
        vm_of(host)
        answer = received(connection)
    # A lower bound, as above.
    assert monotonic() - start > 1.4
    assert status_line(answer) == 200
    assert b"<Versions>" in answer


def test_an_html_page_is_a_success_of_another_kind(host: RunningHost) -> None:
    host.fault("versions", "html-page")
    answer = host.call("wireserver", "GET", "/?comp=versions")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert b"<html>" in answer.content


def test_endless_goes_on_until_the_client_leaves(host: RunningHost) -> None:
    whole = host.call("wireserver", "GET", "/?comp=versions").content
    host.fault("versions", "endless", count=1)
    with closing(socket.create_connection(host.address("wireserver"), PATIENCE)) as connection:
        connection.sendall(VERSIONS)
        found = b""
        while len(found) < 4 << 20:
            found += connection.recv(1 << 20)
    assert b"content-length" not in found[:1000].lower()
    assert whole in found
    # It serves on.
    assert host.call("wireserver", "GET", "/?comp=versions").content == whole


def test_wrong_bytes_mean_nothing(host: RunningHost) -> None:
    host.fault("goalstate", "wrong-bytes")
    answer = host.call("wireserver", "GET", "/machine/?comp=goalstate", headers=Vm.WIRE)
    assert answer.status_code == 200
    with pytest.raises(ET.ParseError):
        parsed(answer.content)
    with pytest.raises(UnicodeDecodeError):
        answer.content.decode()


def test_no_role_instance_is_an_otherwise_whole_goal_state(host: RunningHost) -> None:
    whole = host.call("wireserver", "GET", "/machine/?comp=goalstate", headers=Vm.WIRE).content
    host.fault("goalstate", "no-role-instance", count=1)
    root = parsed(host.call("wireserver", "GET", "/machine/?comp=goalstate", headers=Vm.WIRE).content)
    assert root.find("Container/RoleInstanceList") is not None
    assert list(root.iter("RoleInstance")) == []
    for path in ("Incarnation", "Container/ContainerId"):
        assert root.findtext(path) == parsed(whole).findtext(path)


def test_invalid_container_is_the_words_agents_look_for(host: RunningHost) -> None:
    host.fault("status", "invalid-container")
    answer = vm_of(host).report(status_blob())
    assert answer.status_code == 400
    assert "InvalidContainerConfiguration" in answer.text


def test_a_spoiled_status_does_not_arrive(host: RunningHost) -> None:
    vm = vm_of(host)
    before = host.told()["status_count"]
    host.fault("status", "status", 500, count=1)
    host.fault("statusblob", "reset", count=1)
    assert vm.report(status_blob()).status_code == 500
    with pytest.raises(requests.ConnectionError):
        host.call("blob", "PUT", vm.status_url(), data=status_blob(), headers={"x-ms-blob-type": "BlockBlob"})
    assert host.told()["status_count"] == before
    assert vm.report(status_blob()).status_code == 200
    assert host.told()["status_count"] == before + 1


def test_count_is_how_many_answers_are_spoiled(host: RunningHost) -> None:
    host.fault("versions", "status", 500, count=2)
    found = [host.call("wireserver", "GET", "/?comp=versions").status_code for _ in range(4)]
    assert found == [500, 500, 200, 200]
    assert host.api("GET", "/api/faults") == []


def test_the_oldest_rule_of_an_endpoint_goes_first(host: RunningHost) -> None:
    host.fault("versions", "status", 500, count=1)
    host.fault("versions", "status", 503)
    listed = host.api("GET", "/api/faults")
    assert [(one["endpoint"], one["fault"], one["value"], one["count"]) for one in listed] == [
        ("versions", "status", 500.0, 1),
        ("versions", "status", 503.0, None),
    ]
    found = [host.call("wireserver", "GET", "/?comp=versions").status_code for _ in range(3)]
    assert found == [500, 503, 503]
    assert host.api("DELETE", "/api/faults") == {"lifted": 1}
    assert host.call("wireserver", "GET", "/?comp=versions").status_code == 200


def test_every_spoiled_answer_is_in_the_transcript(host: RunningHost) -> None:
    host.fault("versions", "reset", count=1)
    host.raw("wireserver", VERSIONS)
    host.fault("versions", "status", 503, count=1)
    host.raw("wireserver", VERSIONS)
    newest = host.api("GET", "/api/transcript")[-2:]
    assert [(one["endpoint"], one["status"]) for one in newest] == [("versions", 0), ("versions", 503)]


@pytest.mark.parametrize(
    ("order", "word"),
    [
        ({"endpoint": "nowhere", "fault": "reset"}, "goalstate"),
        ({"endpoint": "versions", "fault": "nothing"}, "wrong-bytes"),
        ({"endpoint": "versions", "fault": "status"}, "value"),
        ({"endpoint": "versions", "fault": "status", "value": 100}, "200"),
        ({"endpoint": "versions", "fault": "status", "value": 600}, "599"),
        ({"endpoint": "versions", "fault": "status", "value": 404.5}, "whole"),
        ({"endpoint": "versions", "fault": "slow", "value": -1}, "3600"),
        ({"endpoint": "versions", "fault": "drip", "value": 0}, "1"),
        ({"endpoint": "versions", "fault": "drip", "value": 1e300}, "1000000"),
        ({"endpoint": "versions", "fault": "reset", "value": 3}, "value"),
        ({"endpoint": "versions", "fault": "reset", "count": 0}, "count"),
        ({"endpoint": "versions", "fault": "reset", "count": -3}, "count"),
        ({"endpoint": "versions", "fault": "no-role-instance"}, "goalstate"),
        ({"endpoint": "versions", "fault": "reset", "count": "many"}, "count"),
        ({"endpoint": "versions"}, "fault"),
        ({"endpoint": "versions", "fault": "reset", "speed": 1}, "speed"),
    ],
)
def test_an_order_that_makes_no_sense_is_refused_with_what_would(
    host: RunningHost, order: dict[str, object], word: str
) -> None:
    answer = host.call("portal", "POST", "/api/faults", json=order)
    assert answer.status_code in {400, 422}
    assert word in answer.json()["reason"]
    assert host.api("GET", "/api/faults") == []
