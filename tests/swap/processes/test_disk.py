"""The disk of the versions is full, or becomes read-only: a small file system in memory, in a mount namespace."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ipc.contract.rdagent import UpdateNow, UpdateView
from tests.swap.processes.product import BASE, TRIAL, Root

pytestmark = pytest.mark.timeout(180)


class SmallDisk:
    """What is mounted at the folder of the versions. The sockets lie elsewhere, so the bus is reached from here."""

    def __init__(self, root: Root) -> None:
        self.root = root

    def mount(self) -> None:
        """Bring the group up on it."""
        self.root.places.installed.mkdir(parents=True)
        rootless = [] if os.geteuid() == 0 else ["--map-root-user"]
        script = 'mount -t tmpfs -o size=2m,mode=0755 versions "$0" && exec "$@"'
        self.root.up("unshare", "--mount", *rootless, "sh", "-c", script, str(self.root.places.installed))

    def remount(self, options: str) -> None:
        self.inside("mount", "-o", f"remount,{options}", str(self.root.places.installed))

    def inside(self, *command: str) -> str:
        """Run there."""
        user = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
        pid = str(self.root.supervisord.pid())
        enter = ["nsenter", "--target", pid, *user, "--mount"]
        return subprocess.run([*enter, *command], check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def disk(memory: Path) -> Iterator[SmallDisk]:
    root = Root(memory / "r", TRIAL)
    small = SmallDisk(root)
    small.mount()
    yield small
    root.down()


def waiting(root: Root, component: str) -> Callable[[], UpdateView | None]:
    def look() -> UpdateView | None:
        view = root.view(component)
        return view if view and view.state == "waiting" and view.why else None

    return look


def test_a_full_disk_waits_and_loses_nothing(disk: SmallDisk, shop: Any) -> None:
    """First the package cannot be kept, then its layers not be unpacked; each is tried again by itself."""
    root, before = disk.root, disk.root.pids()
    root.publish(shop("telemetry", "0.92.0"))
    root.host.post("/api/components", {"component": "telemetry", "version": "0.92.0", "from_version": ""})
    view = root.until(waiting(root, "telemetry"), "it to wait for room")
    assert "No space left on device" in view.why
    disk.remount("size=12m")
    root.until(lambda: (one := waiting(root, "telemetry")()) and "MiB are needed" in one.why, "it to wait for more")
    assert root.pids() == before
    assert root.version("telemetry") == BASE
    disk.remount("size=300m")
    root.now("telemetry", "")
    root.until(lambda: root.version("telemetry") == "0.92.0", "it to go on")


def test_60_read_only_while_on_trial(disk: SmallDisk, shop: Any) -> None:
    """The try cannot be counted, so the version before runs; when the disk takes it again, it gets its trial."""
    root = disk.root
    root.publish(shop("telemetry", "0.93.0"))
    root.until(lambda: (view := root.view("telemetry")) and view.current == "0.92.0" and not view.trial, "the commit")
    root.now("telemetry", "0.93.0")
    root.until(lambda: root.version("telemetry") == "0.93.0", "0.93.0 to be on trial")
    disk.remount("ro")
    root.kill("telemetry")
    root.until(lambda: root.version("telemetry") == "0.92.0", "the version before to run")
    root.until(lambda: root.said("updates: .* cannot be written: Read-only file system"), "a word of it")
    # It stays: nobody restarts it again and again, and nobody says so again and again.
    root.until(lambda: root.version("telemetry") == "0.92.0", "the version before to run")
    pid = root.pids()["telemetry"]
    for _ in range(20):
        root.ask(UpdateNow(component="netagent"))
        assert root.pids()["telemetry"] == pid
    assert len(root.said("updates: .*Read-only file system")) <= 2
    disk.remount("rw")
    root.ask(UpdateNow(component="netagent"))
    root.until(lambda: root.version("telemetry") == "0.93.0", "another trial")
    root.until(lambda: (view := root.view("telemetry")) and view.current == "0.93.0", "the commit")
    assert root.pids()["telemetry"] != pid
    assert root.until(lambda: root.view("telemetry"), "rdagent to answer").bad == []
