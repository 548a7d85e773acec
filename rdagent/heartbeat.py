"""Telling the host: the heartbeat that never waits for anything else, and the observations beside it."""

import asyncio
import logging
import time
from collections.abc import Callable

from ipc.contract.rdagent import ComponentTruth, HostView
from ipc.hostaddress import HostAddress
from ipc.record import Emitter
from rdagent.plan import Readiness
from wire.errors import DocumentError, HostError, WireError
from wire.goalstate import GoalState
from wire.health import HealthReport, Observation
from wire.http import HttpClient
from wire.wireserver import WireServer

SOURCE = "azvmagent"

# How long one answer may take: well below the period, so that a slow host costs one beat and no more.
_ANSWER_SECONDS = 5.0
_GOAL_STATE_AGE = 300.0

logger = logging.getLogger("rdagent")


class Heartbeat:
    """Owns what the host is told. `beat` and `observe` are loops."""

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
        self._goal_state_at = 0.0
        self._readiness = Readiness(ready=False, substatus="Provisioning", description="Starting")
        self._hurry = asyncio.Event()
        self.view = HostView()

    def set_readiness(self, readiness: Readiness) -> None:
        """A change is told at once, not at the next beat."""
        if readiness != self._readiness:
            # The description changes with the seconds it counts; only the state is news.
            if readiness.ready != self._readiness.ready:
                self._hurry.set()
            self._readiness = readiness

    def forget_goal_state(self) -> None:
        """Its ids may be old: guestagent has seen a new one."""
        self._goal_state_at = 0.0

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
        address = self._find_host().wireserver
        readiness = self._readiness
        report = HealthReport(
            state="Ready" if readiness.ready else "NotReady",
            substatus=readiness.substatus,
            description=readiness.description,
        )
        try:
            await asyncio.to_thread(self._send, WireServer(self._client, address), report)
        except WireError as error:
            self.forget_goal_state()
            self._missed(address, str(error))
            return
        self._arrived(address, ready=readiness.ready)

    def _send(self, wireserver: WireServer, report: HealthReport) -> None:
        """Raises HostError, DocumentError."""
        if self._goal_state is None or time.monotonic() - self._goal_state_at > _GOAL_STATE_AGE:
            try:
                self._goal_state = wireserver.goal_state()
                self._goal_state_at = time.monotonic()
            except (HostError, DocumentError):
                # The ids we know are good until the host says otherwise.
                if self._goal_state is None:
                    raise
        wireserver.report_health(report, self._goal_state, seconds=_ANSWER_SECONDS)

    def _arrived(self, address: str, *, ready: bool) -> None:
        before = self.view
        if before.problem:
            self._emitter.emit("HeartBeat", "the host answers again")
            logger.info("heartbeats arrive again")
        if before.ready != ready:
            self._emitter.emit("Ready" if ready else "NotReady", self._readiness.description)
            logger.info("the host was told %s", "Ready" if ready else f"NotReady: {self._readiness.description}")
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
