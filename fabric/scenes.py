"""The scenario that is played, in the control API."""

import msgspec
from fastapi import FastAPI, Request
from fastapi.responses import Response

from fabric import bodies, described
from fabric.errors import Unknown
from fabric.host import Host
from fabric.scenario import Play, Scenario, Taken


class Played(msgspec.Struct, kw_only=True):
    """A scenario and how far it is."""

    name: str
    seed: int
    began: float
    left: int
    """Steps not taken yet."""
    steps: list[Taken]


class Stopped(msgspec.Struct, frozen=True):
    """No steps are taken any more."""

    stopped: bool


def add_routes(api: FastAPI, host: Host) -> None:
    """Into the control API."""

    @api.put(
        "/api/scenario",
        responses=described.answers(Played, 400, 403, 413, 415),
        openapi_extra=described.order(Scenario),
    )
    async def start(request: Request) -> Response:
        """Play a scenario instead of the one that is played."""
        scenario = await bodies.order(request, Scenario)
        return bodies.json(_shown(host.stage.start(scenario)))

    @api.get("/api/scenario", responses=described.answers(Played, 404))
    async def played() -> Response:
        """The scenario that is played, with the steps taken so far."""
        if host.stage.play is None:
            raise Unknown("no scenario is played: azfabric scenario run FILE")
        return bodies.json(_shown(host.stage.play))

    @api.delete("/api/scenario", responses=described.answers(Stopped, 403))
    async def stop() -> Response:
        """Take no more steps; what they did stays."""
        host.stage.stop()
        return bodies.json(Stopped(True))


def _shown(play: Play) -> Played:
    return Played(
        name=play.scenario.name,
        seed=play.scenario.seed,
        began=play.began,
        left=sum(one.at is None for one in play.taken),
        steps=play.taken,
    )
