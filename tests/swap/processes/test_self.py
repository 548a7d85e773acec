"""rdagent updates itself: good, bad, killed in its own trial, and one that hangs. On one group, in this order."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ipc.contract.rdagent import GetUpdatePlan, HoldUpdates
from ipc.places import COMPONENTS
from tests.swap.processes.product import BASE, Root, told

pytestmark = [pytest.mark.timeout(180), pytest.mark.usefixtures("hanging")]

ENDS_LATE = {"__main__.py": "import os, threading\nthreading.Timer(1.5, os._exit, (3,)).start()"}
HANGS = {
    "life.py": """
_show = SignOfLife.show


def _once(self):
    _show(self)
    while True:
        time.sleep(60)


SignOfLife.show = _once
"""
}
"""Bound and asked, but its loop stands still after the first look."""
NEVER_BINDS = {"__main__.py": "import signal, time\nsignal.signal(15, signal.SIG_IGN)\nwhile True:\n    time.sleep(60)"}


@pytest.fixture(scope="module")
def hanging(memory: Path, shop: Any) -> Iterator[dict[str, Root]]:
    """Groups of their own whose rdagent begins to hang at once: half a minute passes before it is seen."""
    roots = {"0.92.1": Root(memory / "s"), "0.92.2": Root(memory / "t")}
    for root in roots.values():
        root.up()
    roots["0.92.1"].publish(shop("rdagent", "0.92.1", HANGS))
    roots["0.92.2"].publish(shop("rdagent", "0.92.2", NEVER_BINDS))
    for version, root in roots.items():
        root.now("rdagent", version)
    yield roots
    for root in roots.values():
        root.down()


def others(root: Root) -> dict[str, int]:
    return {name: pid for name, pid in root.pids().items() if name != "rdagent"}


def until_tried(root: Root, version: str) -> None:
    """It is on trial and answers."""
    root.until_on_trial("rdagent", version)
    root.until(lambda: root.version("rdagent") == version, f"rdagent {version} to answer")


def test_45_killed_in_its_own_trial_bad(root: Root, shop: Any) -> None:
    root.publish(shop("rdagent", "0.91.1", ENDS_LATE))
    before = others(root)
    root.now("rdagent", "0.91.1")
    until_tried(root, "0.91.1")
    root.kill("rdagent")
    root.until_back("rdagent", "0.91.1", BASE)
    assert others(root) == before


def test_42_a_good_update_of_itself(root: Root, shop: Any) -> None:
    root.publish(shop("rdagent", "0.92.0"))
    before, beats = root.pids(), told(root)["heartbeats"]
    root.update("rdagent", "0.92.0")
    # The same process, by exec: nothing had to be handed over.
    assert root.pids() == before
    root.until(lambda: told(root)["heartbeats"] >= beats + 2, "heartbeats to go on")
    assert told(root)["ready"] is True


def test_45_killed_in_its_own_trial_good(root: Root, shop: Any) -> None:
    root.publish(shop("rdagent", "0.93.0"))
    before = others(root)
    root.now("rdagent", "0.93.0")
    until_tried(root, "0.93.0")
    root.kill("rdagent")
    root.until_runs("rdagent", "0.93.0")
    assert others(root) == before
    root.until(lambda: root.view("rdagent"), "it to answer")
    assert root.phases("rdagent")[-2:] == ["trial 0.93.0", "commit 0.93.0"]


def test_47_supervisord_and_all_killed_in_its_own_gate(root: Root, shop: Any) -> None:
    root.publish(shop("rdagent", "0.94.0"))
    root.now("rdagent", "0.94.0")
    until_tried(root, "0.94.0")
    root.kill_everything()
    root.power_on()
    root.until_runs("rdagent", "0.94.0")
    root.until_ready()
    root.until(lambda: not root.left_overs(), "what went to be gone")


def test_one_whose_try_cannot_be_counted_waits(root: Root, shop: Any) -> None:
    """The version in force runs on, beats, and says why; it does not begin and end for ever."""
    root.publish(shop("rdagent", "0.94.1"))
    in_the_way, ends = root.versions("rdagent") / ".state.launch", len(root.said("rdagent ends"))
    in_the_way.mkdir(parents=True, exist_ok=True)
    before = root.version("rdagent")
    pids, beats = root.pids(), told(root)["heartbeats"]
    root.now("rdagent", "0.94.1")
    why = f"{in_the_way} cannot be written: Is a directory"
    view = root.until(lambda: (one := root.view("rdagent")) and one.why == why and one, "it to say why it waits")
    assert (view.state, view.running, view.current) == ("on trial", before, before)
    root.ask(HoldUpdates())
    step = next(one for one in root.ask(GetUpdatePlan()).steps if one.component == "rdagent")
    assert (step.from_version, step.to_version, step.at) == (before, "0.94.1", None)
    assert step.blocked == "rdagent 0.94.1 is on trial"
    root.ask(HoldUpdates(on=False))
    root.until(lambda: told(root)["heartbeats"] >= beats + 5, "heartbeats to go on")
    for _ in range(20):  # each has it try once more
        root.now("netagent", "")
    assert root.pids() == pids
    assert len(root.said("rdagent ends")) == ends + 1  # when the trial began
    in_the_way.rmdir()
    root.now("netagent", "")
    root.until_runs("rdagent", "0.94.1")
    assert root.pids() == pids
    assert "0.94.1" not in root.bad("rdagent")


def test_70_an_outage_of_the_host_while_it_becomes_another(root: Root, shop: Any) -> None:
    """Its heartbeat waits for an answer that never comes, and must not keep it from its end."""
    root.publish(shop("rdagent", "0.95.0"))
    host = json.loads((root.folder / "fabric" / "endpoints.json").read_text())["pid"]
    root.now("rdagent", "0.95.0")
    root.until(lambda: root.child("rdagent.update.stager"), "the stager")
    os.kill(host, signal.SIGSTOP)
    try:
        root.until_runs("rdagent", "0.95.0")
    finally:
        os.kill(host, signal.SIGCONT)
    assert root.bad("rdagent").keys() == {"0.91.1"}


def test_44_one_that_hangs_and_one_that_never_binds(hanging: dict[str, Root]) -> None:
    """The watchdog ends them; nobody lends a hand. By exec the process stays, so the last sign is the old one's."""
    for version, root in hanging.items():
        assert "it hangs: no sign of life for" in root.until_back("rdagent", version, BASE, 90)
        # Nobody else was started a second time.
        log = (root.places.log / "supervisord.log").read_text()
        assert [name for name in COMPONENTS if log.count(f"spawned: '{name}'") > 1] == ["rdagent"]
