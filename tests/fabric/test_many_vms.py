"""Several VMs at one host: each is known by where its requests come from, and hears of nobody else's wishes."""

import socket
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.fabric.conftest import (
    NAME,
    PATIENCE,
    RunningHost,
    Vm,
    answered,
    handler_status,
    run_azfabric,
    status_blob,
    vm_of,
)


class From(RunningHost):
    """The same host, asked from another address of loopback, or at other ports."""

    def __init__(self, host: RunningHost, vm: str, *, address: str = "", places: dict[str, Any] | None = None) -> None:
        self.root, self.log = host.root, host.log
        self.endpoints = {**host.endpoints, **(places or {})}
        self._vm, self._address = vm, address

    def call(self, server: str, method: str, path: str, **what: Any) -> requests.Response:
        with requests.Session() as session:
            session.trust_env = False
            if self._address and server != "portal":
                session.mount("http://", _Bound(self._address))
            if server == "portal":
                what["params"] = {**(what.get("params") or {}), "vm": self._vm}
            url = path if path.startswith("http") else self.endpoints[server] + path
            return session.request(method, url, timeout=PATIENCE, allow_redirects=False, **what)


class _Bound(requests.adapters.HTTPAdapter):
    def __init__(self, address: str) -> None:
        self._address = address
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, source_address=(self._address, 0), **options)


@pytest.fixture(scope="module")
def second(host: RunningHost) -> From:
    host.api("POST", "/api/vms", json={"name": "vm2", "address": "127.0.0.2"})
    return From(host, "vm2", address="127.0.0.2")


@pytest.fixture(scope="module")
def third(host: RunningHost) -> From:
    places = host.api("POST", "/api/vms", json={"name": "vm3", "own_ports": True})
    return From(host, "vm3", places=places)


@pytest.fixture(scope="module")
def first(host: RunningHost) -> From:
    return From(host, "vm1")


def test_each_is_who_its_requests_say(first: From, second: From, third: From) -> None:
    found = [vm_of(one) for one in (first, second, third)]
    assert [one.instance_id.rpartition("_")[2] for one in found] == ["vm1", "vm2", "vm3"]
    assert len({one.container_id for one in found}) == 3
    # A stranger's container is not here.
    assert found[1].host.call("hostgaplugin", "GET", "/versions", headers=found[0].plugin).status_code == 410


def test_wishes_and_words_are_each_ones_own(first: From, second: From, third: From) -> None:
    second.add(NAME, settings={"who": "second"})
    third.add("Contoso.Tools.Other", fast_track=True)
    assert [one["name"] for one in first.api("GET", "/api/extensions")] == []
    assert [one["name"] for one in second.api("GET", "/api/extensions")] == [NAME]
    assert [one.get("name") for one in vm_of(second).config().iter("Plugin")][:1] == [NAME]
    assert vm_of(third).vm_settings()["extensionGoalStates"][0]["name"] == "Contoso.Tools.Other"
    before = first.told()["heartbeats"]
    vm = vm_of(second)
    assert vm.health("NotReady").status_code == 200
    assert vm.report(status_blob(handler_status(message="of the second"))).status_code == 200
    assert first.told()["heartbeats"] == before
    assert second.told()["ready"] is False
    assert "of the second" in str(second.told()["status"])
    assert second.told()["requests"]["health"] == 1
    assert first.told()["status"] is None


def test_a_manifest_names_places_the_asker_can_reach(host: RunningHost, third: From) -> None:
    (plugin,) = vm_of(third).vm_settings()["extensionGoalStates"]
    assert plugin["location"].startswith(third.endpoints["blob"])
    manifest = third.call("blob", "GET", plugin["location"]).text
    assert third.endpoints["blob"] in manifest
    assert host.endpoints["blob"] not in manifest


def test_who_does_not_say_which_vm_is_asked(host: RunningHost, second: From, third: From) -> None:
    answer = host.call("portal", "GET", "/api/told")
    assert answer.status_code == 400
    assert "vm1, vm2, vm3" in answer.json()["reason"]
    assert host.call("portal", "GET", "/api/told", params={"vm": "vm9"}).status_code == 404
    assert [one["name"] for one in host.api("GET", "/api/vms")] == ["vm1", "vm2", "vm3"]


def test_a_fault_of_one_vm_spares_the_others(host: RunningHost, first: From, second: From) -> None:
    host.api("POST", "/api/faults", json={"endpoint": "wireserver", "fault": "status", "value": 503, "vm": "vm2"})
    try:
        assert second.call("wireserver", "GET", "/?comp=versions").status_code == 503
        assert first.call("wireserver", "GET", "/?comp=versions").status_code == 200
    finally:
        host.api("DELETE", "/api/faults")


REFUSED = [
    ({"name": "vm1", "address": "127.0.0.9"}, 409, "there is a VM"),
    ({"name": "new", "address": "127.0.0.2"}, 409, "is vm2's already"),
    ({"name": "new"}, 409, "--own-ports"),
    ({"name": "../x", "address": "127.0.0.9"}, 400, "letters, digits and dashes"),
    ({"name": "new", "address": "127.0.0.900"}, 400, "no IP address"),
    ({"name": "new", "address": "10.0.0.4"}, 400, "127.0.0.0/8, --own-ports, or a lab"),
    ({"name": "new", "address": "::1"}, 400, "nothing that asks there comes from ::1"),
    ({"name": "new", "tenant": "other", "address": "127.0.0.9"}, 404, "no tenant"),
    ({"name": "new", "address": "127.0.0.9", "own_ports": True}, 400, "not by both"),
    ({"name": "x" * 64, "address": "127.0.0.9"}, 400, "name"),
    ({"address": "127.0.0.9"}, 400, "name"),
]


