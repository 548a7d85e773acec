"""netagent as the only DHCP client: through dead servers, refusals, moved pools, and restarts of its own."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ipc.places import Places
from tests.netagent.dhcp.conftest import Cable
from tests.netagent.dhcp.servers import Isc

PATIENCE = 40.0
HOST, IMDS = "168.63.129.16", "169.254.169.254"


def until(condition: Callable[[], Any], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited {PATIENCE:g} s for {what}"


class Owner:
    """The process, and what `ip` says beside it."""

    def __init__(self, cable: Cable, places: Places) -> None:
        self._cable = cable
        self._places = places
        self.start()

    def start(self) -> None:
        environment = {**os.environ, "AZVMAGENT_ROOT": str(self._places.run.parent)}
        command = self._cable.vm_command(sys.executable, "-P", "-m", "netagent")
        self._child = subprocess.Popen(command, env=environment)

    def kill(self) -> None:
        self._child.kill()
        self._child.wait()

    def routes(self) -> dict[str, str]:
        found = json.loads(self._cable.in_vm("ip -json -4 route") or "[]")
        return {one["dst"]: one.get("gateway", "") for one in found}

    def has_all(self) -> bool:
        routes = self.routes()
        return {"default", HOST, IMDS} <= routes.keys() and len(self._cable.addresses()) == 1

    def address(self) -> str:
        """Empty while it has none."""
        return next(iter(self._cable.addresses()), "")

    def has_nothing(self) -> bool:
        return not self._cable.addresses() and not self.routes()

    def agentctl(self, *words: str) -> dict[str, Any]:
        command = [sys.executable, "-P", "-m", "agentctl", "net", *words, "--json", "--root", self._root]
        done = subprocess.run(command, capture_output=True, text=True)
        found: dict[str, Any] = json.loads(done.stdout) if done.stdout else {}
        return found

    @property
    def _root(self) -> str:
        return str(self._places.run.parent)


@pytest.fixture
def server(cable: Cable, tmp_path: Path) -> Isc:
    folder = tmp_path / "server"
    folder.mkdir()
    return Isc(cable, folder)


@pytest.fixture
def owner(cable: Cable, places: Places) -> Iterator[Owner]:
    places.config.parent.mkdir(parents=True, exist_ok=True)
    places.config.write_text('[netagent]\nmode = "own"\n')
    one = Owner(cable, places)
    yield one
    one.kill()


def test_a_server_that_dies_comes_back_and_refuses(cable: Cable, server: Isc, owner: Owner) -> None:
    server.start(seconds=4)
    until(owner.has_all, "address and routes")
    before = owner.address()
    (link,) = json.loads(cable.in_vm("ip -json link show dev eth0"))
    assert link["mtu"] == 1400
    server.stop()
    until(owner.has_nothing, "the lease to pass")
    server.start(seconds=4)
    until(owner.has_all, "all to be back")
    assert owner.address() == before
    # The pool has moved: what is renewed is refused, and another address is had.
    server.stop()
    server.start(first="10.0.0.100", last="10.0.0.110", seconds=4)
    until(lambda: owner.has_all() and owner.address() == "10.0.0.100/24", "another address")
    until(lambda: owner.routes().get(HOST) == "10.0.0.1", "the route to the host")


def test_a_killed_one_leaves_the_lease_its_time_and_the_next_goes_on(cable: Cable, server: Isc, owner: Owner) -> None:
    server.start(seconds=8)
    until(owner.has_all, "address and routes")
    address = owner.address()
    owner.kill()
    assert owner.has_all()
    owner.start()
    until(lambda: owner.agentctl("show").get("leases"), "the next one to have the lease")
    assert owner.address() == address
    # Without anybody it passes, as the server counts on: the kernel sees to it.
    owner.kill()
    until(owner.has_nothing, "the kernel to drop what has passed")


@pytest.mark.parametrize("answers", [True, False])
def test_a_restart_takes_nothing_away_whether_the_server_answers_or_not(
    cable: Cable, server: Isc, owner: Owner, answers: bool
) -> None:
    server.start()
    until(owner.has_all, "address and routes")
    until(lambda: owner.agentctl("show").get("leases"), "it to be told")
    command = cable.vm_command("stdbuf", "-oL", "ip", "-o", "monitor", "route", "address")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as monitor:
        owner.kill()
        if not answers:
            server.stop()
        owner.start()
        until(lambda: owner.agentctl("show").get("leases"), "the next one to have the lease")
        cable.in_vm("ip route add 10.99.0.0/16 dev eth0")
        assert monitor.stdout is not None
        said = []
        for line in monitor.stdout:
            said.append(line)
            if "10.99.0.0/16" in line:
                break
        monitor.kill()
    assert not [line for line in said if "Deleted" in line], said
    assert owner.has_all()


def test_off_gives_back_the_lease_and_leaves_nothing(cable: Cable, server: Isc, owner: Owner) -> None:
    server.start()
    until(owner.has_all, "address and routes")
    until(lambda: "azvmagent" in cable.in_vm("nft list tables"), "the firewall")
    told = owner.agentctl("off")
    assert told["mode"] == "off"
    assert owner.has_nothing()
    assert cable.in_vm("nft list tables") == ""
    until(lambda: "binding state free" in server.leases(), "the server to have it back")
    assert owner.agentctl("on")["problems"] == []
    until(owner.has_all, "all to be back")


def test_a_network_that_is_not_azures_is_left_alone(cable: Cable, server: Isc, owner: Owner, places: Places) -> None:
    """Mode auto asks on a bare NIC, and believes only who names a WireServer."""
    owner.kill()
    places.config.write_text('[netagent]\nmode = "auto"\n')
    server.start()
    configuration = server.configuration()
    server.stop()
    server.serve(configuration.replace("option wireserver 168.63.129.16;", ""))
    owner.start()
    until(lambda: "option 245" in str(owner.agentctl("show").get("problems")), "the lease to be refused")
    assert owner.has_nothing()
