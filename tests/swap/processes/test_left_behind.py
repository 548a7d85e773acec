"""Processes that supervisord does not run, beside those that it does: of an earlier one, or forked by a version."""

import os
import re
import signal
import subprocess
import sys

import pytest

from agentctl.processes import process
from ipc.places import COMPONENTS
from ipc.supervisord import SupervisordError
from tests.swap.processes.conftest import Shop
from tests.swap.processes.product import BASE, Root

pytestmark = pytest.mark.timeout(300)


def supervisord_is_gone(root: Root) -> bool:
    try:
        root.supervisord.pid()
    except SupervisordError:
        return True
    return False


def start_supervisord(root: Root) -> None:
    """As systemd does it: nobody looks whether the four are there. In a process of its own, so that it is not ours."""
    code = (
        "import pathlib, sys; from agentctl import deployment, group; "
        "group.start_supervisord(deployment.choose(pathlib.Path(sys.argv[1])))"
    )
    subprocess.run([sys.executable, "-P", "-c", code, str(root.folder)], check=True, timeout=60)


def test_the_next_supervisord_runs_the_four_and_no_version_is_to_blame(root: Root, shop: Shop) -> None:
    root.publish(shop("telemetry", "7.1.0"))
    root.update("telemetry", "7.1.0")
    before = root.pids()
    os.kill(root.supervisord.pid(), signal.SIGKILL)
    root.until(lambda: supervisord_is_gone(root), "supervisord to be gone")
    assert {name: one.pid for name in COMPONENTS if (one := root.described(name))} == before
    start_supervisord(root)

    def answer() -> bool:
        return {name: one.pid for name in COMPONENTS if (one := root.described(name))} == root.pids()

    root.until(lambda: not set(before.values()) & set(root.pids().values()) and answer(), "the four to be its own", 30)
    assert not any(process(one) for one in before.values())
    assert root.version("telemetry") == "7.1.0"
    assert not any(root.bad(name) for name in COMPONENTS)
    logs = "".join(path.read_text(errors="replace") for path in root.places.log.glob("*.log"))
    assert sorted(map(int, re.findall(r"takes over from process (\d+)", logs))) == sorted(before.values())
    # And the next update is judged by its own process.
    root.publish(shop("telemetry", "7.2.0"))
    root.update("telemetry", "7.2.0")


def test_a_version_that_forks_is_not_taken(root: Root, shop: Shop) -> None:
    forks = shop("telemetry", "7.9.0", {"__main__.py": "import os, signal\nif os.fork():\n    signal.pause()"})
    root.publish(forks)
    good = root.version("telemetry")
    reason = root.fails("telemetry", "7.9.0", good)
    assert re.search(r"process \d+ answers, supervisord runs \d+: not the version on trial", reason)
    found = root.described("telemetry")
    assert found
    assert found.pid == root.pids()["telemetry"]
    assert good == BASE or good not in root.bad("telemetry")
