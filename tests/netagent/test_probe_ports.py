"""The goal state's probe ports, answered by the real netagent as rdagent and guestagent say."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from ipc.component import Component
from ipc.contract.guestagent import GetStatus, GuestStatus, StatusChanged
from ipc.contract.netagent import GetNetwork
from ipc.contract.rdagent import GetTruth, HostView, Truth, TruthChanged
from ipc.errors import NoAnswer, Refused
from ipc.places import Places

ASK = """
import http.client, json, sys
try:
    one = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=5)
    one.request("GET", "/")
    answer = one.getresponse()
    print(json.dumps([answer.status, answer.read().decode().strip()]))
except OSError:
    print(json.dumps([0, ""]))
"""


class Neighbours:
    """rdagent and guestagent, as far as netagent asks them."""

    def __init__(self, rdagent: Component, guestagent: Component) -> None:
        self._rdagent, self._guestagent = rdagent, guestagent
        self._ready, self._why, self._ports = True, "", [8080]
        rdagent.answer(GetTruth, self._truth)
        guestagent.answer(GetStatus, self._status)

    async def _truth(self, _: GetTruth) -> Truth:
        return Truth(host=HostView(ready=self._ready, problem=self._why), components=[])

    async def _status(self, _: GetStatus) -> GuestStatus:
        return GuestStatus(goal_state="incarnation_1", probe_ports=self._ports)

    def say(self, *, ready: bool | None = None, why: str = "", ports: list[int] | None = None) -> None:
        if ready is not None:
            self._ready, self._why = ready, why
            self._rdagent.announce(TruthChanged())
        if ports is not None:
            self._ports = ports
            self._guestagent.announce(StatusChanged())


@pytest.fixture
def beside(places: Places, namespace: Any, alive: Callable[..., Any], until: Callable[..., Any]) -> Any:
    @asynccontextmanager
    async def start() -> AsyncIterator[tuple[Neighbours, Callable[[int], tuple[int, str]], Component]]:
        places.config.write_text('[netagent]\nmode = "observe"\n')
        process = namespace.netagent(places)

        def ask(port: int) -> tuple[int, str]:
            status, body = json.loads(namespace.python(ASK, str(port)))
            return status, body

        async def answers(bus: Any) -> bool:
            try:
                return bool(await bus.ask(GetNetwork()))
            except (NoAnswer, Refused):
                return False

        try:
            async with AsyncExitStack() as stack:
                rdagent, guestagent = Component("rdagent", "1", places), Component("guestagent", "1", places)
                neighbours = Neighbours(rdagent, guestagent)
                await stack.enter_async_context(alive(rdagent))
                await stack.enter_async_context(alive(guestagent))
                await until(lambda: answers(rdagent.bus))
                yield neighbours, ask, rdagent
        finally:
            process.kill()
            process.wait()

    return start


def test_ports_and_readiness_follow_what_the_others_say(beside: Any, until: Callable[..., Any]) -> None:
    async def run() -> None:
        async with beside() as (neighbours, ask, rdagent):

            async def asked(port: int, status: int) -> str:
                found = ""

                async def so() -> bool:
                    nonlocal found
                    seen, found = await asyncio.to_thread(ask, port)
                    return bool(seen == status)

                await until(so)
                return found

            await asked(8080, 200)
            neighbours.say(ready=False, why="guestagent is hung")
            assert "guestagent is hung" in await asked(8080, 503)
            neighbours.say(ports=[8081, 9090], ready=True)
            await asked(8081, 200)
            await asked(9090, 200)
            await asked(8080, 0)
            shown = await rdagent.bus.ask(GetNetwork())
            assert [(one.port, one.answers) for one in shown.probes] == [(8081, True), (9090, True)]
            assert all(one.probes for one in shown.probes)
            neighbours.say(ports=[])
            await asked(9090, 0)

    asyncio.run(run())
