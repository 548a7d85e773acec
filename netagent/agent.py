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
from netagent.watch import LeaseFiles, Picture, difference, take_picture, wakes

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
        self._kept = False

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
                picture = await asyncio.to_thread(take_picture, self._resolv_conf, self._lease_files)
            except (NetlinkError, OSError) as error:
                self._component.judge(HealthReport(state="degraded", what=f"the network cannot be read: {error}"))
            else:
                self._component.judge(self._seen(picture))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.full_look_period):
                    await self._dirty.wait()

    def _seen(self, picture: Picture) -> HealthReport:
        before, self._picture, self._observed_at = self._picture, picture, time.time()
        for problem in picture.problems:
            if before is None or problem not in before.problems:
                logger.warning("%s", problem)
        health = self._publish(choose_wireserver(self._configured, picture.leases, picture.routes))
        if before is not None and before != picture:
            self._emitter.emit("Network", difference(before, picture))
            self._component.announce(NetworkChanged())
        return health

    def _publish(self, found: WireServerState) -> HealthReport:
        """Write it down, then say so; what could not be written is tried again at each look."""
        new = found != self._wireserver
        self._wireserver = found
        health = HealthReport(state="ok")
        if new or not self._kept:
            try:
                self._keep(found)
            except OSError as error:
                health = HealthReport(state="degraded", what=f"{self._state_file} cannot be written: {error.strerror}")
        if new:
            self._component.announce(WireServerFound(url=found.url, found_in=found.found_in, detail=found.detail))
        return health

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
