"""One side of a conversation between two releases: `speaker.py serve|ask ROOT`, with the release's ipc in PYTHONPATH.

`serve` is guestagent and telemetry in one process. `ask` prints the first thing that is not as it has to be, or `well`.
Both use what every release since 0.1.0 has.
"""

import asyncio
import os
import sys
from pathlib import Path

from ipc.bus import Bus
from ipc.component import Component
from ipc.contract.every import Describe, Health, HealthReport, Hello
from ipc.contract.guestagent import GetRun, RunView
from ipc.contract.netagent import WireServerFound
from ipc.contract.telemetry import Entry, GetTimeline, Record, Recorded, Timeline
from ipc.errors import IpcError
from ipc.places import Places

ENTRY = Entry(
    id="e", at=1.5, monotonic=2.5, boot="b", component="guestagent", version="1", pid=7, operation="Enable", ok=False,
    message="exit 3", duration_ms=120,
)  # fmt: skip


async def serve(places: Places) -> None:
    kept: list[Entry] = []

    async def get_run(asked: GetRun) -> RunView:
        assert (asked.name, asked.sequence_number) == ("job", 2)
        return RunView(name="job", sequence_number=2, state="Failed", exit_code=3, output="out", started_at=1.5)

    async def record(asked: Record) -> Recorded:
        kept.extend(asked.entries)
        return Recorded(count=len(asked.entries))

    async def get_timeline(_: GetTimeline) -> Timeline:
        return Timeline(entries=kept, cursor=len(kept))

    async def announce(component: Component) -> None:
        while True:
            component.announce(WireServerFound(url="http://h", found_in="lease", detail="x"))
            await asyncio.sleep(0.05)

    async with Component("telemetry", "9", places) as telemetry, Component("netagent", "9", places) as netagent:
        telemetry.answer(Record, record)
        telemetry.answer(GetTimeline, get_timeline)
        async with Component("guestagent", "9", places) as guestagent:
            guestagent.answer(GetRun, get_run)
            guestagent.judge(HealthReport(state="busy", what="enabling", since=2.5, limit_seconds=300.0))
            os.write(1, b"ready\n")
            await asyncio.gather(guestagent.run(), telemetry.run(), netagent.run(announce(netagent)))


async def ask(places: Places) -> str:
    bus = Bus(places, "rdagent", "9")
    found: asyncio.Future[WireServerFound] = asyncio.get_running_loop().create_future()
    bus.on(WireServerFound, lambda event: None if found.done() else found.set_result(event))
    bus.on(Hello, lambda _: None, of="guestagent")
    try:
        described = await bus.ask(Describe(), to="guestagent")
        health = await bus.ask(Health(), to="guestagent")
        run = await bus.ask(GetRun(name="job", sequence_number=2))
        recorded = await bus.ask(Record(entries=[ENTRY]))
        timeline = await bus.ask(GetTimeline())
        async with asyncio.timeout(2):
            event = await found
    except (IpcError, TimeoutError) as error:
        return f"{type(error).__name__}: {error} {bus.bad_frames.counts}"
    finally:
        bus.close()
    for what, now, then in (
        ("who it is", (described.component, described.version), ("guestagent", "9")),
        ("health", (health.what, health.since, health.limit_seconds), ("enabling", 2.5, 300.0)),
        ("health's state", health.state in {"busy", "ok"}, True),
        ("the run", (run.state, run.exit_code, run.output, run.started_at), ("Failed", 3, "out", 1.5)),
        ("what was recorded", recorded.count, 1),
        ("the entry", [(one.id, one.message, one.ok, one.duration_ms) for one in timeline.entries],
            [("e", "exit 3", False, 120)]),
        ("the event", (event.url, event.detail), ("http://h", "x")),
    ):  # fmt: skip
        if now != then:
            return f"{what} is {now}, not {then}"
    return f"bad frames: {bus.bad_frames.counts}" if bus.bad_frames.counts else "well"


if __name__ == "__main__":
    under = Places.under(Path(sys.argv[2]))
    if sys.argv[1] == "serve":
        asyncio.run(serve(under))
    else:
        os.write(1, asyncio.run(ask(under)).encode())
