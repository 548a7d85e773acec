"""What netagent does for the VM besides addresses and routes: firewall, probe ports, name servers."""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from ipc.component import Component
from ipc.contract.guestagent import GetStatus, GoalStateArrived, StatusChanged
from ipc.contract.netagent import FirewallView, ProbeView
from ipc.contract.rdagent import GetTruth, TruthChanged
from ipc.errors import FrameError, NoAnswer, Refused
from ipc.record import Emitter
from netagent import nft
from netagent.blocked import blocked
from netagent.config import Settings
from netagent.dhcp.lease import Lease
from netagent.dns.errors import BadWish, DnsError, NotOurs
from netagent.dns.health import check
from netagent.dns.keeper import DnsKeeper
from netagent.dns.wanted import DnsWanted
from netagent.firewall import FirewallError, ruleset
from netagent.kernel import firewall_wakes
from netagent.platform import network_of
from netagent.probe import ProbeResponder
from netagent.reconcile import Reconciler
from netagent.routability import unroutable
from netagent.watch import Picture

_PERIOD = 60.0
_PROBE_PERIOD = 15.0
_UNANSWERED_LIMIT = 1
_BURST = 1.0
_LATELY = 120.0
_ASK_SECONDS = 2.0

logger = logging.getLogger("netagent")


