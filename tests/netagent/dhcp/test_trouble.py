"""The interface, the server, the disk and the machine let the client down, for a while."""

import signal
from os import kill
from pathlib import Path

import pytest

from tests.netagent.dhcp.conftest import MAC, Cable
from tests.netagent.dhcp.servers import Isc


@pytest.fixture
def server(cable: Cable, tmp_path: Path) -> Isc:
    folder = tmp_path / "server"
    folder.mkdir()
    return Isc(cable, folder)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    return tmp_path / "kept.json"


def test_the_server_dies_and_comes_back_with_another_pool(cable: Cable, server: Isc, kept: Path) -> None:
    server.start(seconds=4)
    owner = cable.owner(kept)
    owner.tell("start")
    first = owner.wait_for("lease")["address"]
    server.stop()
    assert owner.wait_for("lost")["reason"] == f"the lease of {first} ran out"
    assert cable.addresses() == []
    server.start("10.0.0.50", "10.0.0.60")
    second = owner.wait_for("lease")["address"]
    assert second.startswith("10.0.0.5")
    assert cable.addresses() == [f"{second}/24"]


def test_the_pool_moved_while_it_was_away(cable: Cable, server: Isc, kept: Path) -> None:
    server.start()
    owner = cable.owner(kept)
    owner.tell("start")
    first = owner.wait_for("lease")["address"]
    owner.tell("stop")
    owner.wait_for("stopped")
    server.stop()
    (kept.parent / "server" / "leases").write_text("")
    cable.on_host("ip address add 10.0.7.1/24 dev br0")
    cable.on_host("ip address del 10.0.0.1/24 dev br0")
    server.start("10.0.7.50", "10.0.7.60", network="10.0.7.0")
    owner.tell("start")
    assert owner.wait_for("lost")["reason"] == f"the server 168.63.129.16 refused {first}"
    assert owner.wait_for("lease")["address"].startswith("10.0.7.5")


def test_the_link_goes_down_and_comes_up(cable: Cable, server: Isc, kept: Path) -> None:
    server.start()
    owner = cable.owner(kept)
    owner.tell("start")
    first = owner.wait_for("lease")
    cable.in_vm("ip link set eth0 down")
    owner.wait_for("log", text="eth0: DHCP: the interface is down or gone")
    assert cable.in_vm("ip -4 route show default") == ""
    cable.in_vm("ip link set eth0 up")
    # Nobody tells the client: it looks.
    second = owner.wait_for("lease")
    assert (second["address"], second["problem"]) == (first["address"], "")
    assert "10.0.0.1" in cable.in_vm("ip -4 route show default")
    assert not [one for one in owner.all if one["event"] == "lost"]


def test_the_carrier_comes_back(cable: Cable, server: Isc, kept: Path) -> None:
    server.start()
    owner = cable.owner(kept)
    owner.tell("start")
    first = owner.wait_for("lease")["address"]
    cable.on_host("ip link set p0 down")
    cable.on_host("ip link set p0 up")
    owner.tell("link")
    assert owner.wait_for("lease")["address"] == first


def test_the_interface_is_renamed_then_gone_then_another(cable: Cable, server: Isc, kept: Path) -> None:
    server.start(seconds=6)
    owner = cable.owner(kept)
    owner.tell("start")
    owner.wait_for("lease")
    cable.in_vm("ip link set eth0 down")
    cable.in_vm("ip link set eth0 name wan0")
    cable.in_vm("ip link set wan0 up")
    owner.wait_for("lease")
    cable.in_vm("ip link set wan0 down")
    cable.in_vm("ip link set wan0 name eth0")
    cable.in_vm("ip link set eth0 up")
    owner.wait_for("lease")
    cable.on_host("ip link del p0")
    owner.wait_for("log", text="eth0: DHCP: the interface is down or gone")
    cable.plug("00:0d:3a:0a:0b:0c")
    owner.wait_for("lost", reason="the interface has another MAC")
    assert owner.wait_for("lease")["mac"] == "00:0d:3a:0a:0b:0c"


