"""Resource limits: whatever a manifest says becomes a bounded figure or a problem, and nothing asked for is lost."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestagent.confinement import limit_services, look, prepare, release
from guestagent.handlermanifest import SigningInfo, parse_handler_manifest
from guestagent.limits import (
    Machine,
    Placement,
    ResourceLimits,
    ServiceLimits,
    choose,
    missing,
    parse_limits,
    service_properties,
)

COMMANDS = {f"{name}Command": "bin/x" for name in ("install", "enable", "disable", "update", "uninstall")}
SYSTEMD = Machine(manager="systemd", controllers=frozenset({"cpu", "memory"}))
SYSTEMD_V1 = Machine(manager="systemd", controllers=frozenset({"cpu"}), reason="cgroup v1 here")
BARE = Machine(manager="cgroup", controllers=frozenset({"cpu", "memory"}), cgroup_root="/cgroup")
NOTHING = Machine(manager="none", reason="cgroup v1 here")
BOTH = ResourceLimits(cpu_percent=25, memory_mb=200)


# What a manifest says


def test_limits_of_handler_and_services() -> None:
    limits = parse_limits(
        {
            "cpuQuotaPercentage": 25,
            "memoryQuotaInMB": 200,
            "services": [{"name": "ama.service", "cpuQuotaPercentage": 5.2}, {"name": "a@b.service", "path": "/lib"}],
        }
    )
    services = (ServiceLimits(name="ama.service", cpu_percent=6), ServiceLimits(name="a@b.service"))
    assert limits == ResourceLimits(cpu_percent=25, memory_mb=200, services=services)


@pytest.mark.parametrize(
    ("given", "cpu", "memory"),
    [
        (None, None, None),
        (0.001, 1, 16),
        (1, 1, 16),
        (150, 150, 150),
        ("30", 30, 30),
        ("30.5", 31, 31),
        (10**400, 100_000, 1 << 24),
    ],
)
def test_amounts_are_bounded(given: Any, cpu: int | None, memory: int | None) -> None:
    limits = parse_limits({"cpuQuotaPercentage": given, "memoryQuotaInMB": given})
    assert limits == ResourceLimits(cpu_percent=cpu, memory_mb=memory)


@pytest.mark.parametrize(
    "given", [0, -1, True, False, "", "5%", "-5", "1e9", "\u0663", [], {}, float("inf"), float("nan")]
)
def test_what_is_no_amount_is_no_limit_and_told(given: Any) -> None:
    limits = parse_limits({"cpuQuotaPercentage": given})
    assert limits.cpu_percent is None
    assert limits.problems[0].startswith("cpuQuotaPercentage is ")


@pytest.mark.parametrize(
    "name", [None, 5, "", "sshd", "../x.service", "-H.service", "a b.service", "a\n.service", "x" * 300 + ".service"]
)
def test_what_cannot_be_a_services_name_is_left_out_and_told(name: Any) -> None:
    limits = parse_limits({"services": [{"name": name}, {"name": "good.service"}]})
    assert [one.name for one in limits.services] == ["good.service"]
    assert "cannot be a service's name" in limits.problems[0]


def test_more_services_than_anybody_has_are_not_looked_at() -> None:
    limits = parse_limits({"services": [{"name": f"s{number}.service"} for number in range(1000)]})
    assert len(limits.services) == 20
    assert limits.problems == ("only 20 of 1000 services are looked at",)


@pytest.mark.parametrize("value", [[], "25", 3, True])
def test_limits_that_are_no_object_are_told(value: Any) -> None:
    assert parse_limits(value).problems == ("resourceLimits is not an object",)
    assert parse_limits({"services": value or {}}).services == ()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
ONE = st.fixed_dictionaries({}, optional={"name": JSON, "cpuQuotaPercentage": JSON, "memoryQuotaInMB": JSON})
DOCUMENT = JSON | st.fixed_dictionaries(
    {}, optional={"cpuQuotaPercentage": JSON, "memoryQuotaInMB": JSON, "services": JSON | st.lists(ONE | JSON)}
)


@given(DOCUMENT)
def test_any_json_becomes_bounded_limits(value: Any) -> None:
    limits = parse_limits(value)
    everyone: list[ResourceLimits | ServiceLimits] = [limits, *limits.services]
    for one in everyone:
        assert one.cpu_percent is None or 1 <= one.cpu_percent <= 100_000
        assert one.memory_mb is None or 16 <= one.memory_mb <= 1 << 24
    assert len(limits.services) <= 20


def test_a_manifest_carries_limits_and_signing_info() -> None:
    manifest = {
        "handlerManifest": COMMANDS,
        "resourceLimits": {"cpuQuotaPercentage": 25, "memoryQuotaInMB": 200},
        "signingInfo": {"publisher": "Contoso.Tools", "type": "Greeter", "version": 1.2},
    }
    parsed = parse_handler_manifest(json.dumps([manifest]).encode())
    assert parsed.limits == BOTH
    assert parsed.signing_info == SigningInfo(publisher="Contoso.Tools", type="Greeter", version="")


@pytest.mark.parametrize("value", [None, [], 5, "x", {"type": ["x"], "cpuQuotaPercentage": "x"}])
def test_a_manifest_is_not_refused_for_limits_or_signing_info(value: Any) -> None:
    document = {"handlerManifest": COMMANDS, "resourceLimits": value, "signingInfo": value}
    parsed = parse_handler_manifest(json.dumps(document).encode())
    assert (parsed.limits.cpu_percent, parsed.limits.memory_mb) == (None, None)
    assert parsed.signing_info in {None, SigningInfo()}


# Where a command runs


def test_with_systemd_a_scope_in_the_handlers_slice() -> None:
    placement = choose(SYSTEMD, "Contoso.Tools.Greeter", BOTH, "enable_1")
    name = "azure-vmextensions-Contoso.Tools.Greeter.slice"
    assert " ".join(placement.launcher) == (
        f"systemd-run --scope --quiet --collect --slice={name} --unit=enable_1.scope --"
    )
    assert placement.unit == name
    assert placement.properties == ("CPUQuota=25%", "MemoryHigh=200M")
    assert placement.not_enforced == ()


def test_with_systemd_a_scope_also_without_limits_and_earlier_ones_are_taken_back() -> None:
    placement = choose(SYSTEMD, "A.B", ResourceLimits(), "enable_1")
    assert placement.launcher
    assert placement.properties == ("CPUQuota=", "MemoryHigh=infinity")


def test_a_newer_systemd_is_told_to_go_on_when_memory_runs_out() -> None:
    machine = Machine(manager="systemd", oom_policy=True)
    launcher = choose(machine, "A.B", ResourceLimits(), "enable_1").launcher
    assert launcher[-2:] == ("--property=OOMPolicy=continue", "--")


def test_without_systemd_a_cgroup_of_our_own() -> None:
    placement = choose(BARE, "A.B", BOTH, "enable_1")
    assert placement.launcher == ()
    assert placement.cgroup == "/cgroup/azure-vmextensions/A.B"
    assert placement.files == (("cpu.max", "25000 100000"), ("memory.high", str(200 * 1024 * 1024)))
    assert choose(BARE, "A.B", ResourceLimits(), "enable_1") == Placement()
    # One that is gone is taken back from what an earlier version left running.
    half = choose(BARE, "A.B", ResourceLimits(memory_mb=200), "enable_1")
    assert half.files == (("cpu.max", "max 100000"), ("memory.high", str(200 * 1024 * 1024)))


def test_what_does_not_hold_here_is_said() -> None:
    told = choose(NOTHING, "A.B", BOTH, "enable_1")
    assert told == Placement(
        not_enforced=(
            "cpu limit of 25 % is not enforced: cgroup v1 here",
            "memory limit of 200 MB is not enforced: cgroup v1 here",
        )
    )
    assert choose(NOTHING, "A.B", ResourceLimits(), "enable_1") == Placement()
    half = choose(SYSTEMD_V1, "A.B", BOTH, "enable_1")
    assert half.properties == ("CPUQuota=25%",)
    assert half.not_enforced == ("memory limit of 200 MB is not enforced: cgroup v1 here",)


AMOUNT = st.none() | st.integers(1, 100_000)
LIMITS = st.builds(ResourceLimits, cpu_percent=AMOUNT, memory_mb=AMOUNT)
MACHINES = st.builds(
    Machine,
    manager=st.sampled_from(["systemd", "cgroup"]),
    controllers=st.frozensets(st.sampled_from(["cpu", "memory"])),
    cgroup_root=st.just("/cgroup"),
    oom_policy=st.booleans(),
) | st.just(NOTHING)


@given(MACHINES, LIMITS)
def test_each_limit_is_enforced_or_told(machine: Machine, limits: ResourceLimits) -> None:
    placement = choose(machine, "A.B", limits, "enable_1")
    held = " ".join((*placement.properties, *(" ".join(one) for one in placement.files)))
    told = " ".join(placement.not_enforced)
    cpu = f"CPUQuota={limits.cpu_percent}%" in held or f"cpu.max {(limits.cpu_percent or 0) * 1000} 100000" in held
    memory = f"MemoryHigh={limits.memory_mb}M" in held or f"memory.high {(limits.memory_mb or 0) << 20}" in held
    assert ("cpu limit" in told) is (limits.cpu_percent is not None and not cpu)
    assert ("memory limit" in told) is (limits.memory_mb is not None and not memory)
    assert not (placement.launcher and placement.cgroup)


def test_of_a_service_only_what_the_manifest_says_is_set() -> None:
    assert service_properties(ServiceLimits(name="a.service")) == ()
    both = ServiceLimits(name="a.service", cpu_percent=5, memory_mb=100)
    assert service_properties(both) == ("CPUQuota=5%", "MemoryHigh=100M")
    assert missing(SYSTEMD_V1, both) == ("memory limit of 100 MB is not enforced: cgroup v1 here",)
    assert limit_services(NOTHING, (both,)) == ("a.service: not enforced: cgroup v1 here",)


# Looking, and making it so: folders laid out as the kernel lays them out


def hierarchy(folder: Path, controllers: str = "cpuset cpu io memory pids\n") -> Path:
    """What mounting cgroup v2 gives, as far as we look."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("cgroup.subtree_control", "cgroup.procs", "cpu.max", "memory.high"):
        (folder / name).write_text("")
    (folder / "cgroup.controllers").write_text(controllers)
    return folder


