"""What managers do about lost routes without us: this is why `repair` is there."""

from tests.vm.conftest import MakeMachine
from tests.vm.machine import MANAGERS, WIRESERVER, Machine


def lost(machine: Machine) -> Machine:
    machine.ip("route", "delete", WIRESERVER)
    return machine


def test_with_a_short_lease_two_managers_repair_at_the_next_renewal_and_ifupdown_never(boot: MakeMachine) -> None:
    machines = {manager: lost(boot(manager, "short")) for manager in MANAGERS}
    given = {manager: machine.acknowledged() for manager, machine in machines.items()}
    for manager, machine in machines.items():
        machine.until(lambda: machine.acknowledged() >= given[manager] + 2, "two renewals")  # noqa: B023 - called here
        if manager == "ifupdown":
            assert WIRESERVER not in machine.routes(), machine.manager
        else:
            machine.until(machine.leased, "the route")


def test_with_an_endless_lease_nobody_does_anything(boot: MakeMachine) -> None:
    machines = [lost(boot(manager, "endless")) for manager in MANAGERS]
    changes = [machine.watch_routes() for machine in machines]
    # Five seconds of the kernel's clock in all of them at once; the facts say the same of 45.
    machines[0].attempt("timeout", "5", "ip", "monitor", "link")
    for machine, seen in zip(machines, changes, strict=True):
        assert [line for line in seen() if "." in line] == []
        assert WIRESERVER not in machine.routes(), machine.manager
