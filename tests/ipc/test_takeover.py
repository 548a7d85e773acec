"""A lock held by a process that supervisord left behind: real supervisord, killed and started anew."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentctl.processes import Process, process, wait_until, with_environment
from ipc.places import Places

COMPONENT = """
import asyncio, logging, os, signal, sys
from ipc.component import Component
from ipc.places import Places
logging.basicConfig(level=logging.INFO)
places = Places.from_environment(os.environ)
async def main():
    async with Component("telemetry", "1", places) as component:
        await component.run()
if (places.run.parent / "forks").exists() and os.fork():
    signal.pause()
if (places.run.parent / "stubborn").exists():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    Component.run = lambda self: asyncio.sleep(999)
asyncio.run(main())
"""
CONFIGURATION = """
[unix_http_server]
file={run}/supervisor.sock
[supervisord]
logfile={run}/supervisord.log
pidfile={run}/supervisord.pid
nodaemon=true
[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
[program:telemetry]
command={python} -P {program}
startsecs=1
startretries=1
redirect_stderr=true
stdout_logfile={run}/log
"""


class Group:
    """supervisord with one component."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.places = Places.under(root)
        self.places.run.mkdir(mode=0o700, parents=True)
        program, self._configuration = root / "program.py", root / "supervisord.conf"
        program.write_text(COMPONENT)
        self._configuration.write_text(
            CONFIGURATION.format(run=self.places.run, python=sys.executable, program=program)
        )
        self.supervisord: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        return {**os.environ, "AZVMAGENT_ROOT": str(self.root), "AZVMAGENT_RUN": str(self.places.run)}

    def start(self, more: str = "") -> None:
        with self._configuration.open("a") as file:
            file.write(more)
        command = [sys.executable, "-m", "supervisor.supervisord", "-c", str(self._configuration)]
        self.supervisord = subprocess.Popen(command, env=self.environment, stdout=subprocess.DEVNULL)

    def holder(self) -> int:
        """Who holds the lock, by what it wrote there itself and by the parent it has; 0 if it is not ours."""
        assert self.supervisord
        children = Path(f"/proc/{self.supervisord.pid}/task/{self.supervisord.pid}/children").read_text().split()
        written = self.written()
        return written if str(written) in children and "runs" in self.said() else 0

    def written(self) -> int:
        lock = self.places.lock("telemetry")
        return int(lock.read_text() or 0) if lock.exists() else 0

    def said(self) -> str:
        log = self.places.run / "log"
        return log.read_text() if log.exists() else ""

    def up(self) -> Process:
        """Started, and the process that holds the lock."""
        self.start()
        assert wait_until(lambda: bool(self.holder()), 20), self.said()
        found = process(self.holder())
        assert found
        return found

    def kill_supervisord(self) -> None:
        assert self.supervisord
        self.supervisord.kill()
        self.supervisord.wait()

    def by_hand(self, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-P", str(self.root / "program.py")],
            env={**self.environment, **variables},
            capture_output=True,
            text=True,
            timeout=20,
        )


@pytest.fixture
def group(tmp_path: Path) -> Iterator[Group]:
    group = Group(tmp_path)
    yield group
    for one in with_environment("AZVMAGENT_ROOT", str(group.root)):
        one.signal(signal.SIGKILL)
    if group.supervisord:
        group.supervisord.wait()


def test_one_that_a_killed_supervisord_left_is_replaced(group: Group) -> None:
    before = group.up()
    group.kill_supervisord()
    assert before.alive()
    after = group.up()
    assert after != before
    assert wait_until(lambda: not before.alive(), 20)
    assert group.said().count(f"telemetry takes over from process {before.pid}") == 1
    assert "already running" not in group.said()


def test_one_that_does_not_end_is_killed(group: Group) -> None:
    (group.root / "stubborn").touch()
    group.start()
    assert wait_until(lambda: bool(group.written()), 20), group.said()
    before = process(group.written())
    assert before
    group.kill_supervisord()
    (group.root / "stubborn").unlink()
    assert group.up() != before
    assert wait_until(lambda: not before.alive(), 20)


def test_a_forked_child_whose_parent_is_gone_is_replaced(group: Group) -> None:
    (group.root / "forks").touch()
    group.start()
    assert wait_until(lambda: "runs" in group.said(), 20), group.said()
    before = process(group.written())
    assert before
    (group.root / "forks").unlink()
    assert not group.holder()
    os.kill(int(Path(f"/proc/{before.pid}/stat").read_text().rpartition(")")[2].split()[1]), signal.SIGKILL)
    assert wait_until(lambda: bool(group.holder()), 20), group.said()
    assert wait_until(lambda: not before.alive(), 20)


def test_who_is_started_by_hand_is_refused(group: Group) -> None:
    """Also an extension's command, which inherits supervisord's variables, and also beside an orphan."""
    before = group.up()
    words = {"SUPERVISOR_ENABLED": "1", "SUPERVISOR_PROCESS_NAME": "telemetry"}
    for variables in ({}, words):
        done = group.by_hand(**variables)
        assert f"telemetry is already running (pid {before.pid})" in done.stderr
    group.kill_supervisord()
    assert f"already running (pid {before.pid})" in group.by_hand(**words).stderr
    assert before.alive()


def test_two_children_of_one_supervisord_do_not_chase_each_other(group: Group) -> None:
    log = group.places.run / "twin"
    twin = f"[program:twin]\nprocess_name=telemetry\ncommand={sys.executable} -P {group.root / 'program.py'}\n"
    group.start(f"{twin}startsecs=1\nstartretries=1\nredirect_stderr=true\nstdout_logfile={log}\n")

    def said() -> str:
        return group.said() + (log.read_text() if log.exists() else "")

    assert wait_until(lambda: said().count("telemetry is already running") >= 2, 20), said()
    assert said().count("telemetry 1 runs") == 1
    assert "takes over" not in said()


@pytest.mark.parametrize("variables", [{}, {"AZVMAGENT_ROOT": "/another"}, {"SUPERVISOR_PROCESS_NAME": "netagent"}])
def test_who_was_not_supervisords_is_left_alone(group: Group, variables: dict[str, str]) -> None:
    """One started by hand, one of another root, another program."""
    words = {"SUPERVISOR_ENABLED": "1", "SUPERVISOR_PROCESS_NAME": "telemetry", **variables} if variables else {}
    holder = (
        "import fcntl, os, sys\nfile = open(sys.argv[1], 'a')\nfcntl.flock(file, fcntl.LOCK_EX)\n"
        "os.fork() and os._exit(0)\nprint(flush=True)\nsys.stdin.read()"
    )
    command = [sys.executable, "-c", holder, str(group.places.lock("telemetry"))]
    environment = {**group.environment, **words}
    with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout
        assert child.stdout.readline()
        group.start()
        assert wait_until(lambda: group.said().count("telemetry is already running") >= 2, 20), group.said()
        assert "takes over" not in group.said()
