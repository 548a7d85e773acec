"""What the operator and the others ask of the updater."""

import asyncio
import time
from typing import Any

import msgspec

from ipc.component import Component
from ipc.contract.rdagent import (
    GetUpdateHistory,
    GetUpdatePlan,
    GetUpdates,
    HoldUpdates,
    ImportBundle,
    ImportedBundle,
    PinVersion,
    PlannedUpdate,
    RollBack,
    UnblockVersion,
    UpdateHistory,
    UpdateNow,
    UpdatePlan,
    Updates,
    UpdateView,
)
from ipc.errors import Refused
from ipc.message import Request
from ipc.places import COMPONENTS, Places
from rdagent.update import policy as policies
from rdagent.update.bundle import BundleError, Bundles
from rdagent.update.decision import Settled
from rdagent.update.doing import with_doing
from rdagent.update.memory import NotKeptError
from rdagent.update.obstacles import floor_of
from rdagent.update.plan import order
from rdagent.update.policy import Policy
from rdagent.update.updater import Updater
from rdagent.update.views import to_step, to_view, with_damage, with_story, with_trouble
from release.errors import ReleaseError
from release.manifest import same_version
from release.record import Record


class Orders:
    """Answers; the updater does the work."""

    def __init__(self, updater: Updater, places: Places) -> None:
        self._updater = updater
        self._bundles = Bundles(places, updater.installer, updater.memory, self._floor)

    async def get_updates(self, _: GetUpdates) -> Updates:
        self._updater.hear_of_keys()
        await self._hear_of_trial()
        for name in list(self._updater.found):
            await self._updater.rot.look(self._updater.seen(name))
        return self._updates()

    async def get_plan(self, _: GetUpdatePlan) -> UpdatePlan:
        await self._hear_of_trial()
        return UpdatePlan(steps=self._steps())

    async def update_now(self, request: UpdateNow) -> UpdatePlan:
        """Refused for an unknown component or what is no version."""
        policy = self._policy
        for name in self._named(request, request.component):
            try:
                policy = policies.ask(policy, name, request.version if request.component else "")
            except ValueError as error:
                raise _no(request, str(error)) from error
            self._updater.try_at_once(name)
        self._kept(request, policy)
        self._updater.look_again(host=True, repository=True)
        return UpdatePlan(steps=self._steps())

    async def pin(self, request: PinVersion) -> Updates:
        self._named(request, request.component, all_of_them=False)
        try:
            pinned = policies.pin(self._policy, request.component, request.version) if request.version else None
        except ValueError as error:
            raise _no(request, str(error)) from error
        return self._kept(request, pinned or policies.unpin(self._policy, request.component))

    async def hold(self, request: HoldUpdates) -> Updates:
        self._named(request, request.component)
        now = time.time()
        if request.on and request.until is not None and request.until <= now:
            raise _no(request, "that time is over already")
        if request.on:
            return self._kept(request, policies.hold(self._policy, request.component, now, request.until))
        return self._kept(request, policies.release(self._policy, request.component))

    async def unblock(self, request: UnblockVersion) -> Updates:
        """Refused if nothing of it is on the list."""
        name = self._named(request, request.component, all_of_them=False)[0]

        def free(record: Record) -> Record:
            left = {
                key: bad
                for key, bad in record.bad.items()
                if request.version and not same_version(key.partition("+")[0], request.version)
            }
            if left == record.bad:
                what = f"{name} {request.version}".strip()
                raise ReleaseError(f"{what} is not on the bad list")
            return msgspec.structs.replace(record, bad=left)

        try:
            # He is told what follows from it.
            self._updater.hear_of_record(await asyncio.to_thread(self._updater.shelf.change, name, free))
        except ReleaseError as error:
            raise _no(request, str(error)) from error
        self._updater.forget_refusals(name)
        stopped = self._policy.stopped
        return self._decided(policies.go_on(self._policy) if stopped and stopped.component == name else self._policy)

    async def roll_back(self, request: RollBack) -> Updates:
        """Refused at the base install, while a version is on trial, and if another is in force than it names."""
        name = self._named(request, request.component, all_of_them=False)[0]
        try:
            await self._updater.attempts.roll_back(name, request.version[:64], request.reason[:300])
        except ReleaseError as error:
            raise _no(request, str(error)) from error
        self._updater.memory.change(lost="")
        self._updater.look_again()
        return self._updates()

    async def get_history(self, request: GetUpdateHistory) -> UpdateHistory:
        self._named(request, request.component)
        return UpdateHistory(events=self._updater.memory.history(request.component, request.limit))

    async def import_bundle(self, request: ImportBundle) -> ImportedBundle:
        """Refused if nothing of the file can be taken."""
        try:
            taken = await self._bundles.take(request.path)
        except BundleError as error:
            raise _no(request, str(error)) from error
        # They lie on the disk now, which is where the operator's next word finds them.
        self._updater.look_again()
        return taken

    async def _hear_of_trial(self) -> None:
        """The loop takes stock again only when what it does has ended."""
        if (doing := self._updater.attempts.doing) is not None:
            record = await asyncio.to_thread(self._updater.shelf.record, doing.offer.component)
            self._updater.hear_of_record(record)

    def _floor(self, component: str) -> str:
        found = self._updater.found.get(component)
        return floor_of(found, found.running) if found else "0.0.0"

    @property
    def _policy(self) -> Policy:
        return self._updater.memory.now.policy

    def _kept(self, request: Request[Any], policy: Policy) -> Updates:
        """The operator's new word is on disk before he hears that it is. Raises Refused if it cannot be written."""
        try:
            self._updater.memory.keep(policy=policy, lost="")
        except NotKeptError as error:
            raise _no(request, str(error)) from error
        return self._decided(policy)

    def _decided(self, policy: Policy) -> Updates:
        self._updater.memory.change(policy=policy, lost="")  # he has spoken
        self._updater.decide_anew()
        self._updater.look_again()
        return self._updates()

    def _named(self, request: Request[Any], component: str, *, all_of_them: bool = True) -> list[str]:
        """Raises Refused."""
        if not component and all_of_them:
            return list(COMPONENTS)
        if component not in COMPONENTS:
            raise _no(request, f"{component[:64]!r} is none of {', '.join(COMPONENTS)}")
        return [component]

    def _steps(self) -> list[PlannedUpdate]:
        now, seen = time.time(), self._updater.seen
        return [to_step(one, seen(one.component), now=now) for one in order(self._updater.decisions.values())]

    def _updates(self) -> Updates:
        updater, now = self._updater, time.time()
        hold = policies.held(self._policy, "", now)
        return Updates(
            components=[self._view(name, now) for name in COMPONENTS if name in updater.found],
            repository=updater.wishes.repository,
            held=hold is not None,
            held_until=hold.until if hold else None,
            outcome=updater.memory.now.outcome,
            looked_at=updater.looked_at,
            problems=updater.problems,
        )

    def _view(self, name: str, now: float) -> UpdateView:
        updater = self._updater
        # In the first look after a start a trial may go on, before anything is decided.
        decision = updater.decisions.get(name) or Settled(component=name)
        seen = updater.seen(name)
        view = to_view(decision, seen, self._policy, now=now)
        view = with_story(view, updater.memory.history(name, 1), seen.record)
        view = with_damage(view, *updater.rot.why(seen))
        doing = updater.attempts.doing
        trouble = updater.finishing.troubles.get(name, "") or (updater.trouble if seen.record.trial else "")
        if doing is None and trouble:
            return with_trouble(view, trouble)
        if doing is None or doing.offer.component != name:
            return view
        return with_doing(view, doing, updater.settings.trial_seconds)


def _no(request: Request[Any], reason: str) -> Refused:
    return Refused(request.wire_name(), "failed", reason)


def answer_orders(component: Component, updater: Updater, places: Places) -> None:
    """Have them answered by this component."""
    orders = Orders(updater, places)
    component.answer(GetUpdates, orders.get_updates)
    component.answer(GetUpdatePlan, orders.get_plan)
    component.answer(UpdateNow, orders.update_now)
    component.answer(PinVersion, orders.pin)
    component.answer(HoldUpdates, orders.hold)
    component.answer(UnblockVersion, orders.unblock)
    component.answer(RollBack, orders.roll_back)
    component.answer(GetUpdateHistory, orders.get_history)
    component.answer(ImportBundle, orders.import_bundle)
