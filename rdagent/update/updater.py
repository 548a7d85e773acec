"""The updater's loop: look what is wanted, decide, and have one version at a time prove itself."""

import asyncio
import contextlib
import logging
import os
import platform
import time
from collections.abc import Callable, Iterable
from functools import partial

import msgspec

from ipc.component import Component
from ipc.contract.guestagent import GoalStateArrived
from ipc.contract.rdagent import ComponentTruth, UpdateChanged, UpdateEvent, UpdateOutcome, WantedBy
from ipc.hostaddress import HostAddress
from ipc.places import COMPONENTS, Places
from ipc.record import Emitter
from ipc.supervisord import SupervisordError
from rdagent.config import UpdateSettings
from rdagent.update import policy as policies
from rdagent.update.decision import Begin, Decision, Found, Refuse, Settled, Wait
from rdagent.update.gate import Baseline, Verdict
from rdagent.update.install import Installer, InstallError
from rdagent.update.memory import Memory, Refusal
from rdagent.update.offers import Offer
from rdagent.update.plan import decide, order
from rdagent.update.shelf import Shelf
from rdagent.update.swap import restart
from rdagent.update.trials import Trials, in_use
from rdagent.update.wishes import Wishes
from release import record as records
from release.collect import Keep, collect
from release.environment import fingerprint
from release.errors import ReleaseError
from release.record import Chosen, Record
from release.signing import Thresholds, trust_for
from wire.http import HttpClient

_FIRST_PAUSE, _LONGEST_PAUSE = 30.0, 3600.0
_DISK_PAUSE = 5.0
_REFUSED_SECONDS = 86400.0

logger = logging.getLogger("rdagent")


class Doing(msgspec.Struct, frozen=True, kw_only=True):
    """What is under way."""

    offer: Offer
    phase: str
    since: float
    """UTC, seconds since the epoch."""
    verdict: Verdict = Verdict()


