"""Packages, built once for all tests of the folder."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from ipc.places import COMPONENTS
from release.build import Built, build
from tests.release.product import CHECKOUT, KEY, Installed, probe
from tests.release.story import Story, load_launch, make_packages


@pytest.fixture(scope="session")
def one(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return probe(tmp_path_factory.mktemp("one"), "1.0.0")


@pytest.fixture(scope="session")
def two(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return probe(tmp_path_factory.mktemp("two"), "1.1.0")


@pytest.fixture(scope="session")
def three(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return probe(tmp_path_factory.mktemp("three"), "1.2.0")


@pytest.fixture
def installed(tmp_path: Path) -> Installed:
    return Installed(tmp_path / "root")


@pytest.fixture(scope="session")
def launch() -> ModuleType:
    return load_launch()


@pytest.fixture(scope="session")
def ours(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Built]:
    """The real components, as they lie here."""
    out = tmp_path_factory.mktemp("ours")
    return {component: build(CHECKOUT, component, out, [KEY]) for component in COMPONENTS}


@pytest.fixture(scope="session")
def story(tmp_path_factory: pytest.TempPathFactory, launch: ModuleType) -> Story:
    return Story(make_packages(tmp_path_factory.mktemp("story")), launch)


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory, where a thousand fsyncs cost little: neither a kill nor a refusal depends on the disk."""
    shm = Path("/dev/shm")
    if not os.access(shm, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=shm) as folder:
        yield Path(folder)