class Services:
    """Owns them. Used from one event loop."""

    def __init__(
        self,
        component: Component,
        settings: Settings,
        emitter: Emitter,
        reconciler: Reconciler,
        *,
        state: Path,
        local: bool,
    ) -> None:
        """`local`: the host is named by configuration, so nothing of this concerns the kernel."""
        self._component = component
        self._settings = settings
        self._emitter = emitter
        self._reconciler = reconciler
        self._local = local
        self._firewall = nft.Firewall()
        self._firewall_state = "off"
        self._dirty = asyncio.Event()
        self._asked = asyncio.Event()
        self._keeper = DnsKeeper(state, own=_is_the_machines())
        self._given: DnsWanted | None = None
        self._restored_at = -_PERIOD
        self._settled = False
        self._lease: Lease | None = None
        self._link = ""
        self._host = ""
        self._responder = ProbeResponder()
        self._unanswered = 0
        self._names_dirty = asyncio.Event()
        self._picture: Picture | None = None
        self._problems: dict[str, list[str]] = {}
        for event in (StatusChanged, GoalStateArrived, TruthChanged):
            component.bus.on(event, lambda _: self._asked.set())

    @property
    def problems(self) -> list[str]:
        """What a person should know."""
        return [line for lines in self._problems.values() for line in lines]

    def loops(self) -> list[Coroutine[Any, Any, None]]:
        """Run for ever."""
        probes = [self._answer_probes()] if self._settings.probe else []
        return [*probes] if self._local else [*probes, self._hear_firewall(), self._keep_firewall(), self._ask_names()]

    def look(self, picture: Picture, wireserver: str, lease: Lease | None, link: str) -> None:
        """After each look at the network."""
        before, self._picture = self._picture, picture
        self._host = urlsplit(wireserver).hostname or ""
        if before is None or before.links != picture.links or self._wanted_state() != self._firewall_state:
            self._dirty.set()
        if before is not None and before != picture:
            self._names_dirty.set()
        self._lease, self._link = lease, link
        primary = self._reconciler.primary
        self._problems["route"] = unroutable(self._reconciler.nics, primary, picture) if self._responder.ports else []

    async def names(self) -> None:
        """Have the lease's name servers in use, in mode own; and not after it."""
        if self._reconciler.mode == "observe" or (self._reconciler.mode == "own" and self._lease is None):
            return
        wanted = self._wished()
        lost = wanted is not None and self._picture is not None and _lacks(self._picture, wanted)
        again = self._settled and wanted == self._given
        if again and not (lost and time.monotonic() - self._restored_at > _PERIOD):
            return
        if again:
            # Seldom: whoever writes it, too, has reasons of his own.
            self._restored_at = time.monotonic()
        self._settled, self._given = True, wanted
        try:
            if wanted is None:
                await asyncio.to_thread(self._keeper.undo)
            else:
                manager = await asyncio.to_thread(self._keeper.apply, wanted)
                self._emitter.emit("Names", f"{' '.join(wanted.nameservers)} by {manager}")
            self._problems["names"] = []
        except NotOurs as error:
            self._problems["names"] = [str(error)]
        except DnsError as error:
            self._problems["names"] = [str(error)]
            self._emitter.emit("Names", str(error), ok=False)

    async def firewall(self) -> FirewallView | None:
        """With what went through it; None where it does not concern us."""
        if self._local:
            return None
        if self._firewall_state != "on":
            return FirewallView(state=self._firewall_state)
        try:
            table = await asyncio.to_thread(nft.found)
        except FirewallError as error:
            return FirewallView(state=str(error)[:300])
        if table is None:
            return FirewallView(state="off")
        return FirewallView(state="on", packets={name: one.packets for name, one in table.counters.items()})

    def probes(self) -> list[ProbeView]:
        """Each port the goal state names."""
        answered = [
            ProbeView(
                port=port,
                answers=True,
                probes=counter.probes,
                last_source=counter.last_source,
                last_at=counter.last_at or None,
            )
            for port, counter in sorted(self._responder.counters.items())
        ]
        return answered + [
            ProbeView(port=port, answers=False, problem=problem)
            for port, problem in sorted(self._responder.problems.items())
        ]

    async def off(self) -> list[str]:
        """Take back all of ours, now; what could not be."""
        await self._responder.close()
        if self._local:
            return []
        await self._apply_firewall(on=False)
        self._given = None
        try:
            await asyncio.to_thread(self._keeper.undo)
            self._problems["names"] = []
        except DnsError as error:
            self._problems["names"] = [str(error)]
        return [*self._problems["firewall"], *self._problems["names"]]

    # -- firewall --------------------------------------------------------------------------------------------------

    def _wanted_state(self) -> str:
        return "on" if self._settings.firewall and self._reconciler.writes else "off"

    async def _hear_firewall(self) -> None:
        """Somebody may flush all rules; hear of it."""
        while True:
            try:
                await firewall_wakes(self._dirty, lambda: _BURST)
            except OSError as error:
                logger.info("changes of the firewall are not heard: %s", error.strerror)
                await asyncio.sleep(_PERIOD)

    async def _keep_firewall(self) -> None:
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            if self._reconciler.writes or self._reconciler.mode == "off":
                await self._apply_firewall(on=self._wanted_state() == "on")
            await self._look_for_blocks()
            await asyncio.sleep(_BURST)

    async def _apply_firewall(self, *, on: bool) -> None:
        try:
            if on:
                _, put = await asyncio.to_thread(self._firewall.keep, ruleset(self._host, (os.getuid(),)))
                if put:
                    self._emitter.emit("Firewall", f"only root and the agent may open connections to {self._host}")
            elif await asyncio.to_thread(self._firewall.off):
                self._emitter.emit("Firewall", "taken away")
            self._firewall_state = "on" if on else "off"
            self._problems["firewall"] = []
        except FirewallError as error:
            if self._problems.get("firewall") != [f"firewall: {error}"]:
                self._emitter.emit("Firewall", str(error), ok=False)
            self._firewall_state = str(error)[:300]
            self._problems["firewall"] = [f"firewall: {error}"]

    async def _look_for_blocks(self) -> None:
        """What of the machine's own rules keeps probes out."""
        ports = self._responder.ports
        if not ports or not self._host:
            self._problems["blocked"] = []
            return
        try:
            listing = await asyncio.to_thread(nft.everything)
            obstacles, notes = blocked(
                listing.text, ports, self._host, whole=listing.whole, legacy=nft.legacy_tables(), uid=os.getuid()
            )
            obstacles = [one for one in obstacles if one.certain or not self._is_probed(one.port)]
        except FirewallError as error:
            found = [f"what blocks the probe cannot be seen: {error}"]
        else:
            found = [one.text for one in obstacles] + (notes if obstacles else [])
        if found != self._problems.get("blocked", []):
            for line in found:
                self._emitter.emit("Probe", line, ok=False)
        self._problems["blocked"] = found

    def _is_probed(self, port: int) -> bool:
        """A handshake that was finished lately proves both ways: what is not understood is harmless then."""
        counter = self._responder.counters.get(port)
        lately = counter is not None and time.time() - counter.last_at < _LATELY
        return counter is not None and lately and counter.last_source == self._host

    # -- probes ----------------------------------------------------------------------------------------------------

    async def _answer_probes(self) -> None:
        """On the ports of the goal state, as the host was last told."""
        try:
            while True:
                self._asked.clear()
                await self._learn()
                self._problems["probe"] = list(self._responder.problems.values())
                await _wait(self._asked, _PROBE_PERIOD if self._responder.ports else _PERIOD)
        finally:
            await self._responder.close()

    async def _learn(self) -> None:
        """While the others are away the ports stay, and what was true is not known any more."""
        try:
            truth = await self._component.bus.ask(GetTruth(), within=_ASK_SECONDS)
        except (NoAnswer, Refused, FrameError):
            # One that is started again must not take the VM out of the load balancer.
            self._unanswered += 1
            if self._unanswered > _UNANSWERED_LIMIT:
                self._responder.ready, self._responder.reason = False, "rdagent does not answer"
        else:
            self._unanswered = 0
            self._responder.ready = truth.host.ready is True
            self._responder.reason = truth.host.problem or "the host was not told Ready"
        try:
            status = await self._component.bus.ask(GetStatus(), within=_ASK_SECONDS)
        except (NoAnswer, Refused, FrameError):
            return
        ports = tuple(status.probe_ports) if self._reconciler.mode != "off" else ()
        if status.goal_state and (set(ports) != set(self._responder.ports) or self._responder.problems):
            await self._responder.serve(ports)
            self._dirty.set()

    # -- names -----------------------------------------------------------------------------------------------------

    def _wished(self) -> DnsWanted | None:
        lease = self._lease if self._reconciler.mode == "own" and self._settings.dns else None
        if lease is None or not lease.nameservers:
            return None
        search = lease.search or ((lease.domain,) if lease.domain else ())
        try:
            return DnsWanted(link=self._link, nameservers=lease.nameservers, search=search)
        except BadWish as error:
            self._problems["names"] = [str(error)]
            return None

    async def _ask_names(self) -> None:
        """Whether the first name server answers, where netagent has anything to say."""
        while True:
            await self._reconciler.writing.wait()
            self._names_dirty.clear()
            resolver = self._picture.resolver if self._picture is not None else None
            if self._settings.dns and resolver is not None and resolver.nameservers:
                self._problems["dns"] = await self._judge_names(resolver.nameservers[0], resolver.search[:1])
            await asyncio.sleep(_BURST)
            await _wait(self._names_dirty, _PERIOD)

    async def _judge_names(self, server: str, search: list[str]) -> list[str]:
        try:
            health = await check(DnsWanted(link="any", nameservers=(server,), search=tuple(search)))
        except DnsError as error:
            return [str(error)]
        if health.healthy:
            return []
        line = f"name server {server} does not answer as it should: {health.reason}"
        if self._problems.get("dns") != [line]:
            self._emitter.emit("Names", line, ok=False)
        return [line]


async def _wait(event: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


def _lacks(picture: Picture, wanted: DnsWanted) -> bool:
    """Only a plain file is seen through, also one that is gone; a stub shows its own address."""
    resolver = picture.resolver
    return resolver.manager in {"file", "none"} and tuple(resolver.nameservers) != wanted.nameservers


def _is_the_machines() -> bool:
    """Whether our network is that of the whole machine: in a mere network namespace /etc is somebody else's."""
    try:
        return network_of(Path("/proc/1")) == network_of(Path("/proc/self"))
    except OSError:
        return False
