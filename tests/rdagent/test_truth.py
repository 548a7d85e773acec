"""The truth about real processes under a real supervisord, also while that is dead, hanging or another one."""

import asyncio
import os
import signal
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from ipc.component import Component
from ipc.contract.every import HealthReport
from ipc.contract.rdagent import ComponentTruth, TruthChanged
from ipc.places import Places
from ipc.supervisord import SupervisordError

PERIOD = 0.5
THREE = {"guestagent": "", "netagent": "", "telemetry": ""}
ALL_OK = {"rdagent": "ok", "guestagent": "ok", "netagent": "ok", "telemetry": "ok"}


def sees(watcher: Any, name: str, state: str) -> Callable[[], Any]:
    """A condition: this component is in this state; gives its truth."""

    async def look() -> ComponentTruth | None:
        one: ComponentTruth | None = await watcher.of(name)
        return one if one is not None and one.state == state else None

    return look


def all_ok(watcher: Any) -> Callable[[], Any]:
    async def look() -> bool:
        return bool(await watcher.states() == ALL_OK)

    return look


def more_beats(watcher: Any, than: int) -> Callable[[], Any]:
    async def look() -> bool:
        return bool(await watcher.beats() > than)

    return look


def test_neighbours_are_in_their_own_words(
    places: Places, alive: Callable[..., Any], rdagent: Callable[..., Any], local_host: Any, until: Callable[..., Any]
) -> None:
    async def run() -> None:
        async with (
            alive(Component("guestagent", "7", places)) as guest,
            alive(Component("netagent", "8", places)) as net,
            alive(Component("telemetry", "9", places)),
            rdagent(places, local_host.wireserver, PERIOD) as watcher,
        ):
            await until(all_ok(watcher))
            heard: list[str] = []
            watcher.bus.on(TruthChanged, lambda event: heard.append(event.component))
            guest.judge(HealthReport(state="busy", what="unpacking", since=5.0, limit_seconds=90))
            net.judge(HealthReport(state="degraded", what="no netlink"))
            busy = await until(sees(watcher, "guestagent", "busy"))
            assert (busy.why, busy.since, busy.limit_seconds) == ("unpacking, limit 90 s", 5.0, 90)
            assert (busy.version, busy.pid, busy.health) == ("7", os.getpid(), "busy")
            degraded = await until(sees(watcher, "netagent", "degraded"))
            assert (degraded.why, degraded.version) == ("no netlink", "8")
            await until(lambda: {"guestagent", "netagent"} <= set(heard))

    asyncio.run(run())


def test_without_supervisord_the_last_answers_pid_tells_hung_from_absent(
    places: Places, neighbour: Any, rdagent: Callable[..., Any], local_host: Any, until: Callable[..., Any]
) -> None:
    async def run() -> None:
        stopped, killed = neighbour("netagent"), neighbour("telemetry")
        async with rdagent(places, local_host.wireserver, PERIOD) as watcher:
            never = await until(sees(watcher, "guestagent", "restarting"))
            assert (never.version, never.pid) == ("", None)
            await until(sees(watcher, "netagent", "ok"))
            await until(sees(watcher, "telemetry", "ok"))
            stopped.send_signal(signal.SIGSTOP)
            killed.kill()  # and not waited for: a zombie runs no more
            for name in ("guestagent", "telemetry"):
                absent = await until(sees(watcher, name, "absent"))
                assert "supervisord does not answer either" in absent.why
                assert absent.pid is None
            hung = await until(sees(watcher, "netagent", "hung"))
            assert hung.pid == stopped.pid
            beats = await watcher.beats()
            await until(more_beats(watcher, beats + 1))
            assert local_host.told()["health"]["substatus"] == "Provisioning"

    asyncio.run(run())


