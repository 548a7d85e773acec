"""What README.md and docs/updates.md have people do by hand."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

from agentctl.deployment import Deployment
from ipc.supervisord import Supervisord
from tests.release.product import CHECKOUT


def test_the_keys_it_has_people_make_are_not_taken_by_git() -> None:
    made = re.findall(r"agentctl package keygen (\S+)", (CHECKOUT / "README.md").read_text())
    assert made
    for key in made:
        for name in (key, f"{key}.pub"):
            subprocess.run(["git", "check-ignore", "--quiet", name], cwd=CHECKOUT, check=True)


def test_the_way_to_stop_a_watchdog_by_hand(mute: tuple[Deployment, int]) -> None:
    deployment, _ = mute
    page = (CHECKOUT / "docs" / "updates.md").read_text()
    (command,) = re.findall(r"^\$ (.*supervisorctl.*?)\s+# in a checkout$", page, re.MULTILINE)
    command = command.replace("$PWD/.azvmagent", shlex.quote(str(deployment.root)))
    command = command.replace(".venv/bin", shlex.quote(str(Path(sys.executable).parent)))
    done = subprocess.run(["/bin/sh", "-c", command], cwd=CHECKOUT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "watchdog: stopped\n"), done
    states = {one.name: one.statename for one in Supervisord(deployment.places).programs()}
    assert (states["watchdog"], states["guestagent"]) == ("STOPPED", "RUNNING")
