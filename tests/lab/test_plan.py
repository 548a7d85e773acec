"""Plans: what may be asked for, what each VM gets, and that no name ends up as anything but a name."""

import ipaddress
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric.lab.plan import (
    BadLab,
    Plan,
    dnsmasq_configuration,
    dnsmasq_leases,
    make_plan,
    panel_lines,
    seconds,
    share,
    vm_lines,
)

NAMES = st.from_regex(r"[a-z]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True).filter(lambda name: name != "host")


def test_one_vm_of_one_tenant_without_being_asked() -> None:
    plan = make_plan("lab", (), ())
    assert [(vm.name, vm.tenant, vm.address, vm.mac) for vm in plan.vms] == [
        ("vm1", "contoso", "10.0.0.4", "00:0d:3a:01:00:04")
    ]


def test_tenants_have_the_same_addresses_and_their_own_macs() -> None:
    plan = make_plan("lab", ("blue",), ("a", "b@red", "c=10.0.0.9", "d", "e@red"))
    assert [(vm.name, vm.tenant, vm.address) for vm in plan.vms] == [
        ("a", "blue", "10.0.0.4"),
        ("b", "red", "10.0.0.4"),
        ("c", "blue", "10.0.0.9"),
        ("d", "blue", "10.0.0.5"),
        ("e", "red", "10.0.0.5"),
    ]
    assert len({vm.mac for vm in plan.vms}) == 5


def test_an_address_asked_for_later_is_not_given_away_before() -> None:
    assert [vm.address for vm in make_plan("lab", (), ("a", "b=10.0.0.4")).vms] == ["10.0.0.5", "10.0.0.4"]


@pytest.mark.parametrize(
    ("vms", "why"),
    [
        (("a", "a"), "two VMs are called a"),
        (("a@x", "a@y"), "two VMs are called a"),
        (("a=10.0.0.4", "b=10.0.0.4"), "same address"),
        (("a=10.0.0.1",), "no address a VM can have: 10.0.0.4 to 10.0.0.254"),
        (("a=10.0.0.255",), "no address"),
        (("a=10.0.1.4",), "no address"),
        (("a=",), "no address"),
        (("a=::1",), "no address"),
        (("a@",), "no name"),
        (("",), "no name"),
        (("-a",), "no name"),
        (("A",), "no name"),
        (("a\nb",), "no name"),
        (("../a",), "no name"),
        (("\uff41",), "no name"),
        (("a" * 32,), "no name"),
        (("host",), "host's side"),
        (tuple(f"v{one}" for one in range(252)), "no address left for VM v251: 251 are the most"),
    ],
)
def test_what_cannot_be_is_refused_with_its_reason(vms: tuple[str, ...], why: str) -> None:
    with pytest.raises(BadLab, match=why):
        make_plan("lab", (), vms)


@given(st.text(max_size=40))
def test_any_text_is_a_vm_or_is_refused(text: str) -> None:
    try:
        plan = make_plan("lab", (), (text,))
    except BadLab:
        return
    usual = make_plan("lab", (), ())
    for written in (dnsmasq_configuration, dnsmasq_leases):
        words = [written(one, one.tenants[0]).split() for one in (plan, usual)]
        assert len(words[0]) == len(words[1])
    assert text.isascii()


@given(st.lists(st.tuples(NAMES, NAMES), min_size=1, max_size=30, unique_by=lambda one: one[0]))
def test_every_vm_has_its_own_place(asked: list[tuple[str, str]]) -> None:
    plan = make_plan("lab", (), tuple(f"{name}@{tenant}" for name, tenant in asked))
    assert [(vm.name, vm.tenant) for vm in plan.vms] == asked
    for of in (
        {(vm.tenant, vm.address) for vm in plan.vms},
        {vm.mac for vm in plan.vms},
        {vm.number for vm in plan.vms},
    ):
        assert len(of) == len(asked)
    assert all(ipaddress.ip_address(vm.address) in ipaddress.ip_network("10.0.0.0/24") for vm in plan.vms)
    lines = panel_lines(plan, dict.fromkeys(names_of(plan), "path"))
    interfaces = [line.split()[2] for line in lines if line.startswith("link add")]
    assert len(set(interfaces)) == len(interfaces)
    assert max(map(len, interfaces)) <= 15


def names_of(plan: Plan) -> list[str]:
    return [*(f"host@{one.name}" for one in plan.tenants), *(vm.name for vm in plan.vms)]


def test_only_a_static_vm_is_given_its_address_by_us() -> None:
    for static in (True, False):
        plan = make_plan("lab", (), (), static=static)
        assert ("address add 10.0.0.4/24 dev eth0" in vm_lines(plan, plan.vms[0])) is static


def test_dnsmasq_takes_the_configuration(tmp_path: Path) -> None:
    plan = make_plan("lab", (), ("a@blue", "b@blue", "c@red"))
    file = tmp_path / "dnsmasq.conf"
    file.write_text(dnsmasq_configuration(plan, plan.tenants[0]))
    dnsmasq = shutil.which("dnsmasq", path="/usr/sbin:/usr/bin:/usr/local/sbin")
    assert dnsmasq, "make packages installs it"
    subprocess.run([dnsmasq, "--test", "-C", file], check=True, capture_output=True)
    assert "10.0.0.4" in file.read_text()
    assert "c.red" not in file.read_text()


@pytest.mark.parametrize(("text", "value"), [("25ms", 0.025), ("1.5s", 1.5), ("300us", 0.0003), ("0s", 0)])
def test_times(text: str, value: float) -> None:
    assert seconds(text) == pytest.approx(value)


@pytest.mark.parametrize(("text", "value"), [("20%", 0.2), ("0.5%", 0.005), ("100%", 1), ("0%", 0)])
def test_shares(text: str, value: float) -> None:
    assert share(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "25", "ms", "-1s", "1e3s", "٣s", "1 s", "101%", "20", "%", "-1%", "nan%", "1s\n"])
def test_what_is_neither(text: str) -> None:
    for convert in (seconds, share):
        with pytest.raises(BadLab, match="say"):
            convert(text)


@given(st.text(max_size=12))
def test_any_text_is_within_bounds_or_refused(text: str) -> None:
    for convert, most in ((seconds, 1e6), (share, 1.0)):
        try:
            assert 0 <= convert(text) <= most
        except BadLab as error:
            assert repr(text) in str(error)


def test_who_names_no_tenant_is_of_the_first_one_there_is_anyway() -> None:
    plan = make_plan("lab", (), ("vm1", "vm2", "vm3@fabrikam"))
    assert [(one.name, one.tenant, one.address) for one in plan.vms] == [
        ("vm1", "contoso", "10.0.0.4"),
        ("vm2", "contoso", "10.0.0.5"),
        ("vm3", "fabrikam", "10.0.0.4"),
    ]
    assert [one.name for one in make_plan("lab", (), ("a@x", "b@y")).tenants] == ["x", "y"]
    assert [one.name for one in make_plan("lab", ("x",), ("a",)).tenants] == ["x"]
