"""Components stopped and started anew, over our own end: for supervisord, what was stopped is to stay so."""

import asyncio
import logging

from ipc.places import COMPONENTS, Places
from ipc.supervisord import Supervisord, SupervisordError
from rdagent.update.memory import Memory
from rdagent.update.swap import restart, start

logger = logging.getLogger("rdagent")


class Restarts:
    """Makes them, one at a time of each component; an order of the operator and a trial may each want one."""

    def __init__(self, places: Places, memory: Memory) -> None:
        self._places = places
        self._memory = memory
        self._alone: dict[str, asyncio.Lock] = {}
        """By component: held while it is stopped and started."""

    async def make(self, name: str) -> bool:
        """Whether it was; if not, it is made up for later."""
        async with self._alone_with(name):
            self._note_stopped(name, is_stopped=True)
            try:
                await asyncio.to_thread(restart, self._places, name)
            except SupervisordError as error:
                logger.warning("%s: %s", name, error)
                return False
            self._note_stopped(name, is_stopped=False)
            return True

    async def finish(self) -> dict[str, str]:
        """Those that an earlier life of ours began, or that could not be made: by component, why it cannot be."""
        troubles = {}
        for name in self._memory.now.to_start:
            if name not in COMPONENTS:
                self._note_stopped(name, is_stopped=False)
                continue
            if (alone := self._alone_with(name)).locked():
                continue  # for somebody who waits for its end
            async with alone:
                try:
                    await asyncio.to_thread(start, self._places, name)
                except SupervisordError as error:
                    troubles[name] = f"{name} is to be started anew, and cannot be: {error}"
                else:
                    self._note_stopped(name, is_stopped=False)
        return troubles

    async def why_nobody_starts(self) -> str:
        """Why nothing at all could be started; empty if supervisord answers."""
        try:
            await asyncio.to_thread(Supervisord(self._places).pid)
        except SupervisordError as error:
            return f"nothing could be started: {error}"
        return ""

    def _alone_with(self, name: str) -> asyncio.Lock:
        return self._alone.setdefault(name, asyncio.Lock())

    def _note_stopped(self, name: str, *, is_stopped: bool) -> None:
        others = [one for one in self._memory.now.to_start if one != name]
        stopped = [*others, name] if is_stopped else others
        self._memory.change(stopped=stopped, restarting=stopped[-1] if stopped else "")
