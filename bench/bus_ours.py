"""The bus as a component uses it, in two processes: typed messages, checked on both sides, on an asyncio loop."""

import asyncio
import contextlib
import time
from pathlib import Path

from ipc.bus import Bus
from ipc.component import Component
from ipc.contract.guestagent import ExtensionView, GetStatus, GoalStateArrived, GuestStatus
from ipc.contract.telemetry import GetTimeline, Timeline
from ipc.places import Places

SPEAKER = "guestagent"
ANSWER = GuestStatus(
    goal_state="incarnation_4",
    goal_state_at=1790000000.25,
    certificates=["0123456789ABCDEF0123456789ABCDEF01234567"],
    reported_at=1790000000.25,
    reported_by="hostgaplugin",
    extensions=[
        ExtensionView(
            name="Contoso.Tools.Greeter", version="2.0.1", sequence_number=5, handler_status="Ready", status="success",
            message="Hello, world!", since=1790000000.25,
        )
    ],
)  # fmt: skip


def serve(directory: Path) -> None:
    """The other process: answers, and announces as many events as it is asked for. Until SIGTERM."""

    async def live() -> None:
        async with Component(SPEAKER, "1.0.0", Places.under(directory)) as component:

            async def status(_: GetStatus) -> GuestStatus:
                return ANSWER

            async def announce(order: GetTimeline) -> Timeline:
                for _ in range(order.limit):
                    component.announce(GoalStateArrived(goal_state=order.subject))
                return Timeline(entries=[], cursor=0)

            component.answer(GetStatus, status)
            component.answer(GetTimeline, announce)
            await component.run()

    asyncio.run(live())


class Ours:
    """This process: asks and hears."""

    def __init__(self, directory: Path) -> None:
        self._runner = asyncio.Runner()
        self._batch, self._heard = 0, 0
        self._more = asyncio.Event()
        self._bus = self._runner.run(self._start(directory))

    def round_trips(self, count: int) -> list[float]:
        async def talk() -> list[float]:
            times = []
            for _ in range(count):
                began = time.perf_counter()
                await self._bus.ask(GetStatus())
                times.append(time.perf_counter() - began)
            return times

        return self._runner.run(talk())

    def requests(self, count: int, in_flight: int) -> None:
        async def one_after_the_other() -> None:
            for _ in range(count // in_flight):
                await self._bus.ask(GetStatus())

        async def talk() -> None:
            async with asyncio.TaskGroup() as group:
                for _ in range(in_flight):
                    group.create_task(one_after_the_other())

        self._runner.run(talk())

    def events(self, batches: int, size: int) -> None:
        async def listen() -> None:
            for _ in range(batches):
                await self._order(size)
                await self._until_heard(size)

        self._runner.run(listen())

    def close(self) -> None:
        self._bus.close()
        self._runner.close()

    async def _start(self, directory: Path) -> Bus:
        bus = Bus(Places.under(directory), "bench", "1.0.0")
        bus.on(GoalStateArrived, self._hear)
        self._bus = bus
        # Nothing is lost any more once the subscription has arrived there.
        while not self._heard:
            await self._order(1)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    await self._until_heard(1)
        return bus

    async def _order(self, size: int) -> None:
        self._batch, self._heard = self._batch + 1, 0
        await self._bus.ask(GetTimeline(limit=size, subject=f"incarnation_{self._batch}"), to=SPEAKER, within=20)

    async def _until_heard(self, size: int) -> None:
        while self._heard < size:
            self._more.clear()
            await self._more.wait()

    def _hear(self, event: GoalStateArrived) -> None:
        if event.goal_state == f"incarnation_{self._batch}":
            self._heard += 1
            self._more.set()
