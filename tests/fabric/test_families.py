"""Agent families: published, asked for, said in the goal state, served by both channels, and what came of it."""

import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric.components import AskedComponent, outcome
from fabric.state import GoalStateVersion, Identity, Told, VmState, WantedComponent
from tests.fabric.conftest import RunningHost, Vm, parsed, run_azfabric, vm_of

BOTH = ("direct", "plugin")


def zipped(content: bytes = b"anything") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("whatever", content)
    return buffer.getvalue()


def publish(host: RunningHost, family: str, version: str) -> bytes:
    package = zipped(f"{family} {version}".encode())
    host.api("PUT", f"/api/families/{family}", params={"version": version}, data=package)
    return package


def ask(host: RunningHost, component: str, version: str, **more: Any) -> dict[str, Any]:
    asked: dict[str, Any] = host.api(
        "POST", "/api/components", json={"component": component, "version": version, **more}
    )
    return asked


def of_fabric(host: RunningHost) -> dict[str, dict[str, str]]:
    """Fields by family, as ExtensionsConfig has them."""
    found = vm_of(host).config().findall("GuestAgentExtension/GAFamilies/GAFamily")
    return {
        one.findtext("Name") or "": {
            **{each.tag: each.text or "" for each in one},
            "Uris": one.findtext("Uris/Uri") or "",
        }
        for one in found
    }


def of_vm_settings(host: RunningHost) -> dict[str, dict[str, Any]]:
    return {one["name"]: one for one in vm_of(host).vm_settings()["gaFamilies"]}


def fetched(host: RunningHost, url: str, channel: str) -> tuple[int, bytes]:
    if channel == "direct":
        answer = host.call("blob", "GET", url)
    else:
        headers = {**vm_of(host).plugin, "x-ms-artifact-location": url}
        answer = host.call("hostgaplugin", "GET", "/extensionArtifact", headers=headers)
    return answer.status_code, answer.content


def in_manifest(host: RunningHost, family: str, channel: str = "direct") -> dict[str, str]:
    """URLs by version."""
    status, content = fetched(host, of_fabric(host)[family]["Uris"], channel)
    assert status == 200, content
    plugins = parsed(content).findall("Plugins/Plugin")
    return {one.findtext("Version") or "": one.findtext("Uris/Uri") or "" for one in plugins}


def reported(vm: Vm, version: str, update: dict[str, Any] | None = None) -> None:
    agent = {"version": version, "status": "Ready", **({"updateStatus": update} if update else {})}
    blob = {"version": "1.1", "aggregateStatus": {"guestAgentStatus": agent, "handlerAggregateStatus": []}}
    assert vm.report(json.dumps(blob).encode()).status_code == 200


def refusal(expected: str, message: str) -> dict[str, Any]:
    return {"expectedVersion": expected, "status": "Error", "code": 1, "formattedMessage": {"message": message}}


@pytest.fixture
def clean(host: RunningHost) -> Iterator[RunningHost]:
    host.api("DELETE", "/api/components")
    yield host
    host.api("DELETE", "/api/faults")


def test_a_family_is_served_by_both_channels(clean: RunningHost) -> None:
    packages = {version: publish(clean, "rdagent", version) for version in ("0.9.0", "0.10.0", "0.2.0")}
    for channel in BOTH:
        urls = in_manifest(clean, "rdagent", channel)
        assert list(urls) == ["0.2.0", "0.9.0", "0.10.0"]
        for version, url in urls.items():
            assert fetched(clean, url, channel) == (200, packages[version])
    assert {"name": "rdagent", "versions": ["0.2.0", "0.9.0", "0.10.0"]} in clean.api("GET", "/api/families")


def test_a_new_family_is_announced_and_a_new_version_is_not(clean: RunningHost) -> None:
    before = int(vm_of(clean).incarnation)
    publish(clean, "announced", "1.0.0")
    assert int(vm_of(clean).incarnation) == before + 1
    assert set(of_fabric(clean)) >= {"Prod", "announced"}
    publish(clean, "announced", "1.1.0")
    publish(clean, "Prod", "1.0.0.0")
    assert int(vm_of(clean).incarnation) == before + 1
    assert list(in_manifest(clean, "announced")) == ["1.0.0", "1.1.0"]


