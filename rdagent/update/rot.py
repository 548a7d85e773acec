"""Why a version in force was not started: launch.py passes over one whose files are not as they were signed."""

import asyncio

import msgspec

from rdagent.update.decision import Found
from rdagent.update.pauses import Clock
from rdagent.update.shelf import Shelf
from rdagent.update.words import one_line
from release.errors import RottenTree
from release.manifest import same_version
from release.record import Chosen

_KNOWN_SECONDS = 60.0


class _Seen(msgspec.Struct, frozen=True):
    of: Chosen
    at: float
    """CLOCK_MONOTONIC."""
    why: str


class Rot:
    """Looked for only while something else runs, and then at most once a minute: every file is read for that."""

    def __init__(self, shelf: Shelf, clock: Clock) -> None:
        self._shelf = shelf
        self._clock = clock
        self._seen: dict[str, _Seen] = {}

    async def look(self, found: Found) -> None:
        """Whether the version in force is whole, if another runs."""
        name, current = found.record.component, passed_over(found)
        if current is None:
            self._seen.pop(name, None)
            return
        seen, now = self._seen.get(name), self._clock.monotonic()
        if seen is None or seen.of != current or now - seen.at > _KNOWN_SECONDS:
            self._seen[name] = _Seen(current, now, await asyncio.to_thread(self._why_rotten, name, current))

    def why(self, found: Found) -> tuple[str, str]:
        """One line and the command that mends it, by the last look; both empty: nothing is known to be wrong."""
        name, current = found.record.component, passed_over(found)
        seen = self._seen.get(name)
        if current is None or seen is None or seen.of != current or not seen.why:
            return "", ""
        why = f"{name} {current.version} is in force and {found.running} runs instead, because of damage: {seen.why}"
        return one_line(why), f"agentctl update now {name} {current.version}"

    def _why_rotten(self, name: str, current: Chosen) -> str:
        try:
            self._shelf.check_whole(name, current)
        except RottenTree as error:
            return str(error)
        return ""


def passed_over(found: Found) -> Chosen | None:
    """The version in force, if it is known that another runs and none is on trial."""
    current = found.record.current
    if current is None or found.record.trial or not found.running or same_version(found.running, current.version):
        return None
    return current
