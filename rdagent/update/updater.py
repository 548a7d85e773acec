"""The updater's loop: look what is wanted, decide, and have one version at a time prove itself."""

import asyncio
import contextlib
import logging
import platform
import time
from collections.abc import Callable
from functools import partial

import msgspec

from ipc.component import Component
from ipc.contract.every import Hello
from ipc.contract.guestagent import GoalStateArrived
from ipc.contract.rdagent import ComponentTruth, UpdateChanged
from ipc.hostaddress import HostAddress
from ipc.places import COMPONENTS, Places
from ipc.record import Emitter
from rdagent.config import UpdateSettings
from rdagent.update import policy as policies
from rdagent.update.attempt import Attempts
from rdagent.update.chronicle import Chronicle
from rdagent.update.decision import Begin, Decision, Found, Refuse, Settled, Wait, is_same
from rdagent.update.finishing import Finishing
from rdagent.update.install import Installer, InstallError
from rdagent.update.memory import Memory, Refusal, still_refused
from rdagent.update.offers import Offer
from rdagent.update.pauses import Clock, Pauses, longer, shortened
from rdagent.update.plan import answer_to_host, decide, order
from rdagent.update.rot import Rot
from rdagent.update.shelf import Shelf
from rdagent.update.trials import Trials, in_use
from rdagent.update.views import story
from rdagent.update.wishes import Wishes
from rdagent.update.words import one_line
from release import record as records
from release.environment import fingerprint
from release.errors import ReleaseError
from release.manifest import same_version
from release.record import Record
from release.signing import Thresholds, trust_digest, trust_for
from release.staging import sweep
from wire.http import HttpClient

_DAMAGED_TRIES = 3
_LIFTS = {"untrusted": "agentctl package trust KEY.pub", "trust": ""}
"""By what is wrong with a package, the command that mends it; of the trust folder the reason says how to."""
_UNWRITTEN_PAUSE, _BUG_PAUSE = 10.0, 60.0
_LONGEST_TROUBLE_PAUSE = 300.0

logger = logging.getLogger("rdagent")


