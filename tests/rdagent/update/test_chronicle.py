"""What the history says of versions that launch.py or watchdog.py took back."""

import asyncio

from ipc.bus import Bus
from ipc.contract.rdagent import GetUpdateHistory, UpdateEvent
from ipc.errors import NoAnswer
from ipc.places import Places
from ipc.record import Emitter
from rdagent.update.chronicle import Chronicle
from rdagent.update.memory import Memory
from rdagent.update.offers import Offer
from rdagent.update.shelf import Shelf
from release.record import Bad, Chosen
from release.signing import Trust
from tests.conftest import come_true
from tests.rdagent.conftest import rdagent_at
from tests.rdagent.update.lying import LyingServer
from tests.rdagent.update.situations import offer
from tests.release.product import Installed
from wire.redact import redact


def told(places: Places, server: LyingServer) -> list[UpdateEvent]:
    """The history of telemetry, once rdagent knows of one that came back."""
    found: list[UpdateEvent] = []

    async def look() -> None:
        async with rdagent_at(places, server.url, 60.0) as watcher:

            async def came_back() -> bool:
                try:
                    found[:] = (await watcher.bus.ask(GetUpdateHistory(component="telemetry"), within=1.0)).events
                except NoAnswer:
                    return False
                return any(one.phase == "roll back" for one in found)

            await come_true(came_back)

    asyncio.run(look())
    return found


def given_up(places: Places) -> Chosen:
    installed, bad = Installed(places.installed, "telemetry"), Chosen("1.1.0", "ab" * 32)
    installed.folder.mkdir(parents=True)
    installed.set(current=None, bad={bad.key: Bad("it ended again and again, though it was well at first")})
    return bad


def test_what_a_judge_took_back_is_nobodys_wish(places: Places, server: LyingServer) -> None:
    given_up(places)
    (event,) = told(places, server)
    assert (event.version, event.wanted_by) == ("1.1.0", "")
    assert "again and again" in event.message


def test_of_one_that_was_on_trial_it_is_known_who_wanted_it(places: Places, server: LyingServer) -> None:
    bad = given_up(places)
    places.state_of("rdagent").mkdir(parents=True)
    offer = Offer(component="telemetry", version=bad.version, wanted_by="host", digest=bad.digest)
    Memory(places).change(attempts={"telemetry": offer})
    (event,) = told(places, server)
    assert (event.version, event.wanted_by) == ("1.1.0", "host")


def test_an_end_says_from_which_version_it_came(places: Places) -> None:
    shelf, memory, running = Shelf(places, lambda _: Trust(())), Memory(places), {"telemetry": "0.1.0"}
    new = offer("0.2.0")

    async def story() -> None:
        bus = Bus(places, "test", "0")
        emitter = Emitter(places, bus, "rdagent", "0", redact)
        chronicle = Chronicle(memory, shelf, emitter, 0.0, offers=list, running=lambda: running, changed=lambda _: None)
        chronicle.note("trial", new)
        running["telemetry"] = "0.2.0"
        chronicle.end("commit", new)
        chronicle.came_back(new, "I say so")  # by hand, while it still counts as what runs
        bus.close()

    asyncio.run(story())
    assert [(one.phase, one.from_version) for one in memory.history("telemetry", 9)] == [
        ("trial", "0.1.0"),
        ("commit", "0.1.0"),
        ("roll back", "0.1.0"),
    ]


def test_what_lies_on_the_disk_is_told_once_for_all_tries(places: Places) -> None:
    """While its record is held, each try finds it there."""
    shelf, memory = Shelf(places, lambda _: Trust(())), Memory(places)

    def phases() -> list[str]:
        return [f"{one.phase} {one.version}" for one in memory.history("telemetry", 99)]

    async def story() -> None:
        bus = Bus(places, "test", "0")
        emitter = Emitter(places, bus, "rdagent", "0", redact)
        chronicle = Chronicle(memory, shelf, emitter, 0.0, offers=list, running=dict, changed=lambda _: None)
        new, newer = offer("0.2.0"), offer("0.3.0")
        for _ in range(3):
            chronicle.staged(new, 1.0)
            chronicle.note("fetch", new, ok=False, message="its trial cannot begin")
        chronicle.staged(newer, 1.0)
        chronicle.staged(new, 1.0)
        assert phases() == ["stage 0.2.0", *["fetch 0.2.0"] * 3, "stage 0.3.0"]
        chronicle.note("trial", new)
        chronicle.end("roll back", new, ok=False, message="hangs")
        chronicle.staged(new, 1.0)
        assert phases()[-1] == "stage 0.2.0"
        bus.close()

    asyncio.run(story())
