"""Watching the host: two channels, polled or held open, and the goal state they come down to."""

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from guestagent import fasttrack
from guestagent.certificates import Keyring
from guestagent.config import Settings
from guestagent.goalstate import Parts, read_goal_state, read_parts, unreadable_name, write_for_others
from guestagent.history import History
from guestagent.inforce import InForce, same
from ipc.hostaddress import HostAddress
from ipc.record import Emitter
from wire.download import Unchanged
from wire.errors import DocumentError, Gone, InvalidContainer, WireError
from wire.extensions import ExtensionsGoalState, newest
from wire.goalstate import GoalState
from wire.hostplugin import HostPlugin, Unsupported
from wire.http import HttpClient
from wire.vmsettings import VmSettings
from wire.wireserver import WireServer

# A host without FastTrack is asked again after this (protocol: vmSettings, 404).
_UNSUPPORTED_PAUSE = 6 * 3600.0
# How often rather than whether is what costs; a short outage is not worth a line each time.
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 60.0
# A host that has news each time must not be asked as fast as we can.
_AT_ONCE = 0.1
# What the first look at either channel may take, and a little more.
_HEARD_SECONDS = 15.0
_HOUSEKEEPING_SECONDS = 3600.0

logger = logging.getLogger("guestagent")


class HostWatch:
    """Owns the goal state; `arrived` and `changed` as `InForce` says."""

    def __init__(
        self,
        *,
        settings: Settings,
        client: HttpClient,
        find_host: Callable[[], HostAddress],
        lib: Path,
        state: Path,
        history: History,
        emitter: Emitter,
        arrived: Callable[[], None],
        changed: Callable[[], None],
    ) -> None:
        """What an earlier instance knew is in force until the host says otherwise."""
        self._settings = settings
        self._client = client
        self._find_host = find_host
        self._lib = lib
        self._history = history
        self._emitter = emitter
        self._in_force = InForce(state, arrived, changed)
        self._meeting = asyncio.Lock()
        self._keyring = Keyring(lib, state)
        self._problems: dict[str, str] = {}
        self._certificates_pause = 0.0
        self._certificates_at = 0.0
        self._housekeeping_at = 0.0
        self._fetching: asyncio.Task[None] | None = None
        self._parts: Parts | None = None
        self._fast: VmSettings | None = None
        self._reading = asyncio.Lock()
        self._known_to_host, self._fabric_heard, self._fast_heard = (asyncio.Event() for _ in range(3))
        self._waiting = ""
        self.fast_track = False
        if self.goal_state is not None:
            self._known_to_host.set()

    @property
    def goal_state(self) -> GoalState | None:
        """Who we are to the host."""
        return self._in_force.goal_state

    @property
    def current(self) -> ExtensionsGoalState | None:
        """What is in force."""
        return self._in_force.current

    @property
    def current_at(self) -> float | None:
        return self._in_force.current_at

    @property
    def problem(self) -> str:
        """Why the goal state may be an old one, or incomplete; empty when all is well."""
        return "; ".join(one for one in (*self._problems.values(), self._in_force.problem) if one)

    @property
    def thumbprints(self) -> tuple[str, ...]:
        return self._keyring.thumbprints

    def has_certificate(self, thumbprint: str) -> bool:
        """Whether secrets that name it can be opened."""
        return self._keyring.has_key(thumbprint)

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
        await self._ask_goal_state("", 0.0)

    async def watch_wireserver(self) -> None:
        """For ever."""
        await self._watch("goal state", self._look_at_wireserver)

    async def watch_host_plugin(self) -> None:
        """For ever; its failures never hold up the WireServer's channel."""
        await self._known_to_host.wait()
        await self._watch("vmSettings", self._look_at_host_plugin)

    async def _watch(self, what: str, look: Callable[[], Awaitable[float]]) -> None:
        """Look again and again, each time after what `look` says, with growing pauses while it fails."""
        pause = _FIRST_PAUSE
        while True:
            try:
                seconds = await look()
            except (WireError, OSError) as error:
                await self._failed(what, error)
                if self.current is not None:
                    # Of the time before we ended: the host may be away for long.
                    await self._in_force.put(self.current)
                seconds = pause * random.uniform(0.5, 1.0)  # noqa: S311  # spreading, not secrecy
                pause = min(pause * 2, _LONGEST_PAUSE)
            else:
                pause = _FIRST_PAUSE
                self._well(what)
            await asyncio.sleep(seconds)

    # -- looking ---------------------------------------------------------------------------------------------------

    async def _look_at_wireserver(self) -> float:
        began = time.monotonic()
        try:
            news = await self._hear_wireserver()
        finally:
            self._fabric_heard.set()
        await self._choose()
        await self._keep_house()
        return self._until_next_look(began, news=news)

    async def _hear_wireserver(self) -> bool:
        known = self._incarnation
        if not known:
            await asyncio.to_thread(self.wireserver().check_version)
        goal_state = await self._ask_goal_state(known, self._settings.long_poll)
        news = await self._read(goal_state)
        if not news and self._certificates_pause and time.monotonic() >= self._certificates_at:
            async with self._reading:
                await self.certificates_settled()
                await self._fetch_certificates(goal_state)
        return news

    async def _look_at_host_plugin(self) -> float:
        began = time.monotonic()
        try:
            news = await self._hear_host_plugin()
        finally:
            self._fast_heard.set()
        if not self.fast_track:
            return _UNSUPPORTED_PAUSE
        await self._choose()
        return self._until_next_look(began, news=news)

    async def _hear_host_plugin(self) -> bool:
        answer = await self._ask_vm_settings()
        match answer:
            case "unchanged":
                return False
            case "unsupported":
                self.fast_track, self._fast = False, None
                await self._support_stopped()
                return False
            case VmSettings():
                self.fast_track, self._fast = True, msgspec.structs.replace(answer, content=b"")
        if answer.source == "FastTrack":
            await self._store({"VmSettings.json": answer.content})
            self._told("VmSettings", answer.extensions)
        try:
            if answer.source == "FastTrack":
                await asyncio.to_thread(fasttrack.remember, self._lib, answer.extensions.created_on_ticks)
            else:
                await asyncio.to_thread(fasttrack.forget, self._lib)
        except OSError as error:
            logger.warning("%s", error)
        return True

    async def _ask_goal_state(self, known: str, wait: float) -> GoalState:
        """Ids are fresh with each answer, the incarnation changed or not. Raises HostError, DocumentError."""
        goal_state = await asyncio.to_thread(read_goal_state, self.wireserver(), known, wait, self._client.pause)
        # The other channel's loop goes on when all that was another VM's is forgotten.
        async with self._meeting:
            before = self.goal_state
            if await self._in_force.meet(goal_state) and before is not None:
                self._emitter.emit("GoalState", f"{goal_state.instance_id} begins anew, not as {before.instance_id}")
                with contextlib.suppress(OSError):
                    await asyncio.to_thread(fasttrack.forget, self._lib)
        self._known_to_host.set()
        return goal_state

    async def _ask_vm_settings(self) -> VmSettings | Unchanged | Unsupported:
        known = self._fast.etag if self._fast else ""
        try:
            return await asyncio.to_thread(self.plugin().vm_settings, known=known, wait=self._settings.long_poll)
        except (Gone, InvalidContainer):
            await self.refresh_ids()
            return await asyncio.to_thread(self.plugin().vm_settings, known=known, wait=0.0)

    async def _read(self, goal_state: GoalState, *, anew: bool = False) -> bool:
        """Read what it names, unless that was read already or (`anew`) in any case; whether anything was read."""
        async with self._reading:
            if goal_state.incarnation == self._incarnation and not anew:
                return False
            before = self._parts.extensions if self._parts else None
            parts = await asyncio.to_thread(read_parts, self.wireserver(), goal_state, self._client, self.plugin())
            self._parts = msgspec.structs.replace(parts, documents={})
            try:
                await asyncio.to_thread(write_for_others, self._lib, parts.documents)
            except OSError as error:
                logger.warning("documents for other products are not written: %s", error)
            await self.certificates_settled()
            if parts.extensions != before:
                await self._store(parts.documents)
                self._told("GoalState", parts.extensions)
            fetching = asyncio.create_task(self._fetch_certificates(goal_state))
            lacking = await asyncio.to_thread(self._keyring.lacking, parts.extensions)
            if before is None or lacking:
                await fetching
            else:
                # They are a child process's work, for which packages need not wait; commands do.
                self._fetching = fetching
            return True

    async def _refresh(self) -> None:
        """Everything the WireServer says, whether it looks new or not."""
        await self._read(await self._ask_goal_state("", 0.0), anew=True)

    async def certificates_settled(self) -> None:
        """Until what the goal state lists is on disk, or why not is told."""
        if self._fetching is not None:
            await asyncio.shield(self._fetching)

    async def _fetch_certificates(self, goal_state: GoalState) -> None:
        """A failure is told and mended later: extensions without secrets do not need any."""
        try:
            left_out = await asyncio.to_thread(self._keyring.fetch, self.wireserver(), goal_state.certificates_url)
        except (WireError, OSError) as error:
            await self._failed("certificates", error)
            self._certificates_pause = min(max(self._certificates_pause * 2, _FIRST_PAUSE), _LONGEST_PAUSE)
            self._certificates_at = time.monotonic() + self._certificates_pause
            return
        self._certificates_pause = 0.0
        self._well("certificates")
        for reason in left_out:
            self._emitter.emit("Certificates", reason, ok=False)
        listed = [{"thumbprint": name, "hasPrivateKey": self._keyring.has_key(name)} for name in self.thumbprints]
        await asyncio.to_thread(self._history.certificates, msgspec.json.encode(listed))

    # -- choosing --------------------------------------------------------------------------------------------------

    async def _choose(self) -> None:
        """Which channel's document is in force now."""
        if self.current is None:
            # The other channel may have a newer one already.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_HEARD_SECONDS):
                    await self._fabric_heard.wait()
                    await self._fast_heard.wait()
        waited_for = self.current
        while (chosen := self._newest()) is not None and not same(chosen, waited_for):
            if chosen.id == self._waiting:
                return  # the other channel's loop sees to it
            self._waiting = chosen.id
            try:
                await self._wait_for_certificates(chosen)
            finally:
                self._waiting = ""
            waited_for = chosen
        if chosen is not None:
            await self._in_force.put(chosen)

    def _newest(self) -> ExtensionsGoalState | None:
        fabric = self._parts.extensions if self._parts else None
        fast = self._fast.extensions if self._fast and self._fast.source == "FastTrack" else None
        if fabric is not None and self._lacks_config(fabric):
            self._problems["extensions"] = f"{fabric.id}: {fabric.withheld}"
            fabric = None
        else:
            self._problems.pop("extensions", None)
        chosen = newest(self.current, fabric, fast)
        self._tell_of_order(chosen, fabric, fast)
        return chosen

    def _lacks_config(self, fabric: ExtensionsGoalState) -> bool:
        """One without ExtensionsConfig is no successor: nobody could report for it, and nothing is unwanted by it."""
        return bool(fabric.withheld and self.current is not None and self.current.status_blob)

    def _tell_of_order(
        self, chosen: ExtensionsGoalState | None, fabric: ExtensionsGoalState | None, fast: ExtensionsGoalState | None
    ) -> None:
        """A document that is passed over because it is older must not be so silently."""
        offered = max((one for one in (fabric, fast) if one), key=lambda one: one.created_on_ticks, default=None)
        unheard = fast is None and not self._fast and chosen is not None and chosen.source == "FastTrack"
        if offered is None or chosen is None or chosen.created_on_ticks <= offered.created_on_ticks or unheard:
            self._problems.pop("order", None)
            return
        text = f"{offered.id} was created before {chosen.id}, which stays in force"
        if self._problems.get("order") != text:
            self._emitter.emit("GoalState", text, ok=False)
        self._problems["order"] = text

    async def _wait_for_certificates(self, chosen: ExtensionsGoalState) -> None:
        """They may have been replaced without a new incarnation, as after hibernation (protocol: consistency check)."""
        if chosen.source != "FastTrack" and not self._certificates_pause:
            return
        if not await asyncio.to_thread(self._keyring.is_whole) and self.goal_state is not None:
            async with self._reading:
                await self.certificates_settled()
                await self._fetch_certificates(self.goal_state)
        for pause in (0.0, self._settings.goal_state_period):
            missing = await asyncio.to_thread(self._keyring.lacking, chosen)
            if not missing:
                return
            await asyncio.sleep(pause)
            try:
                await self._refresh()
                await self.certificates_settled()
            except (WireError, OSError) as error:
                await self._failed("goal state", error)
        missing = await asyncio.to_thread(self._keyring.lacking, chosen)
        if missing:
            self._emitter.emit("Certificates", f"{chosen.id} names {', '.join(missing)}, not on this machine", ok=False)

    async def _support_stopped(self) -> None:
        """Back to the WireServer's goal state, whatever its age (protocol: support stopped). Raises HostError..."""
        if await self._fast_track_ticks() is None:
            return
        await self._refresh()
        if self._parts is None:
            return
        extensions, ticks = self._parts.extensions, await self._fast_track_ticks()
        if self._lacks_config(extensions):
            extensions = self.current or extensions
        elif ticks is not None and fasttrack.is_older(extensions.created_on_ticks, ticks):
            extensions = msgspec.structs.replace(extensions, withheld="it is older than what FastTrack delivered")
        self._emitter.emit("VmSettings", f"no longer supported; {extensions.id}: {extensions.withheld or 'in force'}")
        await self._in_force.put(extensions)
        await asyncio.to_thread(fasttrack.forget, self._lib)

    async def _fast_track_ticks(self) -> int | None:
        """When the last document FastTrack delivered was created; None if it never delivered any."""
        ticks = await asyncio.to_thread(fasttrack.remembered, self._lib)
        if ticks is None and self.current is not None and self.current.source == "FastTrack":
            return self.current.created_on_ticks
        return ticks

    # -- keeping and telling ---------------------------------------------------------------------------------------

    @property
    def _incarnation(self) -> str:
        return self._parts.goal_state.incarnation if self._parts else ""

    def _until_next_look(self, began: float, *, news: bool) -> float:
        """A host that held the question open, or had news, is asked again at once, any other after the period."""
        period = _AT_ONCE if news else self._settings.goal_state_period
        return max(0.0, period - (time.monotonic() - began))

    async def _store(self, documents: dict[str, bytes]) -> None:
        """Into the history."""
        incarnation = self.goal_state.incarnation if self.goal_state else ""
        etag = self._fast.etag if self._fast else ""
        await asyncio.to_thread(self._history.store, incarnation, etag, documents)

    async def _keep_house(self) -> None:
        if time.monotonic() < self._housekeeping_at:
            return
        self._housekeeping_at = time.monotonic() + _HOUSEKEEPING_SECONDS
        known = [self.current, self._parts.extensions if self._parts else None]
        known.append(self._fast.extensions if self._fast else None)
        async with self._reading:
            await self.certificates_settled()
            try:
                removed = await asyncio.to_thread(self._keyring.remove_retired, [one for one in known if one])
            except OSError as error:
                logger.warning("old certificates are kept for now: %s", error)
                return
        if removed:
            self._emitter.emit("Certificates", f"removed, named by nobody: {', '.join(removed)}")

    def _told(self, operation: str, extensions: ExtensionsGoalState) -> None:
        self._emitter.emit(
            operation, f"{extensions.id}, {len(extensions.handlers)} handlers", correlation=extensions.id
        )
        for problem in extensions.problems:
            self._emitter.emit(operation, problem, ok=False, correlation=extensions.id)

    async def _failed(self, what: str, error: Exception) -> None:
        reason = f"{what}: {error}"
        if what not in self._problems:
            self._emitter.emit("FetchGoalState", reason, ok=False)
            logger.warning("%s (asked again with growing pauses)", reason)
        if isinstance(error, DocumentError) and error.content and self._problems.get(what) != reason:
            await asyncio.to_thread(self._history.unreadable, unreadable_name(error.document), error.content)
        self._problems[what] = reason

    def _well(self, what: str) -> None:
        if self._problems.pop(what, None):
            self._emitter.emit("FetchGoalState", f"{what}: well again")
            logger.info("%s: well again", what)
