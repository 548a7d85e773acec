"""One update from the package to its end: on the disk, on trial, and then in force or back."""

import asyncio
import logging
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec

from ipc.places import Places
from rdagent.life import SignOfLife
from rdagent.update.chronicle import Chronicle
from rdagent.update.doing import Doing
from rdagent.update.gate import Baseline, Observation, Verdict
from rdagent.update.install import Installer, InstallError
from rdagent.update.memory import Memory
from rdagent.update.offers import Offer
from rdagent.update.restarts import Restarts
from rdagent.update.shelf import Shelf
from rdagent.update.trials import Trials, in_use
from rdagent.update.words import one_line
from release import record as records
from release.collect import Keep, collect
from release.environment import fingerprint
from release.errors import ReleaseError
from release.floor import check_step_back
from release.record import Chosen, Record

_DISK_PAUSE = 5.0
_REBIRTH_PAUSE = 60.0
_ANSWER_SECONDS = 15.0
_ANOTHER_JUDGE = Verdict(state="failed", reason="another judge gave it up meanwhile")
"""launch.py or the watchdog was faster."""

logger = logging.getLogger("rdagent")


class Attempts:
    """Makes them, one at a time."""

    def __init__(
        self,
        places: Places,
        shelf: Shelf,
        memory: Memory,
        chronicle: Chronicle,
        installer: Installer,
        trials: Trials,
        *,
        running: Callable[[], dict[str, str]],
        changed: Callable[[str], None],
        be_reborn: Callable[[], None],
    ) -> None:
        """`be_reborn`: end this process, to go on as the version in force."""
        self._shelf = shelf
        self._memory = memory
        self._chronicle = chronicle
        self._installer = installer
        self._trials = trials
        self._running = running
        self._changed = changed
        self._be_reborn = be_reborn
        self._waits = SignOfLife(places.waiting_trial)
        self._born = time.monotonic()
        self.restarts = Restarts(places, memory)
        self.doing: Doing | None = None
        self._going_back: set[str] = set()
        """Components that an order takes back: they are not started anew yet."""

    async def make(self, offer: Offer, may_begin: Callable[[], bool]) -> bool:
        """Have it prove itself; whether that was begun. If it may not begin any more once it was fetched, it waits on
        the disk.

        Raises InstallError, ReleaseError.
        """
        name, began = offer.component, time.monotonic()
        self._now(offer, "fetch")
        try:
            target = await self._installer.install(offer)
        finally:
            self.doing = None
        offer = msgspec.structs.replace(offer, version=target.version)
        self._chronicle.staged(offer, time.monotonic() - began)
        baseline = await self._trials.baseline(name)
        if not may_begin():
            return False
        now = self._memory.now
        self._memory.change(attempts={**now.attempts, name: offer}, baselines={**now.baselines, name: baseline})
        try:
            await asyncio.to_thread(self._shelf.change, name, partial(_begun, target=target))
        except ReleaseError as error:
            raise InstallError(f"its trial cannot begin: {error}", final=False) from error
        self._chronicle.forget(name, target)
        self._chronicle.note("trial", offer)
        if name == "rdagent":
            self._be_reborn()
            return True
        await self._restart_for(offer)
        await self._prove(offer, target, baseline)
        return True

    async def finish(self, name: str, target: Chosen) -> None:
        """A trial that an earlier life of ours began, or whose end could not be written down. Raises ReleaseError."""
        now = self._memory.now
        offer, baseline = now.attempts.get(name), now.baselines.get(name, Baseline())
        if offer is None or offer.version != target.version:
            offer = Offer(component=name, version=target.version, wanted_by="", digest=target.digest)
            baseline = Baseline()
        try:
            if not await self._is_started(offer, target):
                return
        except ReleaseError:
            self._tell_watchdog(name)
            raise
        logger.info("%s is on trial, its gate goes on", offer.name)
        await self._prove(offer, target, baseline)

    async def _is_started(self, offer: Offer, target: Chosen) -> bool:
        """Start it if something else runs; False: this process is to become it. Raises ReleaseError."""
        name = offer.component
        await asyncio.to_thread(self._shelf.check_writable, name)
        if not await self._is_another(name, target):
            return True
        # We ended between the record and the restart, or no try could be counted then. While none can be, launch.py
        # would start the version before. A mute one is not asked that: it may be who holds the record, and is judged.
        await asyncio.to_thread(self._shelf.check_countable, name)
        if name == "rdagent":
            await self._be_reborn_for(offer)
            return False
        await self._restart_for(offer)
        return True

    def _tell_watchdog(self, name: str) -> None:
        """It ends a trial of rdagent that lasts too long; not one that waits for the disk as it would have to."""
        if name == "rdagent":
            self._waits.show()

    async def _be_reborn_for(self, offer: Offer) -> None:
        """Once at once, then with a pause: who only begins and ends beats for nobody. Raises ReleaseError."""
        # launch.py counts a try by writing the record; the same serial says that it could not.
        serial = (await asyncio.to_thread(self._shelf.record, "rdagent")).serial
        was_tried = self._memory.now.corrected.get("rdagent") == serial
        self._memory.change(corrected={**self._memory.now.corrected, "rdagent": serial})
        # The next life would not know that it was tried.
        was_tried = was_tried or self._memory.is_behind
        if was_tried and time.monotonic() - self._born < _REBIRTH_PAUSE:
            raise ReleaseError(f"{offer.name} is on trial and was not started, its try could not be counted")
        self._be_reborn()

    async def _is_another(self, name: str, target: Chosen) -> bool:
        """Whether something else runs than the version on trial. One that is mute may be that very version."""
        if name == "rdagent":
            return os.environ.get("AZVMAGENT_DIGEST", "") != target.digest
        seen = await self._trials.look(name)
        return seen.answered and seen.digest != target.digest

    async def roll_back(self, name: str, version: str, reason: str) -> None:
        """From `version` (empty: the one in force) to the previous one, from the disk; not below the floor of the one
        that is given up, and not before what came into force last was started. Raises ReleaseError.
        """
        if name in self._going_back or self._comes_back(name):
            raise ReleaseError(_unstarted(name))
        self._going_back.add(name)
        try:
            await self._step_back(name, version, reason)
        finally:
            self._going_back.discard(name)

    async def _step_back(self, name: str, version: str, reason: str) -> None:
        base = os.environ.get("AZVMAGENT_BASE")
        given_up: list[Chosen] = []

        def back(record: Record) -> Record:
            if record.trial:
                raise ReleaseError(f"{name} {record.trial.target.version} is on trial; its end comes by itself")
            check_step_back(self._shelf.root, Path(base) if base else None, record, version)
            if record.current is None:
                raise ReleaseError(f"{name} runs from the base install; there is nothing to go back to")
            if name in self._memory.now.to_start:
                raise ReleaseError(_unstarted(name))
            given_up.append(record.current)
            return records.step_back(record, reason, self._chronicle.expires())

        # Who sees it in force and who gives it up is one: launch.py and agentctl may go back as well.
        await asyncio.to_thread(self._shelf.change, name, back)
        failed = given_up[0]
        offer = Offer(component=name, version=failed.version, wanted_by="operator", digest=failed.digest)
        self._chronicle.came_back(offer, reason)
        if name == "rdagent":
            self._be_reborn()
        else:
            await self.restarts.make(name)

    def _comes_back(self, name: str) -> bool:
        """Whether its trial has failed, and the version before is about to be started."""
        doing = self.doing
        return doing is not None and doing.offer.component == name and doing.phase == "roll back"

    async def _prove(self, offer: Offer, target: Chosen, baseline: Baseline) -> None:
        """From the swap to the end of the trial."""
        began = time.monotonic()
        self._now(offer, "trial")
        record = await asyncio.to_thread(self._shelf.record, offer.component)
        others = [one for one in (record.current, record.previous) if one]
        verdict = await self._trials.judge(offer.component, target, others, baseline, self._told)
        if verdict.state == "not started":
            verdict = await self._after_no_start(offer, target, verdict.reason)
        if verdict.state == "passed":
            committed = await self._commit(offer.component, target)
            if committed.current == target:
                self.doing = None
                self._chronicle.end("commit", offer, seconds=time.monotonic() - began)
                await self._collect(offer.component)
                return
            verdict = _ANOTHER_JUDGE
        await self._come_back(offer, target, verdict.reason, began)

    async def _after_no_start(self, offer: Offer, target: Chosen, reason: str) -> Verdict:
        """Raises ReleaseError if it still is on trial: it has to have another try."""
        trial = (await asyncio.to_thread(self._shelf.record, offer.component)).trial
        if trial is None or trial.target != target:
            return _ANOTHER_JUDGE
        self.doing = None
        raise ReleaseError(f"{offer.name} is on trial and was not started: {reason}")

    async def _come_back(self, offer: Offer, target: Chosen, reason: str, began: float) -> None:
        self._now(offer, "roll back", _comes_back(offer, reason))
        reject = partial(_rejected, target=target, reason=reason, expires=self._chronicle.expires())
        try:
            after = await asyncio.to_thread(self._shelf.change, offer.component, reject)
            reason = after.bad[target.key].reason if target.key in after.bad else reason
            self._waits_for(offer.component, _comes_back(offer, reason))
        except ReleaseError:
            # Then a try cannot be counted either, so launch.py starts the version before. `finish` tries it once more.
            await self._go_back(offer)
            raise
        ended = partial(self._chronicle.came_back, offer, reason)
        if offer.component == "rdagent":
            ended(seconds=time.monotonic() - began)
        await self._go_back(offer)
        if offer.component != "rdagent":
            ended(seconds=time.monotonic() - began)
            await self._collect(offer.component)

    async def _go_back(self, failed: Offer) -> None:
        """To what launch.py chooses now."""
        if failed.component == "rdagent":
            self._be_reborn()
            return
        await self.restarts.make(failed.component)
        await self._until_known(failed)
        self.doing = None

    async def _commit(self, name: str, target: Chosen) -> Record:
        """Until the disk takes it: what proved itself must not come back for want of a free block."""
        trouble = ""
        while True:
            try:
                return await asyncio.to_thread(self._shelf.change, name, partial(_committed, target=target))
            except ReleaseError as error:
                self._tell_watchdog(name)
                if str(error) != trouble:
                    trouble = str(error)
                    logger.warning("%s %s proved itself, and has to wait: %s", name, target.version, trouble)
                    self._waits_for(name, f"{target.version} proved itself, and has to wait: {trouble}")
                await asyncio.sleep(_DISK_PAUSE)

    async def correct(self, name: str) -> None:
        """Have it run what the record says, once for each record: an earlier life of ours ended before the restart."""
        record = await asyncio.to_thread(self._shelf.record, name)
        if record.trial or self._memory.now.corrected.get(name) == record.serial:
            return
        seen = await self._trials.look(name)
        if not seen.answered or _is_in_force(record, seen):
            return
        if await asyncio.to_thread(self._shelf.record, name) != record:
            return  # it was swapped while we looked, and what answered is the other one
        self._memory.change(corrected={**self._memory.now.corrected, name: record.serial})
        logger.warning("%s %s runs, though it is not in force; it is started anew", name, seen.version)
        await self.restarts.make(name)

    async def _restart_for(self, offer: Offer) -> None:
        """Raises ReleaseError: then its trial has not begun, and is gone on with later."""
        if not await self.restarts.make(offer.component):
            self.doing = None
            raise ReleaseError(f"{offer.name} is on trial and cannot be started: supervisord does not do it")

    async def _until_known(self, failed: Offer) -> None:
        """That another version answers: who decides meanwhile would believe that the failed one runs and is wanted."""
        until = time.monotonic() + _ANSWER_SECONDS
        while time.monotonic() < until:
            answered = (await self._trials.look(failed.component)).answered
            if answered and self._running().get(failed.component) != failed.version:
                return
            await asyncio.sleep(0.5)

    async def _collect(self, name: str) -> None:
        versions = {*self._running().values(), *self._memory.now.imported.get(name, [])}
        keep = Keep(versions=frozenset(versions), in_use=frozenset(await asyncio.to_thread(in_use)))
        try:
            async with self._installer.alone:
                await asyncio.to_thread(collect, self._shelf.root, name, keep)
        except (ReleaseError, OSError) as error:
            logger.warning("old versions stay: %s", error)

    def _now(self, offer: Offer, phase: str, why: str = "") -> None:
        self.doing = Doing(offer=offer, phase=phase, since=time.time(), why=why)
        self._changed(offer.component)

    def _waits_for(self, name: str, why: str) -> None:
        if self.doing is not None:
            self.doing = msgspec.structs.replace(self.doing, why=why)
            self._changed(name)

    def _told(self, verdict: Verdict) -> None:
        if self.doing is not None:
            self.doing = msgspec.structs.replace(self.doing, verdict=verdict)


def _comes_back(offer: Offer, reason: str) -> str:
    return f"{offer.version} failed: {one_line(reason)}; the version before is started"


def _unstarted(name: str) -> str:
    """Whoever goes back then gives up a version that has not even run."""
    return (
        f"{name} is still to be started anew as the version that came into force last, so nothing was changed; "
        "agentctl status says what it waits for. Go back once more when it runs"
    )


def _is_in_force(record: Record, seen: Observation) -> bool:
    """By its number: one older than digests says none. launch.py may have stepped back, so this is asked once."""
    return seen.version == record.current.version if record.current else seen.digest == ""


def _begun(record: Record, *, target: Chosen) -> Record:
    """Raises RecordError."""
    return records.begin_trial(records.forgive(record, now=time.time(), environment=fingerprint()), target)


def _committed(record: Record, *, target: Chosen) -> Record:
    return records.commit(record) if record.trial and record.trial.target == target else record


def _rejected(record: Record, *, target: Chosen, reason: str, expires: float | None) -> Record:
    if record.trial and record.trial.target == target:
        return records.reject(record, reason, expires, fingerprint())
    return record
