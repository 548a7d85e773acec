"""What lies on the disk waits for nobody: a machine without a network has a repository that never answers."""

import asyncio
from pathlib import Path

from ipc.contract.rdagent import GetUpdates, UpdateNow
from ipc.errors import NoAnswer
from ipc.places import Places
from rdagent.config import UpdateSettings
from release import record as records
from release.build import build
from tests.conftest import PATIENCE, come_true
from tests.rdagent.conftest import Watcher, rdagent_at
from tests.rdagent.update.lying import LyingServer, silent
from tests.release.product import CHECKOUT, KEY, Installed


def test_a_version_on_the_disk_is_begun_while_host_and_repository_hang(
    places: Places, server: LyingServer, tmp_path: Path
) -> None:
    built = build(CHECKOUT, "telemetry", tmp_path, [KEY], version="9.9.9")
    installed = Installed(places.installed, "telemetry")
    installed.put(built)

    async def looked(watcher: Watcher) -> bool:
        try:
            return (await watcher.bus.ask(GetUpdates(), within=1.0)).looked_at > 0
        except NoAnswer:
            return False

    async def story() -> None:
        # At first both say no at once.
        settings = UpdateSettings(repository=server.url)
        async with rdagent_at(places, server.url, 60.0, settings) as watcher:
            await come_true(lambda: looked(watcher))
            server.lies[""] = silent(server)
            await watcher.bus.ask(UpdateNow(component="telemetry", version="9.9.9"))
            async with asyncio.timeout(PATIENCE / 3):
                while not ((record := records.read(installed.folder)) and record.trial):
                    await asyncio.sleep(0.05)
            assert record.trial.target.version == "9.9.9"

    asyncio.run(story())
