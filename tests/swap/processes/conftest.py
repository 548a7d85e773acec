"""Packages, built once for all tests of the folder, and one root per module."""

import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from release.build import Built
from tests.swap.processes.product import TRIAL, Root, package


class Shop:
    """Builds each package once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._built: dict[tuple[str, str], Built] = {}

    def __call__(self, component: str, version: str, changes: Mapping[str, str] | None = None) -> Built:
        """See `product.package`; a version stands for the same content wherever it is named."""
        key = (component, version)
        if key not in self._built:
            self._built[key] = package(self._folder, component, version, changes)
        return self._built[key]


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return Shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder in memory: no drill here depends on the disk, and the layers alone are a thousand fsyncs."""
    shm = Path("/dev/shm")
    if not os.access(shm, os.W_OK):
        yield tmp_path_factory.mktemp("m")
        return
    with tempfile.TemporaryDirectory(dir=shm) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def root(request: pytest.FixtureRequest, memory: Path) -> Iterator[Root]:
    """Up, with all four answering. A module's `CONFIGURATION` takes the place of the short trials."""
    root = Root(memory / "r", getattr(request.module, "CONFIGURATION", TRIAL))
    root.up()
    yield root
    root.down()
