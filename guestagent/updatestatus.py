"""What the host hears of the version it asked for (protocol: status reporting, updateStatus). rdagent knows it."""

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from typing import Any

from ipc.bus import Bus
from ipc.contract.every import Hello
from ipc.contract.rdagent import GetUpdates, UpdateChanged, UpdateOutcome, Updates
from ipc.errors import FrameError, NoAnswer, Refused
from ipc.places import COMPONENTS
from wire.extensions import AgentFamily
from wire.redact import redact

_PAUSE = 10.0
_MESSAGE_LIMIT = 1000
_UNDER_WAY = frozenset({"fetching", "on trial"})


class UpdateNews:
    """rdagent's last word; None while there was none, and of a rdagent too old to know."""

    def __init__(self, bus: Bus, changed: Callable[[], None]) -> None:
        """`changed` is called when that word is another one."""
        self._bus = bus
        self._changed = changed
        self._ask = asyncio.Event()
        self._ask.set()
        self.last: Updates | None = None
        bus.on(UpdateChanged, lambda _: self._ask.set())
        # What it announced while it, or we, were away was lost.
        bus.on(Hello, lambda _: self._ask.set(), of="rdagent")

    async def follow(self) -> None:
        """Ask whenever there is news, for ever."""
        pause: float | None = None
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._ask.wait()
            self._ask.clear()
            pause = None
            before = self.last
            try:
                self.last = await self._bus.ask(GetUpdates())
            except Refused:
                self.last = None
            except (NoAnswer, FrameError):
                # It is being replaced, perhaps: its Hello brings us here sooner.
                pause = _PAUSE
                continue
            if before is None or self.last is None or before.outcome != self.last.outcome or _moves(before, self.last):
                self._changed()


def update_status(families: Iterable[AgentFamily], updates: Updates | None) -> dict[str, Any] | None:
    """The field's value; None while the host asks for no version of ours, or nothing has come of it yet.

    `expectedVersion` is the running version when all is well, as the platform's own agent says it, and the one that
    waits, was refused or came back when it is not.
    """
    if updates is None or (outcome := updates.outcome) is None:
        return None
    asked = {one.name for one in families if one.is_vm_enabled_for_rsm_upgrades and one.is_version_from_rsm}
    if outcome.component not in asked & set(COMPONENTS):
        return None
    view = next((one for one in updates.components if one.component == outcome.component), None)
    if view is not None and view.wanted_by == "host" and view.state in _UNDER_WAY:
        return None  # the last word on it is not spoken
    message = "" if outcome.ok else _named(outcome)
    return {
        "expectedVersion": view.running if outcome.ok and view is not None and view.running else outcome.version,
        "status": "Success" if outcome.ok else "Transitioning" if outcome.waiting else "Error",
        "code": 0 if outcome.ok or outcome.waiting else 1,
        "formattedMessage": {"lang": "en-US", "message": message[:_MESSAGE_LIMIT]},
    }


def _named(outcome: UpdateOutcome) -> str:
    """One field speaks for all components, so the message says which it is about."""
    name, message = f"{outcome.component} {outcome.version}", redact(outcome.message)
    return message if message.startswith(name) else f"{name}: {message}"


def _moves(before: Updates, after: Updates) -> bool:
    return [(one.component, one.state) for one in before.components] != [
        (one.component, one.state) for one in after.components
    ]
