"""netagent in a namespace: changes are noticed at once, also those the kernel does not announce, also in floods."""

import asyncio
import json
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ipc.bus import Bus
from ipc.component import Component
from ipc.contract.every import Health, HealthReport, Hello
from ipc.contract.netagent import GetNetwork, Network, NetworkChanged, WireServerFound, WireServerState
from ipc.contract.telemetry import Entry
from ipc.errors import NoAnswer, Refused
from ipc.hostaddress import wireserver_state
from ipc.places import Places
from ipc.record import Emitter
from netagent.agent import NetAgent
from netagent.config import Settings
from netagent.watch import LeaseFiles

LEASE = b"""lease {
  option unknown-245 a:0:0:9;
  expire never;
}
"""


async def network(bus: Bus) -> Network | None:
    try:
        return await bus.ask(GetNetwork(), within=5.0)
    except (NoAnswer, Refused):
        return None


def names(found: Network) -> set[str]:
    return {one.name for one in found.links}


def destinations(found: Network) -> set[str]:
    return {one.destination for one in found.routes}


class Child:
    """netagent as a process in a namespace. Only the kernel wakes it: its own look comes once an hour."""

    def __init__(self, places: Places, namespace: Any, until: Callable[..., Any]) -> None:
        self._until = until
        self.events: list[str] = []
        places.config.write_text('[netagent]\nmode = "observe"\nfull_look_period = 3600.0\n')
        self.bus = Bus(places, "test", "0")
        self.bus.on(Hello, lambda _: self.events.append("hello"), of="netagent")
        self.bus.on(NetworkChanged, lambda _: self.events.append("changed"))
        self.bus.on(WireServerFound, lambda event: self.events.append(f"{event.url} by {event.found_in}"))
        self.process: subprocess.Popen[bytes] = namespace.netagent(places)

    async def sees(self, condition: Callable[[Network], bool]) -> Network:
        async def look() -> Network | None:
            assert self.process.poll() is None, "netagent has ended"
            found = await network(self.bus)
            return found if found is not None and condition(found) else None

        seen: Network = await self._until(look)
        return seen

    def end(self) -> None:
        self.bus.close()
        self.process.kill()
        self.process.wait()


@pytest.fixture
def inside(places: Places, namespace: Any, until: Callable[..., Any]) -> Any:
    @asynccontextmanager
    async def start() -> AsyncIterator[Child]:
        namespace.ip(
            "link add eth0 type veth peer name peer0",
            "address add 10.0.0.4/24 dev eth0",
            "link set peer0 up",
            "link set eth0 up",
            "route add default via 10.0.0.1",
        )
        child = Child(places, namespace, until)
        try:
            await child.sees(lambda seen: "default" in destinations(seen))
            # Whoever listens is greeted: from now on no event is missed.
            await until(lambda: "hello" in child.events)
            yield child
        finally:
            child.end()

    return start


def test_routes_addresses_and_links_come_and_go(inside: Any, namespace: Any, until: Callable[..., Any]) -> None:
    async def run() -> None:
        async with inside() as child:
            namespace.ip("route add 10.5.0.0/16 via 10.0.0.1 metric 7")
            seen = await child.sees(lambda seen: "10.5.0.0/16" in destinations(seen))
            (route,) = [one for one in seen.routes if one.destination == "10.5.0.0/16"]
            assert (route.gateway, route.link, route.metric) == ("10.0.0.1", "eth0", 7)
            namespace.ip("route del 10.5.0.0/16")
            await child.sees(lambda seen: "10.5.0.0/16" not in destinations(seen))
            namespace.ip("address add fd00::4/64 dev eth0")
            await child.sees(lambda seen: "fd00::4/64" in {one.address for one in seen.addresses})
            namespace.ip("address del fd00::4/64 dev eth0")
            await child.sees(lambda seen: "fd00::4/64" not in {one.address for one in seen.addresses})
            namespace.ip("link add br7 type bridge", "link set br7 mtu 1400 up")
            await child.sees(lambda seen: any((one.name, one.mtu) == ("br7", 1400) for one in seen.links))
            namespace.ip("link del br7")
            await child.sees(lambda seen: "br7" not in names(seen))
            await until(lambda: "changed" in child.events)

    asyncio.run(run())


def test_a_renamed_interface_carries_its_routes_along(inside: Any, namespace: Any) -> None:
    async def run() -> None:
        async with inside() as child:
            namespace.ip("link set eth0 down", "link set eth0 name wan0", "link set wan0 up")
            namespace.ip("route add default via 10.0.0.1")
            seen = await child.sees(lambda seen: "wan0" in names(seen) and "default" in destinations(seen))
            assert "eth0" not in names(seen)
            assert {one.link for one in seen.routes if one.destination == "default"} == {"wan0"}
            assert ("wan0", "10.0.0.4/24") in {(one.link, one.address) for one in seen.addresses}

    asyncio.run(run())


