"""What an operator meets when something of a running root is gone, hangs or is wrong: each command says what is so."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ipc.places import Places
from ipc.supervisord import Supervisord
from release.record import Chosen, Trial
from tests.release.product import Installed
from tests.system.conftest import Group


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Group]:
    """A group that may be broken; in a folder with a blank in its name."""
    root = tmp_path / "a root"
    root.mkdir()
    group = Group(root)
    (root / "azvmagent.toml").write_text("[rdagent]\nheartbeat_period = 2.0\n")
    group.agentctl("up", "--detach")
    yield group
    for pid in group.processes():
        os.kill(pid, signal.SIGCONT)
    group.agentctl("down", check=False)
    assert group.processes() == []


def pid_of_supervisord(group: Group) -> int:
    return int((group.root / "run" / "supervisord.pid").read_text())


def state_at_supervisord(group: Group, name: str) -> str:
    programs = Supervisord(Places.under(group.root)).programs()
    return next(one.statename for one in programs if one.name == name)


def host_pid(group: Group) -> int:
    return int(json.loads((group.root / "fabric" / "endpoints.json").read_text())["pid"])


def problems(group: Group) -> str:
    return "\n".join(group.status().get("problems", []))


@pytest.mark.parametrize("component", ["guestagent", "rdagent"])
def test_a_hung_component_is_restarted(own: Group, component: str) -> None:
    pid = own.pid(component)
    os.kill(pid, signal.SIGSTOP)
    done = own.agentctl("restart", component)
    assert f"{component} " in done.stdout
    assert own.pid(component) != pid


@pytest.mark.parametrize(
    ("component", "number"), [("netagent", signal.SIGINT), ("netagent", signal.SIGKILL), ("rdagent", signal.SIGKILL)]
)
def test_who_loses_patience_leaves_no_component_stopped(own: Group, component: str, number: signal.Signals) -> None:
    """Between stop and start a hung one takes seconds to end."""
    pid = own.pid(component)
    os.kill(pid, signal.SIGSTOP)
    command = [sys.executable, "-P", "-m", "agentctl", "restart", component, "--root", str(own.root)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        own.until(lambda: state_at_supervisord(own, component) == "STOPPING", "the stop to be asked for")
        child.send_signal(number)
        child.wait(60)
    own.until(lambda: own.component(component).get("pid", pid) not in {0, None, pid}, "another process")
    assert own.pid(component) != pid


def test_who_restarts_what_is_on_trial_is_told_that_it_counts(own: Group) -> None:
    """rdagent stands still, so the trial has no end."""
    os.kill(own.pid("rdagent"), signal.SIGSTOP)
    installed = Installed(Places.under(own.root).installed, "telemetry")
    installed.folder.mkdir(parents=True)
    installed.set(trial=Trial(Chosen("0.9.0", "9" * 64), 3))
    assert "one restart is forgiven" in own.agentctl("restart", "telemetry").stderr
    # Nothing of it lies on the disk, so launch.py has ended the trial.
    assert "was on trial" not in own.agentctl("restart", "telemetry").stderr


def test_without_rdagent_each_says_itself_how_it_is(own: Group) -> None:
    os.kill(own.pid("rdagent"), signal.SIGSTOP)
    done = own.agentctl("status", check=False)
    assert done.returncode == 1
    assert "Host not known" in done.stdout
    assert "0 heartbeats" not in done.stdout
    wanted = {"rdagent": "hung", "guestagent": "ok", "netagent": "ok", "telemetry": "ok"}
    # supervisord calls it starting for its first seconds.
    own.until(lambda: {one["name"]: one["state"] for one in own.status()["components"]} == wanted, "rdagent to be hung")
    assert own.status()["host"]["heartbeats"] is None


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_supervisord_that_is_gone_or_hangs_is_named_with_the_way_out(own: Group, number: signal.Signals) -> None:
    pid = pid_of_supervisord(own)
    os.kill(pid, number)
    done = own.agentctl("status", check=False)
    assert done.returncode == 1
    assert "supervisord does not answer" in done.stdout
    assert "agentctl down --root" in done.stdout
    for command in (["up", "--detach"], ["restart", "netagent"]):
        refused = own.agentctl(*command, check=False)
        assert refused.returncode != 0
        assert f"agentctl down --root '{own.root}'" in refused.stderr, refused.stderr
    own.agentctl("down")
    own.agentctl("up", "--detach")
    assert own.agentctl("status").returncode == 0


def test_a_host_that_died_is_named_and_up_starts_it_again(own: Group) -> None:
    pids = {name: own.pid(name) for name in ("rdagent", "guestagent", "netagent", "telemetry")}
    os.kill(host_pid(own), signal.SIGKILL)
    assert "the local host does not run any more" in problems(own)
    seen = own.agentctl("status", check=False)
    assert (seen.returncode, "Host gone" in seen.stdout) == (1, True)
    done = own.agentctl("up", "--detach")
    assert "runs again" in done.stdout
    beats = own.told()["heartbeats"]
    own.until(lambda: own.told()["heartbeats"] > beats, "a heartbeat at the new host")
    own.until(lambda: own.agentctl("status", check=False).returncode == 0, "everybody to be well")
    assert {name: own.pid(name) for name in pids} == pids


def test_down_ends_a_host_that_was_started_by_hand(own: Group) -> None:
    os.kill(host_pid(own), signal.SIGKILL)
    command = [sys.executable, "-P", "-m", "fabric", "serve", "--root", str(own.root)]
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, env={"PATH": os.environ["PATH"]})
    try:
        own.until(lambda: host_pid(own) == child.pid, "the host by hand")
        own.until(lambda: own.agentctl("status", check=False).returncode == 0, "everybody to be well")
        own.agentctl("down")
        assert child.wait(20) == 0
    finally:
        child.kill()
        child.wait()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('[host]\nwireservr = "x"\n', "unknown key in [host]: 'wireservr'; did you mean wireserver?"),
        ("[guestagent]\nconcurrent_handlers = true\n", "concurrent_handlers"),
        ('[telemetry]\nuplod = "x"\n', "did you mean upload?"),
    ],
)
def test_up_refuses_a_wrong_key_at_once_and_names_it(tmp_path: Path, text: str, reason: str) -> None:
    group = Group(tmp_path)
    (tmp_path / "azvmagent.toml").write_text(text)
    done = group.agentctl("up", "--detach", check=False)
    assert done.returncode == 1
    assert reason in done.stderr
    assert "Traceback" not in done.stderr
    assert group.processes() == []
    assert not list(tmp_path.glob("fabric/endpoints.json"))


def test_up_ends_as_soon_as_a_component_is_given_up(tmp_path: Path) -> None:
    group = Group(tmp_path)
    # A file in the place of its folder: it ends at each start.
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "telemetry").write_text("")
    done = group.agentctl("up", "--detach", check=False)
    assert done.returncode == 1
    assert "telemetry ended at each start" in done.stderr
    assert "telemetry" in done.stderr.partition("Telemetry.log:")[2]
    assert group.processes() == []


def test_a_pipe_that_closes_ends_nothing(tmp_path: Path) -> None:
    group = Group(tmp_path)
    up = f"exec {sys.executable} -P -m agentctl up --detach --root {tmp_path}"
    try:
        # `true` reads nothing and is gone at once.
        subprocess.run(["bash", "-c", f"({up}) | true"], check=False, timeout=100, stderr=subprocess.DEVNULL)
        group.until(lambda: group.agentctl("status", check=False).returncode == 0, "the group to be well")
    finally:
        group.agentctl("down", check=False)
    assert group.processes() == []


def test_an_interpreter_that_cannot_be_started_is_a_sentence(tmp_path: Path) -> None:
    program = tmp_path / "python"
    program.write_text("no program")
    code = f"import sys; sys.executable = {str(program)!r}; from agentctl.__main__ import main; main()"
    command = [sys.executable, "-c", code, "up", "--detach", "--root", str(tmp_path / "root")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert f"{program} cannot be started" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("content", [b"\x93" * 300, b'{"extensions": 5}'])
def test_a_damaged_record_of_what_was_done_heals(tmp_path: Path, content: bytes) -> None:
    group = Group(tmp_path)
    group.agentctl("up", "--detach")
    try:
        group.agentctl("down")
        (tmp_path / "state" / "guestagent" / "applied.json").write_bytes(content)
        group.agentctl("up", "--detach", "--no-sample")

        def well() -> Any:
            (one,) = group.status()["extensions"] or [{}]
            return one.get("handler_status") == "Ready" and one.get("status") == "success" and not problems(group)

        group.until(well, "the extension to be well again, and nothing to be complained of")
    finally:
        group.agentctl("down", check=False)