def test_what_is_asked_for_is_said_in_both_channels(clean: RunningHost) -> None:
    publish(clean, "Prod", "9.9.9.9")
    publish(clean, "Prod", "9.9.9.10")
    before, tag = int(vm_of(clean).incarnation), etag(clean)
    unasked = of_fabric(clean)["Prod"]
    assert (unasked["IsVersionFromRSM"], unasked["IsVMEnabledForRSMUpgrades"]) == ("false", "false")
    assert not {"Version", "FromVersion"} & set(unasked)
    asked = ask(clean, "Prod", "9.9.9.9", from_version="9.9.9.10")
    assert (asked["state"], asked["incarnation"]) == ("asked", before + 1)
    assert int(vm_of(clean).incarnation) == before + 1
    assert etag(clean) != tag
    said = of_fabric(clean)["Prod"]
    assert (said["Version"], said["FromVersion"]) == ("9.9.9.9", "9.9.9.10")
    assert (said["IsVersionFromRSM"], said["IsVMEnabledForRSMUpgrades"]) == ("true", "true")
    fast = of_vm_settings(clean)["Prod"]
    assert fast["uris"] == [said["Uris"]]
    assert {name: value for name, value in fast.items() if name != "uris"} == {
        "name": "Prod",
        "version": "9.9.9.9",
        "fromVersion": "9.9.9.10",
        "isVersionFromRSM": True,
        "isVMEnabledForRSMUpgrades": True,
    }
    # Another version replaces it, and one that is taken back leaves nothing but a "no".
    ask(clean, "Prod", "9.9.9.10")
    assert "FromVersion" not in of_fabric(clean)["Prod"]
    clean.api("DELETE", "/api/components/Prod")
    assert of_fabric(clean)["Prod"] == unasked
    assert of_vm_settings(clean)["Prod"]["isVersionFromRSM"] is False
    assert int(vm_of(clean).incarnation) == before + 3


def test_fast_track_says_it_in_vm_settings_alone(clean: RunningHost) -> None:
    for version in ("9.9.9.9", "9.9.9.10"):
        publish(clean, "Prod", version)
    before, tag = vm_of(clean).incarnation, etag(clean)
    asked = ask(clean, "Prod", "9.9.9.9", fast_track=True)
    assert (asked["state"], asked["fast_track"], asked["incarnation"]) == (
        "asked",
        True,
        vm_of(clean).vm_settings()["inSvdSeqNo"],
    )
    assert (vm_of(clean).incarnation, etag(clean) != tag) == (before, True)
    assert "Version" not in of_fabric(clean)["Prod"]
    assert vm_of(clean).vm_settings()["extensionGoalStatesSource"] == "FastTrack"
    fast = of_vm_settings(clean)["Prod"]
    assert (fast["version"], fast["isVersionFromRSM"], fast["isVMEnabledForRSMUpgrades"]) == ("9.9.9.9", True, True)
    # The next goal state of the fabric has all that is wanted.
    clean.add()
    assert of_fabric(clean)["Prod"]["Version"] == of_vm_settings(clean)["Prod"]["version"] == "9.9.9.9"
    assert vm_of(clean).vm_settings()["extensionGoalStatesSource"] == "Fabric"
    said = run_azfabric(clean.root, "want", "Prod", "9.9.9.10", "--fast-track")
    assert "is asked for, by FastTrack (" in said.stdout
    run_azfabric(clean.root, "want", "--clear", "--fast-track", check=2)
    clean.api("POST", "/api/fast-track", json={"on": False})
    order = {"component": "Prod", "version": "9.9.9.9", "fast_track": True}
    off = clean.call("portal", "POST", "/api/components", json=order)
    assert (off.status_code, "FastTrack is off" in off.text) == (400, True)
    assert [one["version"] for one in clean.api("GET", "/api/components")] == ["9.9.9.10"]
    clean.api("POST", "/api/fast-track", json={"on": True})


def test_the_configuration_of_the_incarnation_before_asks_for_what_it_asked(clean: RunningHost) -> None:
    for version in ("9.9.9.9", "9.9.9.10"):
        publish(clean, "Prod", version)
        ask(clean, "Prod", version)
    clean.fault("extensionsconfig", "inconsistent")
    assert of_fabric(clean)["Prod"]["Version"] == "9.9.9.9"


