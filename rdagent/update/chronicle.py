"""What became of each update: for the history, the journal, the log, and the host."""

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial

from ipc.contract.rdagent import UpdateEvent, UpdateOutcome
from ipc.record import Emitter
from rdagent.update import policy as policies
from rdagent.update.memory import Memory
from rdagent.update.offers import Offer
from rdagent.update.shelf import Shelf
from release import record as records
from release.environment import fingerprint
from release.record import Chosen, Record

_TRIALS_WITHIN = 100
"""Lines of the history."""
_ENDS_STAGE = frozenset({"trial", "commit", "roll back", "refuse"})
"""What comes after one of these is another attempt."""

logger = logging.getLogger("rdagent")


class Chronicle:
    """Keeps all of it in the memory."""

    def __init__(
        self,
        memory: Memory,
        shelf: Shelf,
        emitter: Emitter,
        bad_expires: float,
        *,
        offers: Callable[[], list[Offer]],
        running: Callable[[], dict[str, str]],
        changed: Callable[[str], None],
    ) -> None:
        """`offers`: what is offered now; `running`: versions by component; `changed` hears which component has news."""
        self._memory = memory
        self._shelf = shelf
        self._emitter = emitter
        self._bad_expires = bad_expires
        self._offers = offers
        self._running = running
        self._changed = changed

    def expires(self) -> float | None:
        """When a version that fails now may be tried again: UTC, seconds since the epoch."""
        return time.time() + self._bad_expires if self._bad_expires > 0 else None

    def note(
        self,
        phase: str,
        offer: Offer,
        *,
        ok: bool = True,
        message: str = "",
        lift: str = "",
        seconds: float | None = None,
    ) -> None:
        """One line of the history."""
        self._memory.note(
            UpdateEvent(
                at=time.time(),
                component=offer.component,
                phase=phase,
                version=offer.version,
                from_version=self._before(offer),
                wanted_by=offer.wanted_by,
                ok=ok,
                message=message,
                lift=lift,
                seconds=seconds,
            )
        )
        words = f"{phase} {offer.name}" + (f": {message}" if message else "")
        logger.log(logging.INFO if ok else logging.WARNING, "%s", words)
        self._emitter.emit("Update", words, ok=ok, subject=offer.component, subject_version=offer.version)
        self._changed(offer.component)

    def staged(self, offer: Offer, seconds: float) -> None:
        """It lies on the disk. Told once, however often its trial cannot begin: each try finds it there."""
        for one in reversed(self._memory.history(offer.component, _TRIALS_WITHIN)):
            if one.phase == "stage" and one.version == offer.version:
                return
            if one.phase in _ENDS_STAGE:
                break
        self.note("stage", offer, message="it lies on the disk, whole and checked", seconds=seconds)

    def _before(self, offer: Offer) -> str:
        """The version that ran before it: once it runs itself, the one that its trial began from."""
        running = self._running().get(offer.component, "")
        if running != offer.version:
            return running
        trials = [
            one
            for one in self._memory.history(offer.component, _TRIALS_WITHIN)
            if one.phase == "trial" and one.version == offer.version
        ]
        return trials[-1].from_version if trials else ""

    def end(
        self,
        phase: str,
        offer: Offer,
        *,
        ok: bool = True,
        message: str = "",
        lift: str = "",
        seconds: float | None = None,
    ) -> None:
        """The last line of an update. What is on the bad list by now is told."""
        name, now = offer.component, self._memory.now
        attempts = {other: one for other, one in now.attempts.items() if other != name}
        known = {**now.known_bad, name: sorted(self._shelf.record(name).bad)}
        self._memory.change(attempts=attempts, known_bad=known)
        self.note(phase, offer, ok=ok, message=message, lift=lift, seconds=seconds)
        if offer.wanted_by == "host":
            self.outcome(offer, ok=ok, message=message)

    def came_back(self, offer: Offer, reason: str, *, seconds: float | None = None) -> None:
        """The version before is in force again. The rest of its release is not tried."""
        policy = policies.abort_rest(self._memory.now.policy, offer, reason, self._offers())
        self._memory.change(policy=policy)
        self.end("roll back", offer, ok=False, message=reason, seconds=seconds)

    def forget(self, name: str, target: Chosen) -> None:
        """It is tried once more: if it comes back again, that is a story of its own."""
        known = self._memory.now.known_bad
        left = [key for key in known.get(name, []) if key != target.key]
        self._memory.change(known_bad={**known, name: left})

    def outcome(self, offer: Offer, *, ok: bool, message: str = "", waiting: bool = False) -> None:
        """What the host hears of the version it asked for."""
        outcome = UpdateOutcome(
            component=offer.component, version=offer.version, ok=ok, message=message, waiting=waiting
        )
        if outcome != self._memory.now.outcome:
            self._memory.change(outcome=outcome)
            self._changed(offer.component)

    async def tell_of_others(self, name: str, record: Record) -> Record:
        """What launch.py or watchdog.py put on the bad list, with an end and a place. Raises ReleaseError."""
        if name in (unknown := self._memory.now.bad_unknown):
            known_bad = {**self._memory.now.known_bad, name: sorted(record.bad)}
            self._memory.change(known_bad=known_bad, bad_unknown=[one for one in unknown if one != name])
        completed = partial(records.complete, expires=self.expires(), environment=fingerprint())
        if completed(record) != record:
            record = await asyncio.to_thread(self._shelf.change, name, completed)
        # An order may have told its own meanwhile.
        known = self._memory.now.known_bad.get(name, [])
        fresh = {key: bad for key, bad in record.bad.items() if key not in known}
        for key, bad in fresh.items():
            self.came_back(self._wanted(name, key), bad.reason[:500])
        return record

    def _wanted(self, name: str, key: str) -> Offer:
        """With who wanted the version on the bad list, as long as it was on trial: nobody asked to have it back."""
        version, _, digest = key.partition("+")
        offer = self._memory.now.attempts.get(name)
        if offer is not None and offer.version == version:
            return offer
        return Offer(component=name, version=version, wanted_by="", digest=digest)
