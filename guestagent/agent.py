"""The guest agent's work: whenever something has changed, a plan is made, and what it says is begun."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from guestagent.layout import installed_handlers
from guestagent.operation import Operations
from guestagent.plan import DEPENDENCY_SECONDS, Facts, Plan, Waiting, Work, plan
from guestagent.policy import read_policy
from guestagent.record import Records
from guestagent.report import GoalStateOutcome
from guestagent.reporting import Reporter
from guestagent.steps import Asked, Worker
from guestagent.watch import HostWatch
from ipc.hostaddress import HostAddress
from wire.extensions import ExtensionsGoalState

logger = logging.getLogger("guestagent")


class GuestAgent:
    """Owns who is worked on; each handler by one task at a time, several handlers at once."""

    def __init__(
        self,
        *,
        watch: HostWatch,
        worker: Worker,
        records: Records,
        operations: Operations,
        reporter: Reporter,
        lib: Path,
        find_host: Callable[[], HostAddress],
        again: asyncio.Event,
        concurrent_handlers: int,
        policy_file: Path,
    ) -> None:
        """`again` is set by whoever knows that the plan may be another one now."""
        self._watch = watch
        self._worker = worker
        self._records = records
        self._operations = operations
        self._reporter = reporter
        self._lib = lib
        self._find_host = find_host
        self._again = again
        self._gate = asyncio.Semaphore(concurrent_handlers)
        self._policy_file = policy_file
        self._busy: set[str] = set()
        self._look_again_at: float | None = None

    @property
    def busy(self) -> frozenset[str]:
        """Handlers that are worked on, or are next."""
        return frozenset(self._busy)

    async def work(self) -> None:
        """For ever. A command that runs when this ends goes on; the next guestagent adopts it."""
        async with asyncio.TaskGroup() as group:
            while True:
                await self._next_time()
                current = self._watch.current
                if current is None:
                    continue
                decided = plan(current, await asyncio.to_thread(self._facts, current))
                self._reporter.waiting = decided.waiting
                for work in decided.works:
                    self._busy.add(work.handler.name)
                    self._worker.expect(work)
                    group.create_task(self._do(work, current))
                for name in decided.vanished:
                    self._busy.add(name)
                    group.create_task(self._remove(name))
                if decided.settled and not self._busy:
                    await self._processed(current)
                self._reporter.planned()
                self._look_again_at = self._pause_ends(decided)

    async def _next_time(self) -> None:
        seconds = None if self._look_again_at is None else max(0.0, self._look_again_at - time.time())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._again.wait()
        self._again.clear()

    def _facts(self, current: ExtensionsGoalState) -> Facts:
        settings = [one for handler in current.handlers for one in handler.settings]
        depends = any(one.dependency_level or one.depends_on for one in settings)
        found = installed_handlers(self._lib)
        self._worker.keep_copies(found, {handler.name for handler in current.handlers})
        return Facts(
            found=found,
            applied=dict(self._records.applied),
            good=dict(self._records.good),
            states=self._reporter.states() if depends else {},
            busy=self.busy,
            refused=self._refused(current),
            since=self._watch.current_at or time.time(),
            now=time.time(),
        )

    def _refused(self, current: ExtensionsGoalState) -> dict[str, str]:
        """What the policy does not allow."""
        policy = read_policy(self._policy_file)
        names = [handler.name for handler in current.handlers]
        return {name: reason for name in names if (reason := policy.refusal(name))}

    def _pause_ends(self, decided: Plan) -> float | None:
        moments = [decided.look_again_at] if decided.look_again_at is not None else []
        if any(_pending(one) for one in decided.waiting.values()):
            moments.append((self._watch.current_at or time.time()) + DEPENDENCY_SECONDS + 1)
        return min(moments, default=None)

    async def _do(self, work: Work, goal_state: ExtensionsGoalState) -> None:
        # Extensions are told the bare address; the port is fixed by the protocol.
        address = urlsplit(self._find_host().wireserver).hostname or ""
        try:
            async with self._gate:
                asked = Asked(
                    goal_state=goal_state.id,
                    plugin=self._watch.plugin(),
                    wireserver=address,
                    fast_track=goal_state.source == "FastTrack",
                    certificates=self._watch.certificates_settled,
                )
                await self._worker.do(work, asked)
        finally:
            self._busy.discard(work.handler.name)
            self._again.set()

    async def _remove(self, name: str) -> None:
        try:
            await self._worker.remove_vanished(name)
        finally:
            self._busy.discard(name)
            self._again.set()

    async def _processed(self, goal_state: ExtensionsGoalState) -> None:
        if goal_state.id != self._records.goal_state:
            await asyncio.to_thread(self._records.processed, goal_state.id)
            await asyncio.to_thread(self._operations.forget_old)
        self._reporter.processed(
            GoalStateOutcome(
                in_svd_seq_no=goal_state.in_svd_seq_no,
                at=self._records.goal_state_at or time.time(),
                unsupported=goal_state.unsupported_features,
            )
        )


def _pending(waiting: Waiting) -> bool:
    return not waiting.failed
