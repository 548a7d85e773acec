"""The agents that are measured, each alive beside a local host of its own until its block ends."""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from bench import procfs
from bench.hostline import ROOT, HostLine

LAB = ROOT / "tests" / "lab"
PATIENCE = 120.0
NAMESPACES = ("--mount", "--net", "--pid", "--uts", "--ipc", "--mount-proc", "--propagation", "private")

T = TypeVar("T")


class Peer:
    """A running agent and the line to its host."""

    def __init__(self, host: HostLine, pids: list[int], ready_seconds: float) -> None:
        self.host = host
        self.pids = pids
        """Everything that is part of the agent, at rest."""
        self.ready_seconds = ready_seconds
        """From its first process's start until its host was told Ready."""


@contextmanager
def ours() -> Iterator[Peer]:
    """The group under supervisord, without the sample extension."""
    agentctl = [sys.executable, "-m", "agentctl"]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        up = [*agentctl, "up", "--detach", "--no-sample", "--root", folder]
        rising = subprocess.Popen(up, stdout=subprocess.DEVNULL, cwd=ROOT)
        try:
            with line(root, []) as host:
                ready_at = until_ready(host)
                if rising.wait():
                    raise RuntimeError("agentctl up failed")
                status = subprocess.run(
                    [*agentctl, "status", "--json", "--root", folder], capture_output=True, cwd=ROOT, check=False
                )
                components = [int(one["pid"]) for one in json.loads(status.stdout)["components"]]
                supervisord = procfs.parent(components[0])
                yield Peer(host, [supervisord, *components], ready_at - procfs.started_at(supervisord))
        finally:
            rising.wait()
            subprocess.run([*agentctl, "down", "--root", folder], check=True, stdout=subprocess.DEVNULL, cwd=ROOT)


def can_run_reference() -> bool:
    """It gets namespaces of its own, which takes root."""
    return os.geteuid() == 0


@contextmanager
def reference() -> Iterator[Peer]:
    """Debian's waagent, unmodified, in namespaces of its own."""
    cache = ROOT / ".cache" / "waagent"
    subprocess.run([LAB / "fetch_waagent.sh", cache], check=True)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        own = Path(__file__).with_name("reference_vm.sh")
        inside: list[str | Path] = [own, root, cache, sys.executable, LAB / "reference_agent.sh"]
        machine = subprocess.Popen(
            ["unshare", *NAMESPACES, "--fork", "--kill-child", *inside], stdin=subprocess.DEVNULL
        )
        try:
            first = until(lambda: procfs.children(machine.pid), "the first process")[0]
            with line(root, ["nsenter", "--target", str(first), "--net", "--"]) as host:
                ready_at = until_ready(host)
                # Its first status is the end of its start.
                until(lambda: host.told()["status"], "the first status")
                daemon, worker = (_with_word(first, word) for word in ("-daemon", "-run-exthandlers"))
                yield Peer(host, [daemon, worker], ready_at - procfs.started_at(daemon))
        finally:
            machine.kill()
            machine.wait()


@contextmanager
def line(root: Path, enter: list[str]) -> Iterator[HostLine]:
    until((root / "fabric" / "endpoints.json").is_file, f"a host in {root}")
    found = HostLine(root, enter)
    try:
        yield found
    finally:
        found.close()


def _with_word(ancestor: int, word: str) -> int:
    """By command line: short-lived children come and go."""
    return next(pid for pid in procfs.descendants(ancestor) if word in procfs.command_line(pid))


def until_ready(host: HostLine) -> float:
    """When the host was told Ready, UTC seconds since the epoch."""
    health = until(lambda: (told := host.told())["ready"] and told["health"], "Ready")
    return float(health["at"])


def until(look: Callable[[], T | None], what: str, *, pause: float = 0.02, patience: float = PATIENCE) -> T:
    """The first true value of `look`."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        if found := look():
            return found
        time.sleep(pause)
    raise TimeoutError(f"waited {patience:g} s for {what}")
