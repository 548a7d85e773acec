"""What netagent does besides looking: leases of its own, what instance metadata says, and whether the host answers."""

import asyncio
import logging
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

from ipc.component import Component
from ipc.contract.netagent import FirewallView, LeaseChanged, LeaseView, ProbeView
from ipc.record import Emitter
from netagent.agent import NetAgent
from netagent.config import Settings
from netagent.dhcp.client import DhcpSettings
from netagent.dhcp.lease import Lease
from netagent.hostname import host_name, host_names
from netagent.imds import ImdsError, ask_imds
from netagent.own import Clients, seconds_left
from netagent.reconcile import Reconciler
from netagent.services import Services
from netagent.watch import Picture

_ASLEEP_SECONDS = 5.0
_HOST_SECONDS = 60.0

logger = logging.getLogger("netagent")


class Duties:
    """Owns the parts and joins them to the agent that looks."""

    def __init__(
        self,
        component: Component,
        settings: Settings,
        emitter: Emitter,
        agent: NetAgent,
        *,
        state: Path,
        imds: str,
        local: bool,
    ) -> None:
        """`state` is netagent's folder, `imds` the service's base URL; `local`: the host is named by configuration."""
        self._component = component
        self._settings = settings
        self._emitter = emitter
        self._agent = agent
        self._imds = imds
        self._offset = _suspended()
        self._reconciler = Reconciler(
            settings,
            emitter,
            kept=state / "network.json",
            host_elsewhere=local,
            wireserver=lambda: agent.url,
            wake=agent.wake,
        )
        self._clients = Clients(
            state,
            lambda: DhcpSettings(arp_probe=settings.arp_probe, host_name=host_name()),
            accepts=self._reconciler.accepts,
            configure=self._reconciler.leased,
            changed=self._lease_changed,
        )
        self._reconciler.lease_by(self._clients)
        self._services = Services(component, settings, emitter, self._reconciler, state=state, local=local)
        agent.keep_up(self._reconciler, self)

    def loops(self) -> list[Coroutine[Any, Any, None]]:
        """Run for ever."""
        return [self._ask_host(), self._ask_metadata(), self._follow_host_name(), *self._services.loops()]

    def problems(self) -> list[str]:
        """What a person should know."""
        return [*self._clients.problems.values(), *self._services.problems]

    def ailments(self) -> list[str]:
        """Without a lease there is no network; the rest is told, and left to people."""
        return list(self._clients.problems.values())

    def probes(self) -> list[ProbeView]:
        """Each port of the goal state."""
        return self._services.probes()

    async def firewall(self) -> FirewallView | None:
        """Our table."""
        return await self._services.firewall()

    async def off(self) -> list[str]:
        """Take back what is not the reconciler's; what could not be."""
        return await self._services.off()

    async def look(self, picture: Picture) -> None:
        """After each look."""
        offset = _suspended()
        if offset - self._offset > _ASLEEP_SECONDS:
            self._emitter.emit("Network", f"the machine slept for {offset - self._offset:.0f} s")
            self._clients.resumed()
        self._offset = offset
        primary = self._reconciler.primary
        link = primary.name if primary is not None else ""
        self._services.look(picture, self._agent.url, self._clients.leases.get(link), link)
        await self._services.names()

    def leases(self) -> list[LeaseView]:
        """Our own."""
        return [
            LeaseView(
                link=link,
                source="netagent",
                address=f"{one.address}/{one.prefix}",
                wireserver=one.wireserver,
                state=self._clients.state(link),
                server=one.server,
                seconds=one.seconds,
                seconds_left=seconds_left(one),
            )
            for link, one in self._clients.leases.items()
        ]

    def _lease_changed(self, link: str, lease: Lease | None, why: str) -> None:
        address = f"{lease.address}/{lease.prefix}" if lease is not None else ""
        self._component.announce(LeaseChanged(link=link, address=address, why=why))
        self._emitter.emit("Lease", f"{link}: {address or 'no lease'}: {why}", ok=lease is not None)
        self._agent.wake()

    async def _follow_host_name(self) -> None:
        """The tenant's DNS has the name of the last DHCPREQUEST: tell a new one at once, the NIC stays up."""
        told = ""
        try:
            async for name in host_names():
                if told and name != told and self._reconciler.mode == "own":
                    self._emitter.emit("HostName", f"{name} is told to the DHCP server")
                    self._clients.publish(name)
                told = name
        except OSError as error:
            logger.warning("changes of the host name are not heard: %s", error)

    async def _ask_host(self) -> None:
        while True:
            await self._reconciler.writing.wait()
            await self._reconciler.check_host()
            await asyncio.sleep(_HOST_SECONDS)

    async def _ask_metadata(self) -> None:
        """Only who delegates needs it."""
        told = ""
        while True:
            await self._reconciler.writing.wait()
            if self._reconciler.mode == "delegate":
                try:
                    self._reconciler.told(await asyncio.to_thread(ask_imds, self._imds))
                    told = ""
                except ImdsError as error:
                    if str(error) != told:
                        logger.warning("%s", error)
                    told = str(error)
            await asyncio.sleep(_HOST_SECONDS)


def _suspended() -> float:
    """Seconds this machine has slept since it booted: only one of the two clocks goes on meanwhile."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)
