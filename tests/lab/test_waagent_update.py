"""A newer agent in our repository, and Debian's unmodified agent as the judge: it must find it, fetch it, run it."""

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.reference import Vm, reference_agent

pytestmark = pytest.mark.timeout(300)

NEWER = "9.9.9.9"

_SETTINGS = (
    "AutoUpdate.Enabled=y",
    "Autoupdate.Frequency=1",
    "Debug.AutoUpdateNormalFrequency=1",
    "Debug.EnableGAVersioning=y",
)
"""It looks each second, takes what it finds, and says what became of a version that was asked for."""

_ENTRY = f"""\
from azurelinuxagent.common import version

version.AGENT_VERSION = "{NEWER}"

from azurelinuxagent.agent import main

main()
"""


def newer_agent() -> bytes:
    """The same agent once more, with another version built in."""
    command = "python -u bin/agent.py -run-exthandlers"
    manifest = {
        "name": "WALinuxAgent",
        "version": 1.0,
        "handlerManifest": {
            **{f"{word}Command": "" for word in ("install", "uninstall", "update", "disable")},
            "enableCommand": command,
            "rebootAfterInstall": False,
            "reportHeartbeat": False,
        },
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("HandlerManifest.json", json.dumps([manifest]))
        archive.writestr("bin/agent.py", _ENTRY)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def vm(folder: Path) -> Iterator[Vm]:
    with reference_agent(folder, *_SETTINGS) as one:
        yield one


def component(told: dict[str, Any]) -> dict[str, Any]:
    (found,) = told["components"]
    assert isinstance(found, dict)
    return found


def test_it_runs_the_version_that_is_asked_for_once_it_gets_it(vm: Vm, tmp_path: Path) -> None:
    told = vm.until(lambda told: told["ready"] and told["status"], "Ready, and a status blob")
    before = told["status"]["aggregateStatus"]["guestAgentStatus"]["version"]
    assert before != NEWER
    # The manifest is the one from before: what is asked for does not run. (An error this agent does not survive on
    # newer Pythons: it fails to write it down.)
    vm.ordered("fault", "add", "agentmanifest", "replayed")
    vm.ordered("fault", "add", "agentpackage", "status", "--value", "404")
    package = tmp_path / f"WALinuxAgent-{NEWER}.zip"
    package.write_bytes(newer_agent())
    vm.ordered("family", "publish", "Prod", str(package))
    vm.ordered("want", "Prod", NEWER)
    asked = vm.told()["requests"].get("agentmanifest", 0)
    reported = vm.told()["status_count"]
    told = vm.until(
        lambda told: told["requests"].get("agentmanifest", 0) > asked and told["status_count"] > reported + 1,
        "the agent to have asked for the manifest, and to have reported",
    )
    assert component(told)["state"] != "running"
    assert component(told)["reported"] == before
    # Now it is there, but for direct downloads.
    vm.ordered("fault", "lift", "1")
    told = vm.until(lambda told: component(told)["state"] == "running", f"the agent to run {NEWER}")
    assert told["status"]["aggregateStatus"]["guestAgentStatus"]["updateStatus"]["status"] == "Success"
    assert told["requests"]["agentartifact"] > 0
    assert re.search(rf"Agent WALinuxAgent-{NEWER} is running as the goal state agent", vm.agent_log())
    assert NEWER in vm.ordered("want", "--list")
    # It is told no more, and goes on.
    vm.ordered("want", "--clear")
    count = vm.told()["status_count"]
    told = vm.until(lambda told: told["status_count"] > count + 2, "more reports")
    agent = told["status"]["aggregateStatus"]["guestAgentStatus"]
    assert (agent["version"], agent.get("updateStatus")) == (NEWER, None)