def test_a_host_of_the_release_before_asks_for_the_same() -> None:
    """0.1.0 kept what is asked for by VM, not by document."""
    identity = Identity(vm="a", container_id="c", deployment_id="d", tenant_key_pem="k", tenant_certificate_pem="p")
    asked = [WantedComponent(name="Prod", version="9.9.9.9")]
    first = GoalStateVersion(number=1, ticks=1)
    state = msgspec.to_builtins(VmState(identity=identity, fabric=first, fast_track=first, components=asked))
    for version in (state["fabric"], state["fast_track"]):
        del version["components"]
    found = msgspec.convert(state, VmState)
    assert found.fast_track is not None
    assert found.fabric.components == found.fast_track.components == asked


def etag(host: RunningHost) -> str:
    return host.call("hostgaplugin", "GET", "/vmSettings", headers=vm_of(host).plugin).headers["ETag"]


def test_what_is_asked_for_concerns_one_vm(own_host: RunningHost) -> None:
    own_host.api("POST", "/api/vms", json={"name": "other", "own_ports": True})
    publish(own_host, "Prod", "9.9.9.9")
    own_host.api("POST", "/api/components", params={"vm": "other"}, json={"component": "Prod", "version": "9.9.9.9"})
    assert "Version" not in of_fabric(own_host)["Prod"]
    assert own_host.api("GET", "/api/components", params={"vm": "vm1"}) == []
    (other,) = own_host.api("GET", "/api/components", params={"vm": "other"})
    assert other["component"] == "Prod"


def test_it_survives_a_restart(own_host: RunningHost) -> None:
    package = publish(own_host, "Prod", "9.9.9.9")
    ask(own_host, "Prod", "9.9.9.9")
    own_host.kill()
    own_host.start()
    assert of_fabric(own_host)["Prod"]["Version"] == "9.9.9.9"
    assert fetched(own_host, in_manifest(own_host, "Prod")["9.9.9.9"], "direct") == (200, package)


@pytest.mark.parametrize(
    ("group", "extension", "agent"),
    [("agent-artifacts", 200, 403), ("extension-artifacts", 403, 200), ("artifacts", 403, 403)],
)
def test_a_blackout_hits_what_it_names(clean: RunningHost, group: str, extension: int, agent: int) -> None:
    clean.add()
    publish(clean, "Prod", "9.9.9.9")
    plugin = vm_of(clean).config().find("Plugins/Plugin")
    assert plugin is not None
    location = plugin.get("location", "")
    agent_manifest = of_fabric(clean)["Prod"]["Uris"]
    package = in_manifest(clean, "Prod")["9.9.9.9"]
    of_extension = parsed(fetched(clean, location, "direct")[1]).findtext("Plugins/Plugin/Uris/Uri") or ""
    clean.fault(group, "status", 403)
    for channel in BOTH:
        found = [fetched(clean, url, channel)[0] for url in (location, of_extension, agent_manifest, package)]
        assert found == [extension, extension, agent, agent], channel


@pytest.mark.parametrize(("endpoint", "channel"), [("agentmanifest", "direct"), ("agentartifact", "plugin")])
def test_the_manifest_from_before_can_come_back(clean: RunningHost, endpoint: str, channel: str) -> None:
    for version in ("1.0.0", "2.0.0"):
        publish(clean, f"replayed-{channel}", version)
    clean.fault(endpoint, "replayed")
    assert list(in_manifest(clean, f"replayed-{channel}", channel)) == ["1.0.0"]


def test_asked_running_refused(clean: RunningHost) -> None:
    publish(clean, "Prod", "9.9.9.9")
    reported(vm_of(clean), "1.0.0.0", refusal("1.0.0.0", "of an order long ago"))
    ask(clean, "Prod", "9.9.9.9")

    def now() -> tuple[str, str, str]:
        (one,) = clean.told()["components"]
        assert clean.api("GET", "/api/components") == [one]
        return one["state"], one["reported"], one["reason"]

    assert now() == ("asked", "1.0.0.0", "")
    reported(vm_of(clean), "1.0.0.0", {"expectedVersion": "1.0.0.0", "status": "Success", "code": 0})
    assert now() == ("asked", "1.0.0.0", "")
    # The reference agent names the version it runs; ours may name the one it was asked for.
    for expected in ("1.0.0.0", "9.9.9.9"):
        reported(vm_of(clean), "1.0.0.0", refusal(expected, "no such package"))
        assert now() == ("refused", "1.0.0.0", "no such package")
    waits = {**refusal("9.9.9.9", "updates are held"), "status": "Transitioning", "code": 0}
    reported(vm_of(clean), "1.0.0.0", waits)
    assert now() == ("asked", "1.0.0.0", "updates are held")
    reported(vm_of(clean), "1.0.0.0", refusal("5.0.0.0", "of another one"))
    assert now() == ("asked", "1.0.0.0", "")
    reported(vm_of(clean), "9.9.9.9")
    assert now() == ("running", "9.9.9.9", "")


