"""The main job on the real thing: up, Ready, faults of single processes, down."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(300)

FOUR = ["rdagent", "guestagent", "netagent", "telemetry"]


def sample_status(told: dict[str, Any]) -> dict[str, Any]:
    handlers = told["status"]["aggregateStatus"]["handlerAggregateStatus"]
    assert len(handlers) == 1
    handler: dict[str, Any] = handlers[0]
    return handler


def test_up_ends_ready_with_four_processes_and_a_sample_extension(group: Any) -> None:
    status = group.status()
    assert [one["name"] for one in status["components"]] == FOUR
    assert {one["state"] for one in status["components"]} == {"ok"}
    assert len({one["pid"] for one in status["components"]}) == 4
    assert status["host"]["ready"] is True
    assert [one["status"] for one in status["extensions"]] == ["success"]
    told = group.told()
    assert told["ready"] is True
    assert told["heartbeats"] >= 1
    handler = sample_status(told)
    assert handler["status"] == "Ready"
    assert handler["runtimeSettingsStatus"]["settingsStatus"]["status"]["status"] == "success"
    assert told["status"]["aggregateStatus"]["guestAgentStatus"]["status"] == "Ready"


def test_status_for_people_names_everybody_and_exits_0(group: Any) -> None:
    done = group.agentctl("status")
    assert done.returncode == 0
    for word in [*FOUR, "Ready", "success"]:
        assert word in done.stdout


def test_the_host_hears_events(group: Any) -> None:
    group.until(lambda: group.told()["events"], "telemetry events at the host")


@pytest.mark.parametrize("name", FOUR)
def test_a_killed_component_returns_and_no_status_is_lost(group: Any, name: str) -> None:
    before = sample_status(group.told())
    pid = group.pid(name)
    os.kill(pid, signal.SIGKILL)
    group.until(lambda: group.component(name).get("pid") not in (pid, None), f"{name} to return")
    group.until(lambda: {one["state"] for one in group.status()["components"]} == {"ok"}, "everybody to be ok")
    assert (
        sample_status(group.told())["runtimeSettingsStatus"]["sequenceNumber"]
        == (before["runtimeSettingsStatus"]["sequenceNumber"])
    )
    assert [one["status"] for one in group.status()["extensions"]] == ["success"]


def test_a_stopped_guestagent_is_hung_while_heartbeats_go_on(group: Any) -> None:
    pid = group.pid("guestagent")
    os.kill(pid, signal.SIGSTOP)
    try:
        group.until(lambda: group.component("guestagent").get("state") == "hung", "guestagent to show hung", 30)
        beats = group.told()["heartbeats"]
        group.until(lambda: group.told()["heartbeats"] >= beats + 2, "heartbeats to go on")
        assert group.agentctl("status", check=False).returncode == 1
        seen = group.told()["observations"]
        assert any("guestagent" in json.dumps(one) and "hung" in json.dumps(one) for one in seen.values())
    finally:
        os.kill(pid, signal.SIGCONT)
    group.until(lambda: group.component("guestagent").get("state") == "ok", "guestagent to be ok again")
    group.until(lambda: group.told()["ready"] is True, "the host to be told Ready again")


def test_restarting_telemetry_disturbs_nobody(group: Any) -> None:
    pids = {name: group.pid(name) for name in FOUR}
    done = group.agentctl("restart", "telemetry")
    assert "on trial" not in done.stderr
    assert "telemetry" in done.stdout
    now = {name: group.pid(name) for name in FOUR}
    assert now.pop("telemetry") != pids.pop("telemetry")
    assert now == pids
    assert group.told()["ready"] is True


def test_a_restart_of_guestagent_runs_nothing_again(group: Any) -> None:
    (handler,) = (group.root / "lib" / "waagent").glob("*-*/HandlerManifest.json")
    log = group.root / "log" / "azure"
    before = {path: path.read_bytes() for path in log.rglob("CommandExecution*.log")}
    assert before
    group.agentctl("restart", "guestagent")
    group.pid("guestagent")
    assert {path: path.read_bytes() for path in log.rglob("CommandExecution*.log")} == before
    assert handler.exists()


def test_a_second_up_on_the_same_root_is_refused(group: Any) -> None:
    done = group.agentctl("up", "--detach", check=False)
    assert done.returncode == 1
    assert "already up" in done.stderr
    assert group.told()["ready"] is True


def test_down_leaves_no_process_and_no_socket(tmp_path: Path) -> None:
    """A root of its own, in front, ended by a signal as Ctrl-C would."""
    root = tmp_path / "r"
    child = subprocess.Popen(
        [sys.executable, "-m", "agentctl", "up", "--no-sample", "--root", str(root)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert child.stdout is not None
    seen = []
    for line in child.stdout:
        seen.append(line)
        if "Ctrl-C ends it" in line:
            break
    assert any("Ready after" in line for line in seen), "".join(seen)
    child.send_signal(signal.SIGINT)
    rest, _ = child.communicate(timeout=60)
    assert child.returncode == 0, rest
    wanted = f"AZVMAGENT_ROOT={root}"
    listed = subprocess.run(["ps", "axeww"], capture_output=True, text=True, check=True).stdout
    assert not [line for line in listed.splitlines() if wanted in line.split()]
    assert not (root / "run").exists()
    assert [path for path in root.rglob("*") if path.is_socket()] == []
