"""A user who may not enter the folder of sockets is told so at once, whatever he asks."""

import os
import pwd
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipc.places import Places

COMMANDS = (
    "status",
    "down",
    "restart telemetry",
    "update status",
    "update plan",
    "update now",
    "update unblock telemetry",
    "update rollback telemetry",
    "bundle import bundle.zip",
    "net show",
    "ext list",
    "run --command true",
    "run --cancel some",
)


def agentctl(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """As somebody who is not above permissions."""
    powerless = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
    command = [*powerless, sys.executable, "-m", "agentctl", *words, "--root", str(root)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture
def closed(tmp_path: Path) -> Path:
    run = Places.under(tmp_path).run
    run.mkdir(mode=0o700)
    if os.geteuid() == 0:
        os.chown(run, 65534, 65534)
    else:
        run.chmod(0)
    return tmp_path


@pytest.mark.parametrize("words", COMMANDS)
def test_who_may_not_ask_is_told_at_once(closed: Path, words: str) -> None:
    found = agentctl(closed, *words.split())
    run = Places.under(closed).run
    owner = pwd.getpwuid(run.stat().st_uid).pw_name
    assert found.returncode == 1, found.stderr
    assert found.stderr == f"agentctl: permission denied on {run}: run it as {owner}\n"


def test_a_closed_folder_on_the_way_is_no_absent_agent(tmp_path: Path) -> None:
    closed, root = tmp_path / "closed", tmp_path / "closed" / "root"
    run = Places.under(root).run
    run.mkdir(parents=True)
    if os.geteuid() == 0:
        os.chown(closed, 65534, 65534)
    closed.chmod(0o700 if os.geteuid() == 0 else 0)
    try:
        found = agentctl(root, "update", "status")
    finally:
        closed.chmod(0o700)
    owner = pwd.getpwuid(closed.stat().st_uid).pw_name
    assert found.stderr == f"agentctl: permission denied on {run}: run it as {owner}\n"
    assert found.returncode == 1


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder whose path leaves room for the names of sockets."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@pytest.mark.parametrize("root", ["/proc/x", "/dev/null", "/dev/null/x", "plain/x", "closed/x"])
@pytest.mark.parametrize("words", ["up --detach", "bundle export --out nowhere.zip"])
def test_a_root_that_cannot_be_is_told_in_a_line(short: Path, root: str, words: str) -> None:
    (short / "plain").touch()
    closed = short / "closed"
    closed.mkdir()
    if os.geteuid() == 0:
        os.chown(closed, 65534, 65534)
    closed.chmod(0o700 if os.geteuid() == 0 else 0)
    try:
        found = agentctl(short / root, *words.split())
    finally:
        closed.chmod(0o700)
    assert found.returncode in {1, 2}, found.stderr
    assert found.stderr.startswith("agentctl: "), found.stderr
    assert len(found.stderr.splitlines()) == 1
    if words.startswith("up"):
        assert "choose another folder (--root DIR)" in found.stderr


def test_a_host_of_somebody_else_is_told_in_a_line(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir()
    if os.geteuid() == 0:
        os.chown(closed, 65534, 65534)
    closed.chmod(0o700 if os.geteuid() == 0 else 0)
    powerless = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
    try:
        command = [*powerless, sys.executable, "-m", "fabric", "told", "--root", str(closed / "x")]
        found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    finally:
        closed.chmod(0o700)
    assert found.returncode == 3
    assert found.stderr == f"azfabric: {closed}/x cannot be looked at: Permission denied. Run it as its owner\n"


def test_a_process_of_somebody_else_is_not_ended(tmp_path: Path) -> None:
    code = "import signal, sys; from agentctl import processes as p; p.process(int(sys.argv[1])).signal(signal.SIGURG)"
    powerless = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
    # Nobody but root may signal the first process; root without its powers not even one of another user.
    other = ["setpriv", "--reuid=65534", "--clear-groups", "cat"] if os.geteuid() == 0 else ["cat"]
    with subprocess.Popen(other, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write("there\n")
        child.stdin.flush()
        child.stdout.readline()
        pid = child.pid if os.geteuid() == 0 else 1
        command = [*powerless, sys.executable, "-c", code, str(pid)]
        found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        child.stdin.close()
    last = found.stderr.splitlines()[-1]
    assert last.startswith(f"agentctl.errors.CommandError: process {pid} cannot be ended: Operation not permitted. ")