class Updater:
    """Owns the versions. `run` is a loop of the component."""

    def __init__(
        self,
        component: Component,
        places: Places,
        settings: UpdateSettings,
        client: HttpClient,
        find_host: Callable[[], HostAddress],
        emitter: Emitter,
        truth: Callable[[], dict[str, ComponentTruth]],
        host_is_away: Callable[[], bool],
    ) -> None:
        self._component = component
        self._places = places
        self.settings = settings
        self._emitter = emitter
        self._truth = truth
        thresholds = Thresholds(settings.threshold, settings.rdagent_threshold)
        self.shelf = Shelf(places, lambda name: trust_for(name, places.trust, thresholds))
        self.memory = Memory(places)
        self.wishes = Wishes(places, settings, client, find_host, self.memory)
        self._trials = Trials(places, component.bus, settings, host_is_away)
        self._installer = Installer(places, settings, self.shelf, client, in_use)
        self._wake = asyncio.Event()
        self._retries: dict[str, tuple[float, float, str]] = {}
        self.decisions: dict[str, Decision] = {}
        self.found: dict[str, Found] = {}
        self.doing: Doing | None = None
        self.reborn = False
        """Whether this process is to become another version of itself once it has ended."""
        component.bus.on(GoalStateArrived, lambda _: self.look_again(host=True))

    def look_again(self, *, host: bool = False, repository: bool = False) -> None:
        """Something may have changed: what the host wants, what the repository has, or the operator's word."""
        self.wishes.stale(host=host, repository=repository)
        self._wake.set()

    async def run(self) -> None:
        """For ever. What goes wrong here costs an update, never the process."""
        await self._finish_trials()
        while True:
            self._wake.clear()
            try:
                await self.wishes.refresh()
                await self._decide()
                begun = await self._begin()
            except ReleaseError as error:
                logger.warning("updates: %s", error)
                begun = False
            if not begun:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._seconds_to_next()):
                        await self._wake.wait()

    # -- deciding ------------------------------------------------------------------------------------------------------

    async def _decide(self) -> None:
        await asyncio.to_thread(self._take_stock)
        await asyncio.to_thread(self._tell_of_others)
        self.decide_anew()
        self._forget_answered()

    def decide_anew(self) -> None:
        """With what is known of the disk: the operator's word has changed."""
        if not self.found:
            return
        now = time.time()
        policy = policies.expire(self.memory.now.policy, now)
        self.memory.change(policy=policy)
        offers = self.wishes.offers(self._running())
        before = self.decisions
        self.decisions = {
            name: self._hindered(
                decide(name, self.found[name], offers, policy, self.settings, now=now, machine=self.wishes.machine)
            )
            for name in COMPONENTS
        }
        for name, one in self.decisions.items():
            if before.get(name) != one:
                self._component.announce(UpdateChanged(component=name))
            if isinstance(one, Refuse) and one.offer.wanted_by == "host":
                self._outcome(one.offer, ok=False, message=one.why)
            elif isinstance(one, Settled) and one.offer is not None and one.offer.wanted_by == "host":
                self._outcome(one.offer, ok=True)

    def _take_stock(self) -> None:
        running, here = self._truth(), fingerprint()
        digests = self._digests(running)
        loaded = {name: self.shelf.record(name) for name in COMPONENTS}
        for name, record in loaded.items():
            others = [other for other, one in loaded.items() if one.trial and other != name]
            self.found[name] = Found(
                running=running[name].version if name in running else "",
                running_digest=digests.get(name, ""),
                record=record,
                whole=self.shelf.on_disk(name),
                others_on_trial=others[0] if others else "",
                python=platform.python_version(),
                environment=here,
            )

    def _digests(self, running: dict[str, ComponentTruth]) -> dict[str, str]:
        """What runs is what the record says, unless its number is another."""
        found = {}
        for name, truth in running.items():
            record = self.shelf.record(name)
            for one in (record.current, record.trial.target if record.trial else None):
                if one and one.version == truth.version:
                    found[name] = one.digest
        return found

    def _hindered(self, decision: Decision) -> Decision:
        """What could not be had is tried again later; what was not fit for us, when something else is offered."""
        if not isinstance(decision, Begin):
            return decision
        offer = decision.offer
        key = self.wishes.key(offer)
        refused = self.memory.now.refused.get(key)
        if refused and offer.wanted_by != "operator" and 0 <= time.time() - refused.at < _REFUSED_SECONDS:
            lift = f"agentctl update now {offer.component} {offer.version}"
            return Refuse(offer=offer, why=refused.why, lift=lift)
        retry = self._retries.get(key)
        if retry and time.monotonic() < retry[0] and not self._is_asked(offer):
            until = time.time() + retry[0] - time.monotonic()
            return Wait(offer=offer, until=until, why=retry[2], lift=f"agentctl update now {offer.component}")
        return decision

    def _is_asked(self, offer: Offer) -> bool:
        return offer.component in self.memory.now.policy.asked

    def _forget_answered(self) -> None:
        """What the operator asked for has been answered once nothing is left to wait for."""
        policy = self.memory.now.policy
        for name in list(policy.asked):
            if isinstance(self.decisions.get(name), Settled | Refuse):
                policy = policies.forget(policy, name)
        self.memory.change(policy=policy)

    def _seconds_to_next(self) -> float:
        waiting = [one.until for one in self.decisions.values() if isinstance(one, Wait) and one.until is not None]
        soonest = min((max(until - time.time(), 0.5) for until in waiting), default=float("inf"))
        return min(soonest, self.wishes.seconds_to_next())

    # -- one update ----------------------------------------------------------------------------------------------------

    async def _begin(self) -> bool:
        """Have the first that may begin prove itself; whether there was one."""
        for decision in order(self.decisions.values()):
            if isinstance(decision, Begin):
                await self._update(decision.offer)
                return True
        return False

    async def _update(self, offer: Offer) -> None:
        name = offer.component
        asked = self._is_asked(offer)
        self.memory.change(policy=policies.forget(self.memory.now.policy, name))
        self._now(offer, "fetch")
        began = time.monotonic()
        try:
            target = await self._installer.install(offer)
        except InstallError as error:
            self._not_had(offer, error)
            return
        finally:
            self.doing = None
        self._note("stage", offer, seconds=time.monotonic() - began, message="it lies on the disk, whole and checked")
        baseline = await self._trials.baseline(name)
        here, now = fingerprint(), time.time()

        def begin(record: Record) -> Record:
            record = records.forgive(record, now=now, environment=here)
            if asked:
                record = msgspec.structs.replace(record, bad={k: v for k, v in record.bad.items() if k != target.key})
            return records.begin_trial(record, target)

        self.memory.change(attempts={**self.memory.now.attempts, name: offer})
        await asyncio.to_thread(self.shelf.change, name, begin)
        self._note("trial", offer)
        if name == "rdagent":
            self._be_reborn()
            return
        await self._restart(name)
        await self._prove(offer, target, baseline)

    async def _prove(self, offer: Offer, target: Chosen, baseline: Baseline) -> None:
        """From the swap to the end of the trial."""
        began = time.monotonic()
        self._now(offer, "trial")
        verdict = await self._trials.judge(offer.component, target, baseline, self._told)
        if verdict.state == "passed":
            committed = await self._change_for_sure(offer.component, lambda record: _committed(record, target))
            self.doing = None
            if committed.current == target:
                self._end(offer, "commit", seconds=time.monotonic() - began)
                await self._collect(offer.component)
                return
            # launch.py or the watchdog was faster.
            verdict = Verdict(state="failed", reason="it was given up by another judge meanwhile")
        await self._come_back(offer, target, verdict.reason, time.monotonic() - began)

    async def _come_back(self, offer: Offer, target: Chosen, reason: str, seconds: float) -> None:
        expires = self._expires()

        def reject(record: Record) -> Record:
            if record.trial and record.trial.target == target:
                return records.reject(record, reason, expires, fingerprint())
            return record

        self._now(offer, "roll back")
        try:
            after = await asyncio.to_thread(self.shelf.change, offer.component, reject)
            reason = after.bad[target.key].reason if target.key in after.bad else reason
        except ReleaseError as error:
            # Then a try cannot be counted either, and launch.py does not run it.
            logger.warning("updates: %s", error)
        self.memory.change(
            policy=policies.abort_rest(self.memory.now.policy, offer, reason, self.wishes.offers(self._running()))
        )
        if offer.component == "rdagent":
            self._end(offer, "roll back", ok=False, message=reason, seconds=seconds)
            self._be_reborn()
            return
        await self._restart(offer.component)
        await self._until_answers(offer.component)
        self.doing = None
        self._end(offer, "roll back", ok=False, message=reason, seconds=seconds)

    async def _finish_trials(self) -> None:
        """Trials that an earlier life of ours began."""
        for name in COMPONENTS:
            record = await asyncio.to_thread(self.shelf.record, name)
            if record.trial is None:
                continue
            target = record.trial.target
            offer = self.memory.now.attempts.get(name) or Offer(
                component=name, version=target.version, wanted_by="operator", digest=target.digest
            )
            if name == "rdagent" and os.environ.get("AZVMAGENT_DIGEST", "") != target.digest:
                # Ended between the record and the start; or the try could not be counted, then this waits as well.
                try:
                    await asyncio.to_thread(self.shelf.change, name, lambda one: one)
                    await asyncio.to_thread(self._check_writable, name)
                except (ReleaseError, OSError) as error:
                    logger.warning("rdagent %s is on trial and cannot be tried: %s", target.version, error)
                    continue
                self._be_reborn()
                return
            logger.info("%s %s is on trial, its gate goes on", name, target.version)
            await self._prove(offer, target, Baseline())

    def _check_writable(self, name: str) -> None:
        """Raises OSError."""
        probe = self.shelf.folder(name) / ".writable"
        probe.write_bytes(b"?")
        probe.unlink()

    def forget_refusals(self, name: str) -> None:
        """The operator wants another try."""
        left = {key: one for key, one in self.memory.now.refused.items() if not key.startswith(f"{name} ")}
        self.memory.change(refused=left)

    async def roll_back(self, name: str, reason: str) -> None:
        """The previous version, from the disk. Raises ReleaseError."""
        record = await asyncio.to_thread(self.shelf.record, name)
        if record.trial:
            raise ReleaseError(f"{name} {record.trial.target.version} is on trial; its end comes by itself")
        if (failed := record.current) is None:
            raise ReleaseError(f"{name} runs from the base install; there is nothing to go back to")
        expires = self._expires()
        await asyncio.to_thread(self.shelf.change, name, lambda one: records.step_back(one, reason, expires))
        offer = Offer(component=name, version=failed.version, wanted_by="operator", digest=failed.digest)
        self._end(offer, "roll back", ok=False, message=reason)
        if name == "rdagent":
            self._be_reborn()
        else:
            await self._restart(name)
        self.look_again()

    # -- acts and words ------------------------------------------------------------------------------------------------

    async def _restart(self, name: str) -> None:
        try:
            await asyncio.to_thread(restart, self._places, name)
        except SupervisordError as error:
            # supervisord starts it by itself when it ends; the gate sees what comes of it.
            logger.warning("%s: %s", name, error)

    async def _until_answers(self, name: str) -> None:
        for _ in range(20):
            if (await self._trials.look(name)).answered:
                return
            await asyncio.sleep(0.5)

    async def _change_for_sure(self, name: str, change: Callable[[Record], Record]) -> Record:
        """Until the disk takes it: what proved itself must not come back for want of a free block."""
        while True:
            try:
                return await asyncio.to_thread(self.shelf.change, name, change)
            except ReleaseError as error:
                logger.warning("updates: %s", error)
                await asyncio.sleep(_DISK_PAUSE)

    async def _collect(self, name: str) -> None:
        keep = Keep(versions=frozenset(self._running().values()), in_use=frozenset(await asyncio.to_thread(in_use)))
        try:
            await asyncio.to_thread(collect, self.shelf.root, name, keep)
        except (ReleaseError, OSError) as error:
            logger.warning("old versions stay: %s", error)

    def _be_reborn(self) -> None:
        self.reborn = True
        self._component.end()

    def _expires(self) -> float | None:
        return time.time() + self.settings.bad_expires if self.settings.bad_expires > 0 else None

    def _running(self) -> dict[str, str]:
        return {name: one.version for name, one in self._truth().items() if one.version}

    def _now(self, offer: Offer, phase: str) -> None:
        self.doing = Doing(offer=offer, phase=phase, since=time.time())
        self._component.announce(UpdateChanged(component=offer.component))

    def _told(self, verdict: Verdict) -> None:
        if self.doing is not None:
            self.doing = msgspec.structs.replace(self.doing, verdict=verdict)

    def _not_had(self, offer: Offer, error: InstallError) -> None:
        key = self.wishes.key(offer)
        if error.final:
            refusal = Refusal(why=error.reason, at=time.time())
            self.memory.change(refused={**self.memory.now.refused, key: refusal})
            self._end(offer, "refuse", ok=False, message=error.reason)
            return
        pause = min(self._retries[key][1] * 2, _LONGEST_PAUSE) if key in self._retries else _FIRST_PAUSE
        if key not in self._retries:
            self._note("fetch", offer, ok=False, message=error.reason)
        self._retries[key] = (time.monotonic() + pause, pause, error.reason)

    def _end(
        self, offer: Offer, phase: str, *, ok: bool = True, message: str = "", seconds: float | None = None
    ) -> None:
        attempts = {name: one for name, one in self.memory.now.attempts.items() if name != offer.component}
        known = self.memory.now.known_bad
        bad = self.shelf.record(offer.component).bad
        self.memory.change(attempts=attempts, known_bad={**known, offer.component: sorted(bad)})
        self._retries.pop(self.wishes.key(offer), None)
        self._note(phase, offer, ok=ok, message=message, seconds=seconds)
        if offer.wanted_by == "host":
            self._outcome(offer, ok=ok, message=message)

    def _note(
        self, phase: str, offer: Offer, *, ok: bool = True, message: str = "", seconds: float | None = None
    ) -> None:
        running = self._running().get(offer.component, "")
        wanted_by: WantedBy = offer.wanted_by
        self.memory.note(
            UpdateEvent(
                at=time.time(),
                component=offer.component,
                phase=phase,
                version=offer.version,
                from_version=running,
                wanted_by=wanted_by,
                ok=ok,
                message=message,
                seconds=seconds,
            )
        )
        words = f"{phase} {offer.component} {offer.version}" + (f": {message}" if message else "")
        logger.log(logging.INFO if ok else logging.WARNING, "%s", words)
        self._emitter.emit("Update", words, ok=ok, subject=offer.component, subject_version=offer.version)
        self._component.announce(UpdateChanged(component=offer.component))

    def _outcome(self, offer: Offer, *, ok: bool, message: str = "") -> None:
        outcome = UpdateOutcome(component=offer.component, version=offer.version, ok=ok, message=message)
        if outcome != self.memory.now.outcome:
            self.memory.change(outcome=outcome)
            self._component.announce(UpdateChanged(component=offer.component))

    def _tell_of_others(self) -> None:
        """What launch.py or watchdog.py put on the bad list: into the history, with an end and a place."""
        known = self.memory.now.known_bad
        for name, found in list(self.found.items()):
            fresh = {key: bad for key, bad in found.record.bad.items() if key not in known.get(name, [])}
            if not fresh:
                continue
            completed = partial(records.complete, expires=self._expires(), environment=fingerprint())
            record = self.shelf.change(name, completed)
            self.found[name] = msgspec.structs.replace(found, record=record)
            self._tell(name, fresh.items())
            known = {**known, name: sorted(record.bad)}
        self.memory.change(known_bad=known)

    def _tell(self, name: str, fresh: Iterable[tuple[str, records.Bad]]) -> None:
        for key, bad in fresh:
            version, _, digest = key.partition("+")
            offer = self.memory.now.attempts.get(name)
            if offer is None or offer.version != version:
                offer = Offer(component=name, version=version, wanted_by="operator", digest=digest)
            self._end(offer, "roll back", ok=False, message=bad.reason)


def _committed(record: Record, target: Chosen) -> Record:
    return records.commit(record) if record.trial and record.trial.target == target else record
