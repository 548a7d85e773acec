"""A command that runs while guestagent is killed, restarted or stopped: one run, its whole output, its outcome told."""

import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from guestagent import __version__

Make = Callable[..., bytes]

SOURCES = Path(__file__).parent.parent.parent.parent

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


def test_the_host_hears_of_other_extensions_while_one_runs(life: Any, make_package: Make) -> None:
    life.want(make_package({"enable": WAITING}))
    life.until(lambda: life.calls("begin enable"), "enable to begin")
    life.want(make_package(), name=life.other)
    life.ready(name=life.other)
    assert life.handler()["status"] == "Installing"
    life.go.touch()
    life.ready()


def test_a_long_command_survives_kills_restarts_and_another_version_of_guestagent(
    life: Any, make_package: Make, tmp_path: Path
) -> None:
    newer = tmp_path / "newer"
    for name in ("guestagent", "ipc", "wire"):
        shutil.copytree(SOURCES / name, newer / name, ignore=shutil.ignore_patterns("__pycache__"))
    version = newer / "guestagent" / "__init__.py"
    version.write_text(version.read_text().replace(f'"{__version__}"', '"99.0.0"'))
    # It writes whenever it is let on, until it is let go: as many lines as there were agents, and none twice.
    lines = 'until [ -f "$go" ]; do for f in "$go".*; do [ -f "$f" ] && cat "$f" && rm "$f"; done; sleep 0.1; done'
    life.want(make_package({"enable": f'echo first; {lines}; echo last; status success "survived"'}))
    life.until(lambda: life.calls("begin enable"), "enable to begin")
    (output,) = (life.root / "state").glob(f"guestagent/operations/{life.name}-*enable*/stdout")
    for number, sources in enumerate([None, newer, newer, None, newer]):
        life.kill_agent(signal.SIGKILL if number % 2 else signal.SIGTERM)
        part = life.go.with_name(f"{life.go.name}.part")
        part.write_text(f"while nobody looks {number}\n")
        part.rename(life.go.with_name(f"{life.go.name}.{number}"))
        life.until(lambda number=number: output.read_text().endswith(f"looks {number}\n"), f"line {number}")
        life.start_agent(sources)
        expected = "99.0.0" if sources else __version__
        life.until(
            lambda expected=expected: (life.agent_version(), life.handler().get("status")) == (expected, "Installing"),
            f"{expected} to tell of it",
        )
    life.go.touch()
    told = life.ready()
    assert told["runtimeSettingsStatus"]["settingsStatus"]["status"]["formattedMessage"]["message"] == "survived"
    assert life.calls("enable") == ["begin enable 1.0.0 seq=0", "end enable 1.0.0 seq=0"]
    whole = ["first", *(f"while nobody looks {number}" for number in range(5)), "last"]
    assert output.read_text().splitlines() == whole
    log = (life.root / f"log/azure/{life.name}/CommandExecution.log").read_text()
    assert "\n".join(whole) in log
    assert life.agent_version() == "99.0.0"
    life.kill_agent()


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
