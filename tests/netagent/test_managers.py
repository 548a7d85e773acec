"""Who configures a NIC: programs that run in our own network, and what they keep in /run."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ipc.contract.netagent import Link
from netagent.managers import find_managers

ETH0 = Link(index=2, name="eth0", mac="00:0d:3a:00:00:02", mtu=1500, up=True, carrier=True)
ETH1 = Link(index=3, name="eth1", mac="00:0d:3a:00:00:03", mtu=1500, up=True, carrier=True)


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Have something run under a name, in the test's network or in another one."""
    children: list[subprocess.Popen[str]] = []

    def run(name: str, *words: str, elsewhere: bool = False) -> None:
        script = tmp_path / name
        script.write_text("#!/bin/sh\necho ready\nexec 3<&0\nread -r _ <&3\n")
        script.chmod(0o755)
        namespace = ["unshare", "-rn"] if elsewhere else []
        command = [*namespace, str(script), *words]
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        children.append(child)
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"

    yield run
    for child in children:
        child.communicate("\n")


def found(root: Path = Path("/")) -> dict[str, str]:
    """Only what this test's own NICs could be."""
    return find_managers([ETH0, ETH1], root=root)


def with_proc(root: Path) -> Path:
    """A machine whose /run is the test's and whose processes are real."""
    root.mkdir(exist_ok=True)
    (root / "proc").symlink_to("/proc")
    return root


def test_a_bare_client_has_the_nics_it_names(program: Callable[..., None], tmp_path: Path) -> None:
    root = with_proc(tmp_path / "root")
    assert found(root) == {}
    program("udhcpc", "-i", "eth1")
    assert found(root) == {"eth1": "udhcpc"}
    program("dhcpcd")
    assert found(root) == {"eth0": "dhcpcd", "eth1": "dhcpcd"}


def test_one_in_another_network_is_nothing_to_us(program: Callable[..., None], tmp_path: Path) -> None:
    program("dhclient", "eth0", elsewhere=True)
    assert found(with_proc(tmp_path / "root")) == {}


@pytest.mark.parametrize(
    ("name", "file", "managed", "unmanaged"),
    [
        ("systemd-network", "systemd/netif/links/2", "ADMIN_STATE=configured\n", "ADMIN_STATE=unmanaged\n"),
        ("NetworkManager", "NetworkManager/devices/2", "[device]\nconnection-uuid=5\n", "[device]\nmanaged=false\n"),
    ],
)
def test_a_manager_has_the_nics_it_says(
    program: Callable[..., None], tmp_path: Path, name: str, file: str, managed: str, unmanaged: str
) -> None:
    root = with_proc(tmp_path / "root")
    path = root / "run" / file
    path.parent.mkdir(parents=True)
    path.write_text(managed)
    # What it left behind when it was stopped says nothing.
    assert found(root) == {}
    program(name)
    (manager,) = found(root).values()
    assert manager.startswith(name)
    path.write_text(unmanaged)
    assert found(root) == {}
    path.unlink()
    assert found(root) == {}
