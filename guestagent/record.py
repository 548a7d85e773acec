"""What was done to each extension, so that a restart with nothing changed does nothing."""

import hashlib
import time
from pathlib import Path
from typing import Literal

import msgspec

from ipc.errors import StateError
from ipc.statefile import read_state, write_state
from wire.extensions import Handler, Settings

HandlerWord = Literal["Ready", "NotReady", "Unresponsive", "Installing"]


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    """The last time one extension was processed to an end."""

    version: str
    """The version that was worked on."""
    digest: str
    """Of everything that was asked for."""
    ok: bool
    goal_state: str
    attempts: int = 1
    code: int = 0
    message: str = ""
    handler_status: HandlerWord = "Ready"
    at: float = 0.0


class Applications(msgspec.Struct, kw_only=True):
    """`applied.json`."""

    extensions: dict[str, Applied] = {}
    """By `key`."""
    goal_state: str = ""
    """The last one that was processed to the end."""
    goal_state_at: float | None = None


class Records:
    """The file and its content."""

    def __init__(self, state: Path) -> None:
        """A damaged file is begun anew: everything is then enabled once more, which extensions are made for.

        The `problem` says so.
        """
        self._path = state / "applied.json"
        self.problem = ""
        try:
            self._content = read_state(self._path, Applications) or Applications()
        except StateError as error:
            self.problem = str(error)
            self._content = Applications()

    @property
    def applied(self) -> dict[str, Applied]:
        return self._content.extensions

    @property
    def goal_state(self) -> str:
        return self._content.goal_state

    @property
    def goal_state_at(self) -> float | None:
        return self._content.goal_state_at

    def attempt(self, key: str) -> int:
        """The number of the attempt that would be made now."""
        before = self._content.extensions.get(key)
        return before.attempts + 1 if before else 1

    def set(self, key: str, applied: Applied) -> None:
        self._content.extensions[key] = applied
        write_state(self._path, self._content)

    def forget(self, handler: str) -> None:
        """All extensions of a handler that is no more."""
        for key in [key for key in self._content.extensions if key.partition("/")[0] == handler]:
            del self._content.extensions[key]
        write_state(self._path, self._content)

    def processed(self, goal_state: str) -> None:
        self._content.goal_state, self._content.goal_state_at = goal_state, time.time()
        write_state(self._path, self._content)


def key(handler: str, settings: Settings | None) -> str:
    """`Publisher.Type` or `Publisher.Type/extension`."""
    return f"{handler}/{settings.name}" if settings and settings.name else handler


def digest(handler: Handler, settings: Settings | None) -> str:
    """Of what is asked for; the same digest means there is nothing to do."""
    asked = (handler.version, handler.state, msgspec.to_builtins(settings))
    return hashlib.sha256(msgspec.json.encode(asked, order="sorted")).hexdigest()
