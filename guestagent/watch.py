"""Watching the host: two channels, polled or held open, and the goal state they come down to."""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from guestagent.config import Settings
from guestagent.goalstate import Parts, lacks_certificates, read_certificates, read_goal_state, read_parts
from ipc.hostaddress import HostAddress
from ipc.record import Emitter
from wire.errors import Gone, WireError
from wire.extensions import ExtensionsGoalState, newest
from wire.goalstate import GoalState
from wire.hostplugin import HostPlugin
from wire.http import HttpClient
from wire.vmsettings import VmSettings
from wire.wireserver import WireServer

# A host without FastTrack is asked again after this (protocol: vmSettings, 404).
_UNSUPPORTED_PAUSE = 6 * 3600.0
_LONGEST_PAUSE = 60.0
# How often rather than whether is what costs; a short outage is not worth a line each time.
_FIRST_PAUSE = 1.0

logger = logging.getLogger("guestagent")


class HostWatch:
    """Owns the goal state. `arrived` is called on the loop when another one is in force."""

    def __init__(
        self,
        *,
        settings: Settings,
        client: HttpClient,
        find_host: Callable[[], HostAddress],
        lib: Path,
        emitter: Emitter,
        arrived: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._client = client
        self._find_host = find_host
        self._lib = lib
        self._emitter = emitter
        self._arrived = arrived
        self._parts: Parts | None = None
        self._fast: VmSettings | None = None
        self._first = asyncio.Event()
        self._problems: dict[str, str] = {}
        self.goal_state: GoalState | None = None
        self.current: ExtensionsGoalState | None = None
        self.current_at: float | None = None
        self.fast_track = False

    @property
    def problem(self) -> str:
        """Why the goal state may be an old one; empty when all is well."""
        return "; ".join(self._problems.values())

    @property
    def thumbprints(self) -> tuple[str, ...]:
        return self._parts.thumbprints if self._parts else ()

    def wireserver(self) -> WireServer:
        return WireServer(self._client, self._find_host().wireserver)

    def plugin(self) -> HostPlugin:
        """In the name of the container we are now. Call once there is a goal state."""
        if self.goal_state is None:
            raise RuntimeError("asked for the host plugin before the first goal state")
        url = self._find_host().hostgaplugin
        return HostPlugin(self._client, url, self.goal_state.container_id, self.goal_state.config_name)

    async def refresh_ids(self) -> None:
        """After a 410: read the goal state for current ids. Raises HostError, DocumentError."""
        self.goal_state = await asyncio.to_thread(read_goal_state, self.wireserver(), "", 0.0, self._client.pause)

    async def watch_wireserver(self) -> None:
        """For ever."""
        pause = _FIRST_PAUSE
        while True:
            began = time.monotonic()
            try:
                news = await self._look_at_wireserver()
            except (WireError, OSError) as error:
                self._failed("goal state", str(error))
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311  # spreading, not secrecy
                pause = min(pause * 2, _LONGEST_PAUSE)
                continue
            pause = _FIRST_PAUSE
            self._well("goal state")
            self._first.set()
            await self._between_looks(began, news=news)

    async def watch_host_plugin(self) -> None:
        """For ever; its failures never hold up the WireServer's channel."""
        pause = _FIRST_PAUSE
        await self._first.wait()
        while True:
            began = time.monotonic()
            try:
                news = await self._look_at_host_plugin()
            except (WireError, OSError) as error:
                self._failed("vmSettings", str(error))
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311
                pause = min(pause * 2, _LONGEST_PAUSE)
                continue
            pause = _FIRST_PAUSE
            self._well("vmSettings")
            if self.fast_track:
                await self._between_looks(began, news=news)
            else:
                await asyncio.sleep(_UNSUPPORTED_PAUSE)

    async def _look_at_wireserver(self) -> bool:
        known = self._parts.goal_state.incarnation if self._parts else ""
        wireserver = self.wireserver()
        if not known:
            await asyncio.to_thread(wireserver.check_version)
        goal_state = await asyncio.to_thread(
            read_goal_state, wireserver, known, self._settings.long_poll, self._client.pause
        )
        # Ids are fresh with each answer, the incarnation changed or not.
        self.goal_state = goal_state
        if goal_state.incarnation == known:
            return False
        self._parts = await asyncio.to_thread(
            read_parts, wireserver, goal_state, self._client, self.plugin(), self._lib
        )
        self._emitter.emit(
            "GoalState",
            f"incarnation {goal_state.incarnation}, {len(self._parts.extensions.handlers)} handlers",
            correlation=self._parts.extensions.id,
        )
        if self._parts.certificate_problem:
            self._emitter.emit("Certificates", self._parts.certificate_problem, ok=False)
        await self._choose()
        return True

    async def _look_at_host_plugin(self) -> bool:
        plugin = self.plugin()
        known = self._fast.etag if self._fast else ""
        try:
            answer = await asyncio.to_thread(plugin.vm_settings, known=known, wait=self._settings.long_poll)
        except Gone:
            await self.refresh_ids()
            answer = await asyncio.to_thread(self.plugin().vm_settings, known=known, wait=0.0)
        match answer:
            case "unchanged":
                return False
            case "unsupported":
                self.fast_track = False
                self._fast = None
                return True
            case VmSettings():
                self.fast_track = True
                self._fast = answer
        if answer.source == "FastTrack":
            self._emitter.emit("VmSettings", f"ETag {answer.etag}", correlation=answer.extensions.id)
            await self._choose()
        return True

    async def _choose(self) -> None:
        """Which channel's document is in force now."""
        fabric = self._parts.extensions if self._parts else None
        fast = self._fast.extensions if self._fast and self._fast.source == "FastTrack" else None
        chosen = newest(self.current, fabric, fast)
        if chosen is None or (self.current is not None and chosen.id == self.current.id):
            return
        if chosen.source == "FastTrack" and self._parts is not None and lacks_certificates(chosen, self._lib):
            # They may have been replaced without a new incarnation, as after hibernation.
            thumbprints, _ = await asyncio.to_thread(
                read_certificates, self.wireserver(), self._parts.goal_state, self._lib
            )
            self._parts = msgspec.structs.replace(self._parts, thumbprints=thumbprints)
        self.current, self.current_at = chosen, time.time()
        self._arrived()

    async def _between_looks(self, began: float, *, news: bool) -> None:
        """A host that held the question open is asked again at once, any other after the period."""
        left = self._settings.goal_state_period - (time.monotonic() - began)
        if not news and left > 0:
            await asyncio.sleep(left)

    def _failed(self, what: str, reason: str) -> None:
        if what not in self._problems:
            self._emitter.emit("FetchGoalState", f"{what}: {reason}", ok=False)
            logger.warning("%s: %s (asked again with growing pauses)", what, reason)
        self._problems[what] = f"{what}: {reason}"

    def _well(self, what: str) -> None:
        if self._problems.pop(what, None):
            self._emitter.emit("FetchGoalState", f"{what}: well again")
            logger.info("%s: well again", what)
