"""The lock of a record, held by somebody who does not give it back."""

import fcntl
import time
from collections.abc import Iterator
from typing import Any

import pytest

from ipc.contract.rdagent import RollBack, UnblockVersion
from ipc.errors import Refused
from tests.swap.processes.product import BASE, Root

CONFIGURATION = """
[update]
trial_seconds = 1.0
trial_answers = 2
trial_limit = 8.0
jitter = 0.0
"""

HANGS_ONCE = """
import fcntl, os, signal, sys
folder = os.path.join(os.environ["AZVMAGENT_INSTALLED"], "components", "telemetry")
if not os.path.exists(os.path.join(folder, "hung")):
    open(os.path.join(folder, "hung"), "x").close()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    lock = open(os.path.join(folder, "state.lock"), "ab")
    fcntl.flock(lock, fcntl.LOCK_EX)
    signal.pause()
"""


@pytest.fixture
def held(root: Root) -> Iterator[None]:
    """By this test."""
    with (root.versions("telemetry") / "state.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def test_who_hangs_on_trial_with_the_lock_is_ended(root: Root, shop: Any) -> None:
    """As launch.py would that is stopped while it counts a try: the next try is a fair one."""
    root.publish(shop("telemetry", "0.95.1", {"__main__.py": HANGS_ONCE}))
    root.now("telemetry", "0.95.1")
    root.until((root.versions("telemetry") / "hung").exists, "it to hang")
    root.until_runs("telemetry", "0.95.1", 120)
    assert root.bad("telemetry") == {}
    root.ask(RollBack(component="telemetry"))
    root.until_runs("telemetry", BASE)


@pytest.mark.usefixtures("held")
def test_an_order_that_needs_it_is_refused_and_rdagent_goes_on(root: Root) -> None:
    pid = root.pids()["rdagent"]
    with pytest.raises(Refused, match=r"state\.lock is held by another process"):
        root.ask(UnblockVersion(component="telemetry", version="0.95.1"))
    assert root.pids()["rdagent"] == pid
    assert root.described("rdagent")


def test_and_taken_once_it_is_free(root: Root) -> None:
    root.ask(UnblockVersion(component="telemetry", version="0.95.1"))
    assert root.bad("telemetry") == {}


def end_uncounted(root: Root, version: str) -> None:
    """On trial, while launch.py cannot count a try: the base install runs then."""
    root.now("telemetry", version)
    root.until_on_trial("telemetry", version)
    with (root.versions("telemetry") / "state.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        root.kill("telemetry")
        root.until(lambda: root.version("telemetry") == BASE, "the base install")


def test_one_that_ends_while_its_try_cannot_be_counted_is_tried_again(root: Root, shop: Any) -> None:
    """supervisord starts it anew, launch.py cannot count that and starts the version before: it is not to blame."""
    root.publish(shop("telemetry", "0.95.3"))
    end_uncounted(root, "0.95.3")
    root.until_runs("telemetry", "0.95.3")
    assert root.bad("telemetry") == {}
    root.ask(RollBack(component="telemetry"))
    root.until_runs("telemetry", BASE)


def test_a_commit_waits_for_it_and_is_the_end(root: Root, shop: Any) -> None:
    root.publish(shop("telemetry", "0.95.2"))
    root.now("telemetry", "0.95.2")
    root.until_on_trial("telemetry", "0.95.2")
    with (root.versions("telemetry") / "state.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waits = "telemetry 0.95.2 proved itself, and has to wait"
        root.until(lambda: waits in root.logs(), "the commit to wait")
    root.until_runs("telemetry", "0.95.2")
    pid = root.pids()["telemetry"]
    root.until(lambda: root.phases("telemetry")[-1:] == ["commit 0.95.2"], "the commit in the history")
    began = time.time()
    root.now("telemetry", "0.95.2")
    root.until(lambda: (found := root.updates()) and found.looked_at > began, "the next look")
    assert root.pids()["telemetry"] == pid
    assert root.phases("telemetry")[-2:] == ["trial 0.95.2", "commit 0.95.2"]


def test_nor_is_it_to_blame_when_the_one_in_force_is_rotten_and_the_base_install_runs(root: Root, shop: Any) -> None:
    with (root.versions("telemetry") / "versions" / "0.95.2" / "telemetry" / "__main__.py").open("a") as file:
        file.write("# rotten\n")
    root.publish(shop("telemetry", "0.95.4"))
    end_uncounted(root, "0.95.4")
    root.until_runs("telemetry", "0.95.4")
    assert "0.95.4" not in root.bad("telemetry")


def test_one_that_says_it_is_the_base_install_is_a_liar(root: Root, shop: Any) -> None:
    root.publish(shop("telemetry", "0.95.5", {"__main__.py": 'import os\nos.environ["AZVMAGENT_DIGEST"] = ""\n'}))
    reason = root.fails("telemetry", "0.95.5", back_to="0.95.4")
    assert reason == "announces version 0.95.5 as the base install"