@pytest.mark.parametrize(("order", "status", "reason"), REFUSED)
def test_a_vm_that_cannot_be_is_refused(
    host: RunningHost, second: From, order: dict[str, Any], status: int, reason: str
) -> None:
    answer = host.call("portal", "POST", "/api/vms", json=order)
    assert (answer.status_code, reason in answer.json()["reason"]) == (status, True), answer.text


def test_a_host_that_listens_everywhere_takes_any_address(tmp_path: Path) -> None:
    host = RunningHost(tmp_path / "root")
    host.start("--address", "0.0.0.0")  # noqa: S104  # for this test only
    try:
        host.api("POST", "/api/vms", json={"name": "new", "address": "10.0.0.4"})
    finally:
        assert host.stop() == 0


def test_all_of_them_survive_a_kill_with_their_ports(own_host: RunningHost) -> None:
    places = own_host.api("POST", "/api/vms", json={"name": "a", "own_ports": True})
    own_host.api("POST", "/api/vms", json={"name": "b", "address": "127.0.0.3"})
    vms = [From(own_host, "a", places=places), From(own_host, "b", address="127.0.0.3")]
    vms[1].add(settings={"x": 1})
    before = [vm_of(one).container_id for one in vms]
    own_host.kill()
    own_host.start()
    assert [vm_of(one).container_id for one in vms] == before
    assert [one["name"] for one in vms[1].api("GET", "/api/extensions")] == [NAME]


def test_a_removed_vm_is_nobody(own_host: RunningHost) -> None:
    own_host.api("POST", "/api/vms", json={"name": "b", "address": "127.0.0.3"})
    other = From(own_host, "b", address="127.0.0.3")
    assert vm_of(other).health().status_code == 200
    assert run_azfabric(own_host.root, "vm", "remove", "b").stderr == ""
    # Its address is whoever's has all the rest.
    assert vm_of(other).instance_id.endswith("_vm1")
    assert [one["catch_all"] for one in own_host.api("GET", "/api/vms")] == [True]
    assert "every address that is nobody else's" in run_azfabric(own_host.root, "vm", "remove", "vm1").stderr
    answer = own_host.call("wireserver", "GET", "/?comp=versions")
    assert (answer.status_code, "azfabric vm add" in answer.text) == (404, True)
    own_host.api("POST", "/api/vms", json={"name": "b", "address": "127.0.0.3"})
    assert other.told()["heartbeats"] == 0


def test_the_command_adds_names_and_lists(own_host: RunningHost) -> None:
    added = run_azfabric(own_host.root, "vm", "add", "second", "--own-ports").stdout
    assert "second finds its host at" in added
    (listed,) = [one for one in own_host.api("GET", "/api/vms") if one["name"] == "second"]
    assert listed["places"]["wireserver"] in added
    assert "second" in run_azfabric(own_host.root, "vm", "list").stdout
    assert "has told nothing" in run_azfabric(own_host.root, "told", "--vm", "second").stdout
    assert "which VM?" in run_azfabric(own_host.root, "told", check=1).stderr


def test_who_waits_for_one_vm_is_not_woken_by_another(host: RunningHost, first: From, second: From) -> None:
    vm = vm_of(first)
    headers = {**Vm.WIRE, "If-None-Match": vm.incarnation, "Prefer": "wait=30"}
    request = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    with socket.create_connection(host.address("wireserver"), PATIENCE) as connection:
        connection.sendall(f"GET /machine/?comp=goalstate HTTP/1.1\r\nHost: a\r\n{request}\r\n".encode())
        second.add(NAME, settings={"who": "again"})
        first.add(NAME, settings={"who": "first"})
        # One answer, and of the second change.
        assert f"<Incarnation>{int(vm.incarnation) + 1}</Incarnation>".encode() in answered(connection)


def listening(host: RunningHost) -> int:
    """How many sockets the host listens at."""
    held = {str(one.readlink()) for one in Path(f"/proc/{host.pid}/fd").iterdir() if one.is_symlink()}
    lines = (line.split() for line in Path(f"/proc/{host.pid}/net/tcp").read_text().splitlines()[1:])
    return sum(fields[3] == "0A" and f"socket:[{fields[9]}]" in held for fields in lines)


def test_ports_of_ones_own_go_with_the_vm_and_with_a_refusal(own_host: RunningHost) -> None:
    before = listening(own_host)
    places = own_host.api("POST", "/api/vms", json={"name": "a", "own_ports": True})
    assert listening(own_host) == before + 4
    for name in ("a", "../x", ""):
        assert own_host.call("portal", "POST", "/api/vms", json={"name": name, "own_ports": True}).status_code >= 400
    assert listening(own_host) == before + 4
    own_host.api("DELETE", "/api/vms/a")
    assert listening(own_host) == before
    with pytest.raises(requests.ConnectionError):
        own_host.call("wireserver", "GET", f"{places['wireserver']}/?comp=versions")
    # And the name may be had again.
    own_host.api("POST", "/api/vms", json={"name": "a", "own_ports": True})
