"""A whole root, brought up by the real command: real supervisord, the four, the local host."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

PATIENCE = 60.0


class Group:
    """One root and the two commands a person has for it."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def agentctl(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self._run("agentctl", *arguments, check=check)

    def azfabric(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self._run("fabric", *arguments, check=check)

    def status(self) -> dict[str, Any]:
        done = self.agentctl("status", "--json", check=False)
        return json.loads(done.stdout) if done.stdout else {}

    def told(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self.azfabric("told", "--json").stdout)
        return told

    def component(self, name: str) -> dict[str, Any]:
        found = [one for one in self.status().get("components", []) if one["name"] == name]
        return found[0] if found else {}

    def pid(self, name: str) -> int:
        """Of a component that is well."""
        self.until(lambda: self.component(name).get("state") == "ok", f"{name} to be ok")
        return int(self.component(name)["pid"])

    def until(self, condition: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
        """The first true value of `condition`; fails with the group's logs when patience ends."""
        until = time.monotonic() + patience
        while time.monotonic() < until:
            value = condition()
            if value:
                return value
        pytest.fail(f"waited {patience:g} s for {what}\n{self.agentctl('status', check=False).stdout}\n{self.logs()}")

    def logs(self) -> str:
        lines = []
        for path in sorted((self.root / "log" / "azure").glob("*.log")):
            lines += [f"--- {path.name}", *path.read_text(errors="replace").splitlines()[-15:]]
        return "\n".join(lines)

    def processes(self) -> list[int]:
        """Every process that was started for this root."""
        wanted = f"AZVMAGENT_ROOT={self.root}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    variables = (entry / "environ").read_bytes().split(b"\0")
                except OSError:
                    continue
                if wanted in variables:
                    found.append(int(entry.name))
        return found

    def _run(self, module: str, *arguments: str, check: bool) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments, "--root", str(self.root)],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        if check and done.returncode != 0:
            pytest.fail(
                f"{module} {arguments} ended with {done.returncode}\n{done.stdout}\n{done.stderr}\n{self.logs()}"
            )
        return done


@pytest.fixture(scope="module")
def group(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Group]:
    """Up and Ready with the sample extension; down at the end. A module's `CONFIGURATION` is added to the settings."""
    group = Group(tmp_path_factory.mktemp("root"))
    # The shortest time a test waits for a second heartbeat.
    more = getattr(request.module, "CONFIGURATION", "")
    (group.root / "azvmagent.toml").write_text("[rdagent]\nheartbeat_period = 2.0\n" + more)
    group.agentctl("up", "--detach")
    yield group
    group.agentctl("down", check=False)
    assert group.processes() == []
