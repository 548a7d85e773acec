"""rdagent in the test's loop, neighbours as children, and a real supervisord where one is needed."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from ipc.bus import Bus
from ipc.contract.rdagent import ComponentTruth, GetTruth, Truth
from ipc.errors import NoAnswer
from ipc.places import Places
from ipc.settings import HostSettings
from ipc.supervisord import Supervisord
from rdagent.__main__ import run
from rdagent.config import Settings, UpdateSettings

NEIGHBOUR = """
import asyncio, sys
from pathlib import Path
from ipc.component import Component
from ipc.places import Places
async def tell():
    print("up", flush=True)
async def main():
    async with Component(sys.argv[1], "7", Places.under(Path(sys.argv[2]))) as component:
        await component.run(tell())
asyncio.run(main())
"""

HEAD = """
[unix_http_server]
file={run}/supervisor.sock
[supervisord]
logfile={run}/supervisord.log
pidfile={run}/supervisord.pid
nodaemon=true
nocleanup=true
[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
"""

PROGRAM = """
[program:{name}]
command={command}
autorestart=true
startsecs={startsecs}
startretries=0
stdout_logfile=NONE
redirect_stderr=true
"""


class Watcher:
    """What somebody on the bus sees of rdagent."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus

    async def all(self) -> Truth | None:
        try:
            return await self.bus.ask(GetTruth())
        except NoAnswer:
            return None

    async def beats(self) -> int:
        seen = await self.all()
        return seen.host.heartbeats if seen else -1

    async def of(self, name: str) -> ComponentTruth | None:
        seen = await self.all()
        return next((one for one in seen.components if one.name == name), None) if seen else None

    async def states(self) -> dict[str, str]:
        seen = await self.all()
        return {one.name: one.state for one in seen.components} if seen else {}


@asynccontextmanager
async def rdagent_at(
    places: Places, wireserver: str, period: float, updates: UpdateSettings | None = None, *, hostgaplugin: str = ""
) -> AsyncIterator[Watcher]:
    settings = Settings(heartbeat_period=period, look_period=0.2, observe_period=5.0)
    host = HostSettings(wireserver=wireserver, hostgaplugin=hostgaplugin)
    task = asyncio.create_task(run(places, settings, updates or UpdateSettings(), host))
    bus = Bus(places, "test", "0")
    try:
        yield Watcher(bus)
        assert not task.done()
    finally:
        bus.close()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.fixture(scope="session")
def rdagent() -> Callable[..., Any]:
    """rdagent's own `run` in this loop: `rdagent(places, wireserver, period)` gives a Watcher."""
    return rdagent_at


@pytest.fixture
def neighbour(places: Places) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """Starts one as a child; it answers when this returns."""
    children = []

    def start(name: str) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [sys.executable, "-P", "-c", NEIGHBOUR, name, str(places.run.parent)], stdout=subprocess.PIPE, text=True
        )
        children.append(child)
        assert child.stdout is not None
        assert child.stdout.readline() == "up\n"
        return child

    yield start
    for child in children:
        child.kill()
        child.communicate()


class Supervision:
    """A real supervisord over programs of the test's choosing."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._script = places.run / "neighbour.py"
        self._child: subprocess.Popen[bytes] | None = None
        self.asking = Supervisord(places)

    def start(self, programs: dict[str, str], *, startsecs: int = 1, more: str = "") -> None:
        """Each program by name, with its command; a name alone (empty command) is a component that just lives.

        What ends within `startsecs` is given up. `more`: other sections of its configuration.
        """
        self._places.run.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._script.write_text(NEIGHBOUR)
        text = HEAD.format(run=self._places.run)
        for name, command in programs.items():
            text += PROGRAM.format(name=name, command=command or self.own(name), startsecs=startsecs)
        text += more
        configuration = self._places.run / "supervisord.conf"
        configuration.write_text(text)
        command_line = [sys.executable, "-P", "-m", "supervisor.supervisord", "-c", str(configuration)]
        with (self._places.run / "supervisord.out").open("ab") as out:
            self._child = subprocess.Popen(command_line, stdin=subprocess.DEVNULL, stdout=out, stderr=out)

    def own(self, name: str) -> str:
        """The command of a component that just lives."""
        return f"{sys.executable} -P {self._script} {name} {self._places.run.parent}"

    def pids(self) -> dict[str, int]:
        return {one.name: one.pid for one in self.asking.programs()}

    def signalled(self, number: signal.Signals) -> None:
        assert self._child is not None
        self._child.send_signal(number)

    def kill(self) -> None:
        """Its programs live on."""
        assert self._child is not None
        self._child.kill()
        self._child.wait()

    def end(self) -> None:
        """Whatever became of it, and whatever state its programs are in."""
        if self._child is None:
            return
        self._child.kill()
        self._child.wait()
        for pid in self._programs():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _programs(self) -> list[int]:
        """Every process with this very script as its program, whoever started it."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if os.fsencode(self._script) in (entry / "cmdline").read_bytes().split(b"\0"):
                        found.append(int(entry.name))
        return found


@pytest.fixture
def supervision(places: Places) -> Iterator[Supervision]:
    one = Supervision(places)
    yield one
    one.end()
