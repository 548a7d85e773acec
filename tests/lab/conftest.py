"""A VM in namespaces, in which the unmodified reference agent meets our host."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
CACHE = HERE.parent.parent / ".cache" / "waagent"
PATIENCE = 90.0


class Vm:
    """The namespaces' first process, and the commands to look in."""

    def __init__(self, root: Path, process: subprocess.Popen[bytes]) -> None:
        self.root = root
        self._process = process

    def agent_log(self) -> str:
        """All it has written so far."""
        return self.inside("--mount", "cat", "/var/log/waagent.log")

    def inside(self, namespace: str, *command: str) -> str:
        """What a command says that must succeed there."""
        words = [*self._inside(namespace), *command]
        return subprocess.run(words, capture_output=True, text=True, check=True, timeout=30).stdout

    def ordered(self, *arguments: str) -> str:
        """What azfabric says; it must succeed."""
        done = self.azfabric(*arguments)
        assert done.returncode == 0, f"{done.stdout}{done.stderr}\n{self.logs()}"
        return done.stdout

    def azfabric(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [*self._inside("--net"), sys.executable, "-P", "-m", "fabric", *arguments, "--root", str(self.root)]
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
            for name in ("fabric.log", "waagent.log")
            if (path := self.root / name).exists()
            for line in path.read_text(errors="replace").splitlines()[-40:]
        )

    def _inside(self, *namespaces: str) -> list[str]:
        return ["nsenter", "--target", str(self.first_pid()), *namespaces, "--"]

    def first_pid(self) -> int:
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        return int(children[0]) if children else self._process.pid


@pytest.fixture(scope="module")
def vm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Vm]:
    subprocess.run([HERE / "fetch_waagent.sh", CACHE], check=True, timeout=120)
    root = tmp_path_factory.mktemp("vm")
    namespaces = ["--mount", "--net", "--pid", "--uts", "--ipc", "--mount-proc", "--propagation", "private"]
    process = subprocess.Popen(
        ["unshare", *namespaces, "--fork", "--kill-child", HERE / "waagent_vm.sh", root, CACHE, sys.executable],
        stdin=subprocess.DEVNULL,
    )
    try:
        yield Vm(root, process)
    finally:
        # The first process of a pid namespace takes all others with it.
        process.kill()
        process.wait()
