"""netagent beside a real manager: what the manager loses is put back, and they never fight."""

import pytest

from tests.vm.conftest import MakeMachine
from tests.vm.machine import ADDRESS, MANAGERS, PLATFORM, WIRESERVER, Machine, Manager

OURS = "168"
RESTART = {
    "networkd": ("systemctl", "restart", "systemd-networkd"),
    "NetworkManager": ("systemctl", "restart", "NetworkManager"),
    "ifupdown": ("systemctl", "restart", "networking"),
}
RENEW = {
    "networkd": ("networkctl", "renew", "eth0"),
    "NetworkManager": ("nmcli", "device", "reapply", "eth0"),
    "ifupdown": ("sh", "-c", "ifdown eth0; ifup eth0"),
}


def ours(machine: Machine) -> list[str]:
    """Where our routes lead."""
    return sorted(route["dst"] for route in machine.ip("-4", "route", "show", "table", "all", "proto", OURS))


def lose(machine: Machine, *destinations: str) -> None:
    for destination in destinations:
        machine.ip("route", "delete", destination)


@pytest.mark.parametrize("manager", MANAGERS)
def test_lost_routes_come_back_though_the_lease_is_endless(boot: MakeMachine, manager: Manager) -> None:
    machine = boot(manager)
    agent = machine.netagent()
    seen = agent.sees(lambda seen: seen.mode == "repair" and seen.reachable is True, "mode repair")
    assert seen.primary == "eth0"
    assert ours(machine) == []
    lose(machine, *sorted(PLATFORM))
    machine.until(machine.leased, "the routes")
    machine.run("ping", "-c", "1", "-W", "5", WIRESERVER)
    assert agent.held() == []


@pytest.mark.parametrize("manager", MANAGERS)
def test_a_restarted_or_renewing_manager_is_not_fought(boot: MakeMachine, manager: Manager) -> None:
    machine = boot(manager)
    agent = machine.netagent()
    agent.sees(lambda seen: seen.mode == "repair" and seen.reachable is True, "mode repair")
    writes = machine.watch_routes()
    lose(machine, WIRESERVER)
    machine.until(machine.leased, "the route")
    for command in (RENEW[manager], RESTART[manager]):
        machine.run(*command)
        machine.until(machine.leased, f"the routes after {command}")
    machine.until(lambda: ours(machine) == [], "the end of ours beside the manager's own")
    assert machine.leased()
    # Twelve when each of the manager's steps is met at once; a fight has no end.
    assert 1 <= len([line for line in writes() if f"proto {OURS}" in line]) <= 30, writes()
    assert agent.held() == []


@pytest.mark.parametrize("manager", MANAGERS)
def test_renewals_change_nothing_of_ours(boot: MakeMachine, manager: Manager) -> None:
    machine = boot(manager, "short")
    agent = machine.netagent()
    agent.sees(lambda seen: seen.mode == "repair" and seen.reachable is True, "mode repair")
    writes = machine.watch_routes()
    lose(machine, WIRESERVER)
    machine.until(machine.leased, "the route")
    given = machine.acknowledged()
    machine.until(lambda: machine.acknowledged() >= given + 2, "two renewals")
    machine.until(machine.leased, "all of the lease")
    assert len([line for line in writes() if f"proto {OURS}" in line]) <= 2, writes()
    assert agent.held() == []


@pytest.mark.parametrize("manager", MANAGERS)
def test_a_lost_address_comes_back(boot: MakeMachine, manager: Manager) -> None:
    machine = boot(manager)
    agent = machine.netagent("address_grace = 1.0")
    agent.sees(lambda seen: seen.mode == "repair" and seen.reachable is True, "mode repair")
    machine.ip("address", "delete", f"{ADDRESS}/24", "dev", "eth0")
    machine.until(machine.leased, "address and routes")
    # Between ours and the manager's own there may be a moment without.
    ping = ("ping", "-c", "1", "-W", "5", WIRESERVER)
    machine.until(lambda: machine.attempt(*ping).returncode == 0, "the host to answer")


@pytest.mark.parametrize("manager", MANAGERS)
def test_a_link_that_was_down_for_a_while(boot: MakeMachine, manager: Manager) -> None:
    machine = boot(manager)
    agent = machine.netagent("address_grace = 1.0")
    agent.sees(lambda seen: seen.mode == "repair" and seen.reachable is True, "mode repair")
    machine.ip("link", "set", "eth0", "down")
    machine.until(lambda: not machine.leased(), "the loss of the routes")
    machine.ip("link", "set", "eth0", "up")
    machine.until(machine.leased, "address and routes")
    assert agent.held() == []


@pytest.mark.parametrize("manager", MANAGERS)
def test_switched_off_nothing_of_ours_is_left(boot: MakeMachine, manager: Manager) -> None:
    machine = boot(manager)
    agent = machine.netagent()
    agent.sees(
        lambda seen: seen.mode == "repair" and seen.firewall is not None and seen.firewall.state == "on", "it to act"
    )
    tables = machine.run("nft", "list", "tables")
    assert tables != ""
    lose(machine, WIRESERVER)
    machine.until(machine.leased, "the route")
    agent.switch(on=False)
    assert ours(machine) == []
    assert machine.run("nft", "list", "tables") == ""
    agent.stop()
    assert machine.addressed()
    assert "default" in machine.routes()


@pytest.mark.parametrize("manager", MANAGERS)
def test_stopped_it_leaves_what_the_lease_wants_and_started_it_takes_its_own_back(
    boot: MakeMachine, manager: Manager
) -> None:
    machine = boot(manager)
    agent = machine.netagent()
    agent.sees(lambda seen: seen.mode == "repair" and seen.reachable is True, "mode repair")
    lose(machine, *sorted(PLATFORM))
    machine.until(machine.leased, "the routes")
    agent.stop()
    assert machine.leased()
    assert set(ours(machine)) <= PLATFORM
    machine.run(*RESTART[manager])
    machine.until(machine.leased, "the routes of the manager")
    agent.start()
    machine.until(lambda: ours(machine) == [], "the end of ours beside the manager's own")
    assert machine.leased()
