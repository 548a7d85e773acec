"""From emit() to the journal and to the host, with every process in between killed or away."""

import asyncio
import itertools
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ipc.bus import Bus
from ipc.contract.every import Health
from ipc.contract.telemetry import Entry, GetTimeline, JournalGrew, Record
from ipc.errors import NoAnswer, Refused
from ipc.places import Places
from ipc.record import Emitter

Make = Callable[..., Entry]

EMITTING = """
import asyncio, sys
from pathlib import Path
from ipc.bus import Bus
from ipc.places import Places
from ipc.record import Emitter
async def main():
    places, start, pause = Places.under(Path(sys.argv[1])), int(sys.argv[2]), float(sys.argv[3])
    bus = Bus(places, "guestagent", "1")
    emitter = Emitter(places, bus, "guestagent", "1", str)
    delivering = asyncio.create_task(emitter.deliver())
    number = start
    while True:
        emitter.emit("Work", str(number))
        print(number, flush=True)
        number += 1
        await asyncio.sleep(pause)
asyncio.run(main())
"""


class Storm:
    """A child that emits numbers from `first` on, and says each once emit() has returned."""

    def __init__(self, places: Places, first: int, pause: float) -> None:
        command = [sys.executable, "-P", "-c", EMITTING, str(places.run.parent), str(first), str(pause)]
        self._child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self._told = list[int]()

    def hear(self, count: int) -> None:
        assert self._child.stdout is not None
        for _ in range(count):
            self._told.append(int(self._child.stdout.readline()))

    def kill(self) -> list[int]:
        """All the numbers for which emit() returned."""
        if self._child.returncode is None:
            self._child.kill()
            rest, _ = self._child.communicate()
            self._told += [int(line) for line in rest.splitlines() if line.isdigit()]
        return self._told


@pytest.fixture
def storm(places: Places) -> Iterator[Callable[..., Storm]]:
    storms: list[Storm] = []

    def start(first: int, pause: float = 0.002) -> Storm:
        storms.append(Storm(places, first, pause))
        return storms[-1]

    yield start
    for one in storms:
        one.kill()


def numbers(entries: list[Entry]) -> list[int]:
    return [int(entry.message) for entry in entries if entry.operation == "Work"]


def test_what_is_emitted_while_telemetry_is_away_arrives_exactly_once_also_at_the_host(
    places: Places, telemetry: Any, timeline: Any, storm: Any, local_host: Any, until: Callable[..., Any]
) -> None:
    def at_the_host() -> list[int]:
        return [int(one["Message"]) for one in local_host.told()["events"] if one["Operation"] == "Work"]

    async def run() -> None:
        first = storm(0)
        first.hear(300)
        # Away from the start, and once more in the middle.
        async with telemetry(places, local_host.wireserver, upload=False) as bus:

            async def some() -> bool:
                return len(numbers(await timeline(bus))) >= 300

            await until(some)
        first.hear(300)
        told = first.kill()
        # One more may have been emitted and not told.
        second = storm(told[-1] + 2, 60.0)
        second.hear(1)
        told += second.kill()
        # Nobody is left who emits: the next one of this name hands over what they left.
        third = storm(told[-1] + 2, 60.0)
        third.hear(1)
        async with telemetry(places, local_host.wireserver) as bus:

            async def last() -> bool:
                return told[-1] + 2 in numbers(await timeline(bus))

            await until(last)
            kept = Counter(numbers(await timeline(bus)))
            assert set(told) <= set(kept)
            assert max(kept.values()) == 1
            await until(lambda: told[-1] + 2 in at_the_host())
            assert sorted(at_the_host()) == sorted(kept)

    asyncio.run(run())


