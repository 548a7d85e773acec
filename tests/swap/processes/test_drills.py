"""Drills of the catalogue that need processes, on one group: each test leaves nothing on trial."""

import datetime
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agentctl.deployment import choose
from fabric.runview import seen
from ipc.contract.rdagent import HoldUpdates, PinVersion, RollBack, UnblockVersion, UpdateNow
from ipc.errors import Refused
from rdagent.update.swap import start
from rdagent.update.window import DAYS
from release import record
from release.manifest import MANIFEST, digest
from release.record import Chosen
from tests.swap.processes.product import BASE, Root, told

pytestmark = pytest.mark.timeout(180)

ENDS = {"__main__.py": "raise SystemExit('bad build')"}
"""At each start, before it did anything."""
LIES = {"__init__.py": "globals()['__version__'] = '9.9.9'"}
"""It is well, but not what it should be: only the gate sees that."""


def want(root: Root, component: str, version: str, from_version: str = "") -> dict[str, Any]:
    order = {"component": component, "version": version, "from_version": from_version}
    found: dict[str, Any] = root.host.post("/api/components", order)
    return found


def fault(root: Root, endpoint: str, name: str = "reset") -> None:
    root.host.post("/api/faults", {"endpoint": endpoint, "fault": name})


def lift(root: Root) -> None:
    root.host.delete("/api/faults")


def others(root: Root, component: str) -> dict[str, int]:
    return {name: pid for name, pid in root.pids().items() if name != component}


def stock(root: Root, component: str) -> list[Chosen]:
    """The versions that lie there."""
    folder = root.versions(component) / "versions"
    return [Chosen(one.name, digest((one / MANIFEST).read_bytes())) for one in sorted(folder.iterdir())]


def test_41_a_swap_restarts_nobody_else(root: Root, shop: Any) -> None:
    root.publish(shop("telemetry", "0.92.0"))
    before, own = others(root, "telemetry"), root.pids()["telemetry"]
    root.update("telemetry", "0.92.0")
    assert others(root, "telemetry") == before
    assert root.pids()["telemetry"] != own
    assert root.phases("telemetry") == ["stage 0.92.0", "trial 0.92.0", "commit 0.92.0"]
    assert root.left_overs() == []
    assert str((root.versions("telemetry") / "current").readlink()) == "versions/0.92.0"


def test_39_40_a_bad_version_comes_back_without_a_repository_and_is_not_tried_again(root: Root, shop: Any) -> None:
    root.publish(shop("telemetry", "0.92.1", ENDS))
    before = others(root, "telemetry")
    want(root, "telemetry", "0.92.1")
    root.until_on_trial("telemetry", "0.92.1")
    fault(root, "artifacts")
    reason = root.until_back("telemetry", "0.92.1", "0.92.0")
    assert reason
    assert others(root, "telemetry") == before
    lift(root)

    # Drill 40: the host goes on asking for it, in a new incarnation too, over the end of rdagent.
    story = root.phases("telemetry")
    root.kill("rdagent")
    root.until(lambda: root.view("telemetry"), "rdagent to answer")
    want(root, "telemetry", "0.92.1", from_version="0.92.0")
    view = root.until(
        lambda: (view := root.view("telemetry")) and view.wanted == "0.92.1" and view.why and view, "a refusal"
    )
    assert view.state == "rolled back"
    assert view.why.startswith("telemetry 0.92.1 is on the bad list")
    assert view.lift == "agentctl update unblock telemetry 0.92.1"
    # An operator's "now" does not do it either.
    root.now("telemetry", "0.92.1")
    looked = root.until(lambda: (found := root.updates()) and found.repository.reached_at and found, "a look")
    assert looked.outcome is not None
    assert (looked.outcome.ok, looked.outcome.version) == (False, "0.92.1")
    assert root.phases("telemetry") == story
    assert root.version("telemetry") == "0.92.0"
    root.host.delete("/api/components/telemetry")


def test_46_rdagent_killed_in_the_gate_of_a_good_version(root: Root, shop: Any) -> None:
    root.publish(shop("telemetry", "0.93.0"))
    root.now("telemetry", "0.93.0")
    root.until_on_trial("telemetry", "0.93.0")
    tried = root.until(lambda: root.described("telemetry"), "the new version to answer")
    root.kill("rdagent")
    root.until_runs("telemetry", "0.93.0")
    # The gate went on with the very process, nobody restarted it.
    assert root.pids()["telemetry"] == tried.pid
    root.until(lambda: (view := root.view("telemetry")) and view.current == "0.93.0", "rdagent to say so")


