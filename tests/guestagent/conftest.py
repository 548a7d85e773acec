"""The real local host as a child process, and openssl as the second opinion."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from fabric.client import Client
from fabric.errors import NoHost

# A busy machine is no failure.
settings.register_profile("without a deadline", deadline=None)
settings.load_profile("without a deadline")

OpenSsl = Callable[..., bytes]


@pytest.fixture(scope="session")
def openssl() -> OpenSsl:
    """Runs openssl with these arguments; its output."""

    def run(*arguments: str | Path, stdin: bytes = b"") -> bytes:
        return subprocess.run(["openssl", *arguments], input=stdin, capture_output=True, check=True).stdout

    return run


class Fabric:
    """One host on free ports."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._child = subprocess.Popen([sys.executable, "-m", "fabric", "serve", "--root", str(root)])
        self.client = self._client()

    def end(self) -> None:
        self._child.terminate()
        self._child.wait()

    def _client(self) -> Client:
        while self._child.poll() is None:
            try:
                client = Client(self.root)
                client.get("/api/vms")
            except NoHost:
                continue
            return client
        pytest.fail("the local host does not start")


@pytest.fixture(scope="module")
def fabric(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fabric]:
    one = Fabric(tmp_path_factory.mktemp("fabric"))
    yield one
    one.end()