def test_no_order_of_kills_loses_an_entry_for_which_emit_returned(
    places: Places, telemetry_child: Any, timeline: Any, storm: Any, answers: Any, until: Callable[..., Any]
) -> None:
    chance = random.Random(245)
    (places.run.parent / "azvmagent.toml").write_text("[telemetry]\nupload = false\n")

    async def run() -> None:
        bus = Bus(places, "test", "0")
        keeper, current = telemetry_child(places), storm(0)
        told = set[int]()
        try:
            for _ in range(12):
                current.hear(chance.randrange(1, 150))
                # Sometimes telemetry is up by then, sometimes in its first moments.
                if chance.random() < 0.5:
                    await until(lambda: answers(bus))
                if chance.random() < 0.6:
                    keeper.kill()
                    keeper.wait()
                    keeper = telemetry_child(places)
                if chance.random() < 0.6:
                    told |= set(current.kill())
                    # The next one may have been emitted and not told.
                    current = storm(max(told) + 2)
            current.hear(1)
            told |= set(current.kill())
            last = max(told) + 2
            storm(last, 60.0).hear(1)

            async def all_there() -> bool:
                try:
                    return last in numbers(await timeline(bus))
                except (NoAnswer, Refused):
                    return False

            await until(all_there)
            # Segments are handed over oldest first: nothing comes behind the last number.
            found = Counter(numbers(await timeline(bus)))
            assert told <= set(found)
            assert max(found.values()) == 1
        finally:
            keeper.kill()
            keeper.wait()
            bus.close()

    asyncio.run(run())


def test_recording_is_acknowledged_announced_redacted_and_read_by_page(
    places: Places, telemetry: Any, timeline: Any, entry: Make, local_host: Any, until: Callable[..., Any]
) -> None:
    async def run() -> None:
        heard: list[JournalGrew] = []
        async with telemetry(places, local_host.wireserver, upload=False) as bus:
            bus.on(JournalGrew, heard.append)
            link = "https://store.blob.core.windows.net/c/b?sv=1&sig=c2VjcmV0"
            batch = [entry(number, f"{number} {link}") for number in range(450)]
            for start in range(0, 450, 150):
                assert (await bus.ask(Record(entries=batch[start : start + 150]))).count == 150
            assert (await bus.ask(Record(entries=batch[:3]))).count == 3, "a second copy is acknowledged too"
            everything = [one for one in await timeline(bus) if one.operation == "Work"]
            assert [one.id for one in everything] == [one.id for one in batch]
            assert not any("c2VjcmV0" in one.message for one in everything)
            newest = await bus.ask(GetTimeline(limit=5))
            assert len(newest.entries) == 5
            assert (await bus.ask(GetTimeline(after=newest.cursor))).entries == []
            assert (await bus.ask(GetTimeline(after=newest.cursor))).cursor == newest.cursor
            assert (await bus.ask(GetTimeline(component="nobody"))).entries == []

            more = itertools.count(450)

            async def announced() -> bool:
                # A subscription takes its moment; what is announced before is lost, as events may be.
                await bus.ask(Record(entries=[entry(next(more))]))
                return any(event.cursor > 450 for event in heard)

            await until(announced)

    asyncio.run(run())


def test_a_page_of_large_entries_fits_a_frame(
    places: Places, telemetry: Any, timeline: Any, entry: Make, local_host: Any, until: Callable[..., Any]
) -> None:
    async def run() -> None:
        async with telemetry(places, local_host.wireserver, upload=False) as bus:
            for number in range(20):
                await bus.ask(Record(entries=[entry(number, "\x01" * 30_000)]))
            assert [one.id for one in await timeline(bus) if one.operation == "Work"] == [
                f"id-{number}" for number in range(20)
            ]
            newest = await bus.ask(GetTimeline(limit=200))
            assert newest.entries[-1].id == "id-19"

    asyncio.run(run())


def test_numbers_json_has_no_word_for_do_no_harm(
    places: Places, telemetry: Any, timeline: Any, entry: Make, local_host: Any, until: Callable[..., Any]
) -> None:
    async def run() -> None:
        odd = [float("nan"), float("inf"), float("-inf"), 1e300, -1e300]
        async with telemetry(places, local_host.wireserver) as bus:
            batch = [entry(number, at=one, monotonic=one, id=f"odd-{number}") for number, one in enumerate(odd)]
            await bus.ask(Record(entries=batch))
            assert [one.id for one in await timeline(bus) if one.operation == "Work"] == [one.id for one in batch]
            wanted = {one.id for one in batch}
            await until(lambda: wanted <= {one["EventId"] for one in local_host.told()["events"]})

    asyncio.run(run())


