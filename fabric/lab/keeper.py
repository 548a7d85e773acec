"""The process a lab is: the first of its pid namespace, so that all of the lab ends with it, however it ends."""

import asyncio
import contextlib
import functools
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import msgspec

from fabric.errors import FabricError
from fabric.lab import orders, parts
from fabric.lab.namespaces import inside, new_network, without_ipv6, without_offload
from fabric.lab.plan import (
    HOST,
    Fault,
    Plan,
    Tenant,
    Vm,
    dnsmasq_configuration,
    dnsmasq_leases,
    host_lines,
    panel_lines,
    relay_ends,
    relay_in,
    relay_out,
    relay_pieces,
    resolver,
    vm_lines,
)
from fabric.lab.probe import Probe, Seen, probing

_POLITE = 5.0
_order = msgspec.json.Decoder(orders.Order)


class _Probing(msgspec.Struct):
    probe: Probe
    task: asyncio.Task[None]
    seen: Seen = Seen()


class _Vm(msgspec.Struct):
    """One VM as it is."""

    vm: Vm
    part: parts.Part | None = None
    link: bool = True
    fault: Fault | None = None
    relay: parts.Part | None = None
    probes: dict[int, _Probing] = {}


class Keeper:
    """Builds a lab and answers orders about it."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self._plan = plan
        self._folder = folder
        self._panel = -1
        self._namespaces: dict[str, int] = {}
        self._vms = {one.name: _Vm(one) for one in plan.vms}
        self._dnsmasq: dict[str, parts.Part] = {}
        self._host: parts.Part | None = None
        self._changing = asyncio.Lock()
        self.ended = asyncio.Event()

    async def build(self) -> None:
        """All of it. Raises FabricError."""
        plan = self._plan
        say(f"network: {len(plan.tenants)} tenants, {len(plan.vms)} VMs")
        self._panel = new_network()
        inside(self._panel, without_ipv6)
        hosts = [f"{HOST}@{one.name}" for one in plan.tenants]
        self._namespaces = {name: new_network() for name in (*hosts, *self._vms)}
        paths = {name: f"/proc/self/fd/{one}" for name, one in self._namespaces.items()}
        await parts.ip(self._panel, panel_lines(plan, paths), list(self._namespaces.values()))
        for name, namespace in self._namespaces.items():
            inside(namespace, functools.partial(without_offload, "eth0" if name in self._vms else "lan0"))
        (self._folder / "layers").mkdir(exist_ok=True)
        say("DHCP, DNS and VMs")
        await asyncio.gather(*(parts.ip(self._host_side(one), host_lines()) for one in plan.tenants))
        tenants = (self._start_tenant(one) for one in plan.tenants)
        await asyncio.gather(*tenants, *map(self._start_vm, self._vms.values()), self._start_host())

    def _host_side(self, tenant: Tenant) -> int:
        return self._namespaces[f"{HOST}@{tenant.name}"]

    async def _start_tenant(self, tenant: Tenant) -> None:
        files = dnsmasq_configuration(self._plan, tenant), dnsmasq_leases(self._plan, tenant)
        started = await parts.start_dnsmasq(self._host_side(tenant), self._folder, tenant.name, *files)
        self._dnsmasq[tenant.name] = started

    async def _start_host(self) -> None:
        if self._plan.host:
            doors = {one.name: self._host_side(one) for one in self._plan.tenants}
            self._host = await parts.start_host(self._folder, doors)

    async def _restart_host(self) -> None:
        if self._host is None:
            raise FabricError(f"lab {self._plan.name} was built with --no-host")
        await self._host.end(politely=_POLITE)
        await self._start_host()

    async def _start_vm(self, one: _Vm) -> None:
        namespace = self._namespaces[one.vm.name]
        await parts.ip(namespace, vm_lines(self._plan, one.vm))
        one.part = await parts.start_vm(namespace, self._folder, one.vm.name, resolver(self._plan, one.vm))

    async def close(self) -> None:
        """Let the host keep its state; the kernel does the rest when this process ends."""
        if self._host is not None:
            await self._host.end(politely=_POLITE)

    async def obey(self, order: orders.Order) -> Any:
        """Raises FabricError."""
        match order:
            case orders.Show():
                return self._show()
            case orders.Down():
                self.ended.set()
                return None
            case orders.Where(name=name):
                return self._where(name)
            case orders.Restart():
                async with self._changing:
                    await self._restart_host()
                return None
        one = self._vms[self._plan.vm(order.vm).name]
        async with self._changing:
            match order:
                case orders.SetFault(fault=fault):
                    await self._set_fault(one, fault)
                case orders.SetLink(up=up):
                    await parts.ip(self._panel, [f"link set {relay_ends(one.vm)[0]} {'up' if up else 'down'}"])
                    one.link = up
                case orders.SetProbe(probe=probe, remove=remove):
                    await self._set_probe(one, probe, remove=remove)
        return None

    def _where(self, name: str) -> int:
        if name.partition("@")[0] == HOST:
            return self._dnsmasq[self._plan.tenant(name).name].process.pid
        one = self._vms[self._plan.vm(name).name]
        if one.part is None or not one.part.lives:
            raise FabricError(f"VM {one.vm.name} does not run; see {self._folder}/{one.vm.name}.log")
        return one.part.first_pid

    async def _set_fault(self, one: _Vm, fault: Fault | None) -> None:
        vm = one.vm
        if one.relay is None and fault is not None:
            await parts.ip(self._panel, relay_pieces(vm))
        before, one.relay = one.relay, None
        if fault is not None:
            if before is not None:
                await before.end()
            try:
                one.relay = await parts.start_relay(self._panel, self._folder, relay_ends(vm), fault)
            except (parts.PartFailed, OSError):
                await parts.ip(self._panel, relay_out(self._plan, vm))
                one.fault = None
                raise
            if before is None:
                await parts.ip(self._panel, relay_in(self._plan, vm))
        elif before is not None:
            await parts.ip(self._panel, relay_out(self._plan, vm))
            await before.end()
        one.fault = fault

    async def _set_probe(self, one: _Vm, probe: Probe, *, remove: bool) -> None:
        before = one.probes.pop(probe.port, None)
        if before is not None:
            before.task.cancel()
        elif remove:
            raise FabricError(f"port {probe.port} of {one.vm.name} is not probed")
        if not remove:
            task = asyncio.create_task(self._probe(one, probe))
            one.probes[probe.port] = _Probing(probe, task)

    async def _probe(self, one: _Vm, probe: Probe) -> None:
        async for seen in probing(self._namespaces[f"{HOST}@{one.vm.tenant}"], one.vm.address, probe):
            one.probes[probe.port].seen = seen

    def _show(self) -> dict[str, Any]:
        return {
            "name": self._plan.name,
            "folder": str(self._folder),
            "static": self._plan.static,
            "host": _word(self._host) if self._plan.host else None,
            "tenants": [self._show_tenant(one) for one in self._plan.tenants],
            "vms": [self._show_vm(one) for one in self._vms.values()],
        }

    def _show_tenant(self, tenant: Tenant) -> dict[str, Any]:
        state = _word(self._dnsmasq.get(tenant.name))
        return {"name": tenant.name, "domain": tenant.domain, "dhcp_and_dns": state}

    def _show_vm(self, one: _Vm) -> dict[str, Any]:
        return {
            "name": one.vm.name,
            "tenant": one.vm.tenant,
            "address": one.vm.address,
            "mac": one.vm.mac,
            "state": _word(one.part),
            "link": "up" if one.link else "down",
            "fault": one.fault,
            "relay": _word(one.relay) if one.fault else None,
            "probes": [
                {"port": port, "http": found.probe.http, **msgspec.structs.asdict(found.seen)}
                for port, found in one.probes.items()
            ],
        }


def _word(part: parts.Part | None) -> str:
    if part is None:
        return "not there"
    return "running" if part.lives else f"ended with {part.process.returncode}"


async def _answer(keeper: Keeper, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        answer = orders.Answer(value=await keeper.obey(_order.decode(await reader.readline())))
    except (msgspec.DecodeError, ValueError) as error:
        answer = orders.Answer(error=f"not an order: {error}", exit_status=2)
    except FabricError as error:
        answer = orders.Answer(error=str(error), exit_status=error.exit_status)
    except OSError as error:
        answer = orders.Answer(error=f"{error.filename or 'the lab'}: {error.strerror}", exit_status=1)
    with contextlib.suppress(ConnectionError):
        writer.write(msgspec.json.encode(answer) + b"\n")
        await writer.drain()
    writer.close()


def say(doing: str) -> None:
    """To who builds the lab."""
    _tell(orders.Progress(doing=doing))


def _tell(progress: orders.Progress) -> None:
    os.write(sys.stdout.fileno(), msgspec.json.encode(progress) + b"\n")


def _listening(folder: Path) -> socket.socket:
    """By a short name, since a socket's is limited to 107 bytes."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    one = socket.socket(socket.AF_UNIX)
    one.bind(f"/proc/self/fd/{descriptor}/control")
    one.listen(64)
    os.close(descriptor)
    return one


