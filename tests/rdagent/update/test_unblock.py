"""The bad list: what happens next to who is taken off it, and who is on it no more by itself."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable

import pytest

from ipc.contract.rdagent import GetTruth, GetUpdateHistory, GetUpdatePlan, HoldUpdates, UpdateEvent
from ipc.places import Places
from rdagent.config import UpdateSettings
from rdagent.update.memory import Memory
from release import record as records
from release.environment import fingerprint
from release.record import Bad, Record
from release.unpack import component_folder
from tests.conftest import LocalHost, come_true
from tests.rdagent.conftest import Watcher, rdagent_at
from tests.rdagent.update.asking import agentctl, view
from tests.rdagent.update.lying import DIGEST, LyingServer, SignedRepository, silent
from tests.rdagent.update.situations import chosen

VERSION = "9.9.9"


def gave_up(places: Places, *, expires: float | None = None, environment: str = "") -> Memory:
    """9.9.8 is in force, 9.9.9 on the bad list, which is told already."""
    folder = component_folder(places.installed, "telemetry")
    folder.mkdir(parents=True)
    bad = Bad("hangs", expires, environment or fingerprint())
    record = Record(component="telemetry", current=chosen("9.9.8"), bad={f"{VERSION}+{DIGEST}": bad})
    records.write(folder, record)
    memory = Memory(places)
    memory.change(known_bad={"telemetry": [f"{VERSION}+{DIGEST}"]})
    memory.note(
        UpdateEvent(at=1.0, component="telemetry", phase="roll back", version=VERSION, ok=False, message="hangs")
    )
    return memory


def run(places: Places, server: LyingServer, story: Callable[[Watcher], Awaitable[None]]) -> None:
    async def within() -> None:
        settings = UpdateSettings(repository=server.url, jitter=0.0)
        async with rdagent_at(places, server.url, 60.0, settings) as watcher:
            await come_true(lambda: view(watcher))
            await story(watcher)

    asyncio.run(within())


def test_what_the_channel_wants_is_tried_at_once(places: Places, server: LyingServer, signed: SignedRepository) -> None:
    gave_up(places)
    signed.publish(VERSION)
    server.lies["telemetry-9"] = silent(server)

    async def story(watcher: Watcher) -> None:
        seen = await view(watcher)
        assert seen is not None
        assert (seen.state, seen.wanted, len(seen.bad)) == ("rolled back", VERSION, 1)
        told = await agentctl(places, "unblock", "telemetry")
        assert told.returncode == 0, told.stderr
        assert told.stdout.splitlines()[0] == "telemetry is off the bad list."
        assert told.stdout.splitlines()[1].startswith(
            f"telemetry {VERSION} is wanted by the channel and is tried at once: agentctl update status"
        )
        await come_true(lambda: "telemetry-9" in " ".join(server.asked))

    run(places, server, story)


def test_or_what_is_in_the_way(places: Places, server: LyingServer, signed: SignedRepository) -> None:
    gave_up(places)
    signed.publish(VERSION)

    async def story(watcher: Watcher) -> None:
        await watcher.bus.ask(HoldUpdates(component="telemetry"))
        told = await agentctl(places, "unblock", "telemetry", VERSION, "--json")
        shape = json.loads(told.stdout)
        assert shape["next"].startswith(
            f"telemetry {VERSION} is wanted by the channel and is not tried: updates of telemetry are held. "
            "Next: agentctl update hold telemetry --off"
        )
        (seen,) = [one for one in shape["components"] if one["component"] == "telemetry"]
        assert (seen["state"], seen["bad"], seen["why"]) == ("refused", [], "updates of telemetry are held")

    run(places, server, story)


def test_what_is_not_on_it(places: Places, server: LyingServer) -> None:
    gave_up(places)

    async def story(_: Watcher) -> None:
        told = await agentctl(places, "unblock", "telemetry", "9.9.7")
        root = places.run.parent
        assert told.returncode == 1
        assert told.stderr.strip() == (
            f"agentctl: telemetry 9.9.7 is not on the bad list. See: agentctl update status --root {root}"
        )

    run(places, server, story)


def test_or_how_to_have_it_tried(places: Places, server: LyingServer) -> None:
    gave_up(places)

    async def story(_: Watcher) -> None:
        told = await agentctl(places, "unblock", "telemetry", VERSION)
        assert told.stdout.splitlines()[1].startswith(
            f"Nobody wants another version of telemetry now. To have it tried: agentctl update now telemetry {VERSION}"
        )

    run(places, server, story)


@pytest.mark.parametrize("over", ["expired", "another machine"])
def test_what_is_on_it_no_more_is_told_by_nobody(places: Places, server: LyingServer, over: str) -> None:
    if over == "expired":
        gave_up(places, expires=time.time() - 60)
    else:
        gave_up(places, environment="cpython-2.7.18 x86_64 glibc-2.5 linux-2.6")

    async def story(watcher: Watcher) -> None:
        seen = await view(watcher)
        assert seen is not None
        assert (seen.state, seen.bad, seen.why) == ("settled", [], "")
        for one in (await watcher.bus.ask(GetUpdatePlan())).steps:
            assert one.blocked == ""
        shown = await agentctl(places, "status")
        assert shown.returncode == 0
        assert VERSION not in shown.stdout
        assert VERSION not in (await agentctl(places, "status", "--json")).stdout
        # The host hears the same in the observation of the component.
        assert not [one.why for one in (await watcher.bus.ask(GetTruth())).components if VERSION in one.why]
        assert [one.version for one in (await watcher.bus.ask(GetUpdateHistory())).events] == [VERSION]

    run(places, server, story)


def test_its_end_is_a_reason_to_decide_anew(
    places: Places, local_host: LocalHost, server: LyingServer, signed: SignedRepository
) -> None:
    """Both are well, so that the next look at them is in an hour."""
    plugin = json.loads((local_host.root / "fabric" / "endpoints.json").read_text())["hostgaplugin"]
    gave_up(places, expires=time.time() + 8.0)
    signed.publish(VERSION)

    async def story() -> None:
        settings = UpdateSettings(repository=server.url, jitter=0.0)
        async with rdagent_at(places, local_host.wireserver, 60.0, settings, hostgaplugin=plugin):
            await come_true(lambda: "telemetry-9" in " ".join(server.asked))

    asyncio.run(story())


def test_what_counts_is_told_of_by_everybody(places: Places, server: LyingServer) -> None:
    gave_up(places, expires=time.time() + 3600)

    async def story(watcher: Watcher) -> None:
        seen = await view(watcher)
        assert seen is not None
        assert (seen.state, seen.why) == ("rolled back", f"{VERSION} was rolled back: hangs")
        shown = await agentctl(places, "status")
        assert shown.returncode == 1
        assert f"bad list: telemetry {VERSION}" in shown.stdout

    run(places, server, story)
