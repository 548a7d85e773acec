"""Reporting: one look at the disk, and the host, rdagent and whoever asks are told the same."""

import asyncio
import contextlib
import logging
import time
from pathlib import Path
from typing import Any

import msgspec

from guestagent import __version__
from guestagent.config import Settings
from guestagent.history import History
from guestagent.plan import State, Waiting
from guestagent.record import Records
from guestagent.report import ExtensionReport, GoalStateOutcome, Known, look, read_system, states, status_blob, view
from guestagent.runcommand.status import says_running
from guestagent.steps import Worker
from guestagent.updatestatus import UpdateNews, update_status
from guestagent.watch import HostWatch
from ipc.component import Component
from ipc.contract.every import HealthReport
from ipc.contract.guestagent import GetStatus, GuestStatus, StatusChanged
from ipc.record import Emitter
from wire.blob import upload_directly
from wire.errors import Gone, WireError
from wire.http import HttpClient

# Changes that come together go out together.
_TOGETHER_SECONDS = 0.05
# While something is under way, status files are looked at so often.
_LOOK_SECONDS = 1.0
_LATE_LOOK_SECONDS = 15.0
PROBE_PORTS_LIMIT = 32
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 60.0

logger = logging.getLogger("guestagent")


class Reporter:
    """Owns what is shown."""

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
        history: History,
        lib: Path,
        log: Path,
        changed: asyncio.Event,
        again: asyncio.Event,
        updates: UpdateNews,
    ) -> None:
        """`changed` asks for a look; `again` is set when an extension that others wait for has moved."""
        self._component = component
        self._settings = settings
        self._client = client
        self._watch = watch
        self._worker = worker
        self._records = records
        self._emitter = emitter
        self._history = history
        self._lib = lib
        self._log = log
        self._changed = changed
        self._again = again
        self._updates = updates
        self._outcome: GoalStateOutcome | None = None
        self._system = read_system()
        self._booted_at = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
        self._reported_at: float | None = None
        self._reported_by = ""
        self._report_problem = ""
        self._planned = False
        self.waiting: dict[str, Waiting] = {}
        """Whose turn has not come, by the last plan."""
        self.reports: list[ExtensionReport] = []
        """The last look."""

    async def get_status(self, _: GetStatus) -> GuestStatus:
        return self.summary()

    def summary(self) -> GuestStatus:
        """Where everything stands."""
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
            extensions=[view(one, self._records.applied) for one in self.reports[:100]],
            probe_ports=list(self._watch.goal_state.probe_ports[:PROBE_PORTS_LIMIT]) if self._watch.goal_state else [],
        )

    def states(self) -> dict[str, State]:
        """How each extension stands right now. Blocking."""
        return states(self._look())

    def planned(self) -> None:
        """Who is worked on is known. Before, what an earlier guestagent left under way would look like nothing."""
        if not self._planned:
            self._planned = True
            self._changed.set()

    def processed(self, outcome: GoalStateOutcome) -> None:
        """A goal state was processed to the end."""
        self._outcome = outcome
        self._changed.set()

    async def report(self) -> None:
        """Tell the host of every change, and now and then that nothing changed, for ever."""
        told, told_at, pause, retry_at = b"", 0.0, _FIRST_PAUSE, 0.0
        while True:
            await self._next_change(told_at, retry_at)
            before = states(self.reports)
            self.reports = await asyncio.to_thread(self._look)
            self._judge()
            if self.waiting and states(self.reports) != before:
                self._again.set()
            now = time.monotonic()
            if self._watch.current is None or not self._planned or now < retry_at:
                continue
            state = msgspec.json.encode(
                (self.reports, self._outcome, self._watch.fast_track, self._blob_url(), self._update())
            )
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
            for one in self.reports
        )
        looks = _LOOK_SECONDS if under_way else _LATE_LOOK_SECONDS if self.reports else self._settings.status_period
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, min(looks, until - time.monotonic()))):
                await self._changed.wait()
        await asyncio.sleep(_TOGETHER_SECONDS)
        self._changed.clear()

    def _look(self) -> list[ExtensionReport]:
        if self._watch.current is None:
            return []
        known = Known(
            applied=dict(self._records.applied),
            good=dict(self._records.good),
            doing=dict(self._worker.doing),
            waiting=dict(self.waiting),
            booted_at=self._booted_at,
            now=time.time(),
        )
        return look(self._watch.current, known, self._lib, self._log)

    def _update(self) -> dict[str, Any] | None:
        current = self._watch.current
        return update_status(current.families, self._updates.last) if current else None

    def _blob_url(self) -> str:
        current = self._watch.current
        return current.status_blob.url if current and current.status_blob else ""

    async def _upload(self) -> bool:
        """Through the host first, then directly (protocol: upload); whether it arrived."""
        blob = self._watch.current.status_blob if self._watch.current else None
        if blob is None:
            return self._not_reported("the goal state names no status blob")
        content = status_blob(
            self.reports,
            self._outcome,
            version=__version__,
            fast_track=self._watch.fast_track,
            system=self._system,
            update=self._update(),
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
            return await self._reported("hostgaplugin", content)
        try:
            await asyncio.to_thread(upload_directly, self._client, blob, content)
        except WireError as error:
            return self._not_reported(f"{first}; directly: {error}")
        return await self._reported("direct", content)

    async def _reported(self, channel: str, content: bytes) -> bool:
        if self._report_problem or self._reported_by != channel:
            self._emitter.emit("ReportStatus", f"accepted by {channel}")
        self._reported_at, self._reported_by, self._report_problem = time.time(), channel, ""
        await asyncio.to_thread(self._history.status, content)
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
