"""The heartbeat against the real host: whatever becomes of an answer, the loop goes on and the view tells the truth."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from ipc.component import Component
from ipc.contract.every import HealthReport
from ipc.contract.guestagent import GoalStateArrived
from ipc.contract.rdagent import TruthChanged
from ipc.places import Places

PERIOD = 0.2


@pytest.fixture
def three(places: Places, alive: Callable[..., Any]) -> Any:
    """All neighbours, well and in this loop: a look waits for the slowest. Gives guestagent."""

    @asynccontextmanager
    async def start() -> AsyncIterator[Component]:
        async with (
            alive(Component("netagent", "7", places)),
            alive(Component("telemetry", "7", places)),
            alive(Component("guestagent", "7", places)) as guest,
        ):
            yield guest

    return start


@pytest.fixture
def beating(places: Places, rdagent: Callable[..., Any], three: Any, local_host: Any, until: Callable[..., Any]) -> Any:
    """rdagent, its neighbours, and the first heartbeat has arrived."""

    @asynccontextmanager
    async def start(period: float = PERIOD) -> AsyncIterator[tuple[Any, Component]]:
        async with three() as guest, rdagent(places, local_host.wireserver, period) as watcher:

            async def first() -> bool:
                return bool(await watcher.beats() > 0)

            await until(first)
            yield watcher, guest

    return start


def test_the_host_hears_ready_and_a_beat_each_period(beating: Any, local_host: Any, until: Callable[..., Any]) -> None:
    async def run() -> None:
        async with beating() as (watcher, _):
            beats = local_host.told()["heartbeats"]
            await until(lambda: local_host.told()["heartbeats"] >= beats + 5)
            seen = await watcher.all()
            assert (seen.host.ready, seen.host.problem) == (True, "")
            assert seen.host.wireserver == local_host.wireserver
            assert seen.host.last_heartbeat_at is not None

    asyncio.run(run())
    told = local_host.told()
    assert told["health"]["state"] == "Ready"
    assert told["health"]["incarnation"] == "1"


def test_a_restart_of_rdagent_never_makes_a_ready_vm_not_ready(
    places: Places, three: Any, rdagent: Callable[..., Any], local_host: Any, until: Callable[..., Any]
) -> None:
    states = []

    async def run() -> None:
        async with three():
            for _ in range(2):
                async with rdagent(places, local_host.wireserver, 600.0) as watcher:

                    async def first(watcher: Any = watcher) -> bool:
                        return bool(await watcher.beats() > 0)

                    await until(first)
                    states.append((await watcher.all()).host)

    asyncio.run(run())
    # The period is long: the only beat of each life was its first.
    assert [(one.ready, one.heartbeats) for one in states] == [(True, 1), (True, 1)]


def test_a_change_of_readiness_is_told_at_once(
    places: Places, three: Any, rdagent: Callable[..., Any], local_host: Any, until: Callable[..., Any]
) -> None:
    async def run() -> None:
        beats = local_host.told()["heartbeats"]
        async with rdagent(places, local_host.wireserver, 600.0) as watcher:
            await until(lambda: local_host.told()["heartbeats"] > beats)
            health = local_host.told()["health"]
            assert (health["state"], health["substatus"]) == ("NotReady", "Provisioning")
            heard: list[TruthChanged] = []
            watcher.bus.on(TruthChanged, heard.append)
            async with three():
                # Ten minutes before the next beat is due.
                await until(lambda: local_host.told()["ready"])
                await until(lambda: any(not one.component for one in heard))

    asyncio.run(run())


@pytest.mark.parametrize("fault", [("status", 500), ("status", 503), ("status", 410), ("reset", None)])
def test_a_bad_answer_costs_its_beat_and_is_told_until_the_next(
    beating: Any, local_host: Any, until: Callable[..., Any], fault: tuple[str, float | None]
) -> None:
    async def run() -> None:
        async with beating() as (watcher, _):
            asked = local_host.asked("health")
            local_host.fault("health", *fault)

            async def problem() -> str:
                return str((await watcher.all()).host.problem)

            assert "health" in await until(problem)
            during = await watcher.all()
            assert during.host.ready is True, "what the host was last told stays true"
            await until(lambda: local_host.asked("health") >= asked + 4)
            assert (await watcher.of("guestagent")).state == "ok"
            local_host.lift()
            beats = await watcher.beats()
            await until(lambda: local_host.told()["heartbeats"] >= beats + 2)

            async def well() -> bool:
                return not await problem()

            await until(well)

    asyncio.run(run())


def test_a_host_that_says_410_for_ever_is_asked_for_ids_but_not_flooded(
    beating: Any, local_host: Any, until: Callable[..., Any]
) -> None:
    async def run() -> None:
        async with beating():
            beats, fetches = local_host.asked("health"), local_host.asked("goalstate")
            local_host.fault("health", "status", 410)
            await until(lambda: local_host.asked("goalstate") > fetches)
            await until(lambda: local_host.asked("health") >= beats + 10)
            assert local_host.asked("goalstate") - fetches < 6

    asyncio.run(run())


@pytest.mark.parametrize("by", ["guestagent", "the host's 410"])
def test_new_ids_are_fetched_and_the_next_beat_carries_them(
    beating: Any, local_host: Any, until: Callable[..., Any], by: str
) -> None:
    async def run() -> None:
        async with beating(600.0 if by == "guestagent" else PERIOD) as (watcher, guest):
            # Another container id, after a restart of the host.
            local_host.move()
            local_host.kill()
            local_host.start()
            beats = local_host.told()["heartbeats"]
            if by == "guestagent":
                # The period is ten minutes: new ids bring a beat by themselves.
                guest.announce(GoalStateArrived(goal_state="incarnation_2"))
            await until(lambda: local_host.told()["heartbeats"] > beats)

            async def well() -> bool:
                return bool((await watcher.all()).host.problem == "")

            await until(well)

    asyncio.run(run())


def test_a_slow_answer_costs_its_beat_and_nothing_else(
    beating: Any, local_host: Any, until: Callable[..., Any]
) -> None:
    async def run() -> None:
        async with beating() as (watcher, guest):
            local_host.fault("health", "slow", 3600)

            async def problem() -> str:
                return str((await watcher.all()).host.problem)

            guest.judge(HealthReport(state="busy", what="meanwhile"))

            async def sees_busy() -> bool:
                return bool((await watcher.of("guestagent")).state == "busy")

            await until(sees_busy)
            assert "in time" in await until(problem)
            local_host.lift()
            beats = await watcher.beats()
            await until(lambda: local_host.told()["heartbeats"] >= beats + 2)

    asyncio.run(run())


def test_a_slow_goal_state_delays_no_beat(beating: Any, local_host: Any, until: Callable[..., Any]) -> None:
    async def run() -> None:
        async with beating() as (watcher, guest):
            local_host.fault("goalstate", "slow", 3600)
            asked = local_host.asked("goalstate")
            guest.announce(GoalStateArrived(goal_state="incarnation_2"))
            beats = local_host.told()["heartbeats"]
            await until(lambda: local_host.told()["heartbeats"] >= beats + 15)
            # The question is still open.
            assert local_host.asked("goalstate") == asked
            assert (await watcher.all()).host.problem == ""

    asyncio.run(run())


def test_without_a_goal_state_the_view_says_why_and_the_first_beat_comes_when_there_is_one(
    places: Places, three: Any, rdagent: Callable[..., Any], local_host: Any, until: Callable[..., Any]
) -> None:
    async def run() -> None:
        local_host.fault("goalstate", "no-role-instance")
        async with three(), rdagent(places, local_host.wireserver, PERIOD) as watcher:

            async def problem() -> str:
                seen = await watcher.all()
                return seen.host.problem if seen else ""

            assert "RoleInstance" in await until(problem)
            assert (await watcher.all()).host.ready is None
            local_host.lift()
            beats = local_host.told()["heartbeats"]
            await until(lambda: local_host.told()["heartbeats"] > beats)

    asyncio.run(run())


def test_a_host_that_goes_away_and_comes_back(beating: Any, local_host: Any, until: Callable[..., Any]) -> None:
    async def run() -> None:
        async with beating() as (watcher, _):

            async def problem() -> str:
                return str((await watcher.all()).host.problem)

            local_host.kill()
            assert "heartbeat: " in await until(problem)
            assert (await watcher.of("guestagent")).state == "ok"
            local_host.start()

            async def well() -> bool:
                return not await problem()

            await until(well)

    asyncio.run(run())


def test_observations_reach_the_host_and_are_kept_apart_from_the_beat(
    beating: Any, local_host: Any, until: Callable[..., Any]
) -> None:
    async def run() -> None:
        asked = local_host.asked("healthservice")
        local_host.fault("healthservice", "status", 500, count=1)
        async with beating() as (_, guest):
            await until(lambda: local_host.asked("healthservice") >= asked + 2)
            guest.judge(HealthReport(state="degraded", what="no disk"))

            def told() -> bool:
                one = local_host.told()["observations"]["azvmagent.guestagent"]
                return bool(one["IsHealthy"] is False and one["Description"] == "degraded: no disk")

            await until(told)

    asyncio.run(run())
