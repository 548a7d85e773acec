"""Labs in memory of this test only, driven through the object the commands use, and found again by a mark."""

import dataclasses
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fabric.lab import orders
from fabric.lab.control import Lab
from fabric.lab.plan import Fault, make_plan

PATIENCE = 30.0
MARK = f"azfabric-test-{uuid.uuid4()}"
"""Every process of a lab inherits it: so what is left is found, whatever it is."""
REPOSITORY = Path(__file__).resolve().parents[2]


@dataclasses.dataclass
class TestedLab:
    """A lab and its VMs' shells."""

    __test__ = False
    lab: Lab

    def up(self, *vms: str, static: bool = True, host: bool = False, rootless: bool = False) -> "TestedLab":
        plan = make_plan(self.lab.name, (), vms, static=static, host=host)
        self.lab.up(plan, rootless=rootless or os.geteuid() != 0, said=lambda _: None)
        return self

    def start(self, vm: str, *command: str) -> subprocess.Popen[str]:
        words, environment = self.lab.command(vm, command)
        pipe = subprocess.PIPE
        return subprocess.Popen(words, env=environment, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, text=True)

    def run(self, vm: str, *command: str) -> subprocess.CompletedProcess[str]:
        with self.start(vm, *command) as process:
            output, errors = process.communicate(timeout=PATIENCE)
        return subprocess.CompletedProcess(command, process.returncode, output, errors)

    def said(self, vm: str, *command: str) -> str:
        done = self.run(vm, *command)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def shown(self, vm: str) -> dict[str, Any]:
        found = next(one for one in self.lab.ask(orders.Show())["vms"] if one["name"] == vm)
        assert isinstance(found, dict)
        return found

    def fault(self, vm: str, fault: Fault | None) -> None:
        self.lab.ask(orders.SetFault(vm, fault))

    def pings(self, vm: str, address: str) -> bool:
        return self.run(vm, "ping", "-c", "1", "-W", "1", address).returncode == 0


def until(condition: Callable[[], Any], what: str) -> None:
    """Look until it is so."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited {PATIENCE:g} s for {what}"


def marked_processes(mark: str = MARK) -> list[tuple[int, str]]:
    """Pid and command line of all processes that carry the mark, but ours."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if int(process.name) != os.getpid() and mark.encode() in (process / "environ").read_bytes():
                line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                found.append((int(process.name), line))
        except OSError:
            # It has just ended.
            continue
    return found


def left(mark: str = MARK) -> list[str]:
    """What still runs."""
    return [line for _, line in marked_processes(mark)]


@pytest.fixture(scope="session", autouse=True)
def marked() -> Iterator[None]:
    os.environ["LAB_MARK"] = MARK
    yield
    del os.environ["LAB_MARK"]


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A root that any user may use: pytest's own folders are closed to others."""
    with tempfile.TemporaryDirectory(prefix="azfabric-lab-") as name:
        Path(name).chmod(0o777)
        yield Path(name)


@pytest.fixture
def lab(folder: Path) -> Iterator[TestedLab]:
    """Not up yet."""
    one = TestedLab(Lab(folder, f"t{uuid.uuid4().hex[:8]}"))
    yield one
    one.lab.down()


@pytest.fixture(scope="module")
def pair(folder: Path) -> Iterator[TestedLab]:
    """Two VMs of one tenant, `a` at 10.0.0.4 and `b` at 10.0.0.5, up."""
    one = TestedLab(Lab(folder, "pair"))
    yield one.up("a", "b")
    one.lab.down()


def command_line(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-P", "-m", "fabric", "lab", *map(str, arguments)]
