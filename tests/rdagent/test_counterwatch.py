"""Who watches the watchdog: the rule with a clock, and a real one under a real supervisord."""

import asyncio
import itertools
import os
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipc.component import Component
from ipc.contract.rdagent import ComponentTruth
from ipc.places import Places
from rdagent import counterwatch
from rdagent.counterwatch import Counterwatch, Seen, read_sign
from tests.release.product import CHECKOUT

Sign = tuple[int, float] | None


class Watch:
    """A clock, a look each 5 s, and a watchdog that shows a sign with each tick of its own."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.watch = Counterwatch()

    def looks(
        self, seconds: float, program: str = "RUNNING", *, pid: int = 7, sign: Sign | Literal["fresh"] = "fresh"
    ) -> list[tuple[float, str]]:
        """The orders of these looks, with the seconds since their beginning."""
        began, orders = self.now, list[tuple[float, str]]()
        while self.now < began + seconds:
            self.now += 5.0
            shown = (pid, self.now - 3.0) if sign == "fresh" else sign
            if order := self.watch.look(Seen(program=program, pid=pid, sign=shown), self.now):
                orders.append((self.now - began, order))
        return orders


def test_one_that_is_well_is_left_alone() -> None:
    watch = Watch()
    assert watch.looks(600) == []
    assert watch.looks(60, "STARTING", pid=8, sign=(7, 5.0)) == []
    assert watch.watch.why == ""


@pytest.mark.parametrize("state", ["STOPPED", "EXITED", "FATAL"])
def test_one_that_does_not_run_is_started_with_growing_pauses(state: str) -> None:
    watch = Watch()
    watch.looks(20)
    began = [at for at, order in watch.looks(2000, state, pid=0) if order == "start"]
    assert began[:6] == [10.0, 20.0, 40.0, 80.0, 160.0, 320.0]
    assert {later - at for at, later in itertools.pairwise(began[6:])} == {300.0}
    assert watch.watch.why.startswith(f"the watchdog does not run, supervisord says {state}: nobody")
    watch.looks(700)
    assert watch.watch.why == ""
    assert watch.looks(10, state, pid=0) == [(10.0, "start")], "well for long, it begins anew"


def test_one_that_hangs_is_stopped_and_started() -> None:
    watch = Watch()
    watch.looks(20)
    last = (7, watch.now - 3.0)
    assert watch.looks(25, sign=last) == [(25.0, "stop")]
    assert watch.watch.why.startswith("the watchdog, process 7, shows no sign of life: nobody")
    assert watch.looks(10, "STOPPED", pid=0, sign=last) == [(10.0, "start")]
    assert watch.looks(60, pid=8) == []
    assert watch.watch.why == ""


def test_one_that_hangs_again_and_again_is_ended_ever_more_rarely() -> None:
    watch, ends, pid = Watch(), [], 7
    watch.looks(20)
    state, sign = "RUNNING", (pid, watch.now)
    while watch.now < 6000:
        for _, order in watch.looks(5, state, pid=pid if state == "RUNNING" else 0, sign=sign):
            state = "RUNNING" if order == "start" else "STOPPED"
            if order == "stop":
                ends.append(watch.now)
            else:
                pid, sign = pid + 1, (pid + 1, watch.now)
    pauses = [later - at for at, later in itertools.pairwise(ends)]
    assert pauses == sorted(pauses)
    assert len(ends) < 15
    assert pauses[-1] >= 600


def test_one_older_than_the_rule_shows_no_sign_and_is_left_alone() -> None:
    assert Watch().looks(600, sign=None) == []


def test_one_that_hangs_before_its_first_sign_is_stopped_and_started() -> None:
    """An earlier one has shown signs, so this one should; it has a minute, for a slow machine boots."""
    watch = Watch()
    watch.looks(20)
    last = (7, watch.now - 3.0)
    assert watch.looks(10, "STOPPED", pid=0, sign=last) == [(10.0, "start")]
    assert watch.looks(75, pid=8, sign=last) == [(70.0, "stop")]
    assert watch.watch.why.startswith("the watchdog, process 8, shows no sign of life: nobody")
    assert watch.looks(60, pid=9) == []
    assert watch.watch.why == ""


def test_however_slow_the_machine_is_the_watchdog_comes_up() -> None:
    """Each that is stopped before its first sign leaves the next one more time, up to five minutes."""
    watch, pid, state, lasted = Watch(), 7, "RUNNING", list[float]()
    began = watch.now
    while watch.now < 6000:
        for _, order in watch.looks(5, state, pid=pid if state == "RUNNING" else 0, sign=(6, 900.0)):
            if order == "stop":
                lasted.append(watch.now - began)
            else:
                pid, began = pid + 1, watch.now
            state = "RUNNING" if order == "start" else "STOPPED"
    assert lasted[1:] == sorted(lasted[1:])
    assert lasted[-1] >= 300


def test_one_that_is_being_stopped_is_not_stopped_again() -> None:
    watch = Watch()
    watch.looks(20)
    assert watch.looks(600, "STOPPING", sign=(7, watch.now - 3.0)) == []


def test_a_supervisord_that_was_away_sent_no_ticks() -> None:
    watch = Watch()
    watch.looks(20)
    last = (7, watch.now - 3.0)
    assert watch.looks(300, "", sign=last) == []
    assert watch.watch.why == ""
    assert watch.looks(20, sign=last) == []


def test_who_was_suspended_himself_waits_anew() -> None:
    watch = Watch()
    watch.looks(20)
    last = (7, watch.now - 3.0)
    watch.now += 300
    assert watch.looks(20, sign=last) == []
    assert watch.looks(15, sign=last) == [(15.0, "stop")]


def test_one_that_cannot_be_started_is_told_and_left_to_supervisord() -> None:
    watch = Watch()
    assert watch.looks(600, "BACKOFF", pid=0) == []
    assert watch.watch.why.startswith("the watchdog cannot be started, supervisord tries: nobody")


states = st.sampled_from(["", "STOPPED", "STARTING", "RUNNING", "RUNNING", "BACKOFF", "STOPPING", "EXITED", "FATAL"])


@given(st.lists(st.tuples(states, st.sampled_from([0, 7, 8]), st.none() | st.floats(0, 3000)), max_size=200))
def test_there_is_never_more_than_an_order_each_five_seconds(found: list[tuple[str, int, float | None]]) -> None:
    watch, orders = Counterwatch(), []
    for number, (program, pid, at) in enumerate(found):
        now = 1000.0 + number
        order = watch.look(Seen(program=program, pid=pid, sign=None if at is None else (pid, at)), now)
        if order:
            orders.append(now)
            assert program == "RUNNING" if order == "stop" else program in {"STOPPED", "EXITED", "FATAL"}
            assert watch.why
    assert all(later - at >= 5 for at, later in itertools.pairwise(orders))


def test_a_sign_that_is_junk_is_none(places: Places) -> None:
    path = places.watchdog_sign
    path.parent.mkdir(parents=True)
    assert read_sign(path) is None
    for junk in (b"", b"7", b"7 x", b"seven 8.0", b"\xff\xfe 1", b"7 8.0 9"):
        path.write_bytes(junk)
        assert read_sign(path) is None, junk
    path.write_bytes(b"7          8.5                 \n")
    assert read_sign(path) == (7, 8.5)


# -- the real thing ------------------------------------------------------------------------------------------------

LISTENER = f"""
[eventlistener:watchdog]
command={sys.executable} -I -S {CHECKOUT}/watchdog.py {{root}} {{run}}
events=TICK_5,PROCESS_STATE_FATAL
buffer_size=100
autorestart=true
startsecs=1
stopwaitsecs=2
stdout_logfile=NONE
stderr_logfile={{run}}/watchdog.log
"""


@pytest.fixture
def watched(places: Places, supervision: Any) -> Iterator[Callable[[], int]]:
    """A supervisord with a watchdog; its pid, 0 if it does not run."""
    supervision.start({}, more=LISTENER.format(root=places.installed, run=places.run))
    yield lambda: int(supervision.pids().get("watchdog", 0))
    supervision.asking.shutdown()


def unwatched(watcher: Any, words: str) -> Callable[[], Any]:
    async def look() -> ComponentTruth | None:
        one: ComponentTruth | None = await watcher.of("rdagent")
        return one if one is not None and one.state == "degraded" and words in one.why else None

    return look


def well(watcher: Any) -> Callable[[], Any]:
    async def look() -> bool:
        one = await watcher.of("rdagent")
        return one is not None and one.state == "ok"

    return look


def test_a_watchdog_that_was_stopped_is_told_of_and_started_again(
    places: Places, watched: Any, supervision: Any, rdagent: Any, local_host: Any, alive: Any, until: Any
) -> None:
    async def run() -> None:
        async with alive(Component("guestagent", "7", places)), rdagent(places, local_host.wireserver, 0.5) as watcher:
            await until(lambda: local_host.told()["ready"])
            await until(places.watchdog_sign.exists)
            supervision.asking.stop("watchdog")
            await until(unwatched(watcher, "supervisord says STOPPED"))
            await until(lambda: not local_host.told()["observations"]["azvmagent.rdagent"]["IsHealthy"])
            await until(lambda: watched() > 0)
            await until(well(watcher))
            assert local_host.told()["ready"], "the VM is as ready as before"

    asyncio.run(run())


def test_a_watchdog_that_hangs_is_replaced(
    places: Places, watched: Any, rdagent: Any, local_host: Any, until: Any
) -> None:
    async def run() -> None:
        async with rdagent(places, local_host.wireserver, 0.5) as watcher:
            await until(places.watchdog_sign.exists)
            assert read_sign(places.watchdog_sign)
            os.kill(hung := watched(), signal.SIGSTOP)
            await until(unwatched(watcher, f"process {hung}, shows no sign of life"), 90)
            await until(lambda: watched() not in {0, hung}, 90)
            await until(well(watcher))
            await until(lambda: (read_sign(places.watchdog_sign) or (0, 0.0))[0] == watched())

    asyncio.run(run())


def test_a_watchdog_that_hangs_before_its_first_sign_is_replaced(
    places: Places, watched: Any, rdagent: Any, local_host: Any, until: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counterwatch, "START_LIMIT", 10.0)

    def shown_by() -> int:
        return (read_sign(places.watchdog_sign) or (0, 0.0))[0]

    async def run() -> None:
        async with rdagent(places, local_host.wireserver, 0.5) as watcher:
            await until(places.watchdog_sign.exists)
            hung = watched()
            while shown_by() == hung:  # the first; and one that supervisord told the time at once
                os.kill(before := hung, signal.SIGKILL)
                await until(lambda before=before: watched() not in {0, before})
                os.kill(hung := watched(), signal.SIGSTOP)
            await until(unwatched(watcher, f"process {hung}, shows no sign of life"), 90)
            await until(lambda: watched() not in {0, hung}, 90)
            await until(well(watcher))
            await until(lambda: shown_by() == watched())

    asyncio.run(run())
