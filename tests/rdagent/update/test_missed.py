"""What guestagent told nobody, because rdagent could not hear it yet: the next look at the host would be in an hour."""

import asyncio
import json
import subprocess
from collections.abc import Callable

from ipc.contract.rdagent import GetUpdates
from ipc.errors import NoAnswer
from ipc.places import Places
from rdagent.config import UpdateSettings
from tests.conftest import LocalHost, come_true
from tests.rdagent.conftest import Watcher, rdagent_at


def test_another_guestagent_is_a_reason_to_ask_the_host(
    places: Places, local_host: LocalHost, neighbour: Callable[[str], "subprocess.Popen[str]"]
) -> None:
    plugin = json.loads((local_host.root / "fabric" / "endpoints.json").read_text())["hostgaplugin"]

    def looks() -> int:
        return local_host.asked("vmsettings")

    async def looked(watcher: Watcher) -> bool:
        try:
            return (await watcher.bus.ask(GetUpdates(), within=1.0)).looked_at > 0
        except NoAnswer:
            return False

    async def story() -> None:
        settings = UpdateSettings(check_period=3600.0)
        async with rdagent_at(places, local_host.wireserver, 60.0, settings, hostgaplugin=plugin) as watcher:
            await come_true(lambda: looked(watcher))
            for _ in range(2):
                before = looks()
                assert before
                child = await asyncio.to_thread(neighbour, "guestagent")
                await come_true(lambda before=before: looks() > before)  # type: ignore[misc]
                child.kill()
                child.wait()

    asyncio.run(story())
