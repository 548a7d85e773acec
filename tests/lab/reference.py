"""Debian's unmodified agent in a VM of the lab, and the host's commands beside it."""

import json
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from fabric.lab.control import Lab
from tests.lab.conftest import TestedLab

HERE = Path(__file__).parent
CACHE = HERE.parent.parent / ".cache" / "waagent"
PATIENCE = 90.0


class Vm:
    """A VM of the lab, and the host's commands."""

    def __init__(self, lab: TestedLab, log: Path) -> None:
        self.lab = lab
        self._log = log

    def agent_log(self) -> str:
        """All it has written so far."""
        return self.lab.said("vm1", "cat", "/var/log/waagent.log")

    def ordered(self, *arguments: str) -> str:
        """What azfabric says; it must succeed."""
        done = self.azfabric(*arguments)
        assert done.returncode == 0, f"{done.stdout}{done.stderr}\n{self.logs()}"
        return done.stdout

    def azfabric(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-P", "-m", "fabric", *arguments, "--root", str(self.lab.lab.folder)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, cwd="/")

    def told(self) -> dict[str, Any]:
        done = self.azfabric("told", "--json")
        return json.loads(done.stdout) if done.returncode == 0 else {}

    def until(self, condition: Callable[[dict[str, Any]], Any], what: str) -> dict[str, Any]:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            told = self.told()
            if told and condition(told):
                return told
        pytest.fail(f"waited {PATIENCE:g} s for {what}\n{self.logs()}")

    def logs(self) -> str:
        return "\n".join(
            line
            for path in (self.lab.lab.folder / "host.log", self._log)
            if path.exists()
            for line in path.read_text(errors="replace").splitlines()[-40:]
        )


@contextmanager
def reference_agent(folder: Path, *settings: str) -> Iterator[Vm]:
    """Provisioning, in `vm1` of a lab of its own; `settings` are lines of its configuration."""
    subprocess.run([HERE / "fetch_waagent.sh", CACHE], check=True, timeout=120)
    lab = TestedLab(Lab(folder, f"w{uuid.uuid4().hex[:8]}"))
    log = folder / "waagent.log"
    lab.up("vm1", static=False, host=True)
    words, environment = lab.lab.command("vm1", ("sh", str(HERE / "waagent_vm.sh"), str(CACHE), *settings))
    with log.open("wb") as output:
        agent = subprocess.Popen(words, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        yield Vm(lab, log)
    finally:
        lab.lab.down()
        agent.wait()