def mounts(folder: Path, *lines: str) -> Path:
    path = folder / "mounts"
    path.write_text("".join(f"{line}\n" for line in ("proc /proc proc rw 0 0", *lines)))
    return path


V1 = "cgroup /sys/fs/cgroup/memory cgroup rw,nosuid,memory 0 0"


def test_looking_without_systemd(tmp_path: Path) -> None:
    whole = hierarchy(tmp_path / "whole")
    partly = hierarchy(tmp_path / "partly", "cpu pids\n")
    none = hierarchy(tmp_path / "none", "hugetlb\n")

    def found(*lines: str) -> Machine:
        return look(mounts(tmp_path, *lines), booted=tmp_path / "no systemd")

    both = frozenset({"cpu", "memory"})
    v2 = "cgroup2 {} cgroup2 rw,nosuid 0 0".format
    assert found(v2(whole)) == Machine(manager="cgroup", controllers=both, cgroup_root=str(whole))
    assert found(v2(partly)).reason == f"no controller memory in {partly}"
    assert found(v2(none)).reason == "cgroup v2 without controllers here"
    assert found(V1, v2(none)).reason == "cgroup v1 here"
    # systemd's own hierarchy of v1 holds no controller.
    assert found("cgroup /sys/fs/cgroup/systemd cgroup rw,name=systemd 0 0", v2(whole)).manager == "cgroup"
    assert found("cgroup /sys/fs/cgroup/systemd cgroup rw,name=systemd 0 0").reason == "no cgroup v2 here"
    assert found(V1).reason == "cgroup v1 here"
    assert found().reason == "no cgroup v2 here"
    assert {found(*lines).manager for lines in ((v2(none),), (V1, v2(none)), (V1,), ())} == {"none"}


