"""netagent in a VM whose network somebody else manages: it finds out who, and the lease."""

import pytest

from tests.vm.conftest import MakeMachine
from tests.vm.machine import MANAGERS, PLATFORM, WIRESERVER, Manager

RESOLVERS = {"networkd": "systemd-resolved", "NetworkManager": "NetworkManager", "ifupdown": "file"}


@pytest.mark.parametrize("manager", MANAGERS)
def test_finds_the_resolver_and_the_lease(boot: MakeMachine, manager: Manager) -> None:
    machine = boot(manager)
    agent = machine.netagent('mode = "observe"')
    seen = agent.sees(lambda seen: seen.wireserver.found_in == "lease", "the WireServer of the lease")
    assert seen.wireserver.url == f"http://{WIRESERVER}"
    assert seen.resolver.manager == RESOLVERS[manager]
    assert {route.destination.removesuffix("/32") for route in seen.routes} >= PLATFORM
    assert seen.mode == "observe"


def test_finds_openresolv_that_a_dhcp_client_uses(boot: MakeMachine) -> None:
    agent = boot("ifupdown", openresolv=True).netagent('mode = "observe"')
    seen = agent.sees(lambda seen: seen.wireserver.found_in == "lease", "the WireServer of the lease")
    assert (seen.resolver.manager, seen.resolver.nameservers) == ("resolvconf", [WIRESERVER])
