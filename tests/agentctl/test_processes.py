"""Processes by identity, found by their environment, ended whatever state they are in."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agentctl.processes import Process, end, process, wait_until, with_environment

SLEEPER = """
import signal, sys
for name in sys.argv[1:]:
    signal.signal(getattr(signal, name), signal.SIG_IGN)
print("up", flush=True)
signal.pause()
"""


def sleeper(*ignored: str, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
    child = subprocess.Popen(
        [sys.executable, "-c", SLEEPER, *ignored],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **(environment or {})},
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "up\n"
    return child


def finish(child: subprocess.Popen[str]) -> None:
    child.kill()
    child.communicate()


def test_a_process_is_itself_until_it_ends(tmp_path: Path) -> None:
    child = sleeper()
    try:
        one = process(child.pid)
        assert one is not None
        assert one.alive()
        assert not Process(one.pid, one.start_ticks + 1).alive(), "another process with the same pid is not it"
    finally:
        finish(child)
    assert not one.alive()
    assert process(child.pid) is None


def test_a_name_full_of_parentheses_is_read(tmp_path: Path) -> None:
    strange = tmp_path / "a) R (b"
    strange.symlink_to("/bin/cat")
    child = subprocess.Popen([strange], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write("x\n")
        child.stdin.flush()
        child.stdout.readline()
        found = process(child.pid)
        assert found is not None
        assert found.start_ticks > 0
    finally:
        finish(child)


def test_only_processes_with_the_very_variable_are_found(tmp_path: Path) -> None:
    mine = sleeper(environment={"AZVMAGENT_ROOT": str(tmp_path)})
    other = sleeper(environment={"AZVMAGENT_ROOT": f"{tmp_path}/deeper"})
    try:
        assert {one.pid for one in with_environment("AZVMAGENT_ROOT", str(tmp_path))} == {mine.pid}
    finally:
        finish(mine)
        finish(other)


@pytest.mark.parametrize("state", ["willing", "deaf", "stopped"])
def test_end_ends_the_willing_the_deaf_and_the_stopped(state: str) -> None:
    child = sleeper(*(["SIGTERM"] if state == "deaf" else []))
    if state == "stopped":
        os.kill(child.pid, signal.SIGSTOP)
        # Until it really has stopped, a SIGTERM would overtake.
        assert wait_until(lambda: Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T", 10)
    one = process(child.pid)
    assert one is not None
    end([one], 0.5)
    assert not one.alive()
    finish(child)
    assert child.returncode == (-signal.SIGTERM if state == "willing" else -signal.SIGKILL)


def test_wait_until_gives_up() -> None:
    assert wait_until(lambda: True, 0)
    assert not wait_until(lambda: False, 0.05)