def test_46_rdagent_killed_in_the_gate_of_a_bad_version(root: Root, shop: Any) -> None:
    root.publish(shop("telemetry", "0.93.1", LIES))
    root.now("telemetry", "0.93.1")
    root.until_on_trial("telemetry", "0.93.1")
    root.kill("rdagent")
    assert "announces version 9.9.9" in root.until_back("telemetry", "0.93.1", "0.93.0")


def test_46_rdagent_killed_between_the_record_and_the_restart(root: Root) -> None:
    """The old version goes on, and that must not be held against the new one."""
    target = next(one for one in stock(root, "telemetry") if one.version == "0.92.0")
    root.supervisord.stop("rdagent")
    root.until(lambda: root.pids()["rdagent"] == 0, "rdagent to end")
    with record.locked(root.versions("telemetry")):
        record.write(root.versions("telemetry"), record.begin_trial(root.record("telemetry"), target))
    root.supervisord.start("rdagent")
    root.until_runs("telemetry", "0.92.0")
    assert "0.92.0" not in root.bad("telemetry")


def test_46_rdagent_killed_between_the_end_of_a_trial_and_the_restart(root: Root) -> None:
    """What was taken back must not go on running."""
    root.supervisord.stop("rdagent")
    root.until(lambda: root.pids()["rdagent"] == 0, "rdagent to end")
    folder, before = root.versions("telemetry"), root.record("telemetry")
    other = next(one for one in stock(root, "telemetry") if one != before.current)
    with record.locked(folder):
        # As if another had been in force before the one that runs, which has just been taken back.
        was = record.write(folder, msgspec.structs.replace(before, previous=other))
        record.write(folder, record.step_back(was, "taken back"))
    root.supervisord.start("rdagent")
    root.until_runs("telemetry", other.version)
    root.ask(UnblockVersion(component="telemetry"))


def test_a_component_that_supervisord_is_still_stopping_is_started(root: Root) -> None:
    """Asked meanwhile, supervisord says yes and does nothing."""
    pid = root.pids()["netagent"]
    os.kill(pid, signal.SIGSTOP)  # it takes `stopwaitsecs` and a SIGKILL
    root.supervisord.stop("netagent")
    start(root.places, "netagent")
    root.until(lambda: root.pids()["netagent"] not in {0, pid}, "another netagent")


def test_one_that_answers_health_but_fails_its_work(root: Root, shop: Any) -> None:
    changes = {"agent.py": "async def _fails(self, _):\n    raise RuntimeError('broken')\nTelemetry.timeline = _fails"}
    root.publish(shop("telemetry", "0.93.7", changes))
    back_to = root.record("telemetry").current
    reason = root.fails("telemetry", "0.93.7", back_to.version if back_to else BASE)
    assert "RuntimeError" in reason


def test_47_supervisord_and_all_killed_in_the_gate(root: Root, shop: Any) -> None:
    root.publish(shop("telemetry", "0.94.0"))
    root.now("telemetry", "0.94.0")
    root.until_on_trial("telemetry", "0.94.0")
    root.kill_everything()
    root.power_on()
    root.until_runs("telemetry", "0.94.0")
    root.until_ready()
    root.until(lambda: not root.left_overs(), "what went to be gone")


def test_48_a_second_rdagent_is_refused(root: Root) -> None:
    first = root.pids()["rdagent"]
    deployment = choose(root.folder)
    second = subprocess.run(
        deployment.launch("rdagent"), env=deployment.environment(), capture_output=True, text=True, timeout=30
    )
    assert second.returncode == 1
    assert f"pid {first}" in second.stderr
    found = root.described("rdagent")
    assert found is not None
    assert found.pid == first


@pytest.mark.parametrize("component", ["telemetry", "guestagent"])
def test_70_an_outage_in_the_gate_rolls_nobody_back(root: Root, shop: Any, component: str) -> None:
    """Of the repository and of the host: it takes connections and never answers."""
    root.publish(shop(component, "0.95.0"))
    endpoints = json.loads((root.folder / "fabric" / "endpoints.json").read_text())
    root.now(component, "0.95.0")
    root.until_on_trial(component, "0.95.0")
    os.kill(endpoints["pid"], signal.SIGSTOP)
    try:
        root.until_runs(component, "0.95.0")
    finally:
        os.kill(endpoints["pid"], signal.SIGCONT)
    assert "0.95.0" not in root.bad(component)


