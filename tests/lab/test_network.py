"""Two tenants with the same addresses: what each VM is told by DHCP, finds in DNS, and cannot reach."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from fabric.lab.control import Lab
from tests.lab.conftest import REPOSITORY, TestedLab, until

SCRIPT = REPOSITORY / "fabric" / "lab" / "vm.sh"

ASKED = ["-O", "subnet", "-O", "mtu", "-O", "search", "-O", "staticroutes", "-O", "249", "-O", "245"]
ROUTES = "0.0.0.0/0 10.0.0.1 168.63.129.16/32 10.0.0.1 169.254.169.254/32 10.0.0.1"


@pytest.fixture(scope="module")
def tenants(folder: Path) -> Iterator[TestedLab]:
    """`a` and `b` of tenant blue, `c` and `d` of tenant red, with the same two addresses; nobody has one yet."""
    one = TestedLab(Lab(folder, "tenants"))
    one.up("a@blue", "b@blue", "c@red", "d@red", static=False)
    for vm in "ac":
        one.said(vm, "dhclient", "-1", "eth0")
    yield one
    one.lab.down()


def status(lab: TestedLab, vm: str, *question: str) -> str:
    lines = lab.said(vm, "dig", "+time=2", "+tries=1", *question).splitlines()
    return next(line.split("status: ")[1].split(",")[0] for line in lines if "status:" in line)


def answer(lab: TestedLab, vm: str, *question: str) -> str:
    return lab.said(vm, "dig", "+short", "+search", *question)


def test_dhclient_gets_the_address_and_both_routes(tenants: TestedLab) -> None:
    for vm in "ac":
        assert "10.0.0.4/24" in tenants.said(vm, "ip", "address", "show", "eth0")
        routes = [line.strip() for line in tenants.said(vm, "ip", "route").splitlines()]
        for to in ("default", "168.63.129.16", "169.254.169.254"):
            assert f"{to} via 10.0.0.1 dev eth0" in routes
    assert "nameserver 168.63.129.16" in tenants.said("a", "cat", "/etc/resolv.conf")


def test_a_vm_nothing_runs_in_is_plugged_in_and_has_no_address(tenants: TestedLab) -> None:
    assert tenants.said("d", "cat", "/sys/class/net/eth0/operstate") == "up"
    assert "inet " not in tenants.said("d", "ip", "address", "show", "eth0")
    assert tenants.said("d", "cat", "/etc/resolv.conf") == ""


def test_every_option_is_on_the_wire(tenants: TestedLab) -> None:
    script = "printf '#!/bin/sh\\nenv\\n' >/run/show; chmod 755 /run/show"
    tenants.said("b", "sh", "-c", script)
    said = tenants.said("b", "udhcpc", "-i", "eth0", "-n", "-q", "-s", "/run/show", *ASKED)
    found = dict(line.partition("=")[::2] for line in said.splitlines())
    expected = {
        "ip": "10.0.0.5",
        "subnet": "255.255.255.0",
        "router": "10.0.0.1",
        "dns": "168.63.129.16",
        "domain": "blue.internal.cloudapp.net",
        "mtu": "1500",
        "search": "blue.internal.cloudapp.net internal.cloudapp.net",
        "lease": str(0xFFFFFFFF),
        "serverid": "10.0.0.1",
        "opt245": "a83f8110",
    }
    assert {name: found.get(name) for name in expected} == expected
    assert found["staticroutes"] == ("0.0.0.0/0 10.0.0.1 168.63.129.16/32 10.0.0.1 169.254.169.254/32 10.0.0.1")


def test_each_tenant_finds_its_own_names_only(tenants: TestedLab) -> None:
    for vm, own, foreign, domain in (("a", "b", "d", "blue"), ("c", "d", "b", "red")):
        assert answer(tenants, vm, own) == "10.0.0.5"
        assert answer(tenants, vm, f"{own}.{domain}.internal.cloudapp.net") == "10.0.0.5"
        assert answer(tenants, vm, "-x", "10.0.0.5") == f"{own}.{domain}.internal.cloudapp.net."
        other = "red" if domain == "blue" else "blue"
        for name in (foreign, f"{foreign}.{other}.internal.cloudapp.net", "example.com"):
            assert status(tenants, vm, name) == "NXDOMAIN"
        assert status(tenants, vm, "-x", "10.0.0.77") == "NXDOMAIN"


def test_dns_answers_over_tcp_too(tenants: TestedLab) -> None:
    assert answer(tenants, "a", "+tcp", "b.blue.internal.cloudapp.net") == "10.0.0.5"


def test_a_new_name_is_in_dns_at_once(tenants: TestedLab) -> None:
    rename = ["udhcpc", "-i", "eth0", "-n", "-q", "-s", "/bin/true", "-x"]
    tenants.said("b", *rename, "hostname:web")
    assert answer(tenants, "a", "web") == "10.0.0.5"
    assert answer(tenants, "a", "-x", "10.0.0.5") == "web.blue.internal.cloudapp.net."
    assert status(tenants, "a", "b.blue.internal.cloudapp.net") == "NXDOMAIN"
    assert status(tenants, "c", "web.blue.internal.cloudapp.net") == "NXDOMAIN"
    tenants.said("b", *rename, "hostname:b")
    assert answer(tenants, "a", "b") == "10.0.0.5"


def test_nobody_reaches_another_tenants_vm(tenants: TestedLab) -> None:
    for vm in "bd":
        tenants.said(vm, "ip", "address", "replace", "10.0.0.5/24", "dev", "eth0")
    assert tenants.pings("a", "10.0.0.5")
    tenants.said("d", "ip", "link", "set", "eth0", "down")
    assert tenants.pings("a", "10.0.0.5")
    assert not tenants.pings("c", "10.0.0.5")


def test_the_host_is_the_gateway_with_azures_address(tenants: TestedLab) -> None:
    assert tenants.pings("a", "10.0.0.1")
    assert "lladdr 12:34:56:78:9a:bc" in tenants.said("a", "ip", "neighbour", "show", "10.0.0.1")
    assert tenants.said("a", "cat", "/sys/class/net/eth0/address") == "00:0d:3a:01:00:04"


def test_what_a_vm_writes_is_its_own(pair: TestedLab) -> None:
    name = f"azfabric-lab-{os.getpid()}"
    folders = ("/etc", "/var/lib", "/root", "/run", "/home")
    for folder in folders:
        pair.said("a", "sh", "-c", f"echo mine >{folder}/{name}")
    pair.said("a", "hostname", "renamed")
    assert not [folder for folder in folders if Path(folder, name).exists()]
    for folder in folders:
        assert pair.said("a", "cat", f"{folder}/{name}") == "mine"
        assert pair.run("b", "cat", f"{folder}/{name}").returncode == 1
    assert pair.said("b", "hostname") == "b"
    assert os.uname().nodename not in {"renamed", "b"}
    pair.said("a", "hostname", "a")


@pytest.mark.parametrize("rootless", [False, True])
def test_cgroups_settings_of_the_kernel_and_shared_memory_are_not_the_machines(lab: TestedLab, rootless: bool) -> None:
    lab.up("a", rootless=rootless)
    writable = "find /sys /proc/sys -path /proc/sys/net -prune -o -writable ! -type l -print -quit"
    assert lab.said("a", "sh", "-c", writable) == ""
    # As on a VM: the cgroups are there to be read, and the network is its own.
    assert lab.said("a", "ls", "/sys/fs/cgroup") == "\n".join(
        sorted(one.name for one in Path("/sys/fs/cgroup").iterdir())
    )
    assert lab.said("a", "sysctl", "-w", "net.ipv4.conf.all.log_martians=1")
    mark = f"/dev/shm/{lab.lab.name}"
    lab.said("a", "touch", mark)
    assert not Path(mark).exists()


def test_a_vm_sees_its_own_processes_and_network(pair: TestedLab) -> None:
    assert pair.said("a", "cat", "/proc/1/comm") == "sleep"
    assert pair.said("a", "ls", "/sys/class/net").split() == ["eth0", "lo"]
    assert pair.said("a", "cat", "/etc/hostname") == "a"
    with pair.start("b", "sleep", "1000") as process:
        until(lambda: "sleep 1000" in pair.said("b", "ps", "-eo", "args"), "the process in its VM")
        assert "sleep 1000" not in pair.said("a", "ps", "-eo", "args")
        process.kill()
    pair.run("b", "sh", "-c", "kill -9 -1")


def test_orphans_are_reaped(pair: TestedLab) -> None:
    pair.said("a", "sh", "-c", "(sh -c 'sleep 0.01' &) >/dev/null 2>&1")
    until(
        lambda: pair.said("a", "sh", "-c", "ps -eo stat,args | grep -cE '^Z|[s]leep 0.01' || true") == "0", "no orphan"
    )


def test_the_exit_status_is_the_commands(pair: TestedLab) -> None:
    assert pair.run("a", "sh", "-c", "exit 7").returncode == 7
    assert pair.run("a", "no-such-command").returncode == 127


def test_beside_the_host(tenants: TestedLab) -> None:
    for tenant in ("blue", "red"):
        said = tenants.said(f"host@{tenant}", "ip", "-brief", "address")
        assert "168.63.129.16/32 169.254.169.254/32" in said
        assert "10.0.0.1/24" in said


CHROOT = """
set -e
for folder in usr proc; do mount --rbind /$folder $0/$folder; done
cp "$1" $0/vm.sh
printf '#!/bin/sh\n' >$0/bin-here/mount; cp $0/bin-here/mount $0/bin-here/hostname; chmod 755 $0/bin-here/*
PATH=/bin-here:/usr/sbin:/usr/bin; export PATH
exec /usr/sbin/chroot $0 /usr/bin/sh /vm.sh /layers a ''
"""


@pytest.mark.parametrize(
    ("fresh", "why"), [((), "first process of a VM only"), (("--pid", "--fork", "--mount-proc"), "the machine's own")]
)
def test_a_vm_whose_folders_are_not_covered_is_refused(fresh: tuple[str, ...], why: str, tmp_path: Path) -> None:
    """Where `mount` does nothing. In a root of the test's own, which bears it if this fails."""
    for folder in ("etc", "root", "run", "var", "usr", "proc", "layers", "bin-here"):
        (tmp_path / folder).mkdir()
    for name in ("bin", "lib", "lib64"):
        (tmp_path / name).symlink_to(f"usr/{name}")
    (tmp_path / "etc" / "hosts").write_text("ours\n")
    user = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    words = ["unshare", *user, "--mount", "--uts", *fresh, "sh", "-c", CHROOT, tmp_path, SCRIPT]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert why in done.stderr
    assert (tmp_path / "etc" / "hosts").read_text() == "ours\n"
