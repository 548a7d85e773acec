"""What was done to each extension, so that a restart with nothing changed does nothing. Kept in one file, 0600."""

import contextlib
import hashlib
import logging
import time
from pathlib import Path
from typing import Literal

import msgspec

from guestagent.errors import FailureKind
from ipc.errors import StateError
from ipc.statefile import read_state, write_state
from wire.extensions import Handler, Settings

HandlerWord = Literal["Ready", "NotReady", "Unresponsive", "Installing"]

logger = logging.getLogger("guestagent")


class Applied(msgspec.Struct, frozen=True, kw_only=True):
    """The last time one extension was processed to an end."""

    version: str
    """The version in force: the wanted one, or after a failed update the one that goes on."""
    digest: str
    """Of everything that was asked for."""
    ok: bool
    goal_state: str
    code: int = 0
    message: str = ""
    handler_status: HandlerWord = "Ready"
    at: float = 0.0
    kind: FailureKind | Literal[""] = ""
    """Whose fault it was; empty if it went well."""
    tries: int = 0
    """Failures in a row that were tried again without being asked."""
    retry_at: float | None = None
    """UTC, seconds since the epoch; None: not by itself."""
    since: float = 0.0
    """When this failure first happened."""
    wanted: str = ""
    """The version that could not be had while `version` goes on; empty otherwise."""


class Good(msgspec.Struct, frozen=True, kw_only=True):
    """The last version of a handler that was enabled, with the settings it was enabled with."""

    version: str
    settings: tuple[Settings, ...] = ()

    def for_extension(self, settings: Settings | None) -> Settings | None:
        """The settings in force of the same extension."""
        name = settings.name if settings else ""
        return next((one for one in self.settings if one.name == name), None)


class Applications(msgspec.Struct, kw_only=True):
    """`applied.json`."""

    extensions: dict[str, Applied] = {}
    """By `key`."""
    good: dict[str, Good] = {}
    """By handler name."""
    turns: dict[str, int] = {}
    """By handler name: how often something was brought to an end. Never forgotten: no operation's id recurs."""
    goal_state: str = ""
    """The last one that was processed to the end."""
    goal_state_at: float | None = None


class Records:
    """The file and its content."""

    def __init__(self, state: Path) -> None:
        """A damaged file is begun anew: everything is then enabled once more, which extensions are made for.

        The `problem` says so until the file is whole again.
        """
        self._path = state / "applied.json"
        self.problem = ""
        try:
            self._content = read_state(self._path, Applications) or Applications()
        except StateError as error:
            aside = self._path.with_name(f"{self._path.name}.damaged")
            with contextlib.suppress(OSError):
                self._path.replace(aside)
            self.problem = f"{error}; it lies beside as {aside.name}, what is wanted is run once more"
            logger.warning("%s", self.problem)
            self._content = Applications()

    @property
    def applied(self) -> dict[str, Applied]:
        return self._content.extensions

    @property
    def good(self) -> dict[str, Good]:
        return self._content.good

    @property
    def goal_state(self) -> str:
        return self._content.goal_state

    @property
    def goal_state_at(self) -> float | None:
        return self._content.goal_state_at

    def turn(self, handler: str) -> int:
        """Part of the ids of what is done now: the same after a restart, another once this is brought to an end."""
        return self._content.turns.get(handler, 0)

    def set(self, key: str, applied: Applied) -> None:
        """How one extension was brought to an end."""
        self._content.extensions[key] = applied
        self._take_turn(key.partition("/")[0])
        self._write()

    def enabled(self, handler: str, version: str, settings: Settings | None) -> None:
        """Remember what a way back leads to. A version's first extension forgets those of the version before."""
        before = self._content.good.get(handler)
        kept = before.settings if before is not None and before.version == version else ()
        name = settings.name if settings else ""
        others = tuple(one for one in kept if one.name != name)
        self._content.good[handler] = Good(version=version, settings=(*others, settings) if settings else others)
        self._write()

    def disabled(self, handler: str) -> None:
        """There is nothing to come back to any more. Written down with what is set next."""
        self._content.good.pop(handler, None)

    def retry(self, handler: str, extension: str = "") -> list[str]:
        """Have failures of a handler tried again at once; their keys."""
        again = [
            key
            for key, one in self._content.extensions.items()
            if not one.ok and (key == f"{handler}/{extension}" if extension else key.partition("/")[0] == handler)
        ]
        for key in again:
            before = self._content.extensions[key]
            self._content.extensions[key] = msgspec.structs.replace(before, retry_at=0.0, tries=0)
        if again:
            self._write()
        return again

    def well(self, handler: str) -> None:
        """What once went wrong with a multi-config handler as a whole does so no more."""
        before = self._content.extensions.get(handler)
        if before is not None and not before.ok:
            del self._content.extensions[handler]
            self._write()

    def forget(self, handler: str, extension: str = "") -> None:
        """All extensions of a handler that is no more, or one of several."""
        own = f"{handler}/{extension}"
        for key in list(self._content.extensions):
            if key == own if extension else key.partition("/")[0] == handler:
                del self._content.extensions[key]
        if not extension:
            self._content.good.pop(handler, None)
        elif handler in self._content.good:
            good = self._content.good[handler]
            left = tuple(one for one in good.settings if one.name != extension)
            self._content.good[handler] = msgspec.structs.replace(good, settings=left)
        self._take_turn(handler)
        self._write()

    def processed(self, goal_state: str) -> None:
        self._content.goal_state, self._content.goal_state_at = goal_state, time.time()
        self._write()

    def _take_turn(self, handler: str) -> None:
        self._content.turns[handler] = self.turn(handler) + 1

    def _write(self) -> None:
        write_state(self._path, self._content)
        self.problem = ""


def key(handler: str, settings: Settings | None) -> str:
    """`Publisher.Type` or `Publisher.Type/extension`."""
    return f"{handler}/{settings.name}" if settings and settings.name else handler


def digest(handler: Handler, settings: Settings | None) -> str:
    """Of what is asked for; the same digest means there is nothing to do.

    Not in it: the protected settings' ciphertext, which changes with each certificate while the sequence number stays,
    and the place among other extensions.
    """
    asked = [handler.version, handler.state]
    if settings is not None:
        public = msgspec.json.encode(settings.public, order="sorted").decode()
        asked += [settings.name, str(settings.sequence_number), settings.state, public, str(bool(settings.protected))]
    return hashlib.sha256("\0".join(asked).encode("utf-8", "surrogatepass")).hexdigest()
