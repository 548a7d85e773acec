"""rdagent is killed at any moment of an update: its end is the old version or the new, and it comes by itself."""

import random
import threading
from typing import Any

import pytest

from ipc.contract.rdagent import PinVersion
from tests.swap.processes.product import Root

pytestmark = pytest.mark.timeout(240)

CONFIGURATION = """
[update]
trial_seconds = 1.0
trial_answers = 2
trial_limit = 20.0
jitter = 0.0
"""
VERSIONS = ("0.92.0", "0.93.0", "0.94.0")
"""Current and previous lie on the disk, so the third has to be fetched."""


@pytest.fixture(scope="module")
def published(root: Root, shop: Any) -> Root:
    for version in VERSIONS:
        root.publish(shop("telemetry", version))
    root.update("telemetry", VERSIONS[0])
    return root


@pytest.mark.parametrize("seed", range(8))
def test_two_kills_in_one_update(published: Root, seed: int) -> None:
    root, moments = published, random.Random(f"kill/{seed}")
    others = {name: pid for name, pid in root.pids().items() if name not in {"rdagent", "telemetry"}}
    wanted = next(one for one in VERSIONS if one not in root.trees("telemetry"))
    # The host's manifest has newer ones, too.
    root.ask(PinVersion(component="telemetry", version=wanted))
    root.now("telemetry", wanted)
    for longest in (2.5, 2.0):
        # Any moment is a good one: this is no waiting for something.
        threading.Event().wait(moments.uniform(0.0, longest))
        pid = root.kill("rdagent")
        root.until(lambda pid=pid: root.pids()["rdagent"] != pid, "its end to be seen")  # type: ignore[misc]
        if not root.pids()["rdagent"]:
            # supervisord would wait longer after each: that is of other tests.
            root.supervisord.stop("rdagent")
            root.supervisord.start("rdagent")
    root.until_runs("telemetry", wanted)
    root.until(lambda: root.view("telemetry"), "rdagent to answer")
    assert root.bad("telemetry") == {}
    assert {name: root.pids()[name] for name in others} == others
    root.until(lambda: not root.left_overs(), "what went to be gone")