@pytest.mark.parametrize("how", ["link set eth0 down", "address del 10.0.0.4/24 dev eth0", "link del eth0"])
def test_routes_that_vanish_unannounced_are_missed(inside: Any, namespace: Any, how: str) -> None:
    """The kernel sends no RTM_DELROUTE for the routes that go with a link or an address."""

    async def run() -> None:
        async with inside() as child:
            namespace.ip(how)
            seen = await child.sees(lambda seen: "default" not in destinations(seen))
            assert ("eth0" in names(seen)) is (how != "link del eth0")

    asyncio.run(run())


def test_a_route_to_the_well_known_address_is_found_written_down_and_said(
    inside: Any, namespace: Any, places: Places, until: Callable[..., Any]
) -> None:
    async def run() -> None:
        async with inside() as child:
            seen = await child.sees(lambda seen: seen.wireserver.found_in == "default")
            namespace.ip("route add 168.63.129.16/32 via 10.0.0.1 dev eth0")
            seen = await child.sees(lambda seen: seen.wireserver.found_in == "route")
            assert seen.wireserver.detail == "168.63.129.16/32 via 10.0.0.1 dev eth0"
            kept = msgspec.json.decode(wireserver_state(places).read_bytes(), type=WireServerState)
            assert kept == seen.wireserver
            namespace.ip("route del 168.63.129.16/32")
            await child.sees(lambda seen: seen.wireserver.found_in == "default")
            await until(lambda: "http://168.63.129.16 by default" in child.events)

    asyncio.run(run())


FLOOD = 20_000


def routes(command: str) -> str:
    return "".join(
        f"route {command} 10.{64 + n // 65536}.{n // 256 % 256}.{n % 256}/32 dev eth0\n" for n in range(FLOOD)
    )


def test_a_flood_is_survived_and_what_is_true_behind_it_is_seen(inside: Any, namespace: Any) -> None:
    async def run() -> None:
        async with inside() as child:
            for command in ("add", "del"):
                flood = asyncio.create_task(asyncio.to_thread(namespace.batch, routes(command)))
                while not flood.done():
                    health = await child.bus.ask(Health(), to="netagent", within=20.0)
                    assert health.state in {"ok", "degraded"}
                await flood
                # The reply names 400 routes; the last one is 10.64.78.31.
                await child.sees(lambda seen, command=command: (len(seen.routes) == 400) is (command == "add"))
            namespace.ip("link add br7 type bridge")
            await child.sees(lambda seen: "br7" in names(seen))
            assert (await child.bus.ask(Health(), to="netagent")).state == "ok"

    asyncio.run(run())


def test_an_overrun_queue_costs_nothing(inside: Any, namespace: Any) -> None:
    async def run() -> None:
        async with inside() as child:
            # Asleep, it reads nothing: the kernel's queue to it runs over.
            child.process.send_signal(signal.SIGSTOP)
            namespace.batch(routes("add"))
            namespace.batch(routes("del"))
            namespace.ip("link add br7 type bridge")
            child.process.send_signal(signal.SIGCONT)
            await child.sees(lambda seen: "br7" in names(seen))
            namespace.ip("link del br7")
            await child.sees(lambda seen: "br7" not in names(seen))

    asyncio.run(run())


# -- in this loop: files -----------------------------------------------------------------------------------------------


class Inside:
    """NetAgent on files of the test's own, looking all the time."""

    def __init__(self, component: Component, places: Places, root: Path, configured: str) -> None:
        self.emitted = Emitted(places)
        emitter = Emitter(places, component.bus, "netagent", "1", str)
        self.agent = NetAgent(
            component,
            Settings(mode="observe", full_look_period=0.05),
            emitter,
            configured=configured,
            state_file=wireserver_state(places),
            resolv_conf=root / "etc/resolv.conf",
            lease_files=LeaseFiles(root=root),
        )


class Emitted:
    def __init__(self, places: Places) -> None:
        self._folder = places.state_of("netagent") / "entries"

    def of(self, operation: str) -> list[str]:
        lines = b"".join(path.read_bytes() for path in sorted(self._folder.glob("*.jsonl"))).splitlines()
        entries = [msgspec.json.decode(line, type=Entry) for line in lines]
        return [one.message for one in entries if one.operation == operation]


@pytest.fixture
def looking(places: Places, alive: Callable[..., Any], tmp_path: Path) -> Any:
    @asynccontextmanager
    async def start(configured: str = "") -> AsyncIterator[tuple[Bus, Emitted]]:
        component = Component("netagent", "1", places)
        one = Inside(component, places, tmp_path / "root", configured)
        component.answer(GetNetwork, one.agent.get_network)
        async with alive(component, one.agent.observe()):
            yield component.bus, one.emitted

    return start


def lease_file(root: Path, name: str = "dhclient.eth0.leases") -> Path:
    path = root / "root/var/lib/dhcp" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def found_in(bus: Bus, where: str) -> Callable[[], Any]:
    async def look() -> WireServerState | None:
        seen = await network(bus)
        return seen.wireserver if seen is not None and seen.wireserver.found_in == where else None

    return look


