"""What an operator asks an rdagent in the test's loop, by the bus and by `agentctl update`."""

import asyncio
import subprocess
import sys

from ipc.contract.rdagent import GetUpdates, UpdateView
from ipc.errors import NoAnswer
from ipc.places import Places
from tests.rdagent.conftest import Watcher


async def agentctl(places: Places, *words: str) -> "subprocess.CompletedProcess[str]":
    """To its end."""
    command = [sys.executable, "-m", "agentctl", "update", *words, "--root", str(places.run.parent)]
    return await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False, timeout=120)


async def view(watcher: Watcher) -> UpdateView | None:
    """What is said of telemetry; None before the first look has ended."""
    try:
        found = await watcher.bus.ask(GetUpdates(), within=1.0)
    except NoAnswer:
        return None
    return next((one for one in found.components if found.looked_at and one.component == "telemetry"), None)
