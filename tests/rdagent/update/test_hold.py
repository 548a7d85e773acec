"""Until when a hold lasts, as the operator is told it."""

import asyncio
import json

import pytest

from ipc.places import Places
from tests.conftest import come_true
from tests.rdagent.conftest import rdagent_at
from tests.rdagent.update.asking import agentctl, view
from tests.rdagent.update.lying import LyingServer

ALL, OWN = "2036-01-01 00:00:00Z", "2037-01-01 00:00:00Z"
END_ALL, END_OWN = "End it: agentctl update hold --off", "End it: agentctl update hold telemetry --off"


@pytest.mark.parametrize(
    ("holds", "lines"),
    [
        ({"": ALL}, [f"All updates are held until {ALL}. {END_ALL}"]),
        ({"": ""}, [f"All updates are held. {END_ALL}"]),
        ({"telemetry": OWN}, [f"Updates of telemetry are held until {OWN}. {END_OWN}"]),
        (
            {"": ALL, "telemetry": OWN},
            [f"All updates are held until {ALL}. {END_ALL}", f"Updates of telemetry are held until {OWN}. {END_OWN}"],
        ),
    ],
    ids=["all", "for good", "one", "one longer than all"],
)
def test_status_says_how_long(places: Places, server: LyingServer, holds: dict[str, str], lines: list[str]) -> None:
    async def story() -> None:
        async with rdagent_at(places, server.url, 60.0) as watcher:
            await come_true(lambda: view(watcher))
            for name, until in holds.items():
                words = [*filter(None, [name]), *(["--until", until.rstrip("Z")] if until else [])]
                assert (await agentctl(places, "hold", *words)).returncode == 0
            said = (await agentctl(places, "status")).stdout
            shape = json.loads((await agentctl(places, "status", "--json")).stdout)
        told = [line for line in said.replace(f" --root {places.run.parent}", "").splitlines() if " held" in line]
        assert told == lines
        telemetry = next(one for one in shape["components"] if one["component"] == "telemetry")
        seconds = {ALL: 2082758400.0, OWN: 2114380800.0, "": None}
        assert (shape["held"], shape["held_until"]) == ("" in holds, seconds[holds.get("", "")])
        assert (telemetry["held"], telemetry["held_until"]) == (True, seconds[[*holds.values()][-1]])

    asyncio.run(story())
