"""What was begun and has no end yet: gone on with at the beginning of each round of the updater's loop."""

import asyncio
import logging
import math
import time
from collections.abc import Callable

from ipc.places import COMPONENTS
from rdagent.update.attempt import Attempts
from rdagent.update.decision import Begin, Decision, Wait
from rdagent.update.pauses import Clock, Pauses
from rdagent.update.shelf import Shelf
from rdagent.update.words import one_line
from release.errors import ReleaseError
from release.record import Record

_LONGEST_PAUSE = 300.0
"""Less than watchdog.py waits for the end of a trial: at each try it is told what stands in the way."""
_LOOK_AT = "agentctl status"

logger = logging.getLogger("rdagent")


class Finishing:
    """Restarts, trials, and processes that do not run what is in force. A trouble of one component stays with it."""

    def __init__(
        self,
        attempts: Attempts,
        shelf: Shelf,
        clock: Clock,
        *,
        running: Callable[[], dict[str, str]],
        is_reborn: Callable[[], bool],
    ) -> None:
        """`running`: versions by component; `is_reborn`: this process is about to end."""
        self._attempts = attempts
        self._shelf = shelf
        self._clock = clock
        self._running = running
        self._is_reborn = is_reborn
        self._unstarted: dict[str, str] = {}
        self._unfinished: dict[str, str] = {}
        """By component: why it was not."""
        self.nobody_starts = ""
        """Why no component could be started: what is begun now could not run. Empty: supervisord answers."""
        self._told: dict[str, str] = {}
        self._pauses = Pauses(_LONGEST_PAUSE)
        self._again_at = math.inf

    async def go_on(self) -> None:
        """What can be is; the rest is tried again after `seconds_to_next`."""
        self._unstarted = await self._attempts.restarts.finish()
        self.nobody_starts = await self._attempts.restarts.why_nobody_starts() if self._unstarted else ""
        for name in COMPONENTS:
            if name not in self._unstarted:
                self._unfinished[name] = await self._go_on_with(name)
        for name, trouble in self.troubles.items():
            if trouble != self._told.get(name):  # one line for as long as it is the same
                logger.warning("updates: %s", trouble)
        self._told = self.troubles
        if self._told:
            self._again_at = self._clock.monotonic() + self._pauses.next()
        else:
            self._again_at = math.inf
            self._pauses.reset()

    @property
    def troubles(self) -> dict[str, str]:
        """By component: why it cannot be gone on with, one line. What was in the way of what is under way is over."""
        doing = self._attempts.doing.offer.component if self._attempts.doing else ""
        both = {**self._unfinished, **self._unstarted}
        return {name: one_line(trouble) for name, trouble in both.items() if trouble and name != doing}

    def seconds_to_next(self) -> float:
        """Until the next try; infinite if nothing is left."""
        return max(self._again_at - self._clock.monotonic(), 0.0)

    def hindered(self, decision: Decision) -> Decision:
        """Nothing is begun where something is not at its end, and nothing at all while nobody would start it."""
        why = self.troubles.get(decision.component) or self.nobody_starts
        if not why or not isinstance(decision, Begin):
            return decision
        until = None if self._again_at == math.inf else time.time() + self.seconds_to_next()
        return Wait(offer=decision.offer, until=until, why=why, lift=_LOOK_AT)

    async def _go_on_with(self, name: str) -> str:
        """Why it cannot be; empty if it was."""
        try:
            record = await asyncio.to_thread(self._shelf.record, name)
            if record.trial and not self._is_reborn():
                await self._attempts.finish(name, record.trial.target)
            elif name != "rdagent" and _is_suspicious(record, self._running().get(name)):
                await self._attempts.correct(name)
        except ReleaseError as error:
            return str(error)
        return ""


def _is_suspicious(record: Record, running: str | None) -> bool:
    """Whether what runs may not be what is in force. At the base install any number may be it; None: not known yet."""
    if record.current is None:
        return bool(record.bad)
    return running is None or record.current.version != running
