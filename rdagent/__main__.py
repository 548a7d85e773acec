"""The process: joins the parts and runs them."""

import asyncio
import logging
import os
import sys

from ipc.component import Component
from ipc.contract.rdagent import GetTruth, TruthChanged
from ipc.ending import end_process
from ipc.errors import IpcError
from ipc.hostaddress import find_host
from ipc.logs import start_logging
from ipc.places import Places
from ipc.record import Emitter
from ipc.settings import CHECK, HostSettings, load_settings
from rdagent import __version__
from rdagent.agent import RdAgent
from rdagent.config import Settings, UpdateSettings
from rdagent.heartbeat import Heartbeat
from rdagent.life import SignOfLife
from rdagent.update.orders import answer_orders
from rdagent.update.swap import exec_anew
from rdagent.update.updater import Updater
from rdagent.watch import Neighbours
from wire.http import HttpClient
from wire.redact import redact

NAME = "rdagent"


async def run(places: Places, settings: Settings, updates: UpdateSettings, host: HostSettings) -> bool:
    """One life of the component; whether it is to go on as another version of itself."""
    client = HttpClient(f"azvmagent/{__version__}")
    async with Component(NAME, __version__, places) as component:
        emitter = Emitter(places, component.bus, NAME, __version__, redact)
        heartbeat = Heartbeat(
            client,
            lambda: find_host(places, host),
            emitter,
            settings.heartbeat_period,
            lambda: component.announce(TruthChanged()),
        )
        neighbours, sign_of_life = Neighbours(places, component.bus), SignOfLife(places.sign_of_life)
        agent = RdAgent(component, settings, neighbours, heartbeat, emitter, sign_of_life)
        component.answer(GetTruth, agent.get_truth)
        updater = Updater(
            component,
            places,
            updates,
            client,
            lambda: find_host(places, host),
            emitter,
            agent.truth,
            lambda: bool(heartbeat.view.problem),
        )
        agent.story, agent.replaced = updater.story, updater.look_again
        answer_orders(component, updater, places)
        emitter.emit("Start", f"{NAME} {__version__}")
        try:
            await component.run(
                heartbeat.beat(), heartbeat.know_ids(), agent.look(), agent.tell(), updater.run(), emitter.deliver()
            )
        finally:
            client.close()
    return updater.reborn


def main() -> int:
    places = Places.from_environment(os.environ)
    start_logging(NAME, redact)
    checking = sys.argv[1:] == [CHECK]
    try:
        settings = load_settings(places, NAME, Settings, strict=checking)
        host = load_settings(places, "host", HostSettings, strict=checking)
        updates = load_settings(places, "update", UpdateSettings, strict=checking)
        if checking:
            return 0
        if asyncio.run(run(places, settings, updates, host)):
            exec_anew()
    except (IpcError, OSError) as error:
        logging.getLogger(NAME).critical("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    end_process(main())