def test_a_component_that_is_watched_by_itself_speaks_for_itself(clean: RunningHost) -> None:
    publish(clean, "telemetry", "0.2.0")
    ask(clean, "telemetry", "0.2.0")
    reported(vm_of(clean), "0.2.0", refusal("0.2.0", "not signed by us"))
    observation = {"ObservationName": "azvmagent.telemetry", "IsHealthy": True, "Value": "0.1.0"}

    def observe(**more: Any) -> dict[str, Any]:
        body = {"Observations": [{**observation, **more}]}
        assert clean.call("wireserver", "POST", "/HealthService", json=body).status_code == 200
        (one,) = clean.told()["components"]
        assert isinstance(one, dict)
        return one

    one = observe()
    assert (one["state"], one["reported"], one["reason"]) == ("refused", "0.1.0", "not signed by us")
    # What the agent as a whole says of itself is no news of this one.
    reported(vm_of(clean), "0.1.0", refusal("0.1.0", "another matter"))
    assert observe()["state"] == "asked"
    assert observe(Value="0.2.0")["state"] == "running"


ODD: st.SearchStrategy[Any] = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.just("1.0")
    | st.text(max_size=3)
    | st.lists(st.integers(), max_size=2)
)


def test_a_refusal_speaks_of_one_component() -> None:
    """Two of our components may be asked for the same number; the message begins with the one it is about."""
    update = refusal("0.9.0", "telemetry 0.9.0: it hangs")
    status = {"aggregateStatus": {"guestAgentStatus": {"version": "0.1.0", "updateStatus": update}}}
    observed = {f"azvmagent.{name}": {"Value": "0.1.0"} for name in ("telemetry", "netagent")}
    told = Told(status=status, status_at=2.0, observations=observed)
    for name, state in {"telemetry": "refused", "netagent": "asked"}.items():
        assert outcome(WantedComponent(name=name, version="0.9.0"), told).state == state


