"""`agentctl run` against a real guestagent: live output, exit status, Ctrl-C, cancel, an agent that comes and goes."""

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agentctl.processes import end, process, with_environment
from agentctl.run import CANCELED, TIMED_OUT, Follower, exit_status, made_up_name
from ipc.bus import Bus
from ipc.contract.every import Describe
from ipc.contract.guestagent import RUN_SCRIPT_LIMIT, RunView
from ipc.errors import NoAnswer
from ipc.places import Places

PATIENCE = 60.0


class Agent:
    """guestagent alone, with a host that nobody hears of."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "azvmagent.toml").write_text('[host]\nwireserver = "http://127.0.0.1:9"\n')
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        with (self.root / "guestagent.out").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "guestagent"],
                env={**os.environ, "AZVMAGENT_ROOT": str(self.root)},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until_true((self.root / "run" / "guestagent.requests").exists, "guestagent to listen")

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait(30)

    def restart(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(PATIENCE)
        self.start()

    def answers(self) -> bool:
        async def once() -> bool:
            bus = Bus(Places.under(self.root), "test", "1")
            try:
                return (await bus.ask(Describe(), to="guestagent", within=1.0)).component == "guestagent"
            except NoAnswer:
                return False
            finally:
                bus.close()

        return asyncio.run(once())

    def end(self) -> None:
        assert self._process is not None
        self._process.terminate()
        self._process.wait(30)
        # What a test that failed left running.
        end(with_environment("AZVMAGENT_ROOT", str(self.root)), 5.0)

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-P", "-m", "agentctl", "run", "--root", str(self.root), *arguments]

    def run(self, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(self.command(*arguments), input=stdin, capture_output=True, timeout=PATIENCE)

    def begin(self, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self.command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def look(self, name: str) -> dict[str, Any]:
        done = self.run("--attach", name, "--no-follow", "--json")
        found: dict[str, Any] = json.loads(done.stdout) if done.returncode == 0 else {}
        return found


def until_true(condition: Callable[[], Any], what: str) -> Any:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if value := condition():
            return value
        time.sleep(0.02)
    pytest.fail(f"waited {PATIENCE:g} s for {what}")


def lines(child: subprocess.Popen[bytes], count: int) -> list[bytes]:
    assert child.stdout is not None
    return [child.stdout.readline() for _ in range(count)]


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    one = Agent(tmp_path_factory.mktemp("r"))
    yield one
    one.end()


def test_output_and_exit_status_are_the_script_s(agent: Agent) -> None:
    done = agent.run("--command", "printf 'out\\xff\\n'; echo err >&2; exit 7")
    assert (done.returncode, done.stdout) == (7, b"out\xff\n")
    assert done.stderr.startswith(b"err\n")
    assert b"exit status=7" in done.stderr


def test_a_script_with_arguments_variables_and_a_name(agent: Agent, tmp_path: Path) -> None:
    file = tmp_path / "greet.sh"
    file.write_text('#!/bin/sh\necho "$WHO|$1|$2"\n')
    done = agent.run(str(file), "a b", "-p", "WHO=x=y", "--name", "greet", "--", "-n")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"x=y|a b|-n\n", b"")
    assert agent.look("greet")["state"] == "Succeeded"


@pytest.mark.parametrize("size", [10, RUN_SCRIPT_LIMIT + 10])
@pytest.mark.parametrize("how", ["file", "stdin"])
def test_scripts_of_any_size_travel(agent: Agent, tmp_path: Path, size: int, how: str) -> None:
    text = b"#!/bin/sh\necho began\n" + b"#" * size + b"\necho ended\n"
    file = tmp_path / "big"
    file.write_bytes(text)
    done = agent.run(str(file) if how == "file" else "-", stdin=text if how == "stdin" else b"")
    assert (done.returncode, done.stdout) == (0, b"began\nended\n"), done.stderr
    assert [path.name for path in (agent.root / "run").glob("script-*")] == []


def test_a_program_is_run_as_it_is(agent: Agent, tmp_path: Path) -> None:
    done = agent.run("/bin/echo", "a", "--", "--help-not")
    assert (done.returncode, done.stdout) == (0, b"a --help-not\n"), done.stderr


def test_output_comes_while_it_runs(agent: Agent, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    child = agent.begin("--command", f"echo first; read x < {fifo}; echo $x")
    assert lines(child, 1) == [b"first\n"]
    fifo.write_text("second\n")
    assert lines(child, 1) == [b"second\n"]
    assert child.wait(PATIENCE) == 0
    child.communicate()


def test_ctrl_c_leaves_it_running_and_says_how_to_go_on(agent: Agent, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    child = agent.begin("--name", "left", "--command", f"echo first; read x < {fifo}; echo $x; exit 3")
    lines(child, 1)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=PATIENCE)
    assert child.returncode == 130
    assert b"left goes on" in said
    assert f"agentctl run --attach left --root {agent.root}".encode() in said
    assert f"agentctl run --cancel left --root {agent.root}".encode() in said
    assert agent.look("left")["state"] == "Running"
    again = agent.begin("--attach", "left")
    assert lines(again, 1) == [b"first\n"], "from its beginning"
    fifo.write_text("second\n")
    out, _ = again.communicate(timeout=PATIENCE)
    assert (again.returncode, out) == (3, b"second\n")


def test_cancel_ends_all_of_it(agent: Agent) -> None:
    child = agent.begin("--name", "endless", "--command", "setsid sleep 600 & echo $!; exec sleep 600")
    pid = int(lines(child, 1)[0])
    done = agent.run("--cancel", "endless")
    assert (done.returncode, done.stdout) == (0, b"endless: Canceled. Execution was canceled\n")
    child.communicate(timeout=PATIENCE)
    assert child.returncode == CANCELED
    assert process(pid) is None


def test_the_time_limit_is_exit_status_124(agent: Agent) -> None:
    done = agent.run("--timeout", "1", "--command", "echo up; exec sleep 600")
    assert (done.returncode, done.stdout) == (TIMED_OUT, b"up\n")


def test_a_killed_and_restarted_agent_costs_the_follower_nothing(agent: Agent, tmp_path: Path) -> None:
    """Exactly one run, its output whole, its exit status told, though the agent was away when it ended."""
    fifo, count = tmp_path / "fifo", tmp_path / "count"
    os.mkfifo(fifo)
    text = f"echo x >> {count}; echo up; read x < {fifo}; echo $x; exit 5"
    child = agent.begin("--name", "through", "--command", text)
    lines(child, 1)
    agent.kill()
    fifo.write_text("meanwhile\n")
    assert lines(child, 1) == [b"meanwhile\n"], "while nobody answers"
    agent.start()
    child.communicate(timeout=PATIENCE)
    assert child.returncode == 5
    assert count.read_text() == "x\n"
    assert agent.look("through")["exit_code"] == 5


def test_a_killed_worker_is_an_interrupted_run(agent: Agent) -> None:
    child = agent.begin("--name", "orphan", "--command", "echo up; exec sleep 600")
    lines(child, 1)
    view = until_true(lambda: agent.look("orphan").get("pid"), "the run to have a pid")
    worker = int(Path(f"/proc/{view}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(worker, signal.SIGKILL)
    _, said = child.communicate(timeout=PATIENCE)
    assert child.returncode == 1
    assert b"interrupted" in said
    seen = agent.look("orphan")
    assert (seen["state"], seen["interrupted"], seen["output"]) == ("Failed", True, "up\n")
    agent.run("--cancel", "orphan")
    assert process(view) is None


def test_a_new_run_of_a_name_ends_the_one_before(agent: Agent) -> None:
    first = agent.begin("--name", "same", "--command", "echo up; exec sleep 600")
    lines(first, 1)
    done = agent.run("--name", "same", "--command", "echo second")
    assert done.stdout == b"second\n"
    first.communicate(timeout=PATIENCE)
    assert first.returncode == CANCELED


def test_runs_of_different_names_go_side_by_side(agent: Agent, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    waiting = agent.begin("--command", f"echo up; read x < {fifo}; echo done")
    lines(waiting, 1)
    assert agent.run("--command", "echo quick").stdout == b"quick\n"
    fifo.write_text("\n")
    assert waiting.communicate(timeout=PATIENCE)[0] == b"done\n"
    assert waiting.returncode == 0


def test_somebody_who_has_seen_enough_ends_the_follower_only(agent: Agent) -> None:
    child = agent.begin("--name", "much", "--command", "while echo line; do sleep 0.01; done")
    lines(child, 1)
    assert child.stdout is not None
    child.stdout.close()
    assert child.wait(PATIENCE) == 141
    assert child.stderr is not None
    child.stderr.close()
    assert agent.look("much")["state"] == "Running"
    agent.run("--cancel", "much")


def test_for_programs_there_is_json(agent: Agent) -> None:
    done = agent.run("--name", "json", "--json", "--command", "echo out; exit 4")
    view = json.loads(done.stdout)
    assert done.returncode == 4
    assert (view["name"], view["state"], view["exit_code"], view["output"]) == ("json", "Failed", 4, "out\n")
    assert Path(view["stdout"]).read_text() == "out\n"


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        ((), 2, b"say one of"),
        (("--command", "x", "--cancel", "y"), 2, b"say one of"),
        (("/nonexistent/script",), 2, b"cannot be read"),
        (("--command", "x", "-p", "novalue"), 2, b"NAME=VALUE"),
        (("--command", "x", "--name", "a/b"), 1, b"cannot be the name of a run"),
        (("--command", "x", "--as", "nobody-of-that-name"), 1, b"looks like the user does not exist"),
        (("--attach", "never-was"), 1, b"there is no run called 'never-was'"),
        (("--cancel", "never-was"), 1, b"there is no run called 'never-was'"),
        (("--command", "x", "--timeout", "0"), 2, b"timeout"),
        (("-",), 2, b"the script is empty"),
        (("/etc",), 2, b"cannot be read"),
    ],
)
def test_what_cannot_be_is_said(agent: Agent, arguments: tuple[str, ...], status: int, said: bytes) -> None:
    done = agent.run(*arguments)
    assert done.returncode == status
    assert said in done.stderr


def test_without_an_agent_it_is_exit_status_3_with_the_command_that_starts_one(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "agentctl", "run", "--command", "true", "--root", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, timeout=PATIENCE)
    assert done.returncode == 3
    assert f"agentctl up --root {tmp_path}".encode() in done.stderr


@pytest.mark.parametrize(
    ("state", "code", "interrupted", "wanted"),
    [
        ("Succeeded", 0, False, 0),
        ("Failed", 255, False, 255),
        ("Failed", -202, False, 1),
        ("Failed", None, False, 1),
        ("Failed", 256, False, 1),
        ("Failed", 0, True, 1),
        ("TimedOut", -1, False, TIMED_OUT),
        ("Canceled", -1, False, CANCELED),
        ("Unknown", 0, False, 0),
    ],
)
def test_exit_status(state: str, code: int | None, interrupted: bool, wanted: int) -> None:
    view = RunView(name="x", sequence_number=0, state=state, exit_code=code, interrupted=interrupted)
    assert exit_status(view) == wanted


@pytest.mark.parametrize(
    ("script", "stem"),
    [("", "command"), ("-", "stdin"), ("/a/back up.sh", "back_up"), ("...", "script"), ("ü" * 90, "_")],
)
def test_names_made_up(script: str, stem: str) -> None:
    name = made_up_name(script)
    assert name.startswith(stem)
    assert len(name) < 60
    assert made_up_name(script) != name
    assert name.isascii()


def test_a_file_that_shrinks_is_read_from_its_beginning(tmp_path: Path) -> None:
    source, sink, nothing = tmp_path / "out", tmp_path / "sink", tmp_path / "nothing"
    with sink.open("wb") as out, nothing.open("wb") as err:
        follower = Follower(str(source), str(tmp_path / "none"), out, err)
        follower.copy()
        source.write_bytes(b"long text")
        follower.copy()
        source.write_bytes(b"new")
        follower.copy()
        follower.copy()
    assert sink.read_bytes() == b"long textnew"


def test_views_of_a_newer_agent_are_read(agent: Agent) -> None:
    """A state nobody knows yet is an end, not a reason to wait for ever."""
    view = msgspec.convert({"name": "x", "sequence_number": 0, "state": "Hibernated", "new": 1}, RunView)
    assert exit_status(view) == 1


MOMENTS = {
    "written down": "state/guestagent/localrun/*/config/{name}.*.settings",
    "accepted": "state/guestagent/localrun/run-command-handler/runs/{name}.*.json",
}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("moment", MOMENTS)
def test_an_agent_that_ends_while_a_run_is_begun_has_it_begun_once(agent: Agent, moment: str, number: int) -> None:
    name = f"{moment[:3]}-{number:d}"
    counted = agent.root / f"{name}.counted"
    for again in range(2):  # a name that was used before, too
        pattern = MOMENTS[moment].format(name=name).replace(".*.", f".{again}.")
        child = agent.begin("--name", name, "--command", f"echo once >> {counted}")
        until_true(partial(lambda found: list(agent.root.glob(found)), pattern), moment)
        agent.restart(number)
        _, said = child.communicate(timeout=PATIENCE)
        assert child.returncode == 0, said
        assert counted.read_text() == "once\n" * (again + 1)


def test_a_stream_of_runs_while_the_agent_is_killed_again_and_again(agent: Agent) -> None:
    counted = agent.root / "stream.counted"
    waiting = [f"stream-{number}" for number in range(8)]
    names, bad = list(waiting), []

    def work() -> None:
        while waiting:
            name = waiting.pop()
            done = agent.run("--name", name, "--command", f"echo {name} >> {counted}")
            if done.returncode != 0:
                bad.append((name, done.returncode, done.stderr))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for one in threads:
        one.start()
    ends = itertools.cycle([signal.SIGKILL, signal.SIGTERM])
    while any(one.is_alive() for one in threads):
        # As long as a start of it takes, and a little more each time: it is hit at another place.
        until_true(lambda: agent.answers() or not any(one.is_alive() for one in threads), "guestagent")
        next((one for one in threads if one.is_alive()), threads[0]).join(0.4 + 0.05 * len(waiting))
        agent.restart(next(ends))
    assert bad == []
    assert sorted(counted.read_text().split()) == sorted(names)
