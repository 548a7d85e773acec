"""`agentctl update status` and `plan` in the first moments of a rdagent: they wait for its first look, else say so."""

import asyncio
import fcntl
import subprocess

import pytest

from ipc.component import Component
from ipc.contract.rdagent import (
    GetUpdatePlan,
    GetUpdates,
    PinVersion,
    PlannedUpdate,
    RepositoryView,
    UpdatePlan,
    Updates,
    UpdateView,
)
from ipc.places import COMPONENTS, Places
from release.record import LOCK, Bad, Chosen
from tests.conftest import come_true
from tests.rdagent.conftest import rdagent_at
from tests.rdagent.update.asking import agentctl
from tests.release.product import Installed


def test_it_waits_for_the_first_look(places: Places) -> None:
    looks = [[], ["telemetry"], [*COMPONENTS]]
    asked = 0

    async def answer(_: GetUpdates) -> Updates:
        nonlocal asked
        asked += 1
        names = looks[min(asked, len(looks)) - 1]
        return Updates(
            components=[UpdateView(component=name, running="0.5.0") for name in names], repository=RepositoryView()
        )

    async def story() -> "subprocess.CompletedProcess[str]":
        async with Component("rdagent", "1", places) as rdagent:
            rdagent.answer(GetUpdates, answer)
            return await agentctl(places, "status")

    found = asyncio.run(story())
    assert (found.returncode, asked, found.stdout.count("0.5.0")) == (0, len(looks), len(COMPONENTS))


@pytest.mark.parametrize("name", ["telemetry", "rdagent"])
def test_and_shows_the_records_where_that_takes_too_long(places: Places, name: str) -> None:
    """rdagent cannot add to a record when and where a version is bad, so its look does not get to its end."""
    installed, bad = Installed(places.installed, name), Chosen("1.1.0", "ab" * 32)
    installed.folder.mkdir(parents=True)
    installed.set(current=None, bad={bad.key: Bad("it hangs")})

    async def story() -> None:
        async with rdagent_at(places, "http://127.0.0.1:9", 60.0) as watcher:
            await come_true(watcher.all)
            await watcher.bus.ask(PinVersion(component="netagent", version="1.0.0"))  # it is taken before that
            found = await agentctl(places, "status")
            assert found.returncode == 3
            assert "rdagent has not looked yet which versions are there" in found.stderr
            assert "Shown is what the records on disk say" in found.stderr
            assert all(one in found.stdout for one in COMPONENTS)
            assert "1.1.0" in found.stdout

    with (installed.folder / LOCK).open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        asyncio.run(story())


def test_the_plan_waits_for_it_as_well(places: Places) -> None:
    asked = 0

    async def answer(_: GetUpdatePlan) -> UpdatePlan:
        nonlocal asked
        asked += 1
        names = COMPONENTS if asked > 2 else ()
        return UpdatePlan(steps=[PlannedUpdate(component=name, from_version="0.5.0") for name in names])

    async def story() -> "subprocess.CompletedProcess[str]":
        async with Component("rdagent", "1", places) as rdagent:
            rdagent.answer(GetUpdatePlan, answer)
            return await agentctl(places, "plan")

    found = asyncio.run(story())
    assert (found.returncode, asked, found.stdout.count("0.5.0")) == (0, 3, len(COMPONENTS))


@pytest.mark.parametrize("words", [[], ["--json"]], ids=["text", "json"])
def test_and_says_so_where_that_takes_too_long(places: Places, words: list[str]) -> None:
    """Nothing was decided yet, which is not that nothing would change."""

    async def nothing(_: GetUpdatePlan) -> UpdatePlan:
        return UpdatePlan(steps=[])

    async def trouble(_: GetUpdates) -> Updates:
        return Updates(components=[], repository=RepositoryView(), problems=["the record is locked"])

    async def story() -> "subprocess.CompletedProcess[str]":
        async with Component("rdagent", "1", places) as rdagent:
            rdagent.answer(GetUpdatePlan, nothing)
            rdagent.answer(GetUpdates, trouble)
            return await agentctl(places, "plan", *words)

    found = asyncio.run(story())
    assert (found.returncode, found.stdout) == (3, "")
    assert "rdagent has not looked yet what is wanted" in found.stderr
    assert "the record is locked" in found.stderr
