"""What has not changed is not told again."""

import asyncio

from ipc.contract.rdagent import GetUpdates, PinVersion, UpdateChanged, UpdateView
from ipc.errors import NoAnswer
from ipc.places import Places
from rdagent.config import UpdateSettings
from release.record import Chosen
from tests.conftest import come_true
from tests.rdagent.conftest import Watcher, rdagent_at
from tests.rdagent.update.lying import DIGEST, LyingServer, SignedRepository, reply
from tests.release.product import Installed


def test_a_version_that_cannot_be_had_is_news_only_once(
    places: Places, server: LyingServer, signed: SignedRepository
) -> None:
    """When it is tried again is known by the monotonic clock, and told by the wall's."""
    installed = Installed(places.installed, "telemetry")
    installed.folder.mkdir(mode=0o700, parents=True)
    installed.set(current=Chosen("0.1.0", DIGEST))
    server.lies["packages"] = reply(b"", "404 Not Found")
    assert signed.files

    async def view(watcher: Watcher) -> UpdateView | None:
        try:
            found = (await watcher.bus.ask(GetUpdates(), within=1.0)).components
        except NoAnswer:
            return None
        return next((one for one in found if one.component == "telemetry" and one.why), None)

    async def story() -> None:
        news: list[str] = []
        settings = UpdateSettings(repository=server.url, jitter=0.0)
        async with rdagent_at(places, server.url, 60.0, settings) as watcher:
            watcher.bus.on(UpdateChanged, lambda event: news.append(event.component))
            before = await come_true(lambda: view(watcher))
            assert before.state == "waiting"
            await come_true(lambda: "telemetry" in news)
            news.clear()
            for number in range(20):
                await watcher.bus.ask(PinVersion(component="netagent", version=f"1.{number}"))
            await watcher.bus.ask(PinVersion(component="telemetry", version="0.3.0"))
            await come_true(lambda: "telemetry" in news)
            # Another try of it meanwhile is news too.
            assert news.count("telemetry") < 10

    asyncio.run(story())
