"""The command's edges: nothing there, wrong use, help, and a status that is put together from whoever answers."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import msgspec

from agentctl.deployment import Deployment
from agentctl.up import goals
from agentctl.view import StatusView, gather, is_ready
from ipc.component import Component
from ipc.contract.guestagent import ExtensionView, GetStatus, GuestStatus
from ipc.contract.rdagent import ComponentTruth, GetTruth, HostView, Truth
from ipc.places import COMPONENTS, Places


def agentctl(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "agentctl", *arguments], capture_output=True, text=True, check=False, timeout=60
    )


def test_nothing_there_is_exit_status_3_with_the_command_that_starts_it(tmp_path: Path) -> None:
    done = agentctl("status", "--root", str(tmp_path))
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == f"agentctl: No agent runs here. Start it with: agentctl up --root {tmp_path}\n"
    done = agentctl("restart", "telemetry", "--root", str(tmp_path))
    assert done.returncode == 3
    assert "start the group with: agentctl up" in done.stderr


def test_wrong_use_is_exit_status_2() -> None:
    assert agentctl("restart", "nobody").returncode == 2
    assert agentctl("fly").returncode == 2


def test_help_teaches_the_first_minute() -> None:
    done = agentctl("--help")
    assert done.returncode == 0
    assert "agentctl up" in done.stdout
    assert "Exit status" in done.stdout


def test_down_where_nothing_runs_says_so(tmp_path: Path) -> None:
    done = agentctl("down", "--root", str(tmp_path))
    assert (done.returncode, done.stdout) == (0, "Nothing was running.\n")


def test_a_configuration_error_stops_up_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "azvmagent.toml").write_text("[gestagent]\n")
    done = agentctl("up", "--detach", "--root", str(tmp_path))
    assert done.returncode == 1
    assert "unknown table: 'gestagent'; did you mean guestagent?" in done.stderr
    assert not (tmp_path / "fabric").exists()


def test_a_root_that_is_too_deep_is_refused(tmp_path: Path) -> None:
    done = agentctl("up", "--detach", "--root", str(tmp_path / ("d" * 100)))
    assert done.returncode == 1
    assert "choose a shorter --root" in done.stderr


TRUTH = Truth(
    host=HostView(ready=True, wireserver="http://127.0.0.1:1", heartbeats=3),
    components=[
        ComponentTruth(name=name, state="ok", version="1", pid=os.getpid(), health="ok") for name in COMPONENTS
    ],
)
GUEST = GuestStatus(
    goal_state="incarnation_2",
    extensions=[ExtensionView(name="A.B", version="1.0", sequence_number=0, handler_status="Ready", status="success")],
)


def seen_with(tmp_path: Path, answers: dict[str, Truth | GuestStatus]) -> StatusView:
    places = Places.under(tmp_path)

    async def truth(_: GetTruth) -> Truth:
        answer = answers["rdagent"]
        assert isinstance(answer, Truth)
        return answer

    async def guest(_: GetStatus) -> GuestStatus:
        answer = answers["guestagent"]
        assert isinstance(answer, GuestStatus)
        return answer

    async def run() -> StatusView:
        components = [Component(name, "1", places) for name in answers]
        for component in components:
            if component.name == "rdagent":
                component.answer(GetTruth, truth)
            else:
                component.answer(GetStatus, guest)
        try:
            return await gather(Deployment(root=tmp_path, places=places))
        finally:
            for component in components:
                await component.__aexit__(None, None, None)

    return asyncio.run(run())


def test_a_whole_group_is_shown_as_rdagent_and_guestagent_say(tmp_path: Path) -> None:
    view = seen_with(tmp_path, {"rdagent": TRUTH, "guestagent": GUEST})
    # Everybody is well, and nobody would start them again.
    assert not is_ready(view)
    assert is_ready(msgspec.structs.replace(view, supervised=True))
    assert [one.name for one in view.components] == list(COMPONENTS)
    assert (view.host.ready, view.goal_state) == (True, "incarnation_2")
    (problem,) = view.problems
    assert "supervisord does not answer" in problem
    assert [(one.name, one.status) for one in view.extensions] == [("A.B", "success")]
    assert all(goal.reached for goal in goals(view, with_sample=True))
    shape = msgspec.to_builtins(view)
    assert {"name", "version", "pid", "state", "health", "since"} <= set(shape["components"][0])
    assert {"ready", "portal", "wireserver"} <= set(shape["host"])


def test_without_rdagent_nobody_claims_ready(tmp_path: Path) -> None:
    view = seen_with(tmp_path, {"guestagent": GUEST})
    assert not is_ready(view)
    assert view.host.ready is None
    assert {one.name: one.state for one in view.components} == dict.fromkeys(COMPONENTS, "absent") | {
        "guestagent": "ok"
    }
    assert any("rdagent did not answer" in problem for problem in view.problems)
    assert view.extensions


def test_a_hung_component_is_a_problem_and_not_ready(tmp_path: Path) -> None:
    hung = ComponentTruth(name="guestagent", state="hung", why="no answer for 14 s")
    truth = msgspec.structs.replace(TRUTH, components=[hung])
    view = seen_with(tmp_path, {"rdagent": truth})
    assert not is_ready(view)
    assert "guestagent is hung: no answer for 14 s" in view.problems


def test_up_is_not_done_before_everything_is() -> None:
    assert not any(goal.reached for goal in goals(None, with_sample=True))
