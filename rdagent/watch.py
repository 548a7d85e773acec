"""Looking at the neighbours: their own words, and supervisord's."""

import asyncio
import time

from ipc.bus import Bus
from ipc.contract.every import Describe, Health
from ipc.errors import FrameError, NoAnswer, Refused
from ipc.places import Places
from ipc.supervisord import ProgramState, Supervisord, SupervisordError
from rdagent.plan import NEIGHBOURS, Answer, Observed

# Shorter than the look's period: a look never waits for the one before.
_PATIENCE = 2.0


class Neighbours:
    """Keeps the last answer of each."""

    def __init__(self, places: Places, bus: Bus) -> None:
        self._bus = bus
        self._supervisord = Supervisord(places)
        self._began = time.monotonic()
        self._answers: dict[str, Answer] = {}

    async def look(self) -> dict[str, Observed]:
        """Ask everybody at once."""
        programs, answers = await asyncio.gather(
            asyncio.to_thread(self._programs), asyncio.gather(*(self._ask(name) for name in NEIGHBOURS))
        )
        for name, answer in zip(NEIGHBOURS, answers, strict=True):
            if answer is not None:
                self._answers[name] = answer
        return {name: self._observed(name, programs.get(name)) for name in NEIGHBOURS}

    def start(self, program: str) -> None:
        """Blocking. Raises SupervisordError."""
        self._supervisord.start(program)

    def _observed(self, name: str, program: ProgramState | None) -> Observed:
        answer = self._answers.get(name)
        silent_since = answer.at if answer else self._began
        if program is not None and program.pid and answer is not None and program.pid != answer.pid:
            # Another process than the one that answered: its silence begins with its start.
            silent_since = max(silent_since, time.monotonic() - max(0.0, time.time() - program.start))
        return Observed(
            name=name,
            answer=answer,
            program=program.statename if program else "",
            pid=(program.pid or None) if program else None,
            silent_since=silent_since,
        )

    async def _ask(self, name: str) -> Answer | None:
        try:
            health = await self._bus.ask(Health(), to=name, within=_PATIENCE)
            described = await self._bus.ask(Describe(), to=name, within=_PATIENCE)
        except (NoAnswer, Refused, FrameError):
            return None
        return Answer(
            at=time.monotonic(),
            state=health.state,
            what=health.what,
            since=health.since,
            limit_seconds=health.limit_seconds,
            version=described.version,
            pid=described.pid,
        )

    def _programs(self) -> dict[str, ProgramState]:
        try:
            return {program.name: program for program in self._supervisord.programs()}
        except SupervisordError:
            return {}