def test_looking_at_this_machine_gives_controllers_or_a_reason() -> None:
    machine = look()
    assert machine.controllers == {"cpu", "memory"} or machine.reason


def test_systemd_that_does_not_answer_is_no_manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    booted = tmp_path / "booted"
    booted.mkdir()
    programs = tmp_path / "bin"
    programs.mkdir()
    monkeypatch.setenv("PATH", str(programs))
    whole = mounts(tmp_path, f"cgroup2 {hierarchy(tmp_path / 'whole')} cgroup2 rw 0 0")
    assert look(whole, booted) == Machine(manager="none", reason="systemd runs here, but systemd-run is missing")
    for name in ("systemd-run", "systemctl"):
        (programs / name).write_text("#!/bin/sh\necho first >&2\necho Connection refused >&2\nexit 1\n")
        (programs / name).chmod(0o755)
    assert look(whole, booted) == Machine(manager="none", reason="systemd starts no scope: Connection refused")


def test_a_systemd_that_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in that starts what it is given: the real one is PID 1 or it is not there."""
    (tmp_path / "booted").mkdir()
    said = tmp_path / "said"
    for name in ("systemd-run", "systemctl"):
        (tmp_path / name).write_text(f'#!/bin/sh\necho "systemd 255 (255.4)"; echo "$0 $*" >>{said}\n')
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    v2 = f"cgroup2 {hierarchy(tmp_path / 'whole')} cgroup2 rw 0 0"
    machine = look(mounts(tmp_path, v2), tmp_path / "booted")
    assert machine == msgspec.structs.replace(SYSTEMD, oom_policy=True)
    assert look(mounts(tmp_path, V1, v2), tmp_path / "booted") == msgspec.structs.replace(SYSTEMD_V1, oom_policy=True)
    placement = choose(machine, "A.B", BOTH, "enable_1")
    assert prepare(placement) == placement
    last = said.read_text().splitlines()[-1]
    assert last.endswith("systemctl set-property --runtime azure-vmextensions-A.B.slice CPUQuota=25% MemoryHigh=200M")
    assert limit_services(machine, (ServiceLimits(name="a.service", cpu_percent=5),)) == ()
    assert said.read_text().splitlines()[-1].endswith("set-property --runtime a.service CPUQuota=5%")
    (tmp_path / "systemctl").write_text("#!/bin/sh\necho Unit a.service not found. >&2\nexit 1\n")
    told = limit_services(machine, (ServiceLimits(name="a.service", cpu_percent=5),))
    assert told == ("a.service: not enforced: Unit a.service not found.",)
    weaker = prepare(placement)
    assert weaker.launcher == placement.launcher
    assert "azure-vmextensions-A.B.slice: Unit a.service not found." in weaker.not_enforced[0]


def test_a_cgroup_is_made_with_its_limits(tmp_path: Path) -> None:
    root = hierarchy(tmp_path / "root")
    ours = hierarchy(root / "azure-vmextensions")
    own = hierarchy(ours / "A.B")
    placement = choose(
        Machine(manager="cgroup", controllers=BARE.controllers, cgroup_root=str(root)), "A.B", BOTH, "enable_1"
    )
    assert prepare(placement) == placement
    assert (root / "cgroup.subtree_control").read_text() == "+cpu +memory"
    assert (ours / "cgroup.subtree_control").read_text() == "+cpu +memory"
    assert (own / "cpu.max").read_text() == "25000 100000"
    assert (own / "memory.high").read_text() == str(200 << 20)


def test_a_cgroup_that_cannot_be_made_is_told_and_not_entered(tmp_path: Path) -> None:
    # An ordinary folder has no such files, as a hierarchy that nobody lets us change.
    placement = choose(
        Machine(manager="cgroup", controllers=BARE.controllers, cgroup_root=str(tmp_path)), "A.B", BOTH, "enable_1"
    )
    nowhere = prepare(placement)
    assert (nowhere.cgroup, nowhere.files) == ("", ())
    assert "cgroup.subtree_control: No such file or directory" in nowhere.not_enforced[0]
    assert list(tmp_path.iterdir()) == []
    # Nor does what was made before the refusal stay behind.
    (tmp_path / "cgroup.subtree_control").touch()
    assert "azure-vmextensions/cgroup.subtree_control: " in prepare(placement).not_enforced[0]
    assert [path.name for path in tmp_path.iterdir()] == ["cgroup.subtree_control"]


def test_an_empty_cgroup_is_removed_and_a_busy_one_stays(tmp_path: Path) -> None:
    ours = tmp_path / "azure-vmextensions"
    for name in ("A.B", "C.D"):
        (ours / name).mkdir(parents=True)
    (ours / "C.D" / "busy").touch()
    release(Placement(cgroup=str(ours / "A.B")))
    release(Placement(cgroup=str(ours / "C.D")))
    assert [path.name for path in ours.iterdir()] == ["C.D"]
    (ours / "C.D" / "busy").unlink()
    release(Placement(cgroup=str(ours / "C.D")))
    assert list(tmp_path.iterdir()) == []
    release(Placement())
