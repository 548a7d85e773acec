"""Drill 50: the power fails before every step, on real file systems: old or new, and nothing promised is lost.

Takes root, for the loop devices.
"""

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from tests.release.powercut import Answer, Order
from tests.release.product import CHECKOUT
from tests.release.story import Story


def lived(memory: Path, story: Story, model: str, mutant: str, share: float) -> Answer:
    packages = [str(built.path) for built in story.packages.values()]
    order = msgspec.json.encode(Order(str(memory), packages, model, mutant, share)).decode()
    command = ["unshare", "--mount", sys.executable, "-P", "-m", "tests.release.powercut", order]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    ran = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, env=environment)
    assert ran.returncode == 0, ran.stderr
    return msgspec.json.decode(ran.stdout, type=Answer)


@pytest.mark.parametrize(
    ("model", "share"), [("weak", 1), ("ordered", 1), ("forced", 1), ("xfs", 0.1), ("xfs forced", 0.1)]
)
def test_drill_50_the_power_fails(memory: Path, story: Story, model: str, share: float) -> None:
    answer = lived(memory, story, model, "none", share)
    assert answer.failed == {}
    assert answer.steps > 300
    assert answer.cuts >= answer.steps * share * 0.8


@pytest.mark.parametrize(
    ("model", "mutant"), [("weak", "files"), ("weak", "record"), ("ordered", "record's folder"), ("xfs", "all")]
)
def test_without_an_fsync_it_would_be_noticed(memory: Path, story: Story, model: str, mutant: str) -> None:
    """Not so for `versions/`: the next fsync carries it along on ext4 and xfs. POSIX does not promise that."""
    assert lived(memory, story, model, mutant, 0.02).failed
