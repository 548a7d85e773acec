"""A command that runs while guestagent is killed, restarted or stopped: one run, its whole output, its outcome told."""

import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from guestagent import __version__

Make = Callable[..., bytes]
SOURCE = Path(__file__).resolve().parents[3]

# Goes on until the test says so, whatever becomes of the agent.
WAITING = 'echo before; until [ -f "$go" ]; do sleep 0.1; done; echo after; status success "went on"'


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("kind", ["install", "enable"])
def test_a_running_command_is_adopted_and_run_once(
    life: Any, make_package: Make, number: signal.Signals, kind: str
) -> None:
    life.want(make_package({kind: WAITING}))
    life.until(lambda: life.calls(f"begin {kind}"), f"{kind} to begin")
    for _ in range(3):
        life.kill_agent(number)
        life.start_agent()
    life.kill_agent(number)
    life.go.touch()
    life.until(lambda: life.calls(f"end {kind}"), f"{kind} to end while nobody looks")
    life.start_agent()
    life.ready()
    assert life.calls() == [
        "begin install 1.0.0 seq=0",
        "end install 1.0.0 seq=0",
        "begin enable 1.0.0 seq=0",
        "end enable 1.0.0 seq=0",
    ]
    log = (life.root / f"log/azure/{life.name}/CommandExecution.log").read_text()
    assert "before\nafter" in log


def another_version(folder: Path, version: str) -> Path:
    """The agent's packages with another number, in a folder of their own, as an updater lays them out."""
    for name in ("guestagent", "ipc", "wire"):
        shutil.copytree(SOURCE / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    module = folder / "guestagent" / "__init__.py"
    text = module.read_text()
    assert f'__version__ = "{__version__}"' in text
    module.write_text(text.replace(f'"{__version__}"', f'"{version}"'))
    return folder


def test_a_command_outlives_kills_a_restart_and_changes_of_the_agents_version(
    life: Any, make_package: Make, tmp_path: Path
) -> None:
    """An upgrade and the way back, while a script runs: one run, its whole output, its outcome told."""
    newer = another_version(tmp_path / "newer", "9.8.7")
    life.want(make_package({"enable": "for n in 1 2 3; do echo part $n; done\n" + WAITING}))
    life.until(lambda: life.calls("begin enable"), "enable to begin")
    life.kill_agent()
    life.start_agent()
    life.kill_agent(signal.SIGTERM)
    life.machine.start_agent(newer)
    life.until(lambda: agent_version(life) == "9.8.7", "the newer one to report")
    assert life.handler()["status"] == "Installing"
    life.kill_agent()
    life.start_agent()
    life.until(lambda: agent_version(life) == __version__, "the older one to report again")
    life.kill_agent()
    life.machine.start_agent(newer)
    life.go.touch()
    life.ready()
    assert life.calls("enable") == ["begin enable 1.0.0 seq=0", "end enable 1.0.0 seq=0"]
    log = (life.root / f"log/azure/{life.name}/CommandExecution.log").read_text()
    assert log.count("part 1\npart 2\npart 3\nbefore\nafter") == 1
    life.kill_agent(signal.SIGTERM)


def agent_version(life: Any) -> str:
    status = life.told()["status"]
    return str(status["aggregateStatus"]["guestAgentStatus"]["version"]) if status else ""


def test_the_host_hears_of_other_extensions_while_one_runs(life: Any, make_package: Make) -> None:
    life.want(make_package({"enable": WAITING}))
    life.until(lambda: life.calls("begin enable"), "enable to begin")
    life.want(make_package(), name=life.other)
    life.ready(name=life.other)
    assert life.handler()["status"] == "Installing"
    life.go.touch()
    life.ready()


@pytest.mark.parametrize("step", ["disable", "update", "uninstall", "install", "enable"])
def test_an_update_killed_at_any_command_goes_on_where_it_was(life: Any, make_package: Make, step: str) -> None:
    old = {step: WAITING} if step in {"disable", "uninstall"} else {}
    new = {step: WAITING} if step not in old else {}
    life.want(make_package(old))
    life.ready()
    life.want(make_package(new), "1.1.0")
    life.until(lambda: life.calls(f"begin {step} ")[-1:] == life.calls("begin")[-1:] and len(life.calls()) > 4, step)
    life.kill_agent()
    life.go.touch()
    life.start_agent()
    life.ready("1.1.0")
    ran = [line.removeprefix("begin ").removesuffix(" seq=1") for line in life.calls("begin")[2:]]
    assert ran == ["disable 1.0.0", "update 1.1.0", "uninstall 1.0.0", "install 1.1.0", "enable 1.1.0"]


def test_the_way_back_killed_in_the_middle_ends_on_the_old_version(life: Any, make_package: Make) -> None:
    again = 'if [ -f "$TEST_ROOT/$me.second" ]; then until [ -f "$go" ]; do sleep 0.1; done; fi;'
    life.want(make_package({"enable": f"{again} status success old"}))
    life.ready()
    (life.root / f"{life.name}.second").touch()
    life.want(make_package({"update": "exit 3"}), "1.1.0")
    life.until(lambda: len(life.calls("begin enable 1.0.0")) == 2, "the way back to begin")
    life.kill_agent()
    life.go.touch()
    life.start_agent()
    told = life.failed()
    assert (told["handlerVersion"], told["status"], told["code"]) == ("1.0.0", "Ready", 1008)
    assert len(life.calls("begin enable 1.0.0")) == 2
    assert len(life.calls("begin update")) == 1