async def _keep(plan: Plan, folder: Path) -> int:
    keeper = Keeper(plan, folder)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, keeper.ended.set)
    server = await asyncio.start_unix_server(lambda *ends: _answer(keeper, *ends), sock=_listening(folder))
    building = asyncio.create_task(keeper.build())
    ending = asyncio.create_task(keeper.ended.wait())
    await asyncio.wait({building, ending}, return_when=asyncio.FIRST_COMPLETED)
    try:
        if not building.done():
            return 1
        try:
            await building
        except FabricError as error:
            _tell(orders.Progress(error=str(error)))
            return 1
        _tell(orders.Progress(ready=True))
        # Who asked for the lab may be gone by now: then nobody wants it.
        if await asyncio.to_thread(sys.stdin.readline) != "stay\n":
            return 1
        null = os.open(os.devnull, os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        await ending
        return 0
    finally:
        await keeper.close()
        server.close()


def main() -> None:
    """`python -m fabric.lab.keeper FOLDER`, with the plan as a line of standard input."""
    plan = msgspec.json.decode(sys.stdin.readline(), type=Plan)
    status = asyncio.run(_keep(plan, Path(sys.argv[1])))
    # Threads that wait for children or for a line are of no interest any more.
    os._exit(status)


if __name__ == "__main__":
    main()
