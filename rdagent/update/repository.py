"""The component repository as rdagent sees it: what there is, and one file of it. Read in a child (`tufchild`)."""

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from ipc.child import module_command
from ipc.places import COMPONENTS, Places
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
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), asyncio.subprocess.PIPE)
        try:
            child = await asyncio.create_subprocess_exec(*module_command("rdagent.update.tufchild"), **pipes)  # type: ignore[arg-type]
        except OSError as error:
            raise SourceError("failed", f"the reader of the repository cannot be started: {error.strerror}") from error
        try:
            async with asyncio.timeout(seconds + _GRACE):
                said, cried = await child.communicate(msgspec.json.encode(order))
        except TimeoutError as error:
            raise SourceError("unreachable", f"{self._url}: nothing usable within {seconds:g} s") from error
        finally:
            await _end(child)
        answer = _answer(said, cried, child.returncode)
        if answer.kind is not None:
            raise SourceError(answer.kind, answer.reason)
        return answer


def _answer(said: bytes, cried: bytes, status: int | None) -> Answer:
    """Raises SourceError."""
    try:
        return msgspec.json.decode(said, type=Answer)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        last = cried.decode(errors="replace").strip().rpartition("\n")[2][:300]
        raise SourceError("failed", f"the reader of the repository ended with status {status}: {last}") from error


async def _end(child: asyncio.subprocess.Process) -> None:
    """Also when we are cancelled: nobody else would."""
    if child.returncode is None:
        child.kill()
        await child.wait()
