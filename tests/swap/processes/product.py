"""A whole root for the updater's drills: real supervisord, host, watchdog and the four, with short trials."""

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fabric.client import Client
from fabric.publishcommand import publish
from ipc.bus import Bus
from ipc.contract.every import Describe, Description
from ipc.contract.rdagent import GetUpdateHistory, GetUpdates, UpdateEvent, UpdateNow, Updates, UpdateView
from ipc.errors import FrameError, NoAnswer, Refused
from ipc.message import R, Request
from ipc.places import COMPONENTS, Places
from ipc.supervisord import Supervisord, SupervisordError
from rdagent import __version__
from release import record
from release.build import Built, build
from release.record import Record
from release.unpack import component_folder
from tests.release.product import CHECKOUT, KEY

PATIENCE = 60.0
TRIAL = """
[update]
trial_seconds = 2.0
trial_answers = 3
trial_limit = 20.0
jitter = 0.0
"""
_PARTS = ("ipc", "wire", "release", *COMPONENTS, "pyproject.toml")


def package(folder: Path, component: str, version: str, changes: Mapping[str, str] | None = None) -> Built:
    """This checkout's component, signed, as `version`.

    `changes`: by path below it, lines added to a module: at its end, to `__main__` at its beginning.
    """
    source = CHECKOUT
    if changes:
        source = folder / f"source-{component}-{version}"
        for part in _PARTS:
            (source / part).parent.mkdir(parents=True, exist_ok=True)
            if (CHECKOUT / part).is_dir():
                shutil.copytree(CHECKOUT / part, source / part, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(CHECKOUT / part, source / part)
        for path, lines in changes.items():
            module = source / component / path
            before = module.read_text()
            module.write_text(f"{lines}\n{before}" if path == "__main__.py" else f"{before}\n{lines}\n")
    return build(source, component, folder / "dist", [KEY], version=version)


class Root:
    """One root, and whom one has to ask there."""

    def __init__(self, folder: Path, configuration: str = TRIAL) -> None:
        self.folder = folder
        self.places = Places.under(folder)
        self.supervisord = Supervisord(self.places)
        drop_ins = folder / "azvmagent.toml.d"
        drop_ins.mkdir(parents=True)
        # After the one of the local host.
        (drop_ins / "50-trial.toml").write_text(configuration)
        (folder / "azvmagent.toml").write_text("[rdagent]\nheartbeat_period = 2.0\nlook_period = 1.0\n")

    @property
    def host(self) -> Client:
        return Client(self.folder)

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-P", "-m", *words, "--root", str(self.folder)]

    def up(self, *prefix: str) -> None:
        """`agentctl up`; who publishes here is trusted. `prefix`: a command that runs it, e.g. unshare(1)."""
        self.places.trust.mkdir(mode=0o700, exist_ok=True)
        (self.places.trust / "test.pub").write_bytes(msgspec.json.encode(KEY.public()))
        command = [*prefix, *self.command("agentctl", "up", "--detach", "--no-sample")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{self.logs()}"

    def down(self) -> None:
        done = subprocess.run(self.command("agentctl", "down"), capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"

    def publish(self, built: Built, channel: str = "tests") -> None:
        """The package and its layers, in the component repository and as the host's family. Ours is `stable`."""
        publish.main([str(built.path), "--channel", channel, "--root", str(self.folder)], standalone_mode=False)

    # -- asking --------------------------------------------------------------------------------------------------------

    def ask(self, request: Request[R], *, to: str = "") -> R:
        """Raises NoAnswer, Refused, FrameError."""

        async def asked() -> R:
            bus = Bus(self.places, "test", "0")
            try:
                return await bus.ask(request, to=to, within=5.0)
            finally:
                bus.close()

        return asyncio.run(asked())

    def described(self, component: str) -> Description | None:
        """Its own word; None if it does not answer."""
        try:
            return self.ask(Describe(), to=component)
        except (NoAnswer, FrameError, Refused):
            return None

    def version(self, component: str) -> str:
        found = self.described(component)
        return found.version if found else ""

    def updates(self) -> Updates | None:
        try:
            return self.ask(GetUpdates())
        except (NoAnswer, FrameError, Refused):
            return None

    def view(self, component: str) -> UpdateView | None:
        found = self.updates()
        return next((one for one in found.components if one.component == component), None) if found else None

    def history(self, component: str = "") -> list[UpdateEvent]:
        return self.ask(GetUpdateHistory(component=component)).events

    def phases(self, component: str) -> list[str]:
        """Of its history, `PHASE VERSION`, oldest first."""
        return [f"{one.phase} {one.version}" for one in self.history(component)]

    def record(self, component: str) -> Record:
        return record.read(self.versions(component)) or Record(component=component)

    def versions(self, component: str) -> Path:
        """The folder of its record and its versions."""
        return component_folder(self.places.installed, component)

    def trees(self, component: str) -> set[str]:
        """Versions that lie there."""
        folder = self.versions(component) / "versions"
        return {one.name for one in folder.iterdir()} if folder.exists() else set()

    def pids(self) -> dict[str, int]:
        try:
            return {one.name: one.pid for one in self.supervisord.programs() if one.name in COMPONENTS}
        except SupervisordError:
            return {}

    def child(self, module: str) -> int:
        """One that rdagent started to run this module; 0 if there is none."""
        for pid in processes_of(self.folder):
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if module.encode() in words:
                return pid
        return 0

    def left_overs(self) -> list[str]:
        """What lies in folders that are empty when nothing is under way."""
        found = [
            path
            for name in COMPONENTS
            for folder in ("staging", "downloads")
            for path in (self.versions(name) / folder).glob("*")
        ]
        found += [*(self.places.installed / "deps" / "staging").glob("*"), *self.places.installed.rglob("*.tmp")]
        return [str(path.relative_to(self.places.installed)) for path in found]

    # -- waiting -------------------------------------------------------------------------------------------------------

    def until(self, condition: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
        """The first true value of `condition`; fails with the group's logs when patience ends."""
        until = time.monotonic() + patience
        while time.monotonic() < until:
            if value := condition():
                return value
            time.sleep(0.05)  # the pause between two looks
        pytest.fail(f"waited {patience:g} s for {what}\n{self.updates()}\n{self.logs()}")

    def now(self, component: str, version: str) -> None:
        """Begin this update."""
        self.ask(UpdateNow(component=component, version=version))

    def until_runs(self, component: str, version: str, patience: float = PATIENCE) -> None:
        """It answers as that version, and that is in force with nothing on trial."""

        def runs() -> bool:
            found = self.record(component)
            current = found.current.version if found.current else BASE
            return found.trial is None and current == version and self.version(component) == version

        self.until(runs, f"{component} {version} to be in force", patience)

    def until_on_trial(self, component: str, version: str, patience: float = PATIENCE) -> None:
        """Its record says so, and it was started."""

        def tried() -> bool:
            trial = self.record(component).trial
            return trial is not None and trial.target.version == version and trial.tries < record.TRIES

        self.until(tried, f"{component} {version} to be on trial", patience)

    def until_ready(self) -> None:
        """All four answer."""
        self.until(lambda: all(self.described(name) for name in COMPONENTS), "all four to answer")

    def update(self, component: str, version: str) -> None:
        """A good update, from beginning to end."""
        self.now(component, version)
        self.until_runs(component, version)
        # The record is the commit, the history comes after it.
        self.until(
            lambda: self.phases(component)[-1:] == [f"commit {version}"], f"{component} {version} in the history"
        )

    def fails(self, component: str, version: str, back_to: str, patience: float = PATIENCE) -> str:
        """Begin an update that comes back: why it did."""
        self.now(component, version)
        return self.until_back(component, version, back_to, patience)

    def until_back(self, component: str, version: str, back_to: str, patience: float = PATIENCE) -> str:
        """It is on the bad list, the other in force and the end in the history: the reason."""
        reason: str = self.until(lambda: self.bad(component).get(version), f"{component} {version} to fail", patience)
        self.until_runs(component, back_to, patience)
        end = f"roll back {version}"
        self.until(lambda: self.view(component) and self.phases(component)[-1:] == [end], f"{end} in the history")
        return reason

    def bad(self, component: str) -> dict[str, str]:
        """Reasons by version."""
        return {key.partition("+")[0]: bad.reason for key, bad in self.record(component).bad.items()}

    # -- breaking ------------------------------------------------------------------------------------------------------

    def kill(self, component: str) -> int:
        """SIGKILL; its pid."""
        pid = self.pids()[component]
        os.kill(pid, signal.SIGKILL)
        return pid

    def kill_everything(self) -> None:
        """supervisord and all it started, but not the host: a power cut as far as processes can tell."""
        host = json.loads((self.folder / "fabric" / "endpoints.json").read_text())["pid"]
        for pid in processes_of(self.folder) - {host}:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.until(lambda: not processes_of(self.folder) - {host}, "everything to be gone")

    def power_on(self) -> None:
        """supervisord and the four, after that."""
        command = [sys.executable, "-P", "-c", _POWER_ON, str(self.folder)]
        assert subprocess.run(command, timeout=60).returncode == 0

    def logs(self) -> str:
        lines = []
        for name in ("RdAgent.log", "Watchdog.log", "supervisord.log"):
            path = self.places.log / name
            if path.exists():
                lines += [f"--- {name}", *path.read_text(errors="replace").splitlines()[-25:]]
        return "\n".join(lines)

    def said(self, pattern: str) -> list[str]:
        """Lines of rdagent's log that match."""
        text = (self.places.log / "RdAgent.log").read_text(errors="replace")
        return [line for line in text.splitlines() if re.search(pattern, line)]


_POWER_ON = """
import pathlib, sys
from agentctl import deployment, group
group.start_supervisord(deployment.choose(pathlib.Path(sys.argv[1])))
"""

BASE = __version__
"""Version of the base install."""


def processes_of(folder: Path) -> set[int]:
    """Every process that was started for this root and lives."""
    wanted = f"AZVMAGENT_ROOT={folder}".encode()
    found = set()
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and wanted in (entry / "environ").read_bytes().split(b"\0"):
                found.add(int(entry.name))
        except OSError:
            continue
    return found


def told(root: Root) -> dict[str, Any]:
    """What the host was told."""
    found: dict[str, Any] = root.host.get("/api/told")
    return found
