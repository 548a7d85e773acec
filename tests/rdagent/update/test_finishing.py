"""What cannot be brought to its end keeps nobody from looking, deciding, and answering."""

import asyncio
import hashlib
import json
from pathlib import Path

from ipc.component import Component
from ipc.contract.rdagent import GetUpdatePlan, GetUpdates, UpdateNow
from ipc.places import Places
from rdagent.update.memory import Memory
from release import record as records
from release.build import build
from release.environment import fingerprint
from release.record import Bad, Chosen
from tests.conftest import PATIENCE, come_true
from tests.rdagent.conftest import Supervision, Watcher, rdagent_at
from tests.rdagent.update.asking import agentctl, view
from tests.rdagent.update.lying import LyingServer
from tests.release.product import CHECKOUT, KEY, Installed


def put(places: Places, component: str, tmp_path: Path, version: str = "9.9.9") -> Installed:
    """A version on the disk, so neither host nor repository is needed."""
    installed = Installed(places.installed, component)
    installed.put(build(CHECKOUT, component, tmp_path, [KEY], version=version))
    return installed


def test_without_supervisord_it_decides_and_says_why_nothing_begins(
    places: Places, server: LyingServer, tmp_path: Path
) -> None:
    """An earlier life stopped telemetry, and supervisord is dead."""
    installed = {name: put(places, name, tmp_path) for name in ("telemetry", "netagent")}
    Memory(places).change(stopped=["telemetry"])

    async def story() -> None:
        async with rdagent_at(places, server.url, 60.0) as watcher:
            looked = await come_true(lambda: view(watcher))
            assert "telemetry is to be started anew, and cannot be: supervisord" in looked.why
            status = await agentctl(places, "status", "--json")
            problems = json.loads(status.stdout)["problems"]
            assert problems[0] == looked.why
            assert status.returncode == 1
            text = (await agentctl(places, "status")).stdout
            assert "in trouble" in text
            assert " ".join(text.split()).count("cannot be: supervisord") == 1
            for words in (["telemetry"], ["telemetry", "9.9.9"], ["netagent", "9.9.9"]):
                ended = await agentctl(places, "now", *words, "--no-wait", "--json")
                (told,) = json.loads(ended.stdout)
                assert (ended.returncode, told["state"]) == (1, "not now")
                assert "supervisord" in told["text"]
            steps = {one.component: one for one in (await watcher.bus.ask(GetUpdatePlan())).steps}
            assert steps["netagent"].blocked.startswith("nothing could be started: supervisord")

    asyncio.run(story())
    for one in installed.values():
        assert not ((record := records.read(one.folder)) and record.trial)


def test_what_was_given_up_and_runs_on_is_refused(places: Places, server: LyingServer, tmp_path: Path) -> None:
    """supervisord died before telemetry could be started anew; the operator pins what he gave up, and asks for it."""
    installed = put(places, "telemetry", tmp_path)
    (built,) = installed.folder.joinpath("versions").iterdir()
    given_up = Chosen("9.9.9", hashlib.sha256((built / ".manifest").read_bytes()).hexdigest())
    installed.set(current=None, bad={given_up.key: Bad("asked by the operator", None, fingerprint())})
    Memory(places).change(stopped=["telemetry"])

    async def story() -> None:
        async with rdagent_at(places, server.url, 60.0) as watcher, Component("telemetry", "9.9.9", places):
            await come_true(lambda: runs(watcher, "9.9.9"), PATIENCE)
            assert (await agentctl(places, "pin", "telemetry", "9.9.9")).returncode == 0
            ended = await agentctl(places, "now", "telemetry", "9.9.9", "--no-wait", "--json")
            (told,) = json.loads(ended.stdout)
            assert (ended.returncode, told["state"]) == (1, "refused")
            assert "9.9.9 is on the bad list and runs on only until telemetry is started anew" in told["text"]
            assert told["lift"] == "agentctl update unblock telemetry 9.9.9"
            problems = (await watcher.bus.ask(GetUpdates())).problems
            assert any("telemetry is to be started anew, and cannot be: supervisord" in one for one in problems)

    asyncio.run(story())


async def runs(watcher: Watcher, version: str) -> bool:
    seen = await view(watcher)
    return seen is not None and seen.running == version


def test_one_that_cannot_be_started_does_not_keep_another_from_its_update(
    places: Places, server: LyingServer, supervision: Supervision, tmp_path: Path
) -> None:
    """supervisord has no program telemetry."""
    put(places, "telemetry", tmp_path)
    netagent = put(places, "netagent", tmp_path)
    Memory(places).change(stopped=["telemetry"])

    async def on_trial() -> bool:
        record = await asyncio.to_thread(records.read, netagent.folder)
        return record is not None and record.trial is not None

    async def story(watcher: Watcher) -> None:
        await come_true(lambda: view(watcher))
        await watcher.bus.ask(UpdateNow(component="telemetry", version="9.9.9"))
        await watcher.bus.ask(UpdateNow(component="netagent", version="9.9.9"))
        await come_true(on_trial, PATIENCE)
        found = await watcher.bus.ask(GetUpdates())
        (telemetry,) = [one for one in found.components if one.component == "telemetry"]
        assert (telemetry.state, telemetry.trial) == ("waiting", None)
        assert "no program telemetry" in telemetry.why
        assert telemetry.why in found.problems

    async def run() -> None:
        supervision.start({"netagent": ""})
        async with rdagent_at(places, server.url, 60.0) as watcher:
            await story(watcher)

    asyncio.run(run())
