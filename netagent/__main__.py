"""The process: joins the parts and runs them."""

import asyncio
import logging
import os
import sys
from pathlib import Path

from ipc.component import Component
from ipc.contract.netagent import GetNetwork, PlanNetwork, RepairNetwork, SwitchNetwork
from ipc.ending import end_process
from ipc.errors import IpcError
from ipc.hostaddress import wireserver_state
from ipc.logs import start_logging
from ipc.places import Places
from ipc.record import Emitter
from ipc.settings import CHECK, HostSettings, load_settings
from netagent import __version__
from netagent.agent import NetAgent
from netagent.config import Settings
from netagent.duties import Duties
from netagent.watch import LeaseFiles
from wire.redact import redact

NAME = "netagent"


async def run(places: Places, settings: Settings, host: HostSettings) -> None:
    """One life of the component."""
    async with Component(NAME, __version__, places) as component:
        emitter = Emitter(places, component.bus, NAME, __version__, redact)
        agent = NetAgent(
            component,
            settings,
            emitter,
            configured=host.wireserver,
            state_file=wireserver_state(places),
            resolv_conf=Path("/etc/resolv.conf"),
            lease_files=LeaseFiles(),
        )
        duties = Duties(
            component,
            settings,
            emitter,
            agent,
            state=places.state_of(NAME),
            imds=host.imds,
            local=bool(host.wireserver),
        )
        component.answer(GetNetwork, agent.get_network)
        component.answer(PlanNetwork, agent.plan_network)
        component.answer(RepairNetwork, agent.repair_network)
        component.answer(SwitchNetwork, agent.switch_network)
        emitter.emit("Start", f"{NAME} {__version__}")
        await component.run(agent.listen(), agent.observe(), *duties.loops(), emitter.deliver())


def main() -> int:
    places = Places.from_environment(os.environ)
    start_logging(NAME, redact)
    checking = sys.argv[1:] == [CHECK]
    try:
        settings = load_settings(places, NAME, Settings, strict=checking)
        host = load_settings(places, "host", HostSettings, strict=checking)
        if checking:
            return 0
        asyncio.run(run(places, settings, host))
    except (IpcError, OSError) as error:
        logging.getLogger(NAME).critical("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    end_process(main())
