"""The process: joins the parts and runs them."""

import asyncio
import logging
import os
import sys

from ipc.component import Component
from ipc.contract.telemetry import GetTimeline, Record
from ipc.ending import end_process
from ipc.errors import IpcError
from ipc.hostaddress import find_host
from ipc.logs import start_logging
from ipc.places import Places
from ipc.record import Emitter
from ipc.settings import CHECK, HostSettings, load_settings
from telemetry import __version__
from telemetry.agent import Telemetry
from telemetry.config import Settings
from telemetry.journal import Journal, JournalError
from wire.redact import redact

NAME = "telemetry"


async def run(places: Places, settings: Settings, host: HostSettings) -> None:
    """One life of the component."""
    async with Component(NAME, __version__, places) as component:
        path = places.state_of(NAME) / "journal.sqlite"
        journal = Journal(path, rows=settings.journal_rows, size=settings.journal_bytes)
        telemetry = Telemetry(component, settings, journal, lambda: find_host(places, host).wireserver, redact)
        component.answer(Record, telemetry.record)
        component.answer(GetTimeline, telemetry.timeline)
        emitter = Emitter(places, component.bus, NAME, __version__, redact)
        emitter.emit("Start", f"{NAME} {__version__}")
        if journal.damaged:
            emitter.emit("Journal", f"was damaged, kept as {journal.damaged.name}, begun anew", ok=False)
        try:
            await component.run(
                telemetry.announce(),
                telemetry.collect(emitter, places.log, places.lib),
                telemetry.upload(emitter),
                emitter.deliver(),
            )
        finally:
            telemetry.close()


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
    except (IpcError, JournalError, OSError) as error:
        logging.getLogger(NAME).critical("%s", error)
        return 1
    return 0


if __name__ == "__main__":
    end_process(main())
