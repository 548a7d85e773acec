"""Watching a version on trial: what the gate is fed with."""

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ipc.bus import Bus
from ipc.contract.every import Describe, Health
from ipc.contract.guestagent import GetStatus
from ipc.contract.netagent import GetNetwork
from ipc.contract.rdagent import GetTruth
from ipc.contract.telemetry import GetTimeline
from ipc.errors import FrameError, NoAnswer, Refused
from ipc.message import Request
from ipc.places import Places
from ipc.supervisord import Supervisord, SupervisordError
from rdagent.config import UpdateSettings
from rdagent.update import procfs
from rdagent.update.gate import Baseline, Gate, Observation, Verdict
from release.record import Chosen

LOOK_SECONDS = 0.5
_PATIENCE = 2.0

_PROBES: dict[str, Request[Any]] = {
    "rdagent": GetTruth(),
    "guestagent": GetStatus(),
    "netagent": GetNetwork(),
    "telemetry": GetTimeline(limit=1),
}
"""A question that goes through what each is there for; one that answers only Health proves little."""


class Trials:
    """Looks at one component, the one on trial."""

    def __init__(self, places: Places, bus: Bus, settings: UpdateSettings, host_is_away: Callable[[], bool]) -> None:
        self._bus = bus
        self._supervisord = Supervisord(places)
        self._settings = settings
        self._host_is_away = host_is_away

    async def baseline(self, component: str) -> Baseline:
        """How the version is that runs now: what ails it already is not held against the next."""
        seen = await self.look(component)
        return Baseline(degraded=seen.answered and seen.state == "degraded", what=seen.what)

    async def judge(
        self,
        component: str,
        target: Chosen,
        others: Sequence[Chosen],
        baseline: Baseline,
        told: Callable[[Verdict], None],
    ) -> Verdict:
        """Look until there is a verdict; `told` hears of each look. `others`: as Gate says."""
        gate = Gate(target, baseline, self._settings, began=time.monotonic(), others=others)
        while True:
            verdict = gate.observe(await self.look(component))
            told(verdict)
            if verdict.state != "undecided":
                return verdict
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self, component: str) -> Observation:
        """One look. A process that does not answer is told by supervisord's word; another one's answer is none."""
        try:
            health = await self._bus.ask(Health(), to=component, within=_PATIENCE)
            described = await self._bus.ask(Describe(), to=component, within=_PATIENCE)
            fault = await self._probe(component)
        except (NoAnswer, FrameError, Refused) as error:
            # Only who speaks another protocol does not know how to say how it is.
            foreign = error.reason if isinstance(error, Refused) and error.code == "unsupported" else ""
            pid, unknown = await asyncio.to_thread(self._running, component)
            return Observation(
                now=time.monotonic(),
                answered=False,
                foreign=foreign,
                pid=pid,
                rss_bytes=procfs.resident(pid),
                usage=procfs.usage(pid),
                unknown=unknown,
            )
        ours, unknown = await asyncio.to_thread(self._running, component)
        if not unknown and ours != described.pid:
            runs = ours if ours is not None else "none"
            stranger = f"process {described.pid} answers, supervisord runs {runs}: not the version on trial"
            return Observation(now=time.monotonic(), answered=False, stranger=stranger, pid=ours)
        return Observation(
            now=time.monotonic(),
            answered=True,
            version=described.version,
            digest=described.digest,
            pid=described.pid,
            state="degraded" if fault else health.state,
            # Who cannot reach a host that we cannot reach either is no worse than we are.
            outside=not fault and (health.outside or self._host_is_away()),
            what=fault or health.what,
            rss_bytes=procfs.resident(described.pid),
            usage=procfs.usage(described.pid),
            is_base=procfs.is_base_install(described.pid, component),
            unknown=unknown,
        )

    async def _probe(self, component: str) -> str:
        """What failed at it, by its own word; empty if nothing did. Raises NoAnswer, FrameError."""
        if (probe := _PROBES.get(component)) is not None:
            try:
                await self._bus.ask(probe, within=_PATIENCE)
            except Refused as refusal:
                return refusal.reason if refusal.code == "failed" else ""
        return ""

    def _running(self, component: str) -> tuple[int | None, str]:
        """The process supervisord runs for it, and why it does not say so; empty: it does."""
        try:
            programs = {one.name: one.pid or None for one in self._supervisord.programs()}
        except SupervisordError as error:
            return None, f"nobody could start it: {error}"
        if component not in programs:
            return None, f"nobody could start it: supervisord knows no program {component}"
        return programs[component], ""


def in_use() -> set[Path]:
    """Folders that some process imports from: an older version may still serve a command that began under it."""
    found: set[Path] = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            variables = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        for one in variables:
            if one.startswith(b"AZVMAGENT_IMPORTS="):
                paths = os.fsdecode(one.partition(b"=")[2]).split(os.pathsep)
                found |= {Path(path) for path in paths if path}
    return found
