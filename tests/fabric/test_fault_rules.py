"""Which requests a rule spoils: by group, count, time, chance and seed; and the faults of single documents."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric.faults import ENDPOINTS, GROUPS, Fault
from tests.fabric.conftest import RunningHost, Vm, run_azfabric, until, vm_of

pytestmark = pytest.mark.usefixtures("vm")


def rule(**more: Any) -> Fault:
    return msgspec.convert({"endpoint": "package", "fault": "reset", "added_at": 1000.0, **more}, Fault)


@given(st.integers(), st.floats(0.01, 0.99), st.integers(0, 50))
def test_the_same_seed_spoils_the_same_requests(seed: int, probability: float, skip: int) -> None:
    one, other = (rule(seed=seed, probability=probability, skip=skip) for _ in range(2))
    fired = [one.fires(hit) for hit in range(1, 200)]
    assert fired == [other.fires(hit) for hit in range(1, 200)]
    assert not any(fired[:skip])


def test_chance_is_about_what_it_says() -> None:
    fired = sum(rule(seed=seed, probability=0.3).fires(hit) for seed in range(10) for hit in range(1, 201))
    assert 500 < fired < 700
    assert [rule(seed=1, probability=0.5).fires(n) for n in range(1, 30)] != [
        rule(seed=2, probability=0.5).fires(n) for n in range(1, 30)
    ]


def test_a_rule_has_a_beginning_and_an_end() -> None:
    timed = rule(wait=10.0, last=5.0)
    moments = [1000.0, 1009.9, 1010.0, 1014.9, 1015.0, 2000.0]
    assert [timed.concerns("vm1", "package", now) for now in moments] == [False, False, True, True, False, False]
    assert rule().concerns("vm1", "package", 1000.0)
    assert not rule(vm="vm2").concerns("vm1", "package", 1000.0)


def test_a_group_is_all_of_its_endpoints_and_no_other() -> None:
    for name, endpoints in GROUPS.items():
        assert set(endpoints) <= set(ENDPOINTS)
        spoiled = {one for one in ENDPOINTS if rule(endpoint=name).concerns("vm1", one, 1000.0)}
        assert spoiled == set(endpoints)


@pytest.fixture(scope="module", autouse=True)
def _wanted(host: RunningHost) -> None:
    host.add(settings={"a": 1})
    host.add(version="1.1.0", settings={"a": 2})


def location(host: RunningHost) -> str:
    (plugin,) = vm_of(host).config().findall("Plugins/Plugin")
    return plugin.get("location", "")


def test_a_blackout_is_of_both_ways_and_returns_at_once(host: RunningHost) -> None:
    url = location(host)
    hgap = {**vm_of(host).plugin, "x-ms-artifact-location": url}

    def statuses() -> tuple[int, int]:
        direct = host.call("blob", "GET", url).status_code
        return direct, host.call("hostgaplugin", "GET", "/extensionArtifact", headers=hgap).status_code

    done = run_azfabric(host.root, "fault", "add", "artifacts", "status", "--value", "403")
    assert "artifacts will answer with HTTP status 403" in done.stdout
    assert statuses() == (403, 403)
    run_azfabric(host.root, "fault", "clear")
    assert statuses() == (200, 200)
    run_azfabric(host.root, "fault", "add", "direct-artifacts", "expired")
    assert statuses() == (403, 200)
    run_azfabric(host.root, "fault", "clear")
    run_azfabric(host.root, "fault", "add", "plugin-artifacts", "reset")
    assert host.call("blob", "GET", url).status_code == 200


def test_skip_and_count_name_the_very_answers(host: RunningHost) -> None:
    host.api(
        "POST", "/api/faults", json={"endpoint": "versions", "fault": "status", "value": 500, "skip": 2, "count": 3}
    )
    found = [host.call("wireserver", "GET", "/?comp=versions").status_code for _ in range(7)]
    assert found == [200, 200, 500, 500, 500, 200, 200]
    assert host.api("GET", "/api/faults") == []


def test_one_fault_is_lifted_by_its_number(host: RunningHost) -> None:
    host.fault("versions", "status", 500)
    host.fault("health", "status", 500)
    first, second = host.api("GET", "/api/faults")
    assert "lifted" in run_azfabric(host.root, "fault", "lift", str(first["id"])).stdout
    assert [one["id"] for one in host.api("GET", "/api/faults")] == [second["id"]]
    assert "there is no fault" in run_azfabric(host.root, "fault", "lift", str(first["id"]), check=1).stderr


def test_a_fault_ends_by_itself(host: RunningHost) -> None:
    order = {"endpoint": "versions", "fault": "status", "value": 500, "last": 3}
    host.api("POST", "/api/faults", json=order)
    assert host.call("wireserver", "GET", "/?comp=versions").status_code == 500
    until(lambda: host.call("wireserver", "GET", "/?comp=versions").status_code == 200, "its end")
    assert host.api("GET", "/api/faults") == []


def test_throttled_says_when_to_come_again(host: RunningHost) -> None:
    host.fault("goalstate", "throttle", 7)
    answer = host.call("wireserver", "GET", "/machine/?comp=goalstate", headers=Vm.WIRE)
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, "7")


def test_an_inconsistent_host_gives_the_configuration_before(host: RunningHost) -> None:
    vm = vm_of(host)
    host.fault("extensionsconfig", "inconsistent")
    config = vm.config()
    assert config.get("goalStateIncarnation") == str(int(vm.incarnation) - 1)
    assert next(one.get("version") for one in config.iter("Plugin")) == "1.0.0"
    metadata = config.find("InVMGoalStateMetaData")
    assert metadata is not None
    assert metadata.get("inSvdSeqNo") == str(int(vm.incarnation) - 1)


def test_ticks_that_stand_still_or_are_missing(host: RunningHost) -> None:
    vm = vm_of(host)

    def ticks() -> tuple[Any, Any]:
        metadata = vm.config().find("InVMGoalStateMetaData")
        assert metadata is not None
        return metadata.get("createdOnTicks"), vm.vm_settings().get("extensionsLastModifiedTickCount")

    usual = ticks()
    assert int(usual[0]) > 600_000_000_000_000_000
    for endpoint in ("extensionsconfig", "vmsettings"):
        host.fault(endpoint, "stale-ticks")
    assert ticks() == ("1", 1)
    host.api("DELETE", "/api/faults")
    for endpoint in ("extensionsconfig", "vmsettings"):
        host.fault(endpoint, "missing-ticks")
    assert ticks() == (None, None)
    host.api("DELETE", "/api/faults")
    assert ticks() == usual


def test_a_replayed_manifest_knows_nothing_of_the_newest_version(host: RunningHost) -> None:
    url = location(host)
    hgap = {**vm_of(host).plugin, "x-ms-artifact-location": url}
    assert "<Version>1.1.0</Version>" in host.call("blob", "GET", url).text
    host.fault("manifest", "replayed")
    host.fault("artifact", "replayed")
    for text in (
        host.call("blob", "GET", url).text,
        host.call("hostgaplugin", "GET", "/extensionArtifact", headers=hgap).text,
    ):
        assert "<Version>1.0.0</Version>" in text
        assert "1.1.0" not in text


REFUSED = [
    ({"endpoint": "health", "fault": "replayed"}, "replayed is a fault of manifest or artifact"),
    ({"endpoint": "nowhere", "fault": "reset"}, "unknown endpoint"),
    ({"endpoint": "health", "fault": "reset", "skip": -1}, "skip"),
    ({"endpoint": "health", "fault": "reset", "last": 0}, "last"),
    ({"endpoint": "health", "fault": "reset", "probability": 0}, "probability"),
    ({"endpoint": "health", "fault": "throttle"}, "needs a value"),
    ({"endpoint": "health", "fault": "reset", "vm": "vm9"}, "no VM"),
    ({"endpoint": "health", "fault": "reset", "wait": "soon"}, "float"),
]


@pytest.mark.parametrize(("order", "reason"), REFUSED, ids=[json.dumps(one) for one, _ in REFUSED])
def test_a_rule_that_makes_no_sense_is_refused(host: RunningHost, order: dict[str, Any], reason: str) -> None:
    answer = host.call("portal", "POST", "/api/faults", json=order)
    assert 400 <= answer.status_code < 500
    assert reason in answer.json()["reason"]
    assert host.api("GET", "/api/faults") == []


def test_no_more_rules_than_can_be_looked_through(host: RunningHost) -> None:
    answers = [
        host.call("portal", "POST", "/api/faults", json={"endpoint": "imds", "fault": "reset"}) for _ in range(201)
    ]
    assert [one.status_code for one in answers] == [200] * 200 + [400]
    assert "azfabric fault clear" in answers[-1].json()["reason"]


def test_the_transcript_names_the_fault(host: RunningHost) -> None:
    host.fault("versions", "status", 500, count=1)
    host.call("wireserver", "GET", "/?comp=versions")
    last = host.api("GET", "/api/transcript", params={"limit": 1})
    assert [(one["vm"], one["endpoint"], one["status"], one["fault"]) for one in last] == [
        ("vm1", "versions", 500, "status")
    ]