class Retry(msgspec.Struct, frozen=True, kw_only=True):
    """Of an offer that was not had."""

    at: float
    """CLOCK_MONOTONIC of the next try."""
    pause: float
    """Seconds before it."""
    why: str
    tries: int = 0
    """So far."""


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
        clock: Clock | None = None,
    ) -> None:
        self._clock = clock or Clock()
        self._component = component
        self.settings = settings
        self._truth = truth
        thresholds = Thresholds(settings.threshold, settings.rdagent_threshold)
        self.shelf = Shelf(places, lambda name: trust_for(name, places.trust, thresholds))
        self.memory = Memory(places)
        self.wishes = Wishes(places, settings, client, find_host, self.memory, self._clock)
        self._chronicle = Chronicle(
            self.memory,
            self.shelf,
            emitter,
            settings.bad_expires,
            offers=lambda: self.wishes.offers(self._running()),
            running=self._running,
            changed=self._changed,
        )
        self.installer = Installer(places, settings, self.shelf, client, in_use)
        self.attempts = Attempts(
            places,
            self.shelf,
            self.memory,
            self._chronicle,
            self.installer,
            Trials(places, component.bus, settings, host_is_away),
            running=self._running,
            changed=self._changed,
            be_reborn=self._be_reborn,
        )
        self.finishing = Finishing(
            self.attempts, self.shelf, self._clock, running=self._running, is_reborn=lambda: self.reborn
        )
        self.rot = Rot(self.shelf, self._clock)
        self._wake = asyncio.Event()
        self._retries: dict[str, Retry] = {}
        """By offer: CLOCK_MONOTONIC of the next try, the pause before it, and why it was not had."""
        self._trust, self._judged_by = places.trust, ""
        """The digest of the folder by which was decided last; empty: nothing was yet."""
        self.trouble = ""
        """What stands in the way of everything, if something does."""
        self._pauses = Pauses(_LONGEST_TROUBLE_PAUSE)
        self.decisions: dict[str, Decision] = {}
        self.found: dict[str, Found] = {}
        self.looked_at = 0.0
        """UTC, seconds since the epoch: the decisions follow from what was seen since."""
        self.reborn = False
        """Whether this process is to become another version of itself once it has ended."""
        self._guestagent = 0
        """The process that was met last."""
        component.bus.on(GoalStateArrived, lambda _: self.look_again(host=True))
        component.bus.on(Hello, self._meet, of="guestagent")

    def story(self, name: str) -> str:
        """Of a version of `name` that came back; empty if none did, or something else has happened since."""
        found = self.found.get(name)
        return story(self.memory.history(name, 1), _forgiven(found.record, found))[0] if found else ""

    def seen(self, name: str) -> Found:
        """What was found of it last, and what runs now by which record: a look hangs for as long as a source does.

        Its bad list is what counts of it.
        """
        found, record, running = self.found[name], self.shelf.record(name), self._running().get(name, "")
        digest = _digest_of(running, record)
        return msgspec.structs.replace(found, record=_forgiven(record, found), running=running, running_digest=digest)

    def hear_of_record(self, record: Record) -> None:
        """It was changed, and the loop takes stock again only when what it does has ended."""
        if (found := self.found.get(record.component)) is not None:
            self.found[record.component] = msgspec.structs.replace(found, record=record)

    def _meet(self, hello: Hello) -> None:
        """What another one announced before we could hear it is lost, and our own next look may be an hour away."""
        if hello.pid != self._guestagent:
            self._guestagent = hello.pid
            self.look_again(host=True)

    def look_again(self, *, host: bool = False, repository: bool = False) -> None:
        """Something may have changed: what the host wants, what the repository has, or the operator's word."""
        self.wishes.stale(host=host, repository=repository)
        self._wake.set()

    async def run(self) -> None:
        """For ever. What goes wrong here costs an update, never the process: the heartbeat lives in it."""
        await asyncio.to_thread(sweep, self.shelf.root)
        hurried: dict[str, str] = {}
        while not self.reborn:
            self._wake.clear()
            pause = 0.0
            try:
                self.memory.catch_up()
                if not self.found:  # who asks how a trial goes that an earlier life began is told
                    with contextlib.suppress(ReleaseError):  # who is to be started waits for no record
                        await self._take_stock()
                await self.finishing.go_on()
                began, asked = time.time(), self.memory.now.policy.asked
                # What lies on the disk needs neither host nor repository, which may take a minute not to answer.
                hurry = asked != hurried and await asyncio.to_thread(self._lie_there, asked)
                hurried = asked if hurry else {}
                if not hurry:
                    await self.wishes.refresh()
                await self._decide(asked)
                self.trouble = ""
                self._pauses.reset()
                self.looked_at = began
                if not await self._begin():
                    unwritten = _UNWRITTEN_PAUSE if self.memory.is_behind else float("inf")
                    pause = min(self._seconds_to_next(), self.finishing.seconds_to_next(), unwritten)
            except ReleaseError as error:
                self._note_trouble(str(error))
                pause = self._pauses.next()
            except Exception:
                logger.exception("bug in the updater; it begins anew")
                pause = _BUG_PAUSE
            await self._clock.wait(self._wake, pause)

    @property
    def problems(self) -> list[str]:
        """A line each: what is in the way of all updates or of a component's, and what is wrong with what is wanted."""
        finishing = self.finishing
        rotten = [f"{why}. Next: {lift}" for why, lift in map(self.rot.why, map(self.seen, list(self.found))) if why]
        own = [*finishing.troubles.values(), finishing.nobody_starts, self.trouble, self.memory.now.lost, *rotten]
        return list(dict.fromkeys([*map(one_line, filter(None, own)), *self.wishes.problems]))

    def _lie_there(self, asked: dict[str, str]) -> bool:
        """Whether all these versions are on the disk. Blocking."""
        there = {name: {one.version for one in self.shelf.on_disk(name)} for name in asked}
        return bool(asked) and all(
            any(same_version(version, one) for one in there[name]) for name, version in asked.items()
        )

    def _note_trouble(self, trouble: str) -> None:
        """One line for as long as it is the same: a read-only disk stays so for hours."""
        if trouble != self.trouble:
            logger.warning("updates: %s", trouble)
        self.trouble = trouble

    def forget_refusals(self, name: str) -> None:
        """The operator wants another try."""
        left = {key: one for key, one in self.memory.now.refused.items() if not key.startswith(f"{name} ")}
        self.memory.change(refused=left)

    def try_at_once(self, name: str) -> None:
        """What could not be had: the operator does not want to wait for the next try."""
        for key, one in self._retries.items():
            if key.startswith(f"{name} "):
                self._retries[key] = msgspec.structs.replace(one, at=0.0)

    def decide_anew(self) -> None:
        """With what is known of the disk: the operator's word may have changed."""
        if not self.found:
            return
        now, before = time.time(), self.decisions
        self._judged_by = trust_digest(self._trust)
        policy = policies.expire(self.memory.now.policy, now)
        self.memory.change(policy=policy)
        offers = self.wishes.offers(self._running())
        unasked, machine = self.wishes.unasked(now), self.wishes.machine
        judged = partial(
            decide, offers=offers, policy=policy, settings=self.settings, now=now, machine=machine, unasked=unasked
        )
        self.decisions = {name: self._hindered(judged(name, self.found[name])) for name in COMPONENTS}
        for name, one in self.decisions.items():
            if not is_same(before.get(name), one):
                self._changed(name)
        self._answer_host()

    def _answer_host(self) -> None:
        one = answer_to_host(self.decisions.values())
        if one is not None and one.offer is not None:
            why = "" if isinstance(one, Settled) else one.why
            self._chronicle.outcome(one.offer, ok=not why, message=why, waiting=isinstance(one, Wait))

    def hear_of_keys(self) -> None:
        """Decide anew if the trust folder is another one by now: what was refused may be taken."""
        if self._judged_by not in {"", trust_digest(self._trust)}:
            self.decide_anew()
            self.look_again()

    async def _decide(self, asked: dict[str, str]) -> None:
        """`asked`: what the operator had asked for before we looked what there is."""
        await self._take_stock()
        self.decide_anew()
        policy = self.memory.now.policy
        for name, version in asked.items():
            # It has been answered once nothing is left to wait for.
            if policy.asked.get(name) == version and isinstance(self.decisions.get(name), Settled | Refuse):
                policy = policies.forget(policy, name)
        self.memory.change(policy=policy)

    async def _begin(self) -> bool:
        """Have the first that may begin prove itself; whether there was one."""
        for decision in order(self.decisions.values()):
            if not isinstance(decision, Begin) or self.reborn:
                continue
            offer = decision.offer
            word = self.memory.now.policy.asked.get(offer.component)
            try:
                begun = await self.attempts.make(offer, partial(self._may_begin, decision))
            except InstallError as error:
                self._not_had(offer, error)
                if self.wishes.key(offer) not in self._retries:
                    self._forget_word(offer.component, word)
                self.decide_anew()
            else:
                if begun:
                    self._forget_word(offer.component, word)
                self._retries.pop(self.wishes.key(offer), None)
            return True
        return False

    def _may_begin(self, decision: Begin) -> bool:
        """Whether that is still so: the operator's word may have changed while it was fetched."""
        self.decide_anew()
        now = self.decisions.get(decision.component)
        return isinstance(now, Begin) and now.offer.version == decision.offer.version

    def _forget_word(self, name: str, word: str | None) -> None:
        """What the operator asked for was begun and has ended, or can never be had. If we are killed before, it has to
        begin once more; what cannot be had yet is tried again, and stays his word until then.

        Another word of his meanwhile stays.
        """
        if word is not None and self.memory.now.policy.asked.get(name) == word:
            self.memory.change(policy=policies.forget(self.memory.now.policy, name))

    async def _take_stock(self) -> None:
        """Raises ReleaseError. What is remembered is changed by one thread only, orders are answered meanwhile."""
        truth, here = self._truth(), fingerprint()
        loaded = await asyncio.to_thread(lambda: {name: self.shelf.record(name) for name in COMPONENTS})
        whole = await asyncio.to_thread(lambda: {name: self.shelf.on_disk(name) for name in COMPONENTS})
        found = dict[str, Found]()
        for name, before in loaded.items():
            record = await self._chronicle.tell_of_others(name, before)
            others = [other for other, one in loaded.items() if one.trial and other != name]
            running = truth[name].version if name in truth else ""
            found[name] = Found(
                running=running,
                running_digest=_digest_of(running, record),
                record=record,
                restart_due=name in self.memory.now.to_start,
                whole=whole[name],
                others_on_trial=others[0] if others else "",
                python=platform.python_version(),
                environment=here,
            )
        self.found = found  # all at once

    def _hindered(self, decision: Decision) -> Decision:
        """What could not be had is tried again later; what was not fit for us, when something else is offered."""
        decision = self.finishing.hindered(decision)
        if not isinstance(decision, Begin):
            return decision
        offer = decision.offer
        key = self.wishes.key(offer)
        refused = still_refused(self.memory.now.refused, time.time(), self._judged_by).get(key)
        if refused and offer.wanted_by != "operator":
            return Refuse(offer=offer, why=refused.why, lift=refused.lift)
        retry = self._retries.get(key)
        if retry and self._clock.monotonic() < retry.at:
            until = time.time() + retry.at - self._clock.monotonic()
            # Without the version it would be another word of the operator's.
            what = offer.name if offer.wanted_by == "operator" else offer.component
            return Wait(offer=offer, until=until, why=retry.why, lift=f"agentctl update now {what}")
        return decision

    def _not_had(self, offer: Offer, error: InstallError) -> None:
        key = self.wishes.key(offer)
        before = self._retries.get(key, Retry(at=0.0, pause=0.0, why=""))
        # What three times came as no package was put there so; it is not fetched for ever.
        # A trust folder that cannot be used is mended by hand, and is another one then.
        if error.final or error.problem == "trust" or (error.damaged and before.tries >= _DAMAGED_TRIES - 1):
            self._retries.pop(key, None)
            now = time.time()
            # Where another try ends the same way, nobody is sent to make it.
            lift = _LIFTS.get(error.problem or "", "" if error.final else f"agentctl update now {offer.name}")
            keys = self._judged_by
            refusal = Refusal(why=error.reason, at=now, lift=lift, keys=keys)
            self.memory.change(refused={**still_refused(self.memory.now.refused, now, keys), key: refusal})
            self._chronicle.end("refuse", offer, ok=False, message=error.reason, lift=lift)
            return
        pause = longer(before.pause, self.settings.check_period)
        if key not in self._retries:
            self._chronicle.note("fetch", offer, ok=False, message=error.reason)
        at = self._clock.monotonic() + shortened(pause)
        self._retries[key] = Retry(at=at, pause=pause, why=error.reason, tries=before.tries + 1)

    def _seconds_to_next(self) -> float:
        waiting = [one.until for one in self.decisions.values() if isinstance(one, Wait) and one.until is not None]
        bad = [one.expires for found in self.found.values() for one in found.record.bad.values()]
        waiting += [until for until in bad if until is not None and until > time.time()]
        soonest = min((max(until - time.time(), 0.5) for until in waiting), default=float("inf"))
        return min(soonest, self.wishes.seconds_to_next())

    def _running(self) -> dict[str, str]:
        return {name: one.version for name, one in self._truth().items() if one.version}

    def _changed(self, name: str) -> None:
        self._component.announce(UpdateChanged(component=name))

    def _be_reborn(self) -> None:
        self.reborn = True
        self._component.end()


def _forgiven(record: Record, found: Found) -> Record:
    """Without what is on the bad list no more, by the clock or by the machine it is on now."""
    return records.forgive(record, now=time.time(), environment=found.environment)


def _digest_of(running: str, record: Record) -> str:
    """What runs is what the record says, unless its number is another."""
    known = (record.trial.target if record.trial else None, record.current)
    return next((one.digest for one in known if one and one.version == running), "")