def test_69_a_repository_that_stays_away_costs_one_line(root: Root) -> None:
    root.until(lambda: (found := root.updates()) and not found.repository.problem, "the repository to answer")
    lines, before = len(root.said("component repository")), root.pids()
    fault(root, "repository")
    for _ in range(4):
        at = root.until(root.updates, "rdagent to answer").repository.checked_at or 0.0
        root.ask(UpdateNow())
        root.until(
            lambda at=at: (found := root.updates()) and (found.repository.checked_at or 0.0) > at,  # type: ignore[misc]
            "one more look",
        )
    found = root.until(root.updates, "rdagent to answer")
    assert found.repository.problem
    assert [one.state for one in found.components if one.component != "telemetry"] == ["settled"] * 3
    new = root.said("component repository")[lines:]
    assert len(new) == 1
    assert "what runs goes on running" in new[0]
    assert root.pids() == before
    lift(root)
    root.ask(UpdateNow())
    root.until(lambda: (found := root.updates()) and not found.repository.problem, "the repository to answer again")


def test_23_the_host_s_way_back(root: Root, shop: Any) -> None:
    assert root.version("telemetry") == "0.95.0"
    want(root, "telemetry", "0.93.0")
    view = root.until(lambda: (one := root.view("telemetry")) and one.wanted == "0.93.0" and one, "the wish to arrive")
    assert "0.93.0 is older than 0.95.0, and the host gave no fromVersion" in view.why
    want(root, "telemetry", "0.93.0", from_version="0.94.0")
    root.until(lambda: (one := root.view("telemetry")) and "would have it follow 0.94.0" in one.why, "the next refusal")
    want(root, "telemetry", "0.93.0", from_version="0.95.0")
    root.until_runs("telemetry", "0.93.0")
    outcome = root.until(lambda: (found := root.updates()) and found.outcome and found.outcome.ok and found, "a yes")
    assert outcome.outcome is not None
    assert (outcome.outcome.component, outcome.outcome.version) == ("telemetry", "0.93.0")
    root.host.delete("/api/components/telemetry")


def test_pin_hold_and_roll_back_by_hand(root: Root, shop: Any) -> None:
    assert root.version("telemetry") == "0.93.0"
    root.ask(PinVersion(component="telemetry", version="0.93.0"))
    want(root, "telemetry", "0.95.0")
    root.until(lambda: (one := root.view("telemetry")) and one.why == "telemetry is pinned to 0.93.0", "the pin")
    root.ask(PinVersion(component="telemetry"))
    root.until_runs("telemetry", "0.95.0")
    root.host.delete("/api/components/telemetry")

    root.ask(HoldUpdates())
    root.now("telemetry", "0.94.0")
    root.until(lambda: (one := root.view("telemetry")) and one.held, "the hold")
    # Over the end of rdagent, too.
    root.kill("rdagent")
    view = root.until(lambda: root.view("telemetry"), "rdagent to answer")
    assert view.held
    root.ask(HoldUpdates(on=False))
    assert root.version("telemetry") == "0.95.0"

    fault(root, "artifacts")
    root.ask(RollBack(component="telemetry", reason="I say so"))
    root.until_runs("telemetry", "0.93.0")
    assert root.bad("telemetry")["0.95.0"] == "I say so"
    lift(root)


def test_a_roll_back_of_the_base_install_is_refused(root: Root) -> None:
    with pytest.raises(Refused, match="nothing to go back to"):
        root.ask(RollBack(component="netagent"))
    assert root.version("netagent") == BASE


