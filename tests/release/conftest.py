"""Packages, built once for all tests of the folder."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from ipc.places import COMPONENTS
from release.build import Built, build
from tests.release.product import CHECKOUT, KEY, LAUNCH, Installed, probe
from tests.release.story import Story, make_packages


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
    """launch.py as a module: it is a file, not a package of ours."""
    spec = importlib.util.spec_from_file_location("launch", LAUNCH)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def ours(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Built]:
    """The real components, as they lie here."""
    out = tmp_path_factory.mktemp("ours")
    return {component: build(CHECKOUT, component, out, [KEY]) for component in COMPONENTS}


@pytest.fixture(scope="session")
def story(tmp_path_factory: pytest.TempPathFactory, launch: ModuleType) -> Story:
    return Story(make_packages(tmp_path_factory.mktemp("story")), launch)
