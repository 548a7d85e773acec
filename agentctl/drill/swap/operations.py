"""Run commands that go on while a component is swapped, on the bus and by the host; each is accounted for on its own.

A script writes down that it has begun and that it has ended, and prints a known text meanwhile. Whoever asks on the bus
asks again with the same token until there is an answer, as `agentctl run` does: one that is asked for in the middle of
a swap has to be begun, once.
"""

import asyncio
import json
import secrets
import threading
import time
import urllib.request
from pathlib import Path

import msgspec

from agentctl.drill.group.stage import Stage
from agentctl.processes import wait_until
from agentctl.view import read_endpoints
from ipc.bus import Bus
from ipc.contract.guestagent import GetRun, RunScript, RunView
from ipc.errors import FrameError, NoAnswer, Refused

BUS_LINES = (14, 3)
"""Lines of the scripts on the bus, one lane for each number. The long ones outlast a swap, the short ones are often
asked for within one."""
HOST_LINES = 14
LINE_SECONDS = 0.1
HOST_NAME = "load"
"""All of the host's orders have this name: each takes the place of the one before."""

_WIDTH = 400
"""So that the text of a long script is longer than what GetRun shows of it."""
_SHOWN = 4096
_ASK_SECONDS = 3.0
_AGAIN_SECONDS = 2.0
"""Asking early costs a question, no more."""
_LOOK_SECONDS = 0.05
_PAUSE = 0.3
_PATIENCE = 60.0
_COME_BACK = {"busy", "not-now"}


class Run(msgspec.Struct):
    """One script. `folder`/NAME.begun and NAME.ended have a line for each time it came there."""

    name: str
    folder: Path
    lines: int
    asked: float
    """CLOCK_MONOTONIC."""
    taken: float | None = None
    """When somebody said that it is, or was, begun."""
    outcome: str = ""
    """What is told of it; empty while nothing is."""
    shown: str = ""
    """The end of its output, as it is told."""
    output: str = ""
    """All of it, from its file."""
    swaps: int = 0
    """That began while it ran."""

    @property
    def begun(self) -> int:
        return _lines(self.folder / f"{self.name}.begun")

    @property
    def ended(self) -> int:
        return _lines(self.folder / f"{self.name}.ended")

    @property
    def script(self) -> str:
        begun, ended = self.folder / f"{self.name}.begun", self.folder / f"{self.name}.ended"
        loop = f"while [ $n -lt {self.lines} ]; do n=$((n+1)); printf '%s %0{_WIDTH}d\\n' {self.name} $n"
        return f"echo x >> '{begun}'; n=0; {loop}; sleep {LINE_SECONDS:g}; done; echo x >> '{ended}'"

    @property
    def text(self) -> str:
        """What it has to print."""
        return "".join(f"{self.name} {number:0{_WIDTH}d}\n" for number in range(1, self.lines + 1))

    def asked_within(self, since: float, until: float) -> bool:
        """Whether it was still waiting to be taken at a moment of this span."""
        return self.asked <= until and (self.taken is None or self.taken >= since)


def what_is_wrong(run: Run) -> str:
    """Each was taken, begun once and ended once, and what is told of it is true and whole. Empty if that is so."""
    for what, times in (("begun", run.begun), ("ended", run.ended)):
        if times > 1:
            return f"{run.name} was {what} {times} times"
    if run.taken is None:
        return f"{run.name} was not taken: {run.outcome}"
    if not run.begun:
        return f"{run.name} was taken and did not run: {run.outcome}"
    if not run.ended:
        return f"{run.name} was begun and did not end: {run.outcome}"
    if run.outcome != "Succeeded":
        return f"{run.name} ran, and is told of as {run.outcome!r}"
    if run.output != run.text:
        return f"{run.name} printed {len(run.text)} characters, {len(run.output)} were kept: ...{run.output[-60:]!r}"
    if run.shown != run.text[-_SHOWN:]:
        return f"{run.name} is told of with another output than it has: ...{run.shown[-60:]!r}"
    return ""


