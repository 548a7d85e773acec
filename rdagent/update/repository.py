"""The component repository as rdagent sees it: what there is, and one file of it. Read in a child (`tufchild`)."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from ipc.places import COMPONENTS, Places
from rdagent.update.errand import ErrandError, ErrandTooLong, send
from rdagent.update.source import Answer, Order, SourceError, forget
from release.manifest import BYTES_LIMIT

LOOK_SECONDS = 30.0
FETCH_SECONDS = 600.0
_GRACE = 2.0
"""Seconds for the child to start, and to say itself that the time is over."""


class Repository:
    """Nothing of it runs in this process, and each call ends in time."""

    def __init__(self, url: str, places: Places) -> None:
        self._url = url.rstrip("/")
        self._root = places.trust / "root.json"
        self._state = places.state_of("rdagent") / "repository"

    async def look(self, components: Sequence[str] = COMPONENTS, *, seconds: float = LOOK_SECONDS) -> Answer:
        """The packages there are, in `offered`. Raises SourceError."""
        return await self._ask(seconds, components=tuple(components))

    async def fetch(self, target: str, path: Path, *, limit: int = BYTES_LIMIT, seconds: float = FETCH_SECONDS) -> None:
        """One target (`Offered.target`, `layer_target`) to `path`, whose folder is there. Raises SourceError.

        It is whole, checked and on the disk, or not there.
        """
        await self.fetch_all({target: path}, limit=limit, seconds=seconds)

    async def fetch_all(
        self, wanted: Mapping[str, Path], *, limit: int = BYTES_LIMIT, seconds: float = FETCH_SECONDS
    ) -> None:
        """Several targets in order, by one child: a package and its layers. Raises SourceError.

        What came before an error is there, as whole as after `fetch`.
        """
        for path in wanted.values():
            forget(path)
        await self._ask(seconds, wanted={target: str(path) for target, path in wanted.items()}, limit=limit)

    async def _ask(self, seconds: float, **what: object) -> Answer:
        fixed = {"url": self._url, "root": str(self._root), "state": str(self._state), "seconds": seconds}
        order = msgspec.convert({**fixed, **what}, Order)
        try:
            answer = await send("rdagent.update.tufchild", order, Answer, seconds=seconds + _GRACE)
        except ErrandTooLong as error:
            raise SourceError("unreachable", f"{self._url}: nothing usable within {seconds:g} s") from error
        except ErrandError as error:
            raise SourceError("failed", str(error)) from error
        if answer.kind is not None:
            raise SourceError(answer.kind, answer.reason)
        return answer
