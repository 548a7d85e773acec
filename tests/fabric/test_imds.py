"""The instance metadata service."""

import pytest

from tests.fabric.conftest import RunningHost

HEADERS = {"Metadata": "true"}
PATH = "/metadata/instance?api-version=2018-02-01"


def test_the_instance_has_what_agents_ask_for(host: RunningHost) -> None:
    answer = host.call("imds", "GET", PATH, headers=HEADERS)
    assert answer.status_code == 200
    instance = answer.json()
    for name in ("location", "subscriptionId", "resourceGroupName", "vmId", "publisher", "offer", "sku", "version"):
        assert isinstance(instance["compute"][name], str)
    interface = instance["network"]["interface"][0]
    assert interface["macAddress"]
    assert interface["ipv4"]["ipAddress"][0]["privateIpAddress"]


@pytest.mark.parametrize("part", ["compute", "network"])
def test_parts_are_the_same_as_in_the_whole(host: RunningHost, part: str) -> None:
    whole = host.call("imds", "GET", PATH, headers=HEADERS).json()
    answer = host.call("imds", "GET", PATH.replace("instance", f"instance/{part}"), headers={"Metadata": "True"})
    assert answer.json() == whole[part]


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", PATH, {}, 400),
        ("GET", PATH, {"Metadata": "false"}, 400),
        ("GET", PATH, {"Metadata": "true", "X-Forwarded-For": "10.0.0.1"}, 400),
        ("GET", "/metadata/instance", HEADERS, 400),
        ("GET", "/metadata/instance?api-version=", HEADERS, 400),
        ("GET", "/metadata/nothing?api-version=2018-02-01", HEADERS, 404),
        ("GET", "/", {**HEADERS}, 400),
        ("POST", PATH, HEADERS, 405),
        ("PUT", PATH, HEADERS, 405),
        ("DELETE", PATH, HEADERS, 405),
    ],
)
def test_a_wrong_question_gets_an_error_document(
    host: RunningHost, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    answer = host.call("imds", method, path, headers=headers)
    assert answer.status_code == status
    assert answer.json()["error"]