class Operations:
    """Lanes of one run after the other, until `stop` is set; the last of each is seen to its end."""

    def __init__(self, stage: Stage, folder: Path, stop: threading.Event) -> None:
        self.on_the_bus: list[Run] = []
        self.by_the_host: list[Run] = []
        self._stop = stop
        self._folder = folder
        endpoints = read_endpoints(stage.deployment)
        self._portal = endpoints.portal if endpoints else ""

    def under_way(self) -> list[Run]:
        """Those that have begun and not ended. From any thread."""
        recent = [*self.on_the_bus[-8:], *self.by_the_host[-2:]]
        return [one for one in recent if one.begun and not one.ended and not one.outcome]

    async def live(self, bus: Bus) -> None:
        async with asyncio.TaskGroup() as group:
            for lines in BUS_LINES:
                group.create_task(self._lane(bus, lines))
            group.create_task(self._orders(bus))

    # -- on the bus ----------------------------------------------------------------------------------------------------

    async def _lane(self, bus: Bus, lines: int) -> None:
        while not self._stop.is_set():
            run = self._new("run", self.on_the_bus, lines)
            await self._ask(bus, run)
            if run.taken is not None:
                await self._follow(bus, run, run.name)

    async def _ask(self, bus: Bus, run: Run) -> None:
        request = RunScript(name=run.name, script=run.script.encode(), token=secrets.token_hex(8))
        until = time.monotonic() + _PATIENCE
        while time.monotonic() < until:
            try:
                await bus.ask(request, within=_AGAIN_SECONDS)
            except NoAnswer:
                continue
            except Refused as refusal:
                if refusal.code not in _COME_BACK:
                    run.outcome = str(refusal)
                    return
                await asyncio.sleep(_PAUSE)
            except FrameError as error:
                run.outcome = str(error)
                return
            else:
                run.taken = time.monotonic()
                return
        run.outcome = f"no answer within {_PATIENCE:g} s"

    # -- by the host ---------------------------------------------------------------------------------------------------

    async def _orders(self, bus: Bus) -> None:
        while not self._stop.is_set():
            run = self._new("operation", self.by_the_host, HOST_LINES)
            try:
                await asyncio.to_thread(self._order, run)
            except OSError as error:
                run.outcome = f"the host takes no order: {error}"
                return
            run.taken = time.monotonic()
            if await asyncio.to_thread(wait_until, lambda: run.begun > 0, _PATIENCE):  # noqa: B023  # awaited here
                await self._follow(bus, run, HOST_NAME)
            else:
                run.outcome = f"not begun within {_PATIENCE:g} s"

    def _order(self, run: Run) -> None:
        """Raises OSError."""
        order = {"name": HOST_NAME, "script": run.script}
        headers = {"Content-Type": "application/json"}
        url = f"{self._portal}/api/runs"
        request = urllib.request.Request(url, json.dumps(order).encode(), headers, method="POST")  # noqa: S310  # our own host
        with urllib.request.urlopen(request, timeout=_PATIENCE):  # noqa: S310
            pass

    # -- both ----------------------------------------------------------------------------------------------------------

    async def _follow(self, bus: Bus, run: Run, name: str) -> None:
        """Until it is told of as ended."""
        until = time.monotonic() + _PATIENCE
        while time.monotonic() < until:
            view = await _view(bus, name)
            if view is not None and view.state != "Running":
                run.shown = view.output
                try:
                    run.output = await asyncio.to_thread(Path(view.stdout).read_text)
                except (OSError, UnicodeDecodeError) as error:
                    run.output = f"{view.stdout} cannot be read: {error}"
                run.outcome = view.state
                return
            await asyncio.sleep(_LOOK_SECONDS)
        run.outcome = f"no end within {_PATIENCE:g} s"

    def _new(self, kind: str, among: list[Run], lines: int) -> Run:
        run = Run(f"{kind}-{len(among) + 1}", self._folder, lines, time.monotonic())
        among.append(run)
        return run


async def _view(bus: Bus, name: str) -> RunView | None:
    """None: nobody says."""
    try:
        return await bus.ask(GetRun(name=name), within=_ASK_SECONDS)
    except (NoAnswer, Refused, FrameError):
        return None


def _lines(path: Path) -> int:
    try:
        return len(path.read_bytes().splitlines())
    except FileNotFoundError:
        return 0
