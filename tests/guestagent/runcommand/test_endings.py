"""Time limits and cancels end everything a script started, wherever it hid; nobody else is touched."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from guestagent.runcommand.processes import MARK, Process, descendants, left_of, process

# Children in the script's group, in groups and sessions of their own, orphaned, deaf to SIGTERM, and stopped.
BROOD = """#!/bin/bash
sleep 600 & echo $! >> pids
setsid sleep 600 & echo $! >> pids
(setsid setsid bash -c 'echo $$ >> pids; exec sleep 600' &)
setsid bash -c 'trap "" TERM; echo $$ >> pids; while :; do sleep 600; done' &
python3 -c 'import os,sys,time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        print(os.getpid(), file=open("pids", "a"))
        time.sleep(600)
    os._exit(0)'
(env -i PATH=$PATH setsid bash -c 'echo $$ >> pids; kill -STOP $$; sleep 600' &)
while [ "$(wc -l < pids)" -lt 6 ]; do sleep 0.05; done
echo up
exec sleep 600
"""


def brood(managed: Any, number: int = 0, name: str = "job") -> list[Process]:
    """All of them, alive."""
    found = [process(int(pid)) for pid in (managed.place(number, name).work / "pids").read_text().split()]
    assert len(found) == 6
    assert None not in found
    return [one for one in found if one is not None]


def test_the_time_limit_ends_all_of_it(managed: Any, script: Any, until: Callable[..., Any]) -> None:
    managed.enable(script(BROOD, timeoutInSeconds=6))
    managed.started()
    children = brood(managed)
    managed.ended()
    view = managed.view()
    assert (view["executionState"], view["exitCode"], view["output"]) == ("TimedOut", -1, "up\n")
    assert "timeoutInSeconds (6)" in view["executionMessage"]
    assert managed.status()["status"] == "success"
    assert not [one for one in children if one.alive()]


def test_a_time_limit_that_is_a_deployment_failure(managed: Any, script: Any) -> None:
    managed.enable(script("exec sleep 600", timeoutInSeconds=1, treatFailureAsDeploymentFailure=True))
    assert managed.ended()["status"] == "error"


def test_disable_cancels_all_of_it(managed: Any, script: Any) -> None:
    managed.enable(script(BROOD))
    managed.started()
    children = brood(managed)
    assert managed.command("disable").returncode == 0
    view = managed.view()
    assert (view["executionState"], view["exitCode"], view["output"]) == ("Canceled", -1, "up\n")
    assert not [one for one in children if one.alive()]


def test_a_new_number_ends_the_run_before_it_and_no_other(managed: Any, script: Any) -> None:
    managed.enable(script(BROOD))
    managed.enable(script("mkfifo fifo; echo up; read x < fifo"), name="other")
    managed.started()
    managed.started(name="other")
    children = brood(managed)
    managed.run(script("echo second"), number=1)
    assert not [one for one in children if one.alive()]
    assert managed.view()["executionState"] == "Canceled"
    assert managed.record(name="other").worker.alive()
    (managed.place(name="other").work / "fifo").write_text("\n")
    managed.ended(name="other")
    assert managed.view(name="other")["executionState"] == "Succeeded"


def test_what_a_killed_worker_left_is_ended_by_the_next_run(managed: Any, script: Any) -> None:
    """All but the one that threw the mark away and left the session: nobody can know any more whose it is."""
    managed.enable(script(BROOD))
    record = managed.started()
    children = brood(managed)
    os.kill(record.worker.pid, signal.SIGKILL)
    assert record.worker.wait(30)
    managed.run(script("true"), number=1)
    left = [one for one in children if one.alive()]
    assert len(left) <= 1
    for one in left:
        assert MARK.encode() not in Path(f"/proc/{one.pid}/environ").read_bytes()
        one.signal(signal.SIGKILL)


def test_what_threw_the_mark_away_is_found_by_its_session(managed: Any, script: Any) -> None:
    managed.enable(script("env -i /bin/sleep 600 & echo $! > pid; echo up; exec sleep 600"))
    record = managed.started()
    bare = process(int((managed.place().work / "pid").read_text()))
    assert bare is not None
    os.kill(record.worker.pid, signal.SIGKILL)
    assert record.worker.wait(30)
    managed.run(script("true"), number=1)
    assert not bare.alive()


def test_a_script_that_tidies_up_on_sigterm_is_given_the_time(managed: Any, script: Any) -> None:
    managed.enable(script("trap 'echo tidy; exit 0' TERM; echo up; while :; do sleep 0.1; done"))
    managed.started()
    managed.command("disable")
    assert managed.view()["output"] == "up\ntidy\n"
    assert managed.view()["executionState"] == "Canceled"


def test_a_script_that_starts_itself_over_and_over_is_ended(managed: Any, script: Any) -> None:
    again = 'trap "" TERM; for i in 1 2 3; do sleep 5; done'
    loop = f"trap '' TERM; echo up; while :; do setsid bash -c '{again}' & sleep 0.05; done"
    managed.enable(script(loop, timeoutInSeconds=1))
    record = managed.started()
    managed.ended()
    assert managed.view()["executionState"] == "TimedOut"
    assert not left_of(record.mark, 0)


def test_a_cancel_while_it_still_prepares(managed: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        managed.enable({"source": {"scriptUri": f"http://127.0.0.1:{silent.getsockname()[1]}/s.sh"}})
        connection, _ = silent.accept()
        with connection:
            assert managed.command("disable").returncode == 0
    assert managed.view()["executionState"] == "Canceled"
    assert "before the script began" in managed.view()["executionMessage"]
    assert not managed.record().started


def test_a_stopped_worker_is_ended_all_the_same(managed: Any, script: Any) -> None:
    """SIGSTOP takes every signal but one away from it; its script must not outlive the cancel."""
    managed.enable(script("echo up; exec sleep 600"))
    record = managed.started()
    record.worker.signal(signal.SIGSTOP)
    code = (
        "import sys; from pathlib import Path\n"
        "from guestagent.runcommand.cancel import cancel\n"
        "from guestagent.runcommand.place import own_place\n"
        "cancel(own_place(Path(sys.argv[1]), {'ConfigExtensionName': 'job'}), patience=0.5)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(managed.folder.path)], check=True, timeout=60)
    assert not record.worker.alive()
    assert not record.script.alive()
    assert managed.view()["executionState"] == "Failed"


def test_uninstall_ends_everything_and_keeps_the_outputs(managed: Any, script: Any) -> None:
    for name in ("a", "b"):
        managed.enable(script("echo up; exec sleep 600"), name=name)
    records = [managed.started(name=name) for name in ("a", "b")]
    # Without a name, as the agent calls it when the whole handler goes (protocol: multi-config specifics).
    assert managed.command("disable", name="").returncode == 0
    assert managed.command("uninstall", name="").returncode == 0
    assert not [one for one in records if one.worker.alive() or one.script.alive()]
    assert not managed.place().data.exists()
    assert managed.place(name="a").stdout.read_text() == "up\n"


def test_only_real_descendants_are_found_and_ended(tmp_path: Path) -> None:
    bystander = subprocess.Popen(["sleep", "600"], start_new_session=True)
    code = (
        "import os, subprocess, sys\n"
        "from guestagent.runcommand.processes import adopt_orphans, descendants, end_all\n"
        "adopt_orphans()\n"
        "subprocess.run(['sh', '-c', 'setsid sleep 600 & echo $!'])\n"
        "def reap():\n"
        "    try:\n"
        "        os.waitpid(-1, os.WNOHANG)\n"
        "    except ChildProcessError:\n"
        "        pass\n"
        "assert len(descendants(os.getpid())) == 1\n"
        "assert end_all(lambda: descendants(os.getpid()), 5.0, reap)\n"
        "print('all ended')\n"
    )
    try:
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
        assert done.stdout.endswith("all ended\n"), done.stderr
        assert not Path(f"/proc/{done.stdout.split()[0]}").exists()
        assert bystander.poll() is None
        assert bystander.pid in descendants(os.getpid())
        assert left_of("no such mark", 0) == set()
    finally:
        bystander.kill()
        bystander.wait()


def test_a_process_is_itself_until_it_ends() -> None:
    child = subprocess.Popen(["sleep", "600"])
    one = process(child.pid)
    assert one is not None
    assert one.alive()
    assert not Process(one.pid, one.start_ticks + 1, one.boot).alive()
    assert not Process(one.pid, one.start_ticks, "another boot").alive()
    assert not one.wait(0.01)
    child.kill()
    assert one.wait(30)
    child.wait()
    assert not one.alive()
    assert process(child.pid) is None


@pytest.mark.parametrize("verb", ["enable", "uninstall"])
def test_without_its_environment_file_a_command_fails_with_the_reason(managed: Any, verb: str) -> None:
    (managed.folder.path / "HandlerEnvironment.json").unlink()
    done = managed.command(verb)
    assert done.returncode == 3
    assert "HandlerEnvironment.json cannot be read" in done.stderr


@pytest.mark.parametrize(
    "environment", [{"ConfigSequenceNumber": "-1"}, {"ConfigSequenceNumber": "x"}, {"ConfigExtensionName": "../x"}]
)
def test_hostile_variables_are_refused(managed: Any, environment: dict[str, str]) -> None:
    done = managed.command("enable", **environment)
    assert done.returncode == 3
    assert "Config" in done.stderr
    assert not (managed.folder.path.parent / "x.mrseq").exists()


def test_a_wrong_verb_is_told() -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "guestagent.runcommand", "fly"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "install|enable|disable|update|uninstall" in done.stderr
