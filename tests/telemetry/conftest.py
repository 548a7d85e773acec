"""Entries, and telemetry in the test's loop or as a child."""

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from ipc.bus import Bus
from ipc.contract.every import Health
from ipc.contract.telemetry import Entry, GetTimeline
from ipc.errors import NoAnswer
from ipc.places import Places
from ipc.settings import HostSettings
from telemetry.__main__ import run
from telemetry.config import Settings


def make_entry(number: int, message: str = "", **more: Any) -> Entry:
    return Entry(
        **{
            "id": f"id-{number}",
            "at": 1_700_000_000.0 + number,
            "monotonic": float(number),
            "boot": "boot",
            "component": "guestagent",
            "version": "1",
            "pid": 7,
            "operation": "Work",
            "message": message or str(number),
            **more,
        }
    )


@pytest.fixture(scope="session")
def entry() -> Callable[..., Entry]:
    return make_entry


async def it_answers(bus: Bus) -> bool:
    try:
        await bus.ask(Health(), to="telemetry", within=0.5)
    except NoAnswer:
        return False
    return True


@pytest.fixture(scope="session")
def answers() -> Callable[[Bus], Any]:
    """Whether telemetry does."""
    return it_answers


@asynccontextmanager
async def telemetry_at(places: Places, wireserver: str, **settings: Any) -> AsyncIterator[Bus]:
    chosen = Settings(**{"upload_period": 0.1, **settings})
    task = asyncio.create_task(run(places, chosen, HostSettings(wireserver=wireserver)))
    bus = Bus(places, "test", "0")
    try:
        async with asyncio.timeout(20):
            while not await it_answers(bus):
                assert not task.done()
        yield bus
        assert not task.done()
    finally:
        bus.close()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.fixture(scope="session")
def telemetry() -> Callable[..., Any]:
    """telemetry's own `run` in this loop, and a bus: `telemetry(places, wireserver, upload=..., ...)`."""
    return telemetry_at


@pytest.fixture(scope="session")
def telemetry_child() -> Callable[[Places], subprocess.Popen[bytes]]:
    """The real process; its end is the caller's."""

    def start(places: Places) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "AZVMAGENT_ROOT": str(places.run.parent)}
        return subprocess.Popen([sys.executable, "-P", "-m", "telemetry"], env=environment, stderr=subprocess.DEVNULL)

    return start


async def whole(bus: Bus) -> list[Entry]:
    """The journal, oldest first, page by page."""
    entries: list[Entry] = []
    cursor = 0
    while True:
        page = await bus.ask(GetTimeline(after=cursor, limit=200), within=10.0)
        if not page.entries:
            return entries
        entries += page.entries
        cursor = page.cursor


@pytest.fixture(scope="session")
def timeline() -> Callable[[Bus], Any]:
    return whole
