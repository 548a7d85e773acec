"""The VMs themselves: each manager gets its lease, and nothing is left when one ends."""

from pathlib import Path

import pytest

from tests.vm.conftest import MakeMachine
from tests.vm.machine import LEASES, MANAGERS, WIRESERVER, Lease, Manager


@pytest.mark.parametrize("lease", LEASES)
@pytest.mark.parametrize("manager", MANAGERS)
def test_boots_and_reaches_the_host(boot: MakeMachine, manager: Manager, lease: Lease) -> None:
    machine = boot(manager, lease)
    machine.run("ping", "-c", "1", "-W", "5", WIRESERVER)
    assert machine.run("systemctl", "list-units", "--failed", "--plain", "--no-legend") == ""


def test_nothing_is_left_of_it(boot: MakeMachine, base: Path) -> None:
    mounts = Path("/proc/self/mountinfo").read_text()
    machine = boot("networkd")
    machine.run("touch", "/etc/written-in-the-vm")
    name = machine.name
    assert name in {line.rpartition("/")[2] for line in cgroups(name)}
    machine.end()
    assert cgroups(name) == []
    assert Path("/proc/self/mountinfo").read_text() == mounts
    assert not (base / "etc/written-in-the-vm").exists()


def cgroups(name: str) -> list[str]:
    """Folders of cgroups of this name, and processes in them."""
    found = [str(path) for path in Path("/sys/fs/cgroup").rglob(name)]
    return found + [str(path) for path in Path("/proc").glob("[0-9]*/cgroup") if name in read(path)]


def read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""  # it has just ended