def test_opting_out_sends_nothing_and_is_read_here_as_ever(
    places: Places, telemetry: Any, timeline: Any, entry: Make, local_host: Any, until: Callable[..., Any]
) -> None:
    async def run(upload: bool) -> None:
        async with telemetry(places, local_host.wireserver, upload=upload) as bus:
            await bus.ask(Record(entries=[entry(1, id=f"out-{upload}")]))
            assert f"out-{upload}" in {one.id for one in await timeline(bus)}
            # Long enough for many uploads: as long as it takes the host to be asked for something else, often.
            for _ in range(20):
                await bus.ask(GetTimeline())
                await asyncio.sleep(0.05)
            if upload:
                await until(lambda: local_host.asked("telemetry") > before)

    before = local_host.asked("telemetry")
    asyncio.run(run(False))
    assert local_host.asked("telemetry") == before
    asyncio.run(run(True))


def test_a_host_that_refuses_is_waited_out_and_gets_everything_once(
    places: Places, telemetry: Any, timeline: Any, entry: Make, local_host: Any, until: Callable[..., Any]
) -> None:
    async def run() -> None:
        local_host.fault("telemetry", "status", 503)
        async with telemetry(places, local_host.wireserver, upload_period=0.1) as bus:
            batch = [entry(number, "x" * 2000, id=f"wait-{number}") for number in range(300)]
            for start in range(0, 300, 50):
                await bus.ask(Record(entries=batch[start : start + 50]))
            asked = local_host.asked("telemetry")
            await until(lambda: local_host.asked("telemetry") >= asked + 2)

            async def told_so() -> bool:
                return any(one.operation == "Upload" and not one.ok for one in await timeline(bus))

            await until(told_so)
            local_host.lift()

            def arrived() -> list[str]:
                return [one["EventId"] for one in local_host.told()["events"] if one["EventId"].startswith("wait-")]

            await until(lambda: len(arrived()) >= 300)
            assert arrived() == [one.id for one in batch]

            async def told_again() -> bool:
                return any(one.operation == "Upload" and one.ok for one in await timeline(bus))

            await until(told_again)

    asyncio.run(run())


def test_a_disk_that_is_full_is_said_and_entries_stay_with_their_emitter(
    places: Places, answers: Any, until: Callable[..., Any]
) -> None:
    """telemetry alone sees the full disk: a small one of its own in its own mount namespace."""
    state = places.state_of("telemetry")
    state.mkdir(parents=True)
    (places.run.parent / "azvmagent.toml").write_text("[telemetry]\nupload = false\n")

    async def run() -> None:
        bus = Bus(places, "test", "0")
        inside = 'mount -t tmpfs -o size=700k none "$1" && exec "$2" -P -m telemetry'
        command = ["unshare", "-rm", "sh", "-c", inside, "sh", str(state), sys.executable]
        environment = {**os.environ, "AZVMAGENT_ROOT": str(places.run.parent)}
        child = await asyncio.to_thread(subprocess.Popen, command, env=environment, stderr=subprocess.DEVNULL)
        emitter = Emitter(places, bus, "guestagent", "1", str)
        delivering = asyncio.create_task(emitter.deliver())
        try:
            await until(lambda: answers(bus))
            for number in range(400):
                emitter.emit("Work", f"{number} {'x' * 3000}")

            async def degraded() -> bool:
                health = await bus.ask(Health(), to="telemetry")
                return health.state == "degraded" and "full" in health.what

            await until(degraded)
            kept = sum(path.stat().st_size for path in (places.state_of("guestagent") / "entries").iterdir())
            assert kept > 100_000
            page = await bus.ask(GetTimeline(limit=1))
            assert len(page.entries) == 1, "reading goes on"
        finally:
            delivering.cancel()
            await asyncio.gather(delivering, return_exceptions=True)
            child.kill()
            child.wait()
            bus.close()

    asyncio.run(run())


def test_a_second_telemetry_is_refused_and_touches_nothing(
    places: Places, telemetry: Any, telemetry_child: Any, answers: Any, local_host: Any
) -> None:
    async def run() -> None:
        async with telemetry(places, local_host.wireserver) as bus:
            second = telemetry_child(places)
            assert await asyncio.to_thread(second.wait) == 1
            assert await answers(bus)

    asyncio.run(run())
