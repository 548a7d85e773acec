"""Entries survive: the emitter killed, telemetry away, lines torn, budgets spent."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from ipc.component import Component
from ipc.contract.telemetry import Entry, Record, Recorded
from ipc.errors import Refused
from ipc.places import Places
from ipc.record import Emitter

STORM = """
import asyncio, sys
from pathlib import Path
from ipc.bus import Bus
from ipc.places import Places
from ipc.record import Emitter
async def main():
    places = Places.under(Path(sys.argv[1]))
    bus = Bus(places, "guestagent", "1")
    emitter = Emitter(places, bus, "guestagent", "1", str)
    number = 0
    while True:
        emitter.emit("Storm", str(number))
        print(number, flush=True)
        number += 1
asyncio.run(main())
"""


def plain(text: str) -> str:
    return text.replace("SECRET", "***")


def keeping(journal: list[Entry]) -> Callable[[Record], Awaitable[Recorded]]:
    async def record(request: Record) -> Recorded:
        journal.extend(request.entries)
        return Recorded(count=len(request.entries))

    return record


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.01)


def segments(places: Places) -> list[Path]:
    return sorted((places.state_of("guestagent") / "entries").glob("*.jsonl"))


def deliver_to(
    places: Places, alive: Callable[..., Any], journal: list[Entry], done: Callable[[Emitter], bool]
) -> None:
    async def run() -> None:
        async with alive(Component("telemetry", "1", places)) as telemetry:
            telemetry.answer(Record, keeping(journal))
            emitter = Emitter(places, telemetry.bus, "guestagent", "1", plain)
            task = asyncio.create_task(emitter.deliver())
            await until(lambda: done(emitter))
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())


def test_an_entry_arrives_redacted_and_its_segment_is_emptied(places: Places, alive: Callable[..., Any]) -> None:
    journal: list[Entry] = []
    emitted: list[Entry] = []

    def done(emitter: Emitter) -> bool:
        if not emitted:
            emitted.append(
                emitter.emit("Enable", "the SECRET is out", ok=False, subject="A.B", correlation="incarnation_1")
            )
        return bool(journal) and all(path.stat().st_size == 0 for path in segments(places))

    deliver_to(places, alive, journal, done)
    assert journal == emitted
    assert (journal[0].message, journal[0].ok, journal[0].subject) == ("the *** is out", False, "A.B")


def test_nothing_emitted_is_lost_when_the_emitter_is_killed(places: Places, alive: Callable[..., Any]) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", STORM, str(places.run.parent)], stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert child.stdout is not None
    last = -1
    for line in child.stdout:
        last = int(line)
        if last >= 3000:
            break
    child.send_signal(signal.SIGKILL)
    rest, _ = child.communicate()
    told = [int(line) for line in rest.splitlines() if line.isdigit()]
    last = max([last, *told])
    assert len(segments(places)) > 1
    journal: list[Entry] = []
    deliver_to(places, alive, journal, lambda _: len(segments(places)) == 1 and len(journal) > last)
    assert [int(entry.message) for entry in journal][: last + 1] == list(range(last + 1))


def test_what_is_emitted_while_telemetry_is_away_arrives_when_it_returns(
    places: Places, alive: Callable[..., Any]
) -> None:
    journal: list[Entry] = []

    async def run() -> None:
        async with alive(Component("guestagent", "1", places)) as guest:
            emitter = Emitter(places, guest.bus, "guestagent", "1", plain)
            task = asyncio.create_task(emitter.deliver())
            for number in range(5):
                emitter.emit("Work", str(number))
            async with alive(Component("telemetry", "1", places)) as telemetry:
                telemetry.answer(Record, keeping(journal))
                await until(lambda: len({entry.id for entry in journal}) == 5)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())
    assert {entry.message for entry in journal} == set("01234")


def test_a_torn_line_costs_only_itself(places: Places, alive: Callable[..., Any]) -> None:
    folder = places.state_of("guestagent") / "entries"
    folder.mkdir(parents=True)
    entry = Entry(
        id="1", at=1.0, monotonic=1.0, boot="b", component="guestagent", version="1", pid=1, operation="Enable"
    )  # fmt: skip
    line = msgspec.json.encode(entry)
    (folder / "00000000000000000001-1.jsonl").write_bytes(line[:20] + b"\n" + b"\xff\xfe\n" + line + b"\n" + line[:9])
    journal: list[Entry] = []
    deliver_to(places, alive, journal, lambda _: len(segments(places)) == 1)
    assert journal == [entry]


def test_a_batch_telemetry_cannot_read_does_not_hold_up_the_rest(places: Places, alive: Callable[..., Any]) -> None:
    journal: list[Entry] = []

    async def picky(request: Record) -> Recorded:
        if request.entries[0].operation == "Poison":
            raise Refused("telemetry.Record", "bad-request", "no thanks")
        return await keeping(journal)(request)

    async def run() -> None:
        async with alive(Component("telemetry", "1", places)) as telemetry:
            telemetry.answer(Record, picky)
            emitter = Emitter(places, telemetry.bus, "guestagent", "1", plain)
            emitter.emit("Poison")
            task = asyncio.create_task(emitter.deliver())
            await until(lambda: segments(places)[0].stat().st_size == 0)
            emitter.emit("Cure")
            await until(lambda: bool(journal))
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())
    assert [entry.operation for entry in journal] == ["Cure"]


def test_a_segment_another_instance_still_writes_to_is_left_alone(places: Places, alive: Callable[..., Any]) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", STORM, str(places.run.parent)], stdout=subprocess.PIPE, text=True, bufsize=1
    )
    try:
        assert child.stdout is not None
        child.stdout.readline()
        os.kill(child.pid, signal.SIGSTOP)
        theirs = set(segments(places))
        journal: list[Entry] = []

        def done(emitter: Emitter) -> bool:
            if not journal:
                emitter.emit("Mine")
            return any(entry.operation == "Mine" for entry in journal)

        deliver_to(places, alive, journal, done)
        assert max(theirs) in segments(places)
    finally:
        child.kill()
        child.communicate()


def test_the_budget_bounds_what_piles_up_and_says_what_it_cost(places: Places) -> None:
    async def run() -> None:
        async with Component("guestagent", "1", places) as guest:
            emitter = Emitter(places, guest.bus, "guestagent", "1", plain)
            for _ in range(4000):
                emitter.emit("Work", "x" * 3000)

    asyncio.run(run())
    left = segments(places)
    assert sum(path.stat().st_size for path in left) < 9 * 1024 * 1024
    assert any(b"EntriesDropped" in path.read_bytes() for path in left)


def test_a_full_disk_is_survived(places: Places, caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        async with Component("guestagent", "1", places) as guest:
            emitter = Emitter(places, guest.bus, "guestagent", "1", plain)
            (segment,) = segments(places)
            # A limit on file size is the one full disk an unprivileged test can have.
            import resource

            soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
            try:
                emitter.emit("Work")
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
                signal.signal(signal.SIGXFSZ, before)
            emitter.emit("After")
            assert b"After" in segment.read_bytes()

    asyncio.run(run())
    assert "entry Work lost" in caplog.text


def test_half_a_line_on_a_full_disk_spoils_nothing_else(
    places: Places, alive: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    import resource

    journal: list[Entry] = []

    def done(emitter: Emitter) -> bool:
        if not journal and not caplog.records:
            soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            # Room for ten bytes more: the write call says so, and raises nothing.
            resource.setrlimit(resource.RLIMIT_FSIZE, (segments(places)[0].stat().st_size + 10, hard))
            try:
                emitter.emit("Cut")
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
                signal.signal(signal.SIGXFSZ, before)
            emitter.emit("After")
        return any(entry.operation == "After" for entry in journal)

    deliver_to(places, alive, journal, done)
    assert [entry.operation for entry in journal] == ["After"]
    assert "entry Cut lost" in caplog.text


def test_a_segment_grows_on_while_the_next_cannot_be_made(places: Places) -> None:
    async def run() -> None:
        async with Component("guestagent", "1", places) as guest:
            emitter = Emitter(places, guest.bus, "guestagent", "1", plain)
            (first,) = segments(places)
            while first.stat().st_size < 256 * 1024:
                emitter.emit("Work", "x" * 3000)
            moved = first.parent.rename(first.parent.with_name("away"))
            emitter.emit("During")
            moved.rename(first.parent)
            assert b"During" in first.read_bytes()
            emitter.emit("After")
            assert b"After" in segments(places)[-1].read_bytes()
            assert len(segments(places)) == 2

    asyncio.run(run())


def test_words_that_are_no_unicode_are_written_down_as_well_as_can_be(
    places: Places, alive: Callable[..., Any]
) -> None:
    """A file name may hold any bytes; Python hands on what is no UTF-8 as lone surrogates."""
    journal: list[Entry] = []

    def done(emitter: Emitter) -> bool:
        if not journal:
            emitter.emit("Work", "lease \udcff", subject="\udcfe", correlation="\ud800")
        return bool(journal)

    deliver_to(places, alive, journal, done)
    assert (journal[0].message, journal[0].subject, journal[0].correlation) == ("lease ?", "?", "?")


def test_a_segment_that_is_full_while_it_is_handed_over_delays_no_entry(
    places: Places, alive: Callable[..., Any]
) -> None:
    journal: dict[str, str] = {}

    async def run() -> None:
        async with alive(Component("telemetry", "1", places)) as telemetry:
            emitter = Emitter(places, telemetry.bus, "guestagent", "1", plain)

            async def record(request: Record) -> Recorded:
                if not journal:
                    # While telemetry thinks, much happens: the next segment is begun.
                    for number in range(100):
                        emitter.emit("Work", f"{number} " + "x" * 3000)
                journal.update({entry.id: entry.message.partition(" ")[0] for entry in request.entries})
                return Recorded(count=len(request.entries))

            telemetry.answer(Record, record)
            emitter.emit("Work", "first")
            task = asyncio.create_task(emitter.deliver())
            await until(lambda: len(journal) == 101)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(run())
    assert sorted(journal.values()) == sorted(["first", *map(str, range(100))])
