"""rdagent's loop: look, judge, tell; and bring back what supervisord gave up."""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable

import msgspec

from ipc.component import Component
from ipc.contract.every import Hello
from ipc.contract.guestagent import GoalStateArrived
from ipc.contract.rdagent import ComponentTruth, GetTruth, Truth, TruthChanged
from ipc.record import Emitter
from ipc.supervisord import SupervisordError
from rdagent import __version__
from rdagent.config import Settings
from rdagent.counterwatch import NAME as WATCHDOG
from rdagent.counterwatch import Counterwatch
from rdagent.heartbeat import Heartbeat
from rdagent.life import SignOfLife
from rdagent.plan import NEIGHBOURS, Observed, Restart, after_start, given_up, judge, next_look, readiness
from rdagent.watch import Neighbours

_UNSETTLED_SECONDS = 0.5

logger = logging.getLogger("rdagent")


class RdAgent:
    """Owns the truth."""

    def __init__(
        self,
        component: Component,
        settings: Settings,
        neighbours: Neighbours,
        heartbeat: Heartbeat,
        emitter: Emitter,
        sign_of_life: SignOfLife,
    ) -> None:
        self._component = component
        self._settings = settings
        self._neighbours = neighbours
        self._heartbeat = heartbeat
        self._emitter = emitter
        self._truth: dict[str, ComponentTruth] = {}
        self._restarts: dict[str, Restart] = {}
        self._counterwatch = Counterwatch()
        self._unwatched_since = 0.0
        self._sign_of_life = sign_of_life
        self.story: Callable[[str], str] = lambda _: ""
        """What else is to be said of a component that is well; the updater knows."""
        self.replaced: Callable[[], None] = lambda: None
        """Called when another process, or another version, of a component answers."""
        self._stories: dict[str, str] = {}
        self._news = asyncio.Event()
        self._somebody_came = asyncio.Event()
        for name in NEIGHBOURS:
            component.bus.on(Hello, lambda _: self._somebody_came.set(), of=name)
        component.bus.on(GoalStateArrived, lambda _: heartbeat.forget_goal_state())

    async def get_truth(self, _: GetTruth) -> Truth:
        return Truth(host=self._heartbeat.view, components=list(self._told().values()))

    def truth(self) -> dict[str, ComponentTruth]:
        """By component, our own first."""
        return {"rdagent": self._own_truth(), **self._truth}

    def _told(self) -> dict[str, ComponentTruth]:
        """With what the updater has to say of who is well."""
        return {
            name: msgspec.structs.replace(one, why=self.story(name)) if one.state == "ok" and not one.why else one
            for name, one in self.truth().items()
        }

    async def look(self) -> None:
        """Look and judge at a fixed period, for ever."""
        loop = asyncio.get_running_loop()
        next_at = loop.time()
        while True:
            began = loop.time()
            seen = await self._neighbours.look()
            self._judge(seen)
            self._sign_of_life.show()
            away = time.monotonic() - seen["guestagent"].heard_at
            self._heartbeat.set_readiness(readiness(self._truth["guestagent"], away=away))
            # One that answers is not started a second time, whatever supervisord says.
            await self._bring_back({name: one.program for name, one in seen.items() if not one.answered})
            await self._watch_the_watchdog()
            # While somebody is on the way, more often: the host waits for Ready.
            settled = all(one.state != "restarting" for one in self._truth.values())
            period = self._settings.look_period if settled else _UNSETTLED_SECONDS
            next_at = next_look(next_at, began=began, now=loop.time(), period=period)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(next_at):
                    await self._somebody_came.wait()
            self._somebody_came.clear()

    async def tell(self) -> None:
        """Send observations on change and once a period, for ever."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.observe_period):
                    await self._news.wait()
            self._news.clear()
            if not await self._heartbeat.observe(self._told()):
                await asyncio.sleep(self._settings.look_period)
                self._news.set()

    def _judge(self, seen: dict[str, Observed]) -> None:
        now, wall = time.monotonic(), time.time()
        for name, one in seen.items():
            before = self._truth.get(name)
            after = judge(one, before, now=now, wall=wall)
            self._truth[name] = after
            if before is None or (before.state, before.pid, before.version) != (after.state, after.pid, after.version):
                self._changed(before, after)
            if before is not None and (before.pid, before.version) != (after.pid, after.version):
                self.replaced()
        stories = {name: self.story(name) for name in self.truth()}
        for name in [name for name, one in stories.items() if one != self._stories.get(name, "")]:
            self._news.set()
            self._component.announce(TruthChanged(component=name))
        self._stories = stories

    def _changed(self, before: ComponentTruth | None, after: ComponentTruth) -> None:
        self._news.set()
        self._component.announce(TruthChanged(component=after.name))
        if before is not None and before.state != after.state and "busy" not in {before.state, after.state}:
            well = after.state == "ok"
            logger.log(logging.INFO if well else logging.WARNING, "%s is %s %s", after.name, after.state, after.why)
            self._emitter.emit("Truth", f"{after.state} {after.why}".strip(), ok=well, subject=after.name)

    async def _bring_back(self, programs: dict[str, str]) -> None:
        decided = given_up(programs, self._restarts, now=time.monotonic())
        for name, restart in decided.items():
            if restart is not None:
                self._restarts[name] = restart
                continue
            self._restarts[name] = after_start(self._restarts[name], now=time.monotonic())
            logger.warning("%s was given up by supervisord and is started again", name)
            try:
                await asyncio.to_thread(self._neighbours.start, name)
            except SupervisordError as error:
                logger.warning("%s: %s", name, error)
        for name in [name for name, truth in self._truth.items() if truth.state == "ok"]:
            waiting = self._restarts.get(name)
            # Well for longer than its pause: the slate is clean.
            if waiting is not None and time.monotonic() > waiting.next_at + waiting.pause:
                del self._restarts[name]

    async def _watch_the_watchdog(self) -> None:
        before = self._counterwatch.why
        order = self._counterwatch.look(self._neighbours.watchdog, time.monotonic())
        if (why := self._counterwatch.why) != before:
            self._unwatched_since = time.time()
            self._changed(None, self._own_truth())
            logger.log(logging.WARNING if why else logging.INFO, "%s", why or "the watchdog is well again")
            self._emitter.emit("Watchdog", why or "it is well again", ok=not why)
        if order:
            logger.warning("the watchdog is %s", "started again" if order == "start" else "stopped, and started then")
            try:
                await asyncio.to_thread(self._neighbours.start if order == "start" else self._neighbours.stop, WATCHDOG)
            except SupervisordError as error:
                logger.warning("%s: %s", WATCHDOG, error)

    def _own_truth(self) -> ComponentTruth:
        why = self._counterwatch.why
        return ComponentTruth(
            name="rdagent",
            state="degraded" if why else "ok",
            why=why,
            version=__version__,
            pid=os.getpid(),
            health="ok",
            since=self._unwatched_since if why else self._component.started_at,
        )
