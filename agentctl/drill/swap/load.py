"""What goes on while a component is swapped: questions, events, and operations (operations.py). And the count.

Everything has a mark of its own, so that each can be looked for afterwards: there once, or an account of why not.
"""

import asyncio
import itertools
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from agentctl import __version__
from agentctl.drill.group.stage import Stage
from agentctl.drill.group.updates import until
from agentctl.drill.swap.operations import Operations, Run
from ipc.bus import Bus
from ipc.contract.every import Health
from ipc.contract.telemetry import GetTimeline
from ipc.errors import FrameError, IpcError, NoAnswer, Refused
from ipc.record import Emitter

A = TypeVar("A")

QUESTION_SECONDS = 0.01
"""Between two questions to the component that is swapped."""
LOST_AFTER = 1.0
"""Seconds without an answer after which a question is lost."""
_EVENT_SECONDS = 0.05
_ASK_SECONDS = 2.0
_END_PATIENCE = 30.0
_EMITTER = "agentctl"
_NO_ANSWER = (NoAnswer, Refused, FrameError)


class Question(msgspec.Struct, frozen=True):
    """One to the component that is swapped. CLOCK_MONOTONIC."""

    asked: float
    answered: float | None
    """None: it is lost."""


class Load:
    """A `with` block around the swaps. Afterwards its lists are complete."""

    def __init__(self, stage: Stage, component: str, *, full: bool) -> None:
        """`full`: not only questions."""
        self._places = stage.places
        self._component = component
        self._full = full
        self._folder = stage.root / "load"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._live()), name="load")
        self.operations = Operations(stage, self._folder, self._stop)
        self.questions: list[Question] = []
        self.emitted: list[str] = []
        """Their ids."""
        self.recorded: Counter[str] = Counter()
        """Ids in the journal."""
        self.trouble: list[str] = []
        """What the load itself could not do."""

    def __enter__(self) -> "Load":
        self._folder.mkdir(exist_ok=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.finish()

    def finish(self) -> None:
        """Nothing new is begun; returns once everything that was begun has ended."""
        self._stop.set()
        self._thread.join()

    def hears(self, since: float) -> bool:
        """Whether something asked since then was answered. The newest are the last ones."""
        for one in reversed(self.questions):
            if one.asked < since:
                return False
            if one.answered is not None:
                return True
        return False

    def silence(self, since: float, until: float) -> float:
        """The longest time between two answers that touches this span. Seconds, CLOCK_MONOTONIC."""
        answers = sorted(one.answered for one in self.questions if one.answered is not None)
        before = max((at for at in answers if at < since), default=since)
        after = min((at for at in answers if at > until), default=until)
        moments = [before, *(at for at in answers if since <= at <= until), after]
        return max((later - earlier for earlier, later in itertools.pairwise(moments)), default=0.0)

    def until_an_operation_runs(self, patience: float) -> list[Run]:
        """Those that run then; none without a full load. Raises Broken."""
        if self._full:
            until(lambda: "" if self.operations.under_way() else "no operation is begun any more", patience)
        return self.operations.under_way()

    # -- on the bus ----------------------------------------------------------------------------------------------------

    async def _live(self) -> None:
        bus = Bus(self._places, _EMITTER, __version__)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._question(bus))
                if self._full:
                    group.create_task(self._emit(bus))
                    group.create_task(self.operations.live(bus))
        finally:
            bus.close()

    async def _question(self, bus: Bus) -> None:
        async with asyncio.TaskGroup() as group:
            while not self._stop.is_set():
                group.create_task(self._one_question(bus))
                await asyncio.sleep(QUESTION_SECONDS)

    async def _one_question(self, bus: Bus) -> None:
        asked = time.monotonic()
        answered: float | None = None
        try:
            await bus.ask(Health(), to=self._component, within=LOST_AFTER)
            answered = time.monotonic()
        except _NO_ANSWER:
            pass
        self.questions.append(Question(asked, answered))

    async def _emit(self, bus: Bus) -> None:
        emitter = Emitter(self._places, bus, _EMITTER, __version__, str)
        deliver = asyncio.create_task(emitter.deliver())
        while not self._stop.is_set():
            self.emitted.append(emitter.emit("Load", f"event {len(self.emitted)}").id)
            await asyncio.sleep(_EVENT_SECONDS)
        await self._read_journal(bus)
        deliver.cancel()

    async def _read_journal(self, bus: Bus) -> None:
        """All that is in it of us, once the last one is there or patience ends."""
        until, after = time.monotonic() + _END_PATIENCE, 0
        while time.monotonic() < until and not self.recorded.keys() >= set(self.emitted):
            question = GetTimeline(after=after, limit=1000, component=_EMITTER)
            timeline = await self._patiently(lambda: bus.ask(question, within=_ASK_SECONDS))  # noqa: B023  # awaited here
            if timeline is None or not timeline.entries:
                await asyncio.sleep(_EVENT_SECONDS)
                continue
            self.recorded.update(one.id for one in timeline.entries)
            after = timeline.cursor

    async def _patiently(self, ask: Callable[[], Awaitable[A]]) -> A | None:
        try:
            return await ask()
        except _NO_ANSWER:
            return None
        except IpcError as error:
            self.trouble.append(str(error))
            return None
