"""A user who may not enter the folder of sockets is told so at once, whatever he asks."""

import os
import pwd
import subprocess
import sys
from pathlib import Path

import pytest

from ipc.places import Places

COMMANDS = (
    "status",
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
