"""A repository that lies on demand, and rdagent's two ways to it."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipc.places import Places
from rdagent.update.repository import FETCH_SECONDS, LOOK_SECONDS, Repository
from rdagent.update.source import Answer
from tests.rdagent.update.lying import LyingServer, SignedRepository


class Blocking:
    """The repository, for tests without a loop."""

    def __init__(self, url: str, places: Places) -> None:
        self._repository = Repository(url, places)

    def look(self, *, seconds: float = LOOK_SECONDS) -> Answer:
        return asyncio.run(self._repository.look(seconds=seconds))

    def fetch(self, target: str, path: Path, *, seconds: float = FETCH_SECONDS) -> None:
        asyncio.run(self._repository.fetch(target, path, seconds=seconds))

    def fetch_all(self, wanted: dict[str, Path]) -> None:
        asyncio.run(self._repository.fetch_all(wanted))


@pytest.fixture
def server() -> Iterator[LyingServer]:
    one = LyingServer()
    yield one
    one.close()


@pytest.fixture
def signed(server: LyingServer, places: Places) -> SignedRepository:
    """With one package, and its root is what this machine trusts."""
    one = SignedRepository(server.files)
    one.publish("0.2.0")
    places.trust.mkdir(parents=True)
    (places.trust / "root.json").write_bytes(one.trust)
    return one


@pytest.fixture
def repository(server: LyingServer, signed: SignedRepository, places: Places) -> Blocking:
    return Blocking(server.url, places)
