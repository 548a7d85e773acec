"""Asking one that is stopped, and one that works for long: nobody waits for who is not there, or hears nothing."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from agentctl import asking
from agentctl.asking import ask_for_long
from agentctl.deployment import Deployment
from agentctl.errors import CommandError, NothingThere
from agentctl.view import gather
from ipc.component import Component
from ipc.contract.every import Describe, Description
from ipc.contract.rdagent import ImportBundle, ImportedBundle
from ipc.places import Places


def agentctl(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "agentctl", *words, "--root", str(root)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


@pytest.mark.parametrize("words", ["status", "plan", "now", "pin telemetry 1.0", "hold", "history"])
def test_a_stopped_rdagent_is_started_with_restart(mute: tuple[Deployment, int], words: str) -> None:
    deployment, _ = mute
    deployment.places.state.mkdir(parents=True)
    found = agentctl(deployment.places.run.parent, "update", *words.split())
    assert found.returncode == 3
    assert "supervisord says STOPPED" in found.stderr
    assert f"Start it with: {deployment.command('agentctl restart rdagent')}" in found.stderr
    assert "agentctl up" not in found.stderr


def test_status_says_how_to_start_what_is_stopped(mute: tuple[Deployment, int]) -> None:
    deployment, _ = mute
    lines = asyncio.run(gather(deployment)).problems
    next_step = deployment.command("agentctl restart rdagent")
    assert f"rdagent is absent: supervisord says STOPPED. Start it: {next_step}" in lines
    assert not any("restart guestagent" in one for one in lines)


def test_import_does_not_wait_for_a_rdagent_that_is_stopped(mute: tuple[Deployment, int]) -> None:
    deployment, _ = mute
    found = agentctl(deployment.places.run.parent, "bundle", "import", "all.zip")
    assert found.returncode == 3
    assert f"Start it with: {deployment.command('agentctl restart rdagent')}" in found.stderr


def imported(root: Path, started_at: Callable[[int], float], done_at: int, *, within: float = 60.0) -> ImportedBundle:
    """What comes of an import by a rdagent that is done with the question `done_at` of who it is."""
    places, asked, done = Places.under(root), list[float](), asyncio.Event()

    async def describe(_: Describe) -> Description:
        asked.append(started_at(len(asked)))
        if len(asked) == done_at:
            done.set()
        if asked[-1] < 0:
            await asyncio.Event().wait()
        return Description(
            component="rdagent", version="1", pid=1, protocol_major=1, protocol_minor=1, started_at=asked[-1]
        )

    async def take(_: ImportBundle) -> ImportedBundle:
        await done.wait()
        return ImportedBundle(versions=["telemetry 1.0.0"])

    async def conversation() -> ImportedBundle:
        async with Component("rdagent", "1", places) as component:
            component.answer(Describe, describe)
            component.answer(ImportBundle, take)
            deployment = Deployment(root=root, places=places)
            request = ImportBundle(path="/all.zip")
            return await asyncio.to_thread(ask_for_long, deployment, request, within=within, told_every=0.05)

    return asyncio.run(conversation())


def test_long_work_says_that_it_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert imported(tmp_path, lambda _: 1.0, 4).versions == ["telemetry 1.0.0"]
    assert capsys.readouterr().err.count("agentctl: rdagent is at work, since ") >= 2


def test_work_of_one_that_was_started_anew_is_not_waited_for(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="rdagent was started anew before it was done"):
        imported(tmp_path, lambda number: 1.0 if number < 2 else 2.0, 1000)


def test_work_of_one_that_fell_silent_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "_SILENCE", 0.5)
    monkeypatch.setattr(asking, "_PRESENT_WITHIN", 0.5)
    with pytest.raises(NothingThere, match="rdagent did not answer"):
        imported(tmp_path, lambda number: -1.0 if number else 1.0, 1000, within=600.0)
