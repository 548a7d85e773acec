"""What is wanted while nobody can say where it is to be had: it is waited for, with the cause, and comes by itself."""

import asyncio
import io
import json
from pathlib import Path

import pytest

from fabric.client import Client
from ipc.contract.rdagent import GetUpdates, UpdateView
from ipc.places import Places
from rdagent.config import UpdateSettings
from rdagent.update.decision import Unasked
from rdagent.update.policy import Policy, ask
from release import record as records
from release.record import Record
from tests.conftest import LocalHost, come_true
from tests.rdagent.conftest import Watcher, rdagent_at
from tests.rdagent.update.asking import agentctl, view
from tests.rdagent.update.lying import LyingServer, SignedRepository, reply, zipped
from tests.rdagent.update.situations import NOW, begun, chosen, decided, found, offer, on_disk, refused, waits
from tests.release.product import Installed

VERSION = "9.9.9"
AWAY = Unasked(repository="HTTP 403", manifests={"telemetry": "family telemetry: HTTP 403"}, again_at=NOW + 9)


def test_it_is_refused_only_by_who_could_be_asked() -> None:
    nowhere = offer("0.7.0", "host", target="", digest="")
    assert waits(decided(nowhere, unasked=AWAY)) == (
        NOW + 9,
        "where telemetry 0.7.0 is to be had is not known: the repository: HTTP 403; family telemetry: HTTP 403",
        "agentctl bundle import FILE",
    )
    for away in (Unasked(repository="HTTP 403"), Unasked(manifests=AWAY.manifests)):
        assert "HTTP 403" in waits(decided(nowhere, unasked=away))[1]
    for asked in (Unasked(again_at=NOW), Unasked(manifests={"netagent": "HTTP 403"})):
        assert refused(decided(nowhere, unasked=asked))[0].startswith("nobody says where telemetry 0.7.0")
    by_name = ask(Policy(), "telemetry", "0.7.0")
    assert "HTTP 403" in waits(decided(policy=by_name, unasked=AWAY))[1]
    here = found(whole=(on_disk("0.1.0"), on_disk("0.7.0")))
    assert begun(decided(nowhere, here=here, unasked=AWAY)) == "0.7.0"
    assert begun(decided(offer("0.7.0", "host"), unasked=AWAY)) == "0.7.0"


@pytest.fixture
def host(local_host: LocalHost, places: Places, server: LyingServer, signed: SignedRepository) -> Client:
    """9.9.8 is in force, and the host has another version; its manifest and the repository say no."""
    folder = Installed(places.installed, "telemetry").folder
    folder.mkdir(parents=True)
    records.write(folder, Record(component="telemetry", current=chosen("9.9.8")))
    signed.publish(VERSION)
    server.lies[""] = reply(b"no", "403 Forbidden")
    client = Client(local_host.root)
    client.put("/api/families/telemetry", io.BytesIO(zipped()), {"version": VERSION})
    client.post("/api/faults", {"endpoint": "agentmanifest", "fault": "status", "value": 403})
    return client


async def waiting(watcher: Watcher) -> UpdateView | None:
    seen = await view(watcher)
    return seen if seen and seen.wanted == VERSION and seen.why else None


def test_the_host_s_wish_comes_by_itself(
    places: Places, local_host: LocalHost, host: Client, server: LyingServer
) -> None:
    host.post("/api/components", {"component": "telemetry", "version": VERSION})
    plugin = json.loads((local_host.root / "fabric" / "endpoints.json").read_text())["hostgaplugin"]

    async def story() -> None:
        settings = UpdateSettings(repository=server.url, jitter=0.0)
        async with rdagent_at(places, local_host.wireserver, 60.0, settings, hostgaplugin=plugin) as watcher:
            seen = await come_true(lambda: waiting(watcher))
            assert (seen.state, seen.wanted_by, seen.why.count("HTTP 403")) == ("waiting", "host", 2)
            outcome = (await watcher.bus.ask(GetUpdates())).outcome
            assert outcome is not None
            assert (outcome.version, outcome.ok, outcome.waiting) == (VERSION, False, True)
            assert outcome.message.count("HTTP 403") == 2
            assert (await agentctl(places, "status")).returncode == 0
            server.lies.clear()
            await come_true(lambda: any(f"telemetry-{VERSION}" in one for one in server.asked))

    asyncio.run(story())


def test_the_operator_s_word_stands_until_it_is_known(places: Places, host: Client, server: LyingServer) -> None:
    assert host

    async def forgotten() -> bool:
        told = json.loads(await asyncio.to_thread(Path(places.state_of("rdagent") / "updates.json").read_text))
        return bool(told["policy"]["asked"] == {})

    async def story() -> None:
        settings = UpdateSettings(repository=server.url, jitter=0.0)
        async with rdagent_at(places, server.url, 60.0, settings) as watcher:
            await come_true(lambda: view(watcher))
            told = await agentctl(places, "now", "telemetry", "9.9.7")
            line = " ".join(told.stdout.split())
            assert told.returncode == 1
            assert "where telemetry 9.9.7 is to be had is not known: the repository: " in line
            assert "again at" in line
            assert not await forgotten()
            server.lies.clear()
            # Now the repository has said that it is not there.
            await come_true(forgotten)

    asyncio.run(story())
