"""The goal state in force, and what a restart must not forget of it.

An older document must not come into force because we began anew, and an extension must go on being reported while the
host is away. The file holds signed URLs and protected settings (still encrypted): 0600, in a folder of 0700.
"""

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from ipc.errors import StateError
from ipc.statefile import read_state, write_state
from wire.extensions import ExtensionsGoalState
from wire.goalstate import GoalState


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """`goalstate.json`."""

    goal_state: GoalState | None = None
    in_force: ExtensionsGoalState | None = None
    in_force_at: float | None = None


class InForce:
    """Used from one event loop; only its file is written in a thread.

    `arrived` is called when there is another one to execute, `changed` when only its report is to be another.
    """

    def __init__(self, state: Path, arrived: Callable[[], None], changed: Callable[[], None]) -> None:
        """What an earlier instance knew; a damaged file is begun anew, and `problem` says so."""
        self._path = state / "goalstate.json"
        self._arrived = arrived
        self._changed = changed
        self._writing = asyncio.Lock()
        self._met = False
        self._taken_up = False
        self.problem = ""
        try:
            self._written = read_state(self._path, Memory) or Memory()
        except StateError as error:
            self.problem = str(error)
            self._written = Memory()
        self.goal_state = self._written.goal_state
        """Who we are to the host."""
        self.current = self._written.in_force
        self.current_at = self._written.in_force_at

    async def meet(self, goal_state: GoalState) -> bool:
        """The host's latest answer; whether it takes us for another VM than the one we remember."""
        before, self.goal_state = self.goal_state, msgspec.structs.replace(goal_state, content=b"")
        # A disk that was another VM's: what was in force there says nothing of us.
        stranger = not self._met and before is not None and before.instance_id != goal_state.instance_id
        self._met = True
        if stranger:
            self.current = self.current_at = None
        if self.goal_state != before:
            await self._remember()
            if goal_state.probe_ports != (before.probe_ports if before is not None else ()):
                self._changed()
        return stranger

    async def put(self, chosen: ExtensionsGoalState) -> None:
        """Have it in force; what is in force already is taken up once in our life."""
        before = self.current
        if chosen is before and self._taken_up:
            if self.problem:
                await self._remember()
            return
        again = same(chosen, before)
        if before is not None and again and before.withheld:
            # Until another one comes.
            chosen = msgspec.structs.replace(chosen, withheld=before.withheld)
        to_do = not self._taken_up or before is None or not again or _asked(chosen) != _asked(before)
        self._taken_up = True
        self.current = chosen
        if not again or self.current_at is None:
            self.current_at = time.time()
        await self._remember()
        if to_do and not chosen.withheld:
            self._arrived()
        elif chosen != before:
            self._changed()

    async def _remember(self) -> None:
        """A disk that is full is told: the goal state is in force all the same."""
        async with self._writing:
            memory = Memory(goal_state=self.goal_state, in_force=self.current, in_force_at=self.current_at)
            if memory == self._written and not self.problem:
                return
            try:
                await asyncio.to_thread(write_state, self._path, memory)
            except OSError as error:
                self.problem = f"{self._path} cannot be written: {error.strerror}"
            else:
                self._written, self.problem = memory, ""


def same(one: ExtensionsGoalState, other: ExtensionsGoalState | None) -> bool:
    """An incarnation that comes back with another creation time is another one: hosts count anew after some repairs."""
    return other is not None and (one.id, one.created_on_ticks) == (other.id, other.created_on_ticks)


def _asked(one: ExtensionsGoalState) -> object:
    return one.handlers, one.on_hold, one.required_features
