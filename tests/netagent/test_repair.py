"""netagent beside whoever configures the NIC: what Azure needs is put back, all else is left alone."""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, Any

import pytest

from ipc.bus import Bus
from ipc.contract.every import Health
from ipc.contract.netagent import GetNetwork, Network, NetworkPlan, PlanNetwork, RepairNetwork, SwitchNetwork
from ipc.errors import NoAnswer, Refused
from ipc.places import Places
from netagent.resolver import read_resolver
from netagent.restraint import TIMES
from netagent.watch import LeaseFiles

HOST, IMDS = "168.63.129.16", "169.254.169.254"
BY_THE_MANAGER = (f"route add {HOST}/32 via 10.0.0.1 proto dhcp", f"route add {IMDS}/32 via 10.0.0.1 proto dhcp")


class Repairer:
    """netagent as a process in a namespace with one NIC, whose manager gave it an address and routes."""

    def __init__(self, places: Places, namespace: Any, until: Callable[..., Any]) -> None:
        self.namespace = namespace
        self._until = until
        self._places = places
        self.bus = Bus(places, "test", "0")
        self.process: subprocess.Popen[bytes] = namespace.netagent(places)

    async def again(self) -> None:
        """After a kill -9."""
        self.process.kill()
        self.process.wait()
        self.process = self.namespace.netagent(self._places)
        await self.sees(lambda _: True)

    async def sees(self, condition: Callable[[Network], bool]) -> Network:
        async def look() -> Network | None:
            assert self.process.poll() is None, "netagent has ended"
            try:
                found = await self.bus.ask(GetNetwork(), within=5.0)
            except (NoAnswer, Refused):
                return None
            return found if condition(found) else None

        seen: Network = await self._until(look)
        return seen

    async def kernel_has(self, expected: set[str]) -> None:
        """Nothing but these of ours."""

        def look() -> bool:
            return {one["dst"] for one in self.ours()} == expected

        await self._until(look)

    def ours(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.namespace.read("route", "show", "proto", "168")
        return found

    def end(self) -> None:
        self.bus.close()
        self.process.kill()
        self.process.wait()


def read_until(output: IO[str], word: str) -> list[str]:
    """All lines before the one with that word in it."""
    said = []
    for line in output:
        if word in line:
            break
        said.append(line)
    return said


@pytest.fixture
def beside(places: Places, namespace: Any, until: Callable[..., Any]) -> Any:
    @asynccontextmanager
    async def start(settings: str = 'mode = "repair"') -> AsyncIterator[Repairer]:
        namespace.ip(
            "link add eth0 type veth peer name peer0",
            "address add 10.0.0.4/24 dev eth0",
            "link set peer0 up",
            "link set eth0 up",
            "route add default via 10.0.0.1 proto dhcp metric 100",
            *BY_THE_MANAGER,
        )
        places.config.write_text(f'[netagent]\nnics = ["eth0"]\naddress_grace = 0.3\n{settings}\n')
        one = Repairer(places, namespace, until)
        try:
            await one.sees(lambda seen: bool(seen.primary))
            yield one
        finally:
            one.end()

    return start


def test_lost_routes_come_back_and_ours_go_when_the_managers_are_there_again(beside: Any, namespace: Any) -> None:
    async def run() -> None:
        async with beside() as one:
            assert one.ours() == []
            namespace.ip(f"route del {HOST}/32")
            await one.kernel_has({HOST})
            namespace.ip(f"route del {IMDS}/32")
            await one.kernel_has({HOST, IMDS})
            namespace.ip("route del default")
            await one.kernel_has({HOST, IMDS, "default"})
            assert {(one["gateway"], one["metric"]) for one in one.ours()} == {("10.0.0.1", 16800)}
            # The manager is back from where it was.
            namespace.ip("route add default via 10.0.0.1 proto dhcp metric 100", *BY_THE_MANAGER)
            await one.kernel_has(set())
            assert len(namespace.read("route", "show", "proto", "16")) == 3

    asyncio.run(run())


def test_what_others_have_is_never_touched(beside: Any, namespace: Any) -> None:
    async def run() -> None:
        async with beside() as one:
            # Wrong in every way, and somebody's own.
            namespace.ip(
                f"route replace {HOST}/32 via 10.0.0.77 proto static",
                "route replace default via 10.0.0.77 proto static metric 5",
                "route add 10.9.0.0/16 via 10.0.0.1 proto 66",
                "address add 10.0.0.44/24 dev eth0",
                "rule add from 10.0.0.44 table 100 priority 50",
            )
            before = namespace.read("route"), namespace.read("rule"), namespace.read("-4", "address")
            await one.sees(lambda seen: any(route.destination == "10.9.0.0/16" for route in seen.routes))
            namespace.ip(f"route del {IMDS}/32")
            await one.kernel_has({IMDS})
            namespace.ip(f"route add {IMDS}/32 via 10.0.0.1 proto dhcp")
            await one.kernel_has(set())
            assert sorted(map(str, namespace.read("route"))) == sorted(map(str, before[0]))
            assert (namespace.read("rule"), namespace.read("-4", "address")) == before[1:]

    asyncio.run(run())


def test_link_flap_and_a_kill_in_between(beside: Any, namespace: Any) -> None:
    """After a flap the kernel has only the connected route; nobody announces what else is gone."""

    async def run() -> None:
        async with beside() as one:
            for _ in range(3):
                namespace.ip("link set eth0 down", "link set eth0 up")
                await one.kernel_has({HOST, IMDS, "default"})
                await one.again()
            seen = await one.sees(lambda seen: seen.mode == "repair")
            assert seen.problems == []

    asyncio.run(run())


def test_a_lost_address_comes_back_as_it_was_after_a_grace(beside: Any, namespace: Any) -> None:
    async def run() -> None:
        async with beside() as one:
            await one.sees(lambda seen: seen.wireserver.found_in == "route")
            namespace.ip("address flush dev eth0")
            await one.kernel_has({HOST, IMDS, "default"})
            (address,) = [
                info
                for info in namespace.read("address", "show", "dev", "eth0")[0]["addr_info"]
                if "." in info["local"]
            ]
            assert (address["local"], address["prefixlen"]) == ("10.0.0.4", 24)
            # The next netagent takes nothing of it away.
            command = namespace.inside("stdbuf", "-oL", "ip", "-o", "monitor", "route", "address")
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as monitor:  # noqa: ASYNC220  # starts at once
                await one.again()
                namespace.ip("route add 10.99.0.0/16 dev eth0")
                assert monitor.stdout is not None
                said = read_until(monitor.stdout, "10.99.0.0/16")
                monitor.kill()
            assert not [line for line in said if "Deleted" in line], said

            async def rests() -> bool:
                """Nothing is announced, so nothing is looked at."""
                before = (await one.bus.ask(GetNetwork())).observed_at
                seen = [(await one.bus.ask(GetNetwork())).observed_at for _ in range(100)]
                return set(seen) == {before}

            await one._until(rests)
            # The manager gives it another one: ours is in nobody's way.
            namespace.ip("address add 10.0.0.5/24 dev eth0", "route add default via 10.0.0.1 proto dhcp metric 100")

            def only_theirs() -> bool:
                (seen,) = namespace.read("-4", "address", "show", "dev", "eth0")
                return [info["local"] for info in seen["addr_info"]] == ["10.0.0.5"]

            await one._until(only_theirs)

    asyncio.run(run())


def test_a_fight_ends_with_a_loud_report(beside: Any, namespace: Any) -> None:
    async def run() -> None:
        async with beside() as one:
            namespace.ip(f"route del {HOST}/32")
            for _ in range(TIMES):
                await one.kernel_has({HOST})
                namespace.ip(f"route del {HOST}/32 proto 168")
            seen = await one.sees(lambda seen: bool(seen.held))
            assert f"add route {HOST}/32 via 10.0.0.1 dev eth0" == seen.held[0].what
            assert "somebody undid it" in seen.held[0].held
            health = await one.bus.ask(Health(), to="netagent")
            assert health.state == "degraded"
            assert "left alone" in health.what
            # All else is repaired as before, and a person may have it at once.
            namespace.ip(f"route del {IMDS}/32")
            await one.kernel_has({IMDS})
            repaired = await one.bus.ask(RepairNetwork())
            assert [change.what for change in repaired.changes] == [f"add route {HOST}/32 via 10.0.0.1 dev eth0"]
            await one.kernel_has({HOST, IMDS})

    asyncio.run(run())


def test_observe_writes_nothing_and_says_what_repair_would(beside: Any, namespace: Any) -> None:
    async def run() -> None:
        async with beside('mode = "observe"\nazure = true') as one:
            namespace.ip(f"route del {HOST}/32")
            await one.sees(lambda seen: not any(route.destination == f"{HOST}/32" for route in seen.routes))
            told: NetworkPlan = await one.bus.ask(PlanNetwork())
            assert told.mode == "observe"
            assert [change.what for change in told.changes] == [f"add route {HOST}/32 via 10.0.0.1 dev eth0"]
            assert "default" in told.changes[0].why
            assert one.ours() == []

    asyncio.run(run())


def test_off_takes_back_all_of_ours_and_lasts_until_on(beside: Any, namespace: Any) -> None:
    async def run() -> None:
        async with beside() as one:
            namespace.ip(f"route del {HOST}/32", f"route del {IMDS}/32")
            await one.kernel_has({HOST, IMDS})
            told: NetworkPlan = await one.bus.ask(SwitchNetwork(on=False))
            assert len(told.changes) == 2
            assert one.ours() == []
            await one.again()
            assert (await one.sees(lambda _: True)).mode == "off"
            assert one.ours() == []
            with pytest.raises(Refused, match="switched off"):
                await one.bus.ask(RepairNetwork())
            await one.bus.ask(SwitchNetwork(on=True))
            await one.kernel_has({HOST, IMDS})

    asyncio.run(run())


def test_auto_is_repair_where_a_route_says_azure_and_observe_where_nothing_does(beside: Any, namespace: Any) -> None:
    async def run() -> None:
        async with beside('mode = "auto"') as one:
            assert (await one.sees(lambda _: True)).mode == "repair"
            namespace.ip(f"route del {HOST}/32", f"route del {IMDS}/32")
            await one.kernel_has({HOST, IMDS})

    asyncio.run(run())


def test_a_machine_elsewhere_is_not_repaired_even_when_asked(beside: Any, namespace: Any) -> None:
    async def run() -> None:
        async with beside('mode = "observe"') as one:
            namespace.ip(f"route del {HOST}/32", f"route del {IMDS}/32")
            await one.sees(lambda seen: not any("/32" in route.destination for route in seen.routes))
            assert (await one.bus.ask(PlanNetwork())).changes == []
            with pytest.raises(Refused, match="azure = true"):
                await one.bus.ask(RepairNetwork())
            assert one.ours() == []

    asyncio.run(run())


def test_an_agent_with_a_host_of_its_own_never_touches_what_another_wrote(beside: Any, namespace: Any) -> None:
    """A checkout on a VM whose agent is at work: `agentctl down` there asks for the same."""
    settings = 'mode = "auto"\n[host]\nwireserver = "http://127.0.0.1:9"'

    async def run() -> None:
        async with beside(settings) as one:
            namespace.ip("route add 10.9.0.0/16 via 10.0.0.1 proto 168", f"route del {HOST}/32")
            for request in (SwitchNetwork(on=False, keep=False), SwitchNetwork(on=False)):
                assert (await one.bus.ask(request)).changes == []
            with pytest.raises(Refused, match="a host of its own"):
                await one.bus.ask(RepairNetwork())
            assert [route["dst"] for route in one.ours()] == ["10.9.0.0/16"]

    asyncio.run(run())


def test_a_link_that_flaps_is_no_fight(beside: Any, namespace: Any) -> None:
    async def run() -> None:
        async with beside() as one:
            for _ in range(TIMES + 5):
                namespace.ip("link set eth0 down")
                await one.kernel_has(set())
                namespace.ip("link set eth0 up")
                await one.kernel_has({HOST, IMDS, "default"})
            assert (await one.sees(lambda _: True)).held == []

    asyncio.run(run())


def test_among_very_many_routes_ours_are_seen(beside: Any, namespace: Any) -> None:
    many = "".join(f"route add 10.{64 + n // 65536}.{n // 256 % 256}.{n % 256}/32 dev eth0\n" for n in range(20_000))

    async def run() -> None:
        async with beside() as one:
            namespace.batch(many)
            namespace.ip(f"route del {HOST}/32")
            await one.kernel_has({HOST})
            namespace.ip(f"route add {HOST}/32 via 10.0.0.1 proto dhcp")
            await one.kernel_has(set())

    asyncio.run(run())


@pytest.mark.parametrize("what", ["mkfifo {}", "rm -f {0} && mkdir {0}", "rm -f {0} && ln -s {0} {0}"])
def test_whatever_stands_where_a_file_should_reading_it_ends(what: str, tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    subprocess.run(what.format(path), shell=True, check=True)  # noqa: S602 - our own words
    assert read_resolver(path).manager == "none"
    leases = tmp_path / "var/lib/dhcp"
    leases.mkdir(parents=True)
    os.mkfifo(leases / "dhclient.eth0.leases")
    found, problems = LeaseFiles(root=tmp_path).read({2: "eth0"}, now=0.0)
    assert (found, len(problems)) == ({}, 1)
