"""Telling the host: the heartbeat that never waits for anything else, and what is done beside it."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from functools import partial

from ipc.contract.rdagent import ComponentTruth, HostView
from ipc.hostaddress import HostAddress
from ipc.record import Emitter
from rdagent.plan import Readiness
from wire.errors import Refused, WireError
from wire.goalstate import GoalState
from wire.health import HealthReport, Observation
from wire.http import HttpClient
from wire.wireserver import WireServer

SOURCE = "azvmagent"

# How long one answer may take: well below the period, so that a slow host costs one beat and no more.
_ANSWER_SECONDS = 5.0
_GOAL_STATE_AGE = 300.0
_FETCH_PAUSE = 1.0

logger = logging.getLogger("rdagent")


class Heartbeat:
    """Owns what the host is told. `beat` and `know_ids` are loops."""

    def __init__(
        self,
        client: HttpClient,
        find_host: Callable[[], HostAddress],
        emitter: Emitter,
        period: float,
        told: Callable[[], None],
    ) -> None:
        self._client = client
        self._find_host = find_host
        self._emitter = emitter
        self._period = period
        self._told = told
        self._goal_state: GoalState | None = None
        self._stale = asyncio.Event()
        # Nothing is told before the first look: a restart of ours must not make a Ready VM NotReady.
        self._readiness: Readiness | None = None
        self._hurry = asyncio.Event()
        self.view = HostView()

    def set_readiness(self, readiness: Readiness) -> None:
        """A change is told at once, not at the next beat."""
        # The description changes with the seconds it counts; only the state is news.
        if self._readiness is None or readiness.ready != self._readiness.ready:
            self._hurry.set()
        self._readiness = readiness

    def forget_goal_state(self) -> None:
        """Its ids may be old: guestagent has seen a new one."""
        self._stale.set()

    async def beat(self) -> None:
        """At a fixed period, counted from beat to beat, for ever."""
        next_at = time.monotonic()
        while True:
            self._hurry.clear()
            await self._beat_once()
            next_at = max(next_at + self._period, time.monotonic())
            try:
                async with asyncio.timeout_at(asyncio.get_running_loop().time() + next_at - time.monotonic()):
                    await self._hurry.wait()
                next_at = time.monotonic()
            except TimeoutError:
                continue

    async def know_ids(self) -> None:
        """Fetch the goal state whenever its ids may be old, for ever. Beside the beat: it may be slow."""
        pause = _FETCH_PAUSE
        while True:
            self._stale.clear()
            if not await self._fetch_ids():
                await asyncio.sleep(pause)
                pause = min(pause * 2, max(self._period, _FETCH_PAUSE))
                continue
            pause = _FETCH_PAUSE
            await asyncio.sleep(pause)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_GOAL_STATE_AGE):
                    await self._stale.wait()

    async def observe(self, truth: dict[str, ComponentTruth]) -> bool:
        """Send one observation per component; whether the host took them."""
        observations = [
            Observation(
                name=f"{SOURCE}.{one.name}",
                healthy=one.state in {"ok", "busy"},
                description=one.state if not one.why else f"{one.state}: {one.why}",
                value=one.version,
            )
            for one in truth.values()
        ]
        try:
            await asyncio.to_thread(
                WireServer(self._client, self._find_host().wireserver).observe, SOURCE, observations
            )
        except WireError as error:
            logger.debug("observations: %s", error)
            return False
        return True

    async def _beat_once(self) -> None:
        address, goal_state, readiness = self._find_host().wireserver, self._goal_state, self._readiness
        if goal_state is None or readiness is None:
            return  # whichever comes last brings the first beat
        report = HealthReport(
            state="Ready" if readiness.ready else "NotReady",
            substatus=readiness.substatus,
            description=readiness.description,
        )
        send = partial(WireServer(self._client, address).report_health, seconds=_ANSWER_SECONDS)
        try:
            await asyncio.to_thread(send, report, goal_state)
        except WireError as error:
            if isinstance(error, Refused):
                # Perhaps for the ids; new ones bring the next beat at once.
                self.forget_goal_state()
            self._missed(address, str(error))
            return
        self._arrived(address, readiness)

    async def _fetch_ids(self) -> bool:
        address = self._find_host().wireserver
        try:
            found = await asyncio.to_thread(WireServer(self._client, address).goal_state)
        except WireError as error:
            # The ids we know are good until the host says otherwise.
            if self._goal_state is None:
                self._missed(address, str(error))
            return False
        before, self._goal_state = self._goal_state, found
        if before is None or (before.container_id, before.instance_id) != (found.container_id, found.instance_id):
            self._hurry.set()
        return True

    def _arrived(self, address: str, readiness: Readiness) -> None:
        before, ready = self.view, readiness.ready
        if before.problem:
            self._emitter.emit("HeartBeat", "the host answers again")
            logger.info("heartbeats arrive again")
        if before.ready != ready:
            self._emitter.emit("Ready" if ready else "NotReady", readiness.description)
            logger.info("the host was told %s", "Ready" if ready else f"NotReady: {readiness.description}")
        self.view = HostView(
            ready=ready, wireserver=address, heartbeats=before.heartbeats + 1, last_heartbeat_at=time.time()
        )
        if before.problem or before.ready != ready:
            self._told()

    def _missed(self, address: str, reason: str) -> None:
        before = self.view
        self.view = HostView(
            ready=before.ready,
            wireserver=address,
            heartbeats=before.heartbeats,
            last_heartbeat_at=before.last_heartbeat_at,
            problem=f"heartbeat: {reason}",
        )
        if not before.problem:
            self._emitter.emit("HeartBeat", reason, ok=False)
            logger.warning("heartbeat did not arrive: %s (told once per outage)", reason)
            self._told()
