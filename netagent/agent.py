"""netagent's loop: wake, look, compare, repair, announce."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from ipc.component import Component
from ipc.contract.every import HealthReport
from ipc.contract.netagent import (
    ChangeView,
    FirewallView,
    GetNetwork,
    LeaseView,
    Network,
    NetworkChanged,
    NetworkPlan,
    PlanNetwork,
    ProbeView,
    RepairNetwork,
    SwitchNetwork,
    WireServerFound,
    WireServerState,
)
from ipc.errors import Refused, StateError
from ipc.record import Emitter
from ipc.statefile import read_state, write_state
from netagent.config import Settings
from netagent.kernel import wakes
from netagent.netlink import NetlinkError
from netagent.reconcile import Reconciler
from netagent.watch import LeaseFiles, Picture, difference, take_picture
from netagent.wireserver import choose_wireserver

_DEBOUNCE = 0.05
# A look takes at most a fifth of the time, however fast the kernel's tables change.
_REST = 4
_REOPEN_SECONDS = 5.0

logger = logging.getLogger("netagent")


class Parts(Protocol):
    """What acts beside the reconciler."""

    def leases(self) -> list[LeaseView]:
        """Our own."""
        ...

    def problems(self) -> list[str]:
        """What a person should know."""
        ...

    def ailments(self) -> list[str]:
        """Those of them for which netagent is not well."""
        ...

    def probes(self) -> list[ProbeView]:
        """Each port of the goal state."""
        ...

    async def firewall(self) -> FirewallView | None:
        """Our table; None where it does not concern us."""
        ...

    async def look(self, picture: Picture) -> None:
        """After each look, and after what it led to."""
        ...

    async def off(self) -> list[str]:
        """Take back everything; what could not be."""
        ...


class NoParts:
    """Nobody acts."""

    def leases(self) -> list[LeaseView]:
        return []

    def problems(self) -> list[str]:
        return []

    def ailments(self) -> list[str]:
        return []

    def probes(self) -> list[ProbeView]:
        return []

    async def firewall(self) -> FirewallView | None:
        return None

    async def look(self, picture: Picture) -> None:
        """Nothing."""

    async def off(self) -> list[str]:
        return []


class NetAgent:
    """Owns what was observed, and says what is to be done about it."""

    def __init__(
        self,
        component: Component,
        settings: Settings,
        emitter: Emitter,
        *,
        configured: str,
        state_file: Path,
        resolv_conf: Path,
        lease_files: LeaseFiles,
    ) -> None:
        self._component = component
        self._settings = settings
        self._emitter = emitter
        self._configured = configured
        self._state_file = state_file
        self._resolv_conf = resolv_conf
        self._lease_files = lease_files
        self._dirty = asyncio.Event()
        self._took = 0.0
        self._picture: Picture | None = None
        self._observed_at = 0.0
        self._wireserver: WireServerState | None = None
        self._kept = False
        self._reconciler: Reconciler | None = None
        self._parts: Parts = NoParts()

    @property
    def url(self) -> str:
        """Of the WireServer, as far as it is known."""
        return self._wireserver.url if self._wireserver is not None else ""

    def wake(self) -> None:
        """Have everything looked at again."""
        self._dirty.set()

    def keep_up(self, reconciler: Reconciler, parts: "Parts") -> None:
        """Have them act on what is found."""
        self._reconciler, self._parts = reconciler, parts

    async def get_network(self, _: GetNetwork) -> Network:
        picture, wireserver = self._picture, self._wireserver
        if picture is None or wireserver is None:
            raise Refused(GetNetwork.wire_name(), "not-now", "nothing was observed yet")
        reconciler = self._reconciler
        return Network(
            mode=reconciler.mode if reconciler else "observe",
            why=reconciler.chosen.why if reconciler else "",
            primary=reconciler.primary.name if reconciler and reconciler.primary else "",
            managers=reconciler.managers if reconciler else {},
            links=picture.links[:200],
            addresses=picture.addresses[:400],
            routes=picture.routes[:400],
            rules=picture.rules[:100],
            leases=[*self._parts.leases(), *_others(picture)][:50],
            resolver=picture.resolver,
            wireserver=wireserver,
            observed_at=self._observed_at,
            firewall=await self._parts.firewall(),
            probes=self._parts.probes()[:100],
            held=reconciler.held()[:50] if reconciler else [],
            reachable=reconciler.reachable if reconciler else None,
            problems=self._problems()[:50],
        )

    async def plan_network(self, _: PlanNetwork) -> NetworkPlan:
        """What would be changed."""
        reconciler, picture = await self._fresh(PlanNetwork.wire_name())
        return self._answer(reconciler, reconciler.preview(picture))

    async def repair_network(self, _: RepairNetwork) -> NetworkPlan:
        """Change it."""
        reconciler, picture = await self._fresh(RepairNetwork.wire_name())
        if reconciler.mode == "off":
            raise Refused(RepairNetwork.wire_name(), "not-now", "netagent is switched off: agentctl net on")
        if reason := reconciler.only_looks(picture):
            raise Refused(RepairNetwork.wire_name(), "not-now", f"nothing is repaired here: {reason}")
        made = reconciler.repair_now(picture)
        self.wake()
        return self._answer(reconciler, made)

    async def switch_network(self, request: SwitchNetwork) -> NetworkPlan:
        """Off and on."""
        reconciler, picture = await self._fresh(SwitchNetwork.wire_name())
        made = await reconciler.switch(picture, on=request.on, keep=request.keep)
        left = await self._parts.off() if not request.on else []
        self.wake()
        return self._answer(reconciler, made, left)

    async def _fresh(self, asked: str) -> tuple[Reconciler, Picture]:
        if self._reconciler is None or self._picture is None:
            raise Refused(asked, "not-now", "nothing was observed yet")
        try:
            picture = await asyncio.to_thread(take_picture, self._resolv_conf, self._lease_files)
        except (NetlinkError, OSError) as error:
            raise Refused(asked, "failed", f"the network cannot be read: {error}") from error
        return self._reconciler, picture

    def _answer(self, reconciler: Reconciler, changes: list[ChangeView], left: Sequence[str] = ()) -> NetworkPlan:
        chosen, problems = reconciler.chosen, [*reconciler.problems, *left]
        return NetworkPlan(mode=chosen.mode, why=chosen.why, changes=changes[:200], problems=problems[:50])

    def _problems(self) -> list[str]:
        reconciled = list(self._reconciler.problems) if self._reconciler else []
        return [*reconciled, *self._parts.problems(), *(self._picture.problems if self._picture else [])]

    async def listen(self) -> None:
        """Keep the kernel's announcements coming, for ever."""
        while True:
            try:
                await wakes(self._dirty, lambda: max(_DEBOUNCE, _REST * self._took))
            except OSError as error:
                logger.warning("netlink: %s; opened again", error)
                self._dirty.set()
                await asyncio.sleep(_REOPEN_SECONDS)

    async def observe(self) -> None:
        """Look when woken and once a period, for ever."""
        while True:
            self._dirty.clear()
            began = time.monotonic()
            try:
                picture = await asyncio.to_thread(take_picture, self._resolv_conf, self._lease_files)
            except (NetlinkError, OSError) as error:
                self._component.judge(HealthReport(state="degraded", what=f"the network cannot be read: {error}"))
            else:
                self._took = time.monotonic() - began
                trouble = self._seen(picture)
                if self._reconciler is not None:
                    await self._reconciler.look(picture)
                await self._parts.look(picture)
                self._component.judge(self._health(trouble))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pause()):
                    await self._dirty.wait()

    def _pause(self) -> float:
        sooner = self._reconciler.seconds_to_next() if self._reconciler else None
        return self._settings.full_look_period if sooner is None else min(sooner, self._settings.full_look_period)

    def _health(self, trouble: str) -> HealthReport:
        held = self._reconciler.held() if self._reconciler else []
        problems = [trouble] if trouble else []
        problems += [f"left alone: {one.what}: {one.held.partition(';')[0]}" for one in held]
        if self._reconciler is not None and (self._reconciler.writes or self._reconciler.chosen.refused):
            problems += [*self._reconciler.problems, *self._parts.ailments()]
        return HealthReport(state="degraded", what="; ".join(problems)[:500]) if problems else HealthReport(state="ok")

    def _seen(self, picture: Picture) -> str:
        """What is wrong with keeping it; empty if nothing is."""
        before, self._picture, self._observed_at = self._picture, picture, time.time()
        for problem in picture.problems:
            if before is None or problem not in before.problems:
                logger.warning("%s", problem)
        leases = {one.source: one for one in self._parts.leases() if one.wireserver}
        own = next(iter(leases.values()), None)
        found = choose_wireserver(self._configured, picture.leases, picture.routes)
        if own is not None and not self._configured:
            found = WireServerState(url=f"http://{own.wireserver}", found_in="lease", detail=f"netagent, {own.link}")
        trouble = self._publish(found)
        if before is not None and before != picture:
            self._emitter.emit("Network", difference(before, picture))
            self._component.announce(NetworkChanged())
        return trouble

    def _publish(self, found: WireServerState) -> str:
        """Write it down, then say so; what could not be written is tried again at each look."""
        new = found != self._wireserver
        self._wireserver = found
        trouble = ""
        if new or not self._kept:
            try:
                self._keep(found)
            except OSError as error:
                trouble = f"{self._state_file} cannot be written: {error.strerror}"
        if new:
            self._component.announce(WireServerFound(url=found.url, found_in=found.found_in, detail=found.detail))
        return trouble

    def _keep(self, found: WireServerState) -> None:
        """Raises OSError."""
        self._kept = False
        try:
            kept = read_state(self._state_file, WireServerState)
        except StateError:
            kept = None
        if kept != found:
            write_state(self._state_file, found)
            self._emitter.emit("WireServer", f"{found.url} by {found.found_in}: {found.detail}")
        self._kept = True


def _others(picture: Picture) -> list[LeaseView]:
    """Leases of other clients."""
    return [
        LeaseView(link=one.link, source=file, address=one.address, wireserver=one.wireserver)
        for file, one in picture.leases.items()
    ]
