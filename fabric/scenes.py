"""The scenario that is played, in the control API."""

from typing import Any

import msgspec
from fastapi import FastAPI, Request
from fastapi.responses import Response

from fabric import bodies
from fabric.errors import Unknown
from fabric.host import Host
from fabric.scenario import Play, Scenario


def add_routes(api: FastAPI, host: Host) -> None:
    """Into the control API."""

    @api.put("/api/scenario")
    async def start(request: Request) -> Response:
        """Play a scenario instead of the one that is played: `{"name", "seed", "step": [{"after" or "at", ...}]}`."""
        scenario = bodies.parse_json(await bodies.read(request), Scenario)
        return bodies.json(_shown(host.stage.start(scenario)))

    @api.get("/api/scenario")
    async def played() -> Response:
        """The scenario that is played, with the steps taken so far."""
        if host.stage.play is None:
            raise Unknown("no scenario is played: azfabric scenario run FILE")
        return bodies.json(_shown(host.stage.play))

    @api.delete("/api/scenario")
    async def stop() -> Response:
        """Take no more steps; what they did stays."""
        host.stage.stop()
        return bodies.json({"stopped": True})


def _shown(play: Play) -> dict[str, Any]:
    left = sum(one.at is None for one in play.taken)
    return {
        "name": play.scenario.name,
        "seed": play.scenario.seed,
        "began": play.began,
        "left": left,
        "steps": msgspec.to_builtins(play.taken),
    }
