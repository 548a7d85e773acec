"""The guest agent: goal states come in, extensions are worked on, the host is told."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from guestagent import __version__
from guestagent.config import Settings
from guestagent.layout import installed_handlers
from guestagent.plan import Work, plan, vanished
from guestagent.record import Records
from guestagent.report import ExtensionReport, GoalStateOutcome, look, read_system, status_blob, view
from guestagent.runcommand.status import says_running
from guestagent.steps import Worker
from guestagent.watch import HostWatch
from ipc.component import Component
from ipc.contract.every import HealthReport
from ipc.contract.guestagent import GetStatus, GuestStatus, StatusChanged
from ipc.hostaddress import HostAddress
from ipc.record import Emitter
from wire.blob import upload_directly
from wire.errors import Gone, WireError
from wire.extensions import ExtensionsGoalState
from wire.http import HttpClient

# Changes that come together go out together.
_TOGETHER_SECONDS = 0.05
# While something is under way, status files are looked at so often.
_LOOK_SECONDS = 1.0
_LATE_LOOK_SECONDS = 15.0
_DEPENDENCY_SECONDS = 90 * 60.0
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 60.0

logger = logging.getLogger("guestagent")


class GuestAgent:
    """Owns what is shown; its loops run side by side on one event loop."""

    def __init__(
        self,
        *,
        component: Component,
        settings: Settings,
        client: HttpClient,
        watch: HostWatch,
        worker: Worker,
        records: Records,
        emitter: Emitter,
        lib: Path,
        log: Path,
        find_host: Callable[[], HostAddress],
        changed: asyncio.Event,
        arrived: asyncio.Event,
    ) -> None:
        self._component = component
        self._settings = settings
        self._client = client
        self._watch = watch
        self._worker = worker
        self._records = records
        self._emitter = emitter
        self._lib = lib
        self._log = log
        self._find_host = find_host
        self._changed = changed
        self._arrived = arrived
        self._reports: list[ExtensionReport] = []
        self._looked = asyncio.Event()
        self._outcome: GoalStateOutcome | None = None
        self._system = read_system()
        self._reported_at: float | None = None
        self._reported_by = ""
        self._report_problem = ""

    async def get_status(self, _: GetStatus) -> GuestStatus:
        current = self._watch.current
        return GuestStatus(
            goal_state=current.id if current else "",
            goal_state_at=self._watch.current_at,
            problem="; ".join(one for one in (self._watch.problem, self._records.problem) if one),
            certificates=list(self._watch.thumbprints),
            reported_at=self._reported_at,
            reported_by=self._reported_by,
            report_problem=self._report_problem,
            # Hundreds would not fit a frame; the status blob has them all.
            extensions=[view(one) for one in self._reports[:100]],
        )

    # -- working ---------------------------------------------------------------------------------------------------

    async def work(self) -> None:
        """Process each goal state that comes into force, for ever."""
        while True:
            await self._arrived.wait()
            self._arrived.clear()
            if self._watch.current is not None:
                await self._process(self._watch.current)

    async def _process(self, goal_state: ExtensionsGoalState) -> None:
        if not goal_state.on_hold and not goal_state.unsupported_features:
            found = await asyncio.to_thread(installed_handlers, self._lib)
            gate = asyncio.Semaphore(self._settings.concurrent_handlers)
            for works in plan(goal_state, found, self._records.applied):
                unmet = await self._unmet(goal_state, works[0].level)
                if self._arrived.is_set() and works[0].level > 0:
                    return  # a newer goal state says what is to be done now
                async with asyncio.TaskGroup() as group:
                    for one in works:
                        group.create_task(self._do(one, goal_state, gate, unmet))
            await self._worker.remove_vanished(vanished(goal_state, found))
        if goal_state.id != self._records.goal_state:
            await asyncio.to_thread(self._records.processed, goal_state.id)
        self._outcome = GoalStateOutcome(
            in_svd_seq_no=goal_state.in_svd_seq_no,
            at=self._records.goal_state_at or time.time(),
            unsupported=goal_state.unsupported_features,
        )
        self._changed.set()

    async def _do(self, work: Work, goal_state: ExtensionsGoalState, gate: asyncio.Semaphore, unmet: str) -> None:
        if unmet and not work.error:
            self._worker.skip(work, goal_state.id, unmet)
            return
        # Extensions are told the bare address; the port is fixed by the protocol.
        address = urlsplit(self._find_host().wireserver).hostname or ""
        async with gate:
            await self._worker.do(work, goal_state.id, self._watch.plugin(), address)

    async def _unmet(self, goal_state: ExtensionsGoalState, level: int) -> str:
        """Waits for the extensions of lower levels; why this level cannot be begun, empty if it can."""
        below = {
            handler.name
            for handler in goal_state.handlers
            if handler.state == "enabled" and any(one.dependency_level < level for one in handler.settings)
        }
        until = time.monotonic() + _DEPENDENCY_SECONDS
        while below and not self._arrived.is_set():
            reports = await asyncio.to_thread(self._look)
            states = {
                one.handler: one.status.status if one.status else "error" for one in reports if one.handler in below
            }
            if failed := sorted(name for name in below if states.get(name, "error") == "error"):
                return f"not begun: {failed[0]}, of a lower dependency level, failed"
            if all(state == "success" for state in states.values()):
                return ""
            if time.monotonic() > until:
                return f"not begun: {min(below)}, of a lower dependency level, did not finish in 90 minutes"
            await self._next_look(_LOOK_SECONDS)
        return ""

    # -- reporting -------------------------------------------------------------------------------------------------

    async def report(self) -> None:
        """Tell the host of every change, and now and then that nothing changed, for ever."""
        told, told_at, pause, retry_at = b"", 0.0, _FIRST_PAUSE, 0.0
        while True:
            await self._next_change(told_at, retry_at)
            self._reports = await asyncio.to_thread(self._look)
            self._looked.set()
            self._judge()
            now = time.monotonic()
            if self._watch.current is None or now < retry_at:
                continue
            state = msgspec.json.encode((self._reports, self._outcome, self._watch.fast_track, self._blob_url()))
            if state == told and now - told_at < self._settings.status_period:
                continue
            if await self._upload():
                told, told_at, pause, retry_at = state, time.monotonic(), _FIRST_PAUSE, 0.0
            else:
                retry_at = time.monotonic() + pause
                pause = min(pause * 2, _LONGEST_PAUSE)
            self._component.announce(StatusChanged())

    async def _next_change(self, told_at: float, retry_at: float) -> None:
        until = retry_at or told_at + self._settings.status_period
        under_way = self._worker.doing or any(
            one.status and (one.status.status == "transitioning" or says_running(one.status.message or ""))
            for one in self._reports
        )
        looks = _LOOK_SECONDS if under_way else _LATE_LOOK_SECONDS if self._reports else self._settings.status_period
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, min(looks, until - time.monotonic()))):
                await self._changed.wait()
        await asyncio.sleep(_TOGETHER_SECONDS)
        self._changed.clear()

    async def _next_look(self, seconds: float) -> None:
        self._looked.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._looked.wait()

    def _look(self) -> list[ExtensionReport]:
        if self._watch.current is None:
            return []
        return look(self._watch.current, self._records.applied, dict(self._worker.doing), self._lib, self._log)

    def _blob_url(self) -> str:
        current = self._watch.current
        return current.status_blob.url if current and current.status_blob else ""

    async def _upload(self) -> bool:
        """Through the host first, then directly (protocol: upload); whether it arrived."""
        blob = self._watch.current.status_blob if self._watch.current else None
        if blob is None:
            return self._not_reported("the goal state names no status blob")
        content = status_blob(
            self._reports,
            self._outcome,
            version=__version__,
            fast_track=self._watch.fast_track,
            system=self._system,
        )
        try:
            await asyncio.to_thread(self._watch.plugin().put_status, blob, content)
        except Gone as error:
            with contextlib.suppress(WireError):
                await self._watch.refresh_ids()
            return self._not_reported(str(error))
        except WireError as error:
            first = str(error)
        else:
            return self._reported("hostgaplugin")
        try:
            await asyncio.to_thread(upload_directly, self._client, blob, content)
        except WireError as error:
            return self._not_reported(f"{first}; directly: {error}")
        return self._reported("direct")

    def _reported(self, channel: str) -> bool:
        if self._report_problem or self._reported_by != channel:
            self._emitter.emit("ReportStatus", f"accepted by {channel}")
        self._reported_at, self._reported_by, self._report_problem = time.time(), channel, ""
        return True

    def _not_reported(self, reason: str) -> bool:
        if not self._report_problem:
            logger.warning("status was not accepted: %s", reason)
            self._emitter.emit("ReportStatus", reason, ok=False)
        self._report_problem = reason
        return False

    def _judge(self) -> None:
        """What rdagent hears of us."""
        doing = sorted(self._worker.doing.items(), key=lambda item: item[1].since)
        if doing:
            name, one = doing[0]
            limit = one.limit_seconds
            self._component.judge(
                HealthReport(state="busy", what=f"{one.doing} {name}", since=one.since, limit_seconds=limit)
            )
        elif problem := self._watch.problem or self._report_problem:
            self._component.judge(HealthReport(state="degraded", what=problem[:500]))
        else:
            self._component.judge(HealthReport(state="ok"))
