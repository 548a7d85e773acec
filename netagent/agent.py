"""netagent's loop: wake, look, compare, announce."""

import asyncio
import contextlib
import logging
import time
from pathlib import Path

from ipc.component import Component
from ipc.contract.every import HealthReport
from ipc.contract.netagent import GetNetwork, Network, NetworkChanged, WireServerFound, WireServerState
from ipc.errors import Refused, StateError
from ipc.record import Emitter
from ipc.statefile import read_state, write_state
from netagent.config import Settings
from netagent.netlink import NetlinkError
from netagent.plan import choose_wireserver
from netagent.watch import LeaseFiles, Picture, take_picture, wakes

_REOPEN_SECONDS = 5.0

logger = logging.getLogger("netagent")


class NetAgent:
    """Owns what was observed."""

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
        self._picture: Picture | None = None
        self._observed_at = 0.0
        self._wireserver: WireServerState | None = None

    async def get_network(self, _: GetNetwork) -> Network:
        picture, wireserver = self._picture, self._wireserver
        if picture is None or wireserver is None:
            raise Refused(GetNetwork.wire_name(), "not-now", "nothing was observed yet")
        return Network(
            mode=self._settings.mode,
            links=picture.links[:200],
            addresses=picture.addresses[:400],
            routes=picture.routes[:400],
            resolver=picture.resolver,
            wireserver=wireserver,
            observed_at=self._observed_at,
        )

    async def listen(self) -> None:
        """Keep the kernel's announcements coming, for ever."""
        while True:
            try:
                await wakes(self._dirty)
            except OSError as error:
                logger.warning("netlink: %s; opened again", error)
                self._dirty.set()
                await asyncio.sleep(_REOPEN_SECONDS)

    async def observe(self) -> None:
        """Look when woken and once a period, for ever."""
        while True:
            self._dirty.clear()
            try:
                self._seen(await asyncio.to_thread(take_picture, self._resolv_conf, self._lease_files))
            except (NetlinkError, OSError) as error:
                self._component.judge(HealthReport(state="degraded", what=f"the network cannot be read: {error}"))
            else:
                self._component.judge(HealthReport(state="ok"))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.full_look_period):
                    await self._dirty.wait()

    def _seen(self, picture: Picture) -> None:
        before, self._picture, self._observed_at = self._picture, picture, time.time()
        self._publish(choose_wireserver(self._configured, picture.leases, picture.routes))
        if before is not None and before != picture:
            self._emitter.emit("Network", _difference(before, picture))
            self._component.announce(NetworkChanged())

    def _publish(self, found: WireServerState) -> None:
        if found == self._wireserver:
            return
        try:
            kept = read_state(self._state_file, WireServerState)
        except StateError:
            kept = None
        if kept != found:
            write_state(self._state_file, found)
            self._emitter.emit("WireServer", f"{found.url} by {found.found_in}: {found.detail}")
        self._wireserver = found
        self._component.announce(WireServerFound(url=found.url, found_in=found.found_in, detail=found.detail))


def _difference(before: Picture, after: Picture) -> str:
    """One line: what came and what went."""
    parts = []
    for name, old, new in (
        ("link", before.links, after.links),
        ("address", before.addresses, after.addresses),
        ("route", before.routes, after.routes),
    ):
        parts += [f"- {name} {_short(one)}" for one in old if one not in new]
        parts += [f"+ {name} {_short(one)}" for one in new if one not in old]
    if before.resolver != after.resolver:
        parts.append(f"resolver {after.resolver.manager} {' '.join(after.resolver.nameservers)}")
    if before.leases != after.leases:
        parts.append(f"{len(after.leases)} leases name a WireServer")
    return "; ".join(parts)


def _short(one: object) -> str:
    return repr(one).partition("(")[2].rstrip(")")
