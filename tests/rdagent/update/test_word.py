"""What the operator asked for, and what keeps it from its trial for a while: he is told, and it comes all the same."""

import asyncio
import fcntl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ipc.contract.rdagent import GetUpdateHistory, GetUpdates, UpdateNow, UpdateView
from ipc.places import Places
from rdagent.config import UpdateSettings
from release import record as records
from release.build import build
from release.record import Bad, Record
from tests.conftest import come_true
from tests.rdagent.conftest import Watcher, rdagent_at
from tests.rdagent.update.asking import agentctl, view
from tests.rdagent.update.lying import LyingServer, SignedRepository, reply
from tests.rdagent.update.situations import chosen
from tests.release.product import CHECKOUT, KEY, Installed

VERSION = "9.9.9"


@contextmanager
def locked(installed: Installed) -> Iterator[None]:
    with (installed.folder / "state.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def waits(watcher: Watcher, for_what: str) -> Callable[[], Awaitable[UpdateView | None]]:
    async def look() -> UpdateView | None:
        seen = await view(watcher)
        return seen if seen and seen.state == "waiting" and for_what in seen.why else None

    return look


def is_on_trial(installed: Installed) -> bool:
    record = records.read(installed.folder)
    return bool(record and record.trial and record.trial.target.version == VERSION)


@pytest.fixture
def installed(places: Places, tmp_path: Path) -> Installed:
    """Only the operator wants this version: it lies on the disk."""
    one = Installed(places.installed, "telemetry")
    one.put(build(CHECKOUT, "telemetry", tmp_path / "dist", [KEY], version=VERSION))
    return one


def test_a_record_that_is_locked(places: Places, server: LyingServer, installed: Installed) -> None:
    async def story() -> None:
        async with rdagent_at(places, server.url, 60.0) as watcher:
            await come_true(lambda: view(watcher))
            with locked(installed):
                told = await agentctl(places, "now", "telemetry", VERSION)
                assert told.returncode == 1
                assert "not now" in told.stdout
                assert "its trial cannot begin: " in told.stdout
                assert "state.lock is held by another process" in " ".join(told.stdout.split())
                assert "again at" in told.stdout
                seen = await come_true(waits(watcher, "state.lock is held by another process"))
                assert (seen.wanted, seen.wanted_by) == (VERSION, "operator")
                assert seen.lift == f"agentctl update now telemetry {VERSION}"
                # Who says it once more does not wait for the next try.
                plan = await watcher.bus.ask(UpdateNow(component="telemetry", version=VERSION))
                step = next(one for one in plan.steps if one.component == "telemetry")
                assert (step.to_version, step.blocked) == (VERSION, "")
                await come_true(waits(watcher, "state.lock is held by another process"))
            await come_true(lambda: is_on_trial(installed))

    asyncio.run(story())


def test_over_the_end_of_rdagent(places: Places, server: LyingServer, installed: Installed) -> None:
    async def story() -> None:
        with locked(installed):
            async with rdagent_at(places, server.url, 60.0) as watcher:
                await come_true(lambda: view(watcher))
                await watcher.bus.ask(UpdateNow(component="telemetry", version=VERSION))
                await come_true(waits(watcher, "its trial cannot begin"))
        async with rdagent_at(places, server.url, 60.0):
            await come_true(lambda: is_on_trial(installed))

    asyncio.run(story())


def test_a_package_that_is_away(places: Places, server: LyingServer, signed: SignedRepository) -> None:
    """A newer one that nobody asked for does not take its place, until it is known that it cannot be had at all."""
    folder = Installed(places.installed, "telemetry").folder
    folder.mkdir(parents=True)
    records.write(folder, Record(component="telemetry", current=chosen("9.9.8")))
    for version in (VERSION, "9.9.10"):
        signed.publish(version)
    server.lies["telemetry-9.9"] = reply(b"no", "403 Forbidden")

    async def refused(watcher: Watcher) -> bool:
        events = (await watcher.bus.ask(GetUpdateHistory(component="telemetry"))).events
        return ("refuse", VERSION) in {(one.phase, one.version) for one in events}

    async def is_answered(watcher: Watcher) -> bool:
        return (seen := await view(watcher)) is not None and seen.wanted == "9.9.10"

    async def story() -> None:
        settings = UpdateSettings(repository=server.url, jitter=0.0)
        async with rdagent_at(places, server.url, 60.0, settings) as watcher:
            await come_true(waits(watcher, "telemetry 9.9.10 cannot be had"))
            await watcher.bus.ask(UpdateNow(component="telemetry", version=VERSION))
            seen = await come_true(waits(watcher, f"telemetry {VERSION} cannot be had"))
            assert (seen.wanted_by, seen.lift) == ("operator", f"agentctl update now telemetry {VERSION}")
            del server.lies["telemetry-9.9"]
            # What comes now by itself is junk: that is the end of it.
            await come_true(lambda: refused(watcher))
            await come_true(lambda: is_answered(watcher))

    asyncio.run(story())


@pytest.mark.parametrize("trouble", ["404", "other bytes"])
def test_agentctl_now_of_a_package_that_cannot_be_had(
    places: Places, server: LyingServer, signed: SignedRepository, trouble: str
) -> None:
    """It names that version and its own cause, not what the channel has beside it."""
    folder = Installed(places.installed, "telemetry").folder
    folder.mkdir(parents=True)
    known_bad = {chosen("9.9.10").key: Bad("hangs", None, "")}
    records.write(folder, Record(component="telemetry", current=chosen("9.9.8"), bad=known_bad))
    signed.publish(VERSION)
    signed.publish("9.9.10")
    server.lies["telemetry-9.9.9"] = reply(b"no", "404 Not Found") if trouble == "404" else reply(b"something else")

    async def story() -> None:
        settings = UpdateSettings(repository=server.url, jitter=0.0)
        async with rdagent_at(places, server.url, 60.0, settings) as watcher:
            await come_true(lambda: view(watcher))
            told = await agentctl(places, "now", "telemetry", VERSION)
            line = " ".join(told.stdout.split())
            assert told.returncode == 1
            assert f"telemetry {VERSION} cannot be had: " in line
            assert trouble != "404" or "HTTP 404" in line
            assert "again at" in line
            assert "9.9.10" not in line
            # Looks for other reasons change nothing of that.
            for _ in range(3):
                looked = (await watcher.bus.ask(GetUpdates())).looked_at
                await watcher.bus.ask(UpdateNow(component="netagent"))
                await come_true(lambda looked=looked: looked_after(watcher, looked))  # type: ignore[misc]
                seen = await view(watcher)
                assert seen is not None
                assert (seen.wanted, seen.wanted_by) == (VERSION, "operator")
                assert seen.state in {"waiting", "fetching"}

    async def looked_after(watcher: Watcher, at: float) -> bool:
        return (await watcher.bus.ask(GetUpdates())).looked_at > at

    asyncio.run(story())
