"""The operator's words are lost: he is told so until he speaks again, and nothing that came back is told twice."""

import asyncio

import pytest

from ipc.contract.rdagent import (
    GetUpdateHistory,
    GetUpdates,
    HoldUpdates,
    PinVersion,
    RollBack,
    UnblockVersion,
    UpdateNow,
)
from ipc.errors import Refused
from ipc.message import Request
from ipc.places import Places
from release.record import Bad, Chosen
from tests.conftest import come_true
from tests.rdagent.conftest import Watcher, rdagent_at
from tests.rdagent.update.asking import agentctl, view
from tests.rdagent.update.lying import LyingServer
from tests.release.product import Installed

BAD = Chosen("1.1.0", "ab" * 32)


async def told(watcher: Watcher) -> list[str]:
    await come_true(lambda: view(watcher))
    return [one for one in (await watcher.bus.ask(GetUpdates())).problems if "are forgotten" in one]


async def came_back(watcher: Watcher) -> list[str]:
    await come_true(lambda: view(watcher))
    events = (await watcher.bus.ask(GetUpdateHistory())).events
    return [one.version for one in events if one.phase == "roll back"]


def test_a_damaged_file_is_told_in_every_status_and_no_story_twice(places: Places, server: LyingServer) -> None:
    installed = Installed(places.installed, "telemetry")
    installed.folder.mkdir(parents=True)
    installed.set(current=None, bad={BAD.key: Bad("it hangs")})
    file = places.state_of("rdagent") / "updates.json"

    async def story() -> None:
        async with rdagent_at(places, server.url, 60.0) as watcher:
            await watcher.bus.ask(PinVersion(component="guestagent", version="0.3.0"))
            assert await told(watcher) == []
            assert await came_back(watcher) == [BAD.version]
        file.write_bytes(file.read_bytes()[:40])
        for _ in range(2):
            async with rdagent_at(places, server.url, 60.0) as watcher:
                assert await came_back(watcher) == [BAD.version]
                (line,) = await told(watcher)
                assert f"what is left of it lies in {file}.damaged" in line
                status = (await agentctl(places, "status")).stdout
                assert "".join(line.split()) in "".join(status.split())
        async with rdagent_at(places, server.url, 60.0) as watcher:
            await watcher.bus.ask(HoldUpdates(component="netagent"))
            assert await told(watcher) == []
            # One that comes back from now on is news.
            later = Chosen("1.2.0", "cd" * 32)
            installed.set(current=None, bad={BAD.key: Bad("it hangs"), later.key: Bad("it hangs too")})
        async with rdagent_at(places, server.url, 60.0) as watcher:
            assert await told(watcher) == []
            assert await came_back(watcher) == [BAD.version, later.version]

    asyncio.run(story())


@pytest.mark.parametrize(
    "word",
    [
        PinVersion(component="telemetry", version=""),
        HoldUpdates(component="", on=False),
        UpdateNow(component="telemetry"),
        UnblockVersion(component="telemetry", version=BAD.version),
    ],
    ids=lambda one: type(one).__name__,
)
def test_any_word_of_his_ends_that(places: Places, server: LyingServer, word: Request) -> None:  # type: ignore[type-arg]
    installed = Installed(places.installed, "telemetry")
    installed.folder.mkdir(parents=True)
    installed.set(current=None, bad={BAD.key: Bad("it hangs")})
    file = places.state_of("rdagent") / "updates.json"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"junk")

    async def story() -> None:
        async with rdagent_at(places, server.url, 60.0) as watcher:
            assert len(await told(watcher)) == 1
            with pytest.raises(Refused):
                await watcher.bus.ask(RollBack(component="telemetry"))  # of the base install: no word of any effect
            assert len(await told(watcher)) == 1
            await watcher.bus.ask(word)
            assert await told(watcher) == []

    asyncio.run(story())
