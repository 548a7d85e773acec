"""Source trees of three releases, and how a process takes its `ipc` from one."""

import os
from pathlib import Path

import pytest

from agentctl.drill.skew.drill import later
from agentctl.drill.variants import checkout, released

Trees = dict[str, Path]


@pytest.fixture(scope="session")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Trees:
    """By name: the last release, this checkout, and a later release."""
    folder = tmp_path_factory.mktemp("trees")
    return {
        "older": released(folder / "older")[1],
        "own": checkout(folder / "own"),
        "later": checkout(folder / "later", later(words=True)),
    }


@pytest.fixture
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Short enough for sockets."""
    return tmp_path_factory.mktemp("r")


def importing(tree: Path) -> dict[str, str]:
    """The environment of a process of that release."""
    return {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
