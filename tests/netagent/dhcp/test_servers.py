"""The client against real servers, over a real cable, in a real kernel."""

import json
from pathlib import Path

import pytest

from tests.netagent.dhcp.conftest import MAC, Cable
from tests.netagent.dhcp.servers import DOMAIN, KINDS, Server


@pytest.fixture(params=list(KINDS))
def server(request: pytest.FixtureRequest, cable: Cable, tmp_path: Path) -> Server:
    folder = tmp_path / "server"
    folder.mkdir()
    return KINDS[request.param](cable, folder)


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    return tmp_path / "kept" / "lease.json"


def test_it_gets_everything_that_azure_sends(cable: Cable, server: Server, kept: Path) -> None:
    server.start()
    owner = cable.owner(kept)
    owner.tell("start")
    lease = owner.wait_for("lease")
    assert lease["mac"] == MAC
    assert (lease["prefix"], lease["mtu"], lease["wireserver"]) == (24, 1400, "168.63.129.16")
    assert (lease["nameservers"], lease["domain"]) == (["168.63.129.16"], DOMAIN)
    assert lease["search"] == [DOMAIN, "cloudapp.net"]
    assert [one["destination"] for one in lease["routes"]] == ["0.0.0.0/0", "168.63.129.16/32", "169.254.169.254/32"]
    assert {one["gateway"] for one in lease["routes"]} == {"10.0.0.1"}
    assert (lease["seconds"], lease["renew_after"], lease["rebind_after"]) == (600, 300, 525)
    assert cable.addresses() == [f"{lease['address']}/24"]
    owner.tell("state")
    assert owner.wait_for("state")["state"] == "BOUND"
    assert json.loads(kept.read_text())["address"] == lease["address"]
    assert "1 received" in cable.in_vm("ping -c 1 -W 5 168.63.129.16")


def test_it_renews_in_time_and_the_kernel_complains_to_nobody(cable: Cable, server: Server, kept: Path) -> None:
    server.start(seconds=6)
    owner = cable.owner(kept)
    owner.tell("start")
    first = owner.wait_for("lease")
    second = owner.wait_for("lease")
    assert first["address"] == second["address"]
    assert first["started"] < second["started"]
    names, values = [
        line.split() for line in cable.in_vm("cat /proc/net/snmp").splitlines() if line.startswith("Icmp:")
    ]
    assert dict(zip(names, values, strict=True))["OutDestUnreachs"] == "0"


def test_a_restart_asks_for_the_address_it_had(cable: Cable, server: Server, kept: Path) -> None:
    server.start()
    owner = cable.owner(kept)
    owner.tell("start")
    first = owner.wait_for("lease")
    owner.tell("stop")
    owner.wait_for("stopped")
    cable.in_vm("ip address flush dev eth0")
    owner.tell("start")
    assert owner.wait_for("lease")["address"] == first["address"]
    assert not [one for one in owner.all if one["event"] == "lost"]


def test_another_host_name_is_known_at_once(cable: Cable, server: Server, kept: Path) -> None:
    server.start()
    owner = cable.owner(kept, host_name="vm1")
    owner.tell("start")
    owner.wait_for("lease")
    assert "vm1" in server.leases()
    owner.tell("renew web-7")
    owner.wait_for("lease")
    assert "web-7" in server.leases()


def test_it_takes_leave(cable: Cable, server: Server, kept: Path) -> None:
    server.start()
    owner = cable.owner(kept)
    owner.tell("start")
    first = owner.wait_for("lease")
    owner.tell("release")
    owner.wait_for("lost", reason="released")
    owner.wait_for("released")
    assert not kept.exists()
    assert cable.addresses() == []
    # The server may give it to somebody else now: with a pool of one it has to.
    server.stop()
    server.start(first["address"], first["address"])
    cable.in_vm("ip link set eth0 down")
    cable.in_vm("ip link set eth0 address 00:0d:3a:0a:0b:0c up")
    other = cable.owner(kept)
    other.tell("start")
    assert other.wait_for("lease")["address"] == first["address"]


def test_an_address_in_use_is_declined_and_another_one_taken(cable: Cable, server: Server, kept: Path) -> None:
    server.start("10.0.0.10", "10.0.0.11")
    owner = cable.owner(kept, arp_probe=True)
    owner.tell("start")
    taken = owner.wait_for("lease")["address"]
    owner.tell("stop")
    owner.wait_for("stopped")
    cable.in_vm("ip address flush dev eth0")
    # Somebody else on the wire has it: a macvlan of the bridge's other side would have the gateway's MAC.
    cable.on_host("ip link add p9 type veth peer name q9 address 00:0d:3a:99:99:99")
    cable.on_host("ip link set p9 master br0 up")
    cable.on_host("ip link set q9 up")
    cable.on_host(f"ip address add {taken}/32 dev q9")
    cable.on_host("sysctl -q -w net.ipv4.conf.all.arp_ignore=1")
    owner.tell("start")
    lost = owner.wait_for("lost")
    assert lost["reason"] == f"declined: {taken} is in use by 00:0d:3a:99:99:99"
    # RFC 2131 wants ten seconds of quiet; a link that comes back ends them.
    owner.tell("link")
    lease = owner.wait_for("lease")
    assert lease["address"] != taken


def test_an_inform_touches_no_lease(cable: Cable, server: Server, kept: Path) -> None:
    server.start()
    cable.in_vm("ip address add 10.0.0.200/24 dev eth0")
    owner = cable.owner(kept)
    owner.tell("inform 10.0.0.200")
    lease = owner.wait_for("informed")["lease"]
    assert lease is not None
    assert (lease["address"], lease["seconds"], lease["wireserver"]) == ("10.0.0.200", None, "168.63.129.16")
    assert len(lease["routes"]) == 3
    assert not kept.exists()


def test_an_inform_that_nobody_answers_ends(cable: Cable, kept: Path) -> None:
    cable.in_vm("ip address add 10.0.0.200/24 dev eth0")
    owner = cable.owner(kept)
    owner.tell("inform 10.0.0.200")
    assert owner.wait_for("informed")["lease"] is None