def test_a_running_command_outlives_every_swap(root: Root, shop: Any, tmp_path: Path) -> None:
    """Good, failed, by hand: it runs once, to its end, and what it runs from stays until then."""
    root.publish(shop("guestagent", "0.96.0"))
    begun, end = tmp_path / "begun", tmp_path / "end"
    lines = f'echo "$$" >> {begun}; n=0; until [ -e {end} ]; do n=$((n+1)); echo "line $n"; sleep 0.2; done; echo done'
    ordered = root.host.post("/api/runs", {"script": f"#!/bin/sh\n{lines}\n", "name": "long"})
    root.until(begun.exists, "the command to begin")
    assert root.version("guestagent") == "0.95.0"
    root.update("guestagent", "0.96.0")
    root.publish(shop("guestagent", "0.96.1", LIES))
    assert "announces version 9.9.9" in root.fails("guestagent", "0.96.1", "0.96.0")
    root.publish(shop("guestagent", "0.97.0"))
    root.update("guestagent", "0.97.0")
    # 0.95.0 is neither current nor previous.
    assert root.trees("guestagent") == {"0.95.0", "0.96.0", "0.97.0"}
    root.ask(RollBack(component="guestagent", reason="I say so"))
    root.until_runs("guestagent", "0.96.0")
    os.kill(int(begun.read_text()), 0)  # it lives
    end.touch()
    ran = root.until(
        lambda: seen(told(root)["status"], ordered["handler"], "long", ordered["sequence_number"]), "its end"
    )
    assert (ran.state, ran.exit_code) == ("Succeeded", 0)
    assert len(begun.read_text().splitlines()) == 1
    said = ran.output.splitlines()
    assert said == [*(f"line {number}" for number in range(1, len(said))), "done"]
    # Now nobody needs it any more.
    root.ask(UnblockVersion(component="guestagent", version="0.97.0"))
    root.update("guestagent", "0.97.0")
    root.until(lambda: root.trees("guestagent") == {"0.96.0", "0.97.0"}, "0.95.0 to go")


def test_a_stager_that_hangs_and_is_killed(root: Root, shop: Any) -> None:
    root.publish(shop("netagent", "0.92.0"))
    want(root, "netagent", "0.92.0")
    stager = root.until(lambda: root.child("rdagent.update.stager"), "the stager")
    os.kill(stager, signal.SIGSTOP)
    beats = told(root)["heartbeats"]
    root.until(lambda: told(root)["heartbeats"] >= beats + 2, "heartbeats to go on")
    assert root.until(lambda: root.view("netagent"), "rdagent to answer").state == "fetching"
    os.kill(stager, signal.SIGKILL)
    view = root.until(lambda: (one := root.view("netagent")) and one.state == "waiting" and one, "it to wait")
    assert "rdagent.update.stager ended with status -9" in view.why
    # It is tried again by itself.
    root.until_runs("netagent", "0.92.0")
    root.until(lambda: not root.left_overs(), "what went to be gone")
    root.host.delete("/api/components/netagent")


def test_a_reader_of_the_repository_that_hangs_and_is_killed(root: Root) -> None:
    root.ask(UpdateNow())
    reader = root.until(lambda: root.child("rdagent.update.tufchild"), "the reader")
    os.kill(reader, signal.SIGSTOP)
    beats = told(root)["heartbeats"]
    root.until(lambda: told(root)["heartbeats"] >= beats + 2, "heartbeats to go on")
    os.kill(reader, signal.SIGKILL)
    root.until(lambda: (found := root.updates()) and "status -9" in found.repository.problem, "the problem")
    root.until(lambda: (found := root.updates()) and not found.repository.problem, "the next look")


def test_outside_the_window_and_inside_by_hand(root: Root, shop: Any) -> None:
    """Also: the memory and the history are torn, and cost no more than what stood in them."""
    day = DAYS[(datetime.datetime.now(datetime.UTC).weekday() + 3) % 7]
    (root.folder / "azvmagent.toml.d" / "60-window.toml").write_text(f'[update]\nwindow = "{day} 00:00-00:01"\n')
    root.publish(shop("telemetry", "0.96.0"), "stable")
    state = root.places.state_of("rdagent")
    history = (state / "update-history.jsonl").read_bytes()
    root.supervisord.stop("rdagent")
    root.until(lambda: root.pids()["rdagent"] == 0, "rdagent to end")
    (state / "updates.json").write_bytes(b'{"policy": {"pins": 7}, "attempts": [')
    (state / "update-history.jsonl").write_bytes(history[:-20] + b"\n\xff{}\n[" + history[:200])
    root.supervisord.start("rdagent")
    view = root.until(lambda: (one := root.view("telemetry")) and one.wanted == "0.96.0" and one, "the offer")
    assert view.why.startswith(f"outside the window '{day} 00:00-00:01' until ")
    assert view.lift == "agentctl update now telemetry"
    assert root.said("updates.json: is damaged.*; what the operator said of updates is forgotten")
    assert len(root.history()) > 5
    root.now("telemetry", "")
    root.until_runs("telemetry", "0.96.0")


def test_what_the_host_is_told_all_the_while(root: Root) -> None:
    assert told(root)["ready"] is True
