"""The process: joins the parts and runs them."""

import asyncio
import logging
import os
import sys
from concurrent.futures import ThreadPoolExecutor

from guestagent import __version__
from guestagent.agent import GuestAgent
from guestagent.artifacts import Artifacts
from guestagent.config import Settings
from guestagent.history import History
from guestagent.operation import Operations
from guestagent.record import Records
from guestagent.steps import Worker
from guestagent.watch import HostWatch
from ipc.component import Component
from ipc.contract.guestagent import GetStatus, GoalStateArrived
from ipc.errors import IpcError
from ipc.hostaddress import find_host
from ipc.logs import start_logging
from ipc.places import Places
from ipc.record import Emitter
from ipc.settings import HostSettings, load_settings
from wire.errors import WireError
from wire.http import HttpClient
from wire.redact import redact

NAME = "guestagent"


async def run(places: Places, settings: Settings, host: HostSettings) -> None:
    """One life of the component."""
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(16, NAME))
    places.lib.mkdir(mode=0o700, parents=True, exist_ok=True)
    client = HttpClient(f"azvmagent/{__version__}")
    state = places.state_of(NAME)
    changed, arrived = asyncio.Event(), asyncio.Event()
    async with Component(NAME, __version__, places) as component:
        emitter = Emitter(places, component.bus, NAME, __version__, redact)
        records, operations = Records(state), Operations(state)

        def goal_state_arrived() -> None:
            component.announce(GoalStateArrived(goal_state=watch.current.id if watch.current else ""))
            arrived.set()
            changed.set()

        watch = HostWatch(
            settings=settings,
            client=client,
            find_host=lambda: find_host(places, host),
            lib=places.lib,
            state=state,
            history=History(places.lib),
            emitter=emitter,
            arrived=goal_state_arrived,
            changed=changed.set,
        )
        worker = Worker(
            lib=places.lib,
            log=places.log,
            artifacts=Artifacts(client, places.lib, places.log),
            operations=operations,
            records=records,
            emitter=emitter,
            changed=changed.set,
        )
        agent = GuestAgent(
            component=component,
            settings=settings,
            client=client,
            watch=watch,
            worker=worker,
            records=records,
            emitter=emitter,
            lib=places.lib,
            log=places.log,
            find_host=lambda: find_host(places, host),
            changed=changed,
            arrived=arrived,
        )
        component.answer(GetStatus, agent.get_status)
        emitter.emit("Start", f"{NAME} {__version__}")
        try:
            await component.run(
                watch.watch_wireserver(), watch.watch_host_plugin(), agent.work(), agent.report(), emitter.deliver()
            )
        finally:
            client.close()


def main() -> int:
    places = Places.from_environment(os.environ)
    start_logging(NAME, redact)
    try:
        settings, host = load_settings(places, NAME, Settings), load_settings(places, "host", HostSettings)
        asyncio.run(run(places, settings, host))
    except (IpcError, WireError, OSError) as error:
        logging.getLogger(NAME).critical("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
