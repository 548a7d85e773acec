"""Looking at the neighbours: their own words, and supervisord's."""

import asyncio
import time
from pathlib import Path

from ipc.bus import Bus
from ipc.contract.every import Describe, Health
from ipc.errors import FrameError, NoAnswer, Refused
from ipc.places import Places
from ipc.supervisord import ProgramState, Supervisord, SupervisordError
from rdagent import counterwatch
from rdagent.plan import NEIGHBOURS, Answer, Observed

# Shorter than the look's period: a look never waits for the one before.
_PATIENCE = 2.0


class Neighbours:
    """Keeps the last answer of each."""

    def __init__(self, places: Places, bus: Bus) -> None:
        self._bus = bus
        self._supervisord = Supervisord(places)
        self._watchdog_sign = places.watchdog_sign
        self._began = time.monotonic()
        self._answers: dict[str, Answer] = {}
        self._refusals: dict[str, str] = {}
        self._first_seen: dict[str, tuple[int, float]] = {}
        self.watchdog = counterwatch.Seen(program="")
        """As of the last look."""

    async def look(self) -> dict[str, Observed]:
        """Ask everybody at once."""
        programs, answers = await asyncio.gather(
            asyncio.to_thread(self._programs), asyncio.gather(*(self._ask(name) for name in NEIGHBOURS))
        )
        watchdog, sign = programs.get(counterwatch.NAME), counterwatch.read_sign(self._watchdog_sign)
        self.watchdog = counterwatch.Seen(
            program=watchdog.statename if watchdog else "", pid=watchdog.pid if watchdog else None, sign=sign
        )
        for name, answer in zip(NEIGHBOURS, answers, strict=True):
            if answer is not None:
                self._answers[name] = answer
        return {
            name: self._observed(name, programs.get(name), answered=answer is not None)
            for name, answer in zip(NEIGHBOURS, answers, strict=True)
        }

    def start(self, program: str) -> None:
        """Blocking. Raises SupervisordError."""
        self._supervisord.start(program)

    def stop(self, program: str) -> None:
        """Blocking; one that hangs is killed by supervisord. Raises SupervisordError."""
        self._supervisord.stop(program)

    def _observed(self, name: str, program: ProgramState | None, *, answered: bool) -> Observed:
        answer = self._answers.get(name)
        heard_at = silent_since = answer.at if answer else self._began
        pid = program.pid or None if program else None
        if program is None and answer is not None and _runs(answer.pid):
            pid = answer.pid
        if pid is not None and (answer is None or answer.pid != pid):
            # Another process than the one that answered: its silence begins when it does. By our clock: supervisord
            # tells the time of its start by the wall clock, which may be set.
            if self._first_seen.get(name, (0, 0.0))[0] != pid:
                self._first_seen[name] = (pid, time.monotonic())
            silent_since = max(silent_since, self._first_seen[name][1])
        return Observed(
            name=name,
            answer=answer,
            answered=answered,
            refusal=self._refusals.get(name, ""),
            program=program.statename if program else "",
            pid=pid,
            heard_at=heard_at,
            silent_since=silent_since,
        )

    async def _ask(self, name: str) -> Answer | None:
        self._refusals.pop(name, None)
        try:
            health = await self._bus.ask(Health(), to=name, within=_PATIENCE)
            described = await self._bus.ask(Describe(), to=name, within=_PATIENCE)
        except Refused as refusal:
            if refusal.code == "unsupported":
                self._refusals[name] = refusal.reason
            return None
        except (NoAnswer, FrameError):
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


def _runs(pid: int) -> bool:
    """Zombies do not: their supervisord has not come to bury them."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    # The command name may hold blanks and parentheses: the state stands behind the last one (proc_pid_stat(5)).
    return stat[stat.rindex(b")") + 2 :].split()[0] not in (b"Z", b"X")