def test_a_stopped_process_is_hung_and_the_host_hears_it(
    places: Places, supervision: Any, rdagent: Callable[..., Any], local_host: Any, until: Callable[..., Any]
) -> None:
    async def run() -> None:
        supervision.start(THREE)
        async with rdagent(places, local_host.wireserver, PERIOD) as watcher:
            await until(all_ok(watcher))
            pid = supervision.pids()["guestagent"]
            await until(lambda: local_host.told()["ready"])
            os.kill(pid, signal.SIGSTOP)
            hung = await until(sees(watcher, "guestagent", "hung"))
            assert hung.pid == pid
            assert hung.why.startswith(f"process {pid} runs and has not answered for 1")
            beats = await watcher.beats()
            await until(more_beats(watcher, beats + 2))
            told = local_host.told()
            assert (told["health"]["state"], told["health"]["substatus"]) == ("NotReady", "NotReady")
            assert told["health"]["description"].startswith(f"guestagent is hung: process {pid} runs")
            await until(lambda: not local_host.told()["observations"]["azvmagent.guestagent"]["IsHealthy"])
            os.kill(pid, signal.SIGCONT)
            await until(all_ok(watcher))
            await until(lambda: local_host.told()["ready"])

    asyncio.run(run())


def test_the_killed_come_back_and_so_do_those_whom_supervisord_gave_up(
    places: Places, supervision: Any, rdagent: Callable[..., Any], local_host: Any, until: Callable[..., Any]
) -> None:
    repaired = places.run.parent / "repaired"

    async def run() -> None:
        places.run.mkdir(mode=0o700)
        script = places.run / "breaks.sh"
        script.write_text(f"test -e {repaired} || exit 1\nexec {supervision.own('netagent')}\n")
        supervision.start({**THREE, "netagent": f"sh {script}"})
        async with rdagent(places, local_host.wireserver, PERIOD) as watcher:
            given_up = await until(sees(watcher, "netagent", "absent"))
            assert given_up.why == "supervisord says FATAL"
            before = (await until(sees(watcher, "guestagent", "ok"))).pid
            await until(lambda: local_host.told()["ready"])
            os.kill(before, signal.SIGKILL)

            async def another() -> bool:
                one = await watcher.of("guestagent")
                assert one.state in {"ok", "restarting"}, one
                assert local_host.told()["ready"]
                return bool(one.state == "ok" and one.pid != before)

            await until(another)
            repaired.touch()
            await until(all_ok(watcher))

    asyncio.run(run())


def test_a_hanging_supervisord_keeps_neither_the_heartbeat_nor_the_truth(
    places: Places, supervision: Any, rdagent: Callable[..., Any], local_host: Any, until: Callable[..., Any]
) -> None:
    async def run() -> None:
        supervision.start(THREE)
        async with rdagent(places, local_host.wireserver, PERIOD) as watcher:
            await until(all_ok(watcher))
            pids = supervision.pids()
            supervision.signalled(signal.SIGSTOP)
            os.kill(pids["telemetry"], signal.SIGSTOP)
            os.kill(pids["netagent"], signal.SIGKILL)
            beats = await watcher.beats()
            hung = await until(sees(watcher, "telemetry", "hung"))
            assert (hung.pid, hung.why.partition(" and")[0]) == (pids["telemetry"], f"process {hung.pid} runs")
            absent = await until(sees(watcher, "netagent", "absent"))
            assert "supervisord does not answer either" in absent.why
            assert (await watcher.of("guestagent")).state == "ok"
            await until(more_beats(watcher, beats + 10))
            assert local_host.told()["ready"]
            os.kill(pids["telemetry"], signal.SIGCONT)
            supervision.signalled(signal.SIGCONT)
            await until(all_ok(watcher))

    with ExitStack() as stack:
        stack.callback(supervision.end)
        asyncio.run(run())


def test_what_outlives_its_supervisord_is_well_until_the_next_one_takes_over(
    places: Places, supervision: Any, rdagent: Callable[..., Any], local_host: Any, until: Callable[..., Any]
) -> None:
    async def run() -> None:
        supervision.start(THREE)
        async with rdagent(places, local_host.wireserver, PERIOD) as watcher:
            await until(all_ok(watcher))
            before = {name: (await watcher.of(name)).pid for name in THREE}
            supervision.kill()
            beats = await watcher.beats()
            await until(more_beats(watcher, beats + 4))
            assert await watcher.states() == ALL_OK
            # The next one's programs find the locks taken, and take over.
            supervision.start(THREE)

            async def taken_over() -> bool:
                try:
                    pids = supervision.pids()
                except SupervisordError:
                    return False  # it does not listen yet
                seen = {name: (await watcher.of(name)).pid for name in THREE}
                return all(pids[name] not in {0, before[name]} and pids[name] == seen[name] for name in THREE)

            await until(taken_over)
            await until(all_ok(watcher))
            assert local_host.told()["ready"]

    asyncio.run(run())