def test_a_full_queue_or_a_filter_is_no_reason_to_end(cable: Cable, server: Isc, kept: Path) -> None:
    """A drop at netdev egress makes send() fail with ENOBUFS."""
    server.start()
    cable.nft(
        """add table netdev t
        add chain netdev t c { type filter hook egress device eth0 priority 0; policy drop; }"""
    )
    owner = cable.owner(kept)
    owner.tell("start")
    owner.wait_for("log", text="eth0: DHCP: No buffer space available")
    cable.nft("delete table netdev t")
    owner.wait_for("lease")


def test_a_firewall_against_the_renewal_is_gone_round(cable: Cable, server: Isc, kept: Path) -> None:
    """The kernel refuses the datagram with EPERM; AF_PACKET it does not filter there."""
    server.start(seconds=4)
    owner = cable.owner(kept)
    owner.tell("start")
    owner.wait_for("lease")
    cable.nft(
        """add table inet t
        add chain inet t c { type filter hook output priority 0; }
        add rule inet t c udp dport 67 drop"""
    )
    owner.wait_for("log", text="eth0: DHCP: 168.63.129.16 cannot be reached directly: Operation not permitted")
    owner.wait_for("lease")
    owner.wait_for("lease")


def test_a_stopped_process_finds_its_lease_ended(cable: Cable, server: Isc, kept: Path) -> None:
    server.start(seconds=2)
    owner = cable.owner(kept)
    owner.tell("start")
    owner.wait_for("lease")
    kill(owner.pid, signal.SIGSTOP)
    # Another machine's lease of the same length ends meanwhile.
    other = cable.neighbour(kept.with_name("other.json"))
    other.tell("start")
    for _ in range(3):
        other.wait_for("lease")
    kill(owner.pid, signal.SIGCONT)
    owner.wait_for("lost")
    owner.wait_for("lease")


def test_a_lease_file_that_is_damaged_or_of_another_costs_nothing(cable: Cable, server: Isc, kept: Path) -> None:
    server.start()
    kept.write_text('{"mac": "')
    owner = cable.owner(kept)
    owner.tell("start")
    first = owner.wait_for("lease")["address"]
    owner.tell("stop")
    owner.wait_for("stopped")
    kept.write_text(kept.read_text().replace(MAC, "00:0d:3a:0a:0b:0c"))
    owner.tell("start")
    assert owner.wait_for("lease")["address"] == first
    assert not [one for one in owner.all if one["event"] == "lost"]


def test_a_disk_that_takes_nothing_is_told_and_lived_with(cable: Cable, server: Isc, tmp_path: Path) -> None:
    server.start()
    (tmp_path / "file").touch()
    owner = cable.owner(tmp_path / "file" / "lease.json")
    owner.tell("start")
    owner.wait_for("lease")
    said = owner.wait_for("log", level="WARNING")["text"]
    assert "the lease cannot be kept" in said


def test_another_client_s_port_is_left_to_it(cable: Cable, kept: Path) -> None:
    first, second = cable.owner(kept), cable.owner(kept.with_name("other.json"))
    first.tell("start")
    first.tell("state")
    first.wait_for("state", state="SELECTING")
    second.tell("start")
    ended = second.wait_for("ended")
    assert ended["kind"] == "PortTaken"
    assert "UDP port 68 is taken" in ended["text"]


@pytest.mark.parametrize(("link", "text"), [("eth9", "no such interface"), ("lo", "no Ethernet")])
def test_what_is_no_interface_is_told_at_the_start(cable: Cable, kept: Path, link: str, text: str) -> None:
    owner = cable.owner(kept, link=link)
    owner.tell("start")
    ended = owner.wait_for("ended")
    assert ended["kind"] == "NoSuchLink"
    assert text in ended["text"]
