"""What the updater remembers over its own end: the operator's words, when versions were first seen, and the history."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from ipc.contract.rdagent import UpdateEvent, UpdateOutcome
from ipc.errors import StateError
from ipc.places import COMPONENTS, Places
from ipc.statefile import read_state, write_atomically, write_state
from rdagent.update.gate import Baseline
from rdagent.update.offers import Offer
from rdagent.update.policy import Policy, sound

_HISTORY_LIMIT = 1000
_REFUSED_SECONDS = 86400.0

logger = logging.getLogger("rdagent")


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """A package that is not fit for us. It is not fetched again just to find that out once more."""

    why: str
    at: float
    """UTC, seconds since the epoch."""
    lift: str = ""
    """The command that would change that; empty: `why` says what would."""
    keys: str = ""
    """Digest of the trust folder it was judged by; empty: not noted."""


def still_refused(refused: dict[str, Refusal], now: float, keys: str) -> dict[str, Refusal]:
    """Those that hold: for a day, by the same `keys`, and not if a clock that was wrong noted them later than `now`.

    `now`: UTC, seconds since the epoch; `keys`: digest of the trust folder as it is, another one is another try. The
    rest is not kept: a host that names another place each day would fill the file.
    """
    return {key: one for key, one in refused.items() if 0 <= now - one.at < _REFUSED_SECONDS and one.keys in {"", keys}}


class Remembered(msgspec.Struct, frozen=True, kw_only=True):
    policy: Policy = Policy()
    seen: dict[str, float] = {}
    """When each offer was first seen: UTC, seconds since the epoch."""
    refused: dict[str, Refusal] = {}
    """By offer, with where it is to be had."""
    known_bad: dict[str, list[str]] = {}
    """By component: versions on the bad list whose story is in the history already."""
    attempts: dict[str, Offer] = {}
    """By component: what is on trial, and who wanted it."""
    baselines: dict[str, Baseline] = {}
    """By component: how the version before that was."""
    stopped: list[str] = []
    """Components that were stopped, or are to be, and not started again yet."""
    restarting: str = ""
    """The last of them, for a release that knows of one only; empty: none."""
    corrected: dict[str, int] = {}
    """By component: serial of the record for which it was started anew, because something else ran."""
    outcome: UpdateOutcome | None = None
    imported: dict[str, list[str]] = {}
    """By component: versions that a bundle brought, and that nobody could bring again."""
    lost: str = ""
    """One line for the operator: his words were lost, and where what is left of them lies. Empty: he spoke since, or
    nothing was."""
    bad_unknown: list[str] = []
    """Components of which it was lost which stories are in the history: those on the bad list by now count as told."""

    @property
    def to_start(self) -> list[str]:
        """All of `stopped`, and what a release that knew of one only left."""
        return list(dict.fromkeys([*self.stopped, *filter(None, [self.restarting])]))


class NotKeptError(Exception):
    """What was to be remembered cannot be written; nothing was changed."""


class Memory:
    """One file for what is in force, one for the history. A full disk costs memory over a restart, never an update.

    What could not be written is written by the next change, or by `catch_up`.
    """

    def __init__(self, places: Places) -> None:
        folder = places.state_of("rdagent")
        self._file, self._history_file = folder / "updates.json", folder / "update-history.jsonl"
        self._unwritten: dict[Path, str] = {}
        """By file that is older than what we know: why."""
        self._history, self._is_torn = _read_history(self._history_file)
        self.now = self._read()
        if self.now.lost:
            self._write()  # the next life has to know it, too

    def change(self, **fields: object) -> None:
        """Keep these fields of Remembered, until we end if they cannot be written."""
        new = msgspec.structs.replace(self.now, **fields)
        if new == self.now:
            return
        self.now = new
        self._write()

    def keep(self, **fields: object) -> None:
        """Like `change`, but on disk when this returns. Raises NotKeptError."""
        before = self.now
        self.now = msgspec.structs.replace(before, **fields)
        if self.now == before and self._file not in self._unwritten:
            return
        self._write()
        if trouble := self._unwritten.get(self._file):
            self.now = before
            raise NotKeptError(f"{self._file} cannot be written: {trouble}; nothing was changed")

    @property
    def is_behind(self) -> bool:
        """Whether something is not on disk yet."""
        return bool(self._unwritten)

    def catch_up(self) -> None:
        """Write again what could not be written."""
        if self._file in self._unwritten:
            self._write()
        if self._history_file in self._unwritten:
            with self._noting(self._history_file):
                self._write_history()

    def history(self, component: str, limit: int) -> list[UpdateEvent]:
        """Oldest first."""
        found = [one for one in self._history if component in {"", one.component}]
        return found[-limit:] if limit > 0 else []

    def note(self, event: UpdateEvent) -> None:
        """One more line of the history."""
        self._history.append(event)
        with self._noting(self._history_file):
            if len(self._history) > _HISTORY_LIMIT or self._history_file in self._unwritten:
                self._write_history()
                return
            self._history_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._history_file.open("ab") as file:
                file.write(b"\n" * self._is_torn + msgspec.json.encode(event) + b"\n")
                self._is_torn = False

    def _write(self) -> None:
        with self._noting(self._file):
            write_state(self._file, self.now)

    def _write_history(self) -> None:
        """All of it, in the place of what is there. Raises OSError."""
        if len(self._history) > _HISTORY_LIMIT:
            self._history = self._history[-_HISTORY_LIMIT // 2 :]
        self._history_file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(self._history_file, b"".join(msgspec.json.encode(one) + b"\n" for one in self._history))
        self._is_torn = False

    @contextmanager
    def _noting(self, file: Path) -> Iterator[None]:
        """Whether it can be written, and a line of the log for as long as the reason stays the same."""
        try:
            yield
            self._unwritten.pop(file, None)
        except OSError as error:
            trouble = error.strerror or str(error)
            if self._unwritten.get(file) != trouble:
                logger.warning("%s cannot be written: %s", file, trouble)
            self._unwritten[file] = trouble

    def _read(self) -> Remembered:
        try:
            read = read_state(self._file, Remembered) or Remembered()
            return msgspec.structs.replace(read, policy=sound(read.policy))
        except StateError as error:
            logger.warning("%s; what the operator said of updates is forgotten", error)
            if not self._file.is_file():
                return Remembered()  # it never held a word
            kept = _kept_beside(self._file)
            lost = (
                f"pins, holds and what you asked for are forgotten: {self._file.name} {error.reason[:80]}; "
                f"what is left of it lies in {kept}. Say it once more: agentctl update pin, hold, now"
            )
            return Remembered(lost=lost, bad_unknown=list(COMPONENTS))


def _kept_beside(file: Path) -> Path:
    """Where the bytes of a damaged file stay readable: beside it, in the place of an earlier one; where that cannot be,
    it is not known for how long.
    """
    kept, temporary = file.with_name(f"{file.name}.damaged"), file.with_name(f".{file.name}.damaged.tmp")
    try:
        temporary.unlink(missing_ok=True)
        temporary.hardlink_to(file)  # no byte is needed for that on a disk that is full
        temporary.replace(kept)
        temporary.unlink(missing_ok=True)  # rename(2) leaves it where both are the same file already
    except OSError as error:
        logger.warning("%s cannot be kept as %s: %s", file, kept, error.strerror)
        return file
    return kept


def _read_history(path: Path) -> tuple[list[UpdateEvent], bool]:
    """What can be read, and whether the last line broke off."""
    try:
        data = path.read_bytes()
    except OSError:
        return [], False
    found = []
    for line in data.splitlines()[-_HISTORY_LIMIT:]:
        try:
            found.append(msgspec.json.decode(line, type=UpdateEvent))
        except (ValueError, RecursionError):
            continue  # torn by a power cut
    return found, not data.endswith(b"\n")