def test_a_lease_comes_changes_and_goes(
    looking: Any, places: Places, tmp_path: Path, until: Callable[..., Any]
) -> None:
    async def run() -> None:
        async with looking() as (bus, emitted):
            heard: list[str] = []
            bus.on(WireServerFound, lambda event: heard.append(event.url))
            await until(lambda: network(bus))
            path = lease_file(tmp_path)
            path.write_bytes(LEASE)
            found = await until(found_in(bus, "lease"))
            assert (found.url, found.detail) == ("http://10.0.0.9", str(path))
            assert json.loads(wireserver_state(places).read_bytes())["url"] == "http://10.0.0.9"
            path.write_bytes(LEASE.replace(b"a:0:0:9", b"a:0:0:7"))

            async def changed() -> bool:
                return bool((await until(found_in(bus, "lease"))).url == "http://10.0.0.7")

            await until(changed)
            path.unlink()

            async def gone() -> bool:
                return bool((await network(bus)).wireserver.found_in != "lease")  # type: ignore[union-attr]  # it answers

            await until(gone)
            await until(lambda: "http://168.63.129.16" in heard)
            assert f"http://10.0.0.9 by lease: {path}" in emitted.of("WireServer")
            assert f"1 leases: {path}" in emitted.of("Network")

    asyncio.run(run())


def test_the_next_one_knows_what_was_found_and_says_nothing_new(
    looking: Any, places: Places, tmp_path: Path, until: Callable[..., Any]
) -> None:
    async def run() -> list[str]:
        async with looking() as (bus, emitted):
            await until(found_in(bus, "lease"))
            return list(emitted.of("WireServer"))

    lease_file(tmp_path).write_bytes(LEASE)
    assert len(asyncio.run(run())) == 1
    assert len(asyncio.run(run())) == 1
    wireserver_state(places).write_bytes(b"{damaged")
    assert len(asyncio.run(run())) == 2
    assert json.loads(wireserver_state(places).read_bytes())["url"] == "http://10.0.0.9"


def test_a_bad_lease_file_is_said_once(
    looking: Any, tmp_path: Path, until: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        async with looking() as (bus, emitted):
            first = await until(lambda: network(bus))
            lease_file(tmp_path, "dhclient.bad.leases").write_bytes(LEASE.replace(b"a:0:0:9", b"rubbish"))
            await until(lambda: emitted.of("Network"))

            async def looked_again() -> bool:
                return bool((await network(bus)).observed_at > first.observed_at + 0.5)  # type: ignore[union-attr]  # it answers

            await until(looked_again)
            (told,) = emitted.of("Network")
            assert "dhclient.bad.leases is passed over: option 245 is 'rubbish'" in told

    asyncio.run(run())
    assert caplog.text.count("passed over") == 1


def test_a_state_file_that_cannot_be_written_is_said_and_tried_again(
    looking: Any, places: Places, tmp_path: Path, until: Callable[..., Any]
) -> None:
    in_the_way = wireserver_state(places)
    in_the_way.mkdir(parents=True)
    (in_the_way / "full").touch()
    lease_file(tmp_path).write_bytes(LEASE)

    async def run() -> None:
        async with looking() as (bus, emitted):
            assert (await until(found_in(bus, "lease"))).url == "http://10.0.0.9"

            async def health() -> HealthReport:
                report: HealthReport = await bus.ask(Health(), to="netagent")
                return report

            async def degraded() -> bool:
                return (await health()).state == "degraded"

            await until(degraded)
            assert "wireserver.json cannot be written" in (await health()).what
            assert (await network(bus)) is not None
            (in_the_way / "full").unlink()
            in_the_way.rmdir()

            async def well() -> bool:
                return (await health()).state == "ok"

            await until(well)
            assert json.loads(in_the_way.read_bytes())["url"] == "http://10.0.0.9"
            assert len(emitted.of("WireServer")) >= 1

    asyncio.run(run())


def test_the_resolver_is_watched_too(looking: Any, tmp_path: Path, until: Callable[..., Any]) -> None:
    async def run() -> None:
        async with looking("http://127.0.0.1:1") as (bus, emitted):
            assert (await until(found_in(bus, "configuration"))).url == "http://127.0.0.1:1"
            path = tmp_path / "root/etc/resolv.conf"
            path.parent.mkdir(parents=True)
            path.write_text("nameserver 168.63.129.16\n")
            await until(lambda: "resolver file 168.63.129.16" in emitted.of("Network"))

    asyncio.run(run())


def test_before_the_first_look_the_answer_is_not_now(places: Places, alive: Callable[..., Any], tmp_path: Path) -> None:
    async def run() -> None:
        component = Component("netagent", "1", places)
        one = Inside(component, places, tmp_path, "")
        component.answer(GetNetwork, one.agent.get_network)
        async with alive(component):
            with pytest.raises(Refused, match="not-now"):
                await component.bus.ask(GetNetwork())

    asyncio.run(run())