def perhaps(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """A document with some of these, or something else in its place."""
    return st.fixed_dictionaries({}, optional=fields) | ODD


UPDATE = perhaps(status=st.just("Error") | ODD, expectedVersion=ODD, formattedMessage=perhaps(message=ODD))
AGENT = perhaps(version=ODD, updateStatus=UPDATE)


@given(status=perhaps(aggregateStatus=perhaps(guestAgentStatus=AGENT)), value=ODD, observed=st.booleans())
def test_whatever_a_vm_says_is_no_mistake_of_ours(status: Any, value: Any, observed: bool) -> None:
    told = Told(status=status, observations={"azvmagent.x": {"Value": value}} if observed else {})
    found = outcome(WantedComponent(name="x", version="1.0"), told)
    # Of the types that are described.
    assert msgspec.convert(msgspec.to_builtins(found), AskedComponent) == found


@pytest.mark.parametrize(
    ("family", "version", "body", "reason"),
    [
        ("Prod", "1.0.0", b"no zip", "no usable zip"),
        ("Prod", "", zipped(), "say --version"),
        ("Prod", "one", zipped(), "say --version"),
        ("a_b", "1.0.0", zipped(), ""),
        ("..", "1.0.0", zipped(), ""),
        ("%2e%2e%2fx", "1.0.0", zipped(), ""),
        ("x" * 64, "1.0.0", zipped(), ""),
    ],
)
def test_what_cannot_be_published(clean: RunningHost, family: str, version: str, body: bytes, reason: str) -> None:
    before = clean.api("GET", "/api/families")
    answer = clean.call("portal", "PUT", f"/api/families/{family}", params={"version": version}, data=body)
    assert 400 <= answer.status_code < 500
    assert reason in answer.json()["reason"]
    assert clean.api("GET", "/api/families") == before


def test_what_cannot_be_asked_for(clean: RunningHost) -> None:
    publish(clean, "Prod", "9.9.9.9")
    before = vm_of(clean).incarnation
    for order, status in (
        ({"component": "Prod", "version": "7.7.7.7"}, 404),
        ({"component": "nobody", "version": "9.9.9.9"}, 404),
        ({"component": "Prod", "version": "9.9.9.9", "from_version": "x\n"}, 400),
        ({"component": "Prod"}, 400),
    ):
        answer = clean.call("portal", "POST", "/api/components", json=order)
        assert answer.status_code == status, answer.text
    assert clean.call("portal", "DELETE", "/api/components/Prod").status_code == 404
    assert vm_of(clean).incarnation == before


def test_the_commands(clean: RunningHost, tmp_path: Path) -> None:
    package = tmp_path / "WALinuxAgent-9.9.9.11.zip"
    package.write_bytes(zipped())
    said = run_azfabric(clean.root, "family", "publish", "Prod", package).stdout
    assert said == "Prod 9.9.9.11 is published. Ask for it: azfabric want Prod 9.9.9.11\n"
    assert "9.9.9.11" in run_azfabric(clean.root, "family", "list").stdout
    assert run_azfabric(clean.root, "want", "--list").stdout == "No version is asked for.\n"
    refused = run_azfabric(clean.root, "want", "Prod", "9.9.9.12", check=1).stderr
    assert "azfabric family publish Prod" in refused
    said = run_azfabric(clean.root, "want", "Prod", "9.9.9.11", "--from", "9.9.9.12").stdout
    assert "is asked for, in incarnation" in said
    assert "It is not running yet" in said
    assert of_fabric(clean)["Prod"]["FromVersion"] == "9.9.9.12"
    reported(vm_of(clean), "1.0.0.0", refusal("1.0.0.0", "\x1b[31mnot today"))
    for words in (("want", "--list"), ("told",)):
        shown = run_azfabric(clean.root, *words).stdout
        assert "9.9.9.11 (from 9.9.9.12)" in shown
        assert "refused" in shown
        assert "�[31mnot today" in shown
    reported(vm_of(clean), "9.9.9.11")
    assert "It runs already" in run_azfabric(clean.root, "want", "Prod", "9.9.9.11").stdout
    (one,) = json.loads(run_azfabric(clean.root, "want", "--list", "--json").stdout)
    assert (one["component"], one["state"]) == ("Prod", "running")
    run_azfabric(clean.root, "want", "--clear", "Prod")
    assert "azfabric want --list" in run_azfabric(clean.root, "want", "--clear", "Prod", check=1).stderr
    run_azfabric(clean.root, "want", "--clear")
    for wrong in ((), ("Prod",), ("Prod", "1", "--list"), ("--list", "--clear"), ("Prod", "1", "--clear")):
        run_azfabric(clean.root, "want", *wrong, check=2)


def test_a_scenario_asks_for_a_version(clean: RunningHost, tmp_path: Path) -> None:
    publish(clean, "Prod", "9.9.9.9")
    file = tmp_path / "scenario.toml"
    file.write_text('[[step]]\ncomponent = {component = "Prod", version = "9.9.9.9"}\n')
    run_azfabric(clean.root, "scenario", "run", file)
    assert of_fabric(clean)["Prod"]["Version"] == "9.9.9.9"


def test_a_recording_has_the_packages_from_before_and_those_that_came(tmp_path: Path) -> None:
    host, recording = RunningHost(tmp_path / "root"), tmp_path / "recording.jsonl"
    host.start()
    publish(host, "Prod", "9.9.9.9")
    assert host.stop() == 0
    host.start("--record", str(recording))
    try:
        publish(host, "rdagent", "0.2.0")
        ask(host, "Prod", "9.9.9.9")
        ask(host, "rdagent", "0.2.0")
        for family in ("Prod", "rdagent"):
            for channel in BOTH:
                for url in in_manifest(host, family, channel).values():
                    assert fetched(host, url, channel)[0] == 200
    finally:
        assert (host.stop(), host.bugs()) == (0, [])
    command = [sys.executable, "-P", "-m", "fabric", "replay", str(recording), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout)
    assert (result["orders"], result["differences"]) == (3, [])
