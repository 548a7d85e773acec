"""What is wrong with what the host and the repository say is told to who looks, and once in the log."""

import asyncio
import io
import json

import pytest

from fabric.client import Client
from ipc.contract.rdagent import GetUpdates, UpdateNow, Updates
from ipc.errors import NoAnswer
from ipc.places import Places
from rdagent.config import UpdateSettings
from release import record as records
from release.record import Record
from tests.conftest import LocalHost, come_true
from tests.rdagent.conftest import Watcher, rdagent_at
from tests.rdagent.update.asking import agentctl
from tests.rdagent.update.lying import DIGEST, LyingServer, SignedRepository, zipped
from tests.rdagent.update.situations import chosen
from tests.release.product import Installed

GOOD = {"component": "telemetry", "channel": "stable", "ring": 1, "digest": DIGEST, "layers": []}


async def told(watcher: Watcher) -> Updates | None:
    try:
        found = await watcher.bus.ask(GetUpdates(), within=1.0)
    except NoAnswer:
        return None
    return found if found.looked_at else None


async def look(watcher: Watcher) -> None:
    """To the end of one that began after this was asked for."""
    at = (await watcher.bus.ask(GetUpdates())).looked_at
    await watcher.bus.ask(UpdateNow())

    async def looked() -> bool:
        found = await told(watcher)
        return found is not None and found.looked_at > at

    await come_true(looked)


async def is_away(watcher: Watcher) -> bool:
    found = await told(watcher)
    return found is not None and any(
        one.startswith("family telemetry: ") and "HTTP 403" in one for one in found.problems
    )


def test_once_and_in_every_status(
    places: Places,
    local_host: LocalHost,
    server: LyingServer,
    signed: SignedRepository,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = Installed(places.installed, "telemetry").folder
    folder.mkdir(parents=True)
    records.write(folder, Record(component="telemetry", current=chosen("9.9.8")))
    junk: tuple[dict[str, object], ...] = ({"ring": "x"}, {"channel": "No Channel"}, {"component": "netagent"}, {})
    for number, custom in enumerate(junk):
        version = f"9.8.{number}"
        signed.put(
            f"packages/telemetry/telemetry-{version}.zip",
            version.encode(),
            {**GOOD, "version": version, **custom} if custom else {},
        )
    signed.save()
    client = Client(local_host.root)
    for version in ("9.6.0", "9.7.0"):
        client.put("/api/families/telemetry", io.BytesIO(zipped()), {"version": version})
    client.post("/api/components", {"component": "telemetry", "version": "9.7.0"})
    client.post("/api/faults", {"endpoint": "agentmanifest", "fault": "replayed"})
    plugin = json.loads((local_host.root / "fabric" / "endpoints.json").read_text())["hostgaplugin"]

    async def story() -> None:
        settings = UpdateSettings(repository=server.url, jitter=0.0)
        async with rdagent_at(places, local_host.wireserver, 60.0, settings, hostgaplugin=plugin) as watcher:
            found = await come_true(lambda: told(watcher))
            assert len(found.problems) == 5
            text, shape = await agentctl(places, "status"), await agentctl(places, "status", "--json")
            assert json.loads(shape.stdout)["problems"] == found.problems
            lines = text.stdout.replace("\n", "").replace(" ", "")
            for one in found.problems:
                assert f"!{one}".replace(" ", "") in lines
            assert "family telemetry: its manifest has no version 9.7.0" in found.problems
            for number, reason in enumerate(("$.ring", "$.channel", "is called netagent", "missing")):
                (line,) = [one for one in found.problems if f"telemetry-9.8.{number}.zip" in one]
                assert line.startswith("the repository: passed over is packages/telemetry/")
                assert reason in line
            for _ in range(2):
                await look(watcher)
            for one in found.problems:
                assert [line for line in caplog.messages if one in line] == [f"updates: {one}"]

            # A manifest that is away is one line of the log too, however often it is looked at.
            client.delete("/api/faults")
            client.post("/api/faults", {"endpoint": "agentmanifest", "fault": "status", "value": 403})
            for _ in range(3):
                await look(watcher)
                assert await is_away(watcher)
            assert len([one for one in caplog.messages if "HTTP 403" in one]) == 1

    asyncio.run(story())
