"""A guestagent and a host, both real processes; extensions that write down each of their commands."""

import io
import itertools
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

PATIENCE = 30.0
KINDS = ("install", "enable", "disable", "update", "uninstall")

EXTENSIONS = Path(__file__).parent.parent.parent / "extensions"
PREAMBLE = (EXTENSIONS / "preamble.sh").read_text()
ENABLE = 'status success "enabled $AZURE_GUEST_AGENT_EXTENSION_VERSION"'


def package(bodies: dict[str, str] | None = None, files: dict[str, str] | None = None, **manifest: Any) -> bytes:
    """A zip; `bodies` are shell lines by command, `files` more scripts by name, `manifest` goes into handlerManifest.

    But `signing_info` goes beside that.
    """
    more = {name: f"#!/bin/bash\n{PREAMBLE}\n{body}\n".encode() for name, body in (files or {}).items()}
    return zipped(more | {f"{kind}.sh": body.encode() for kind, body in (bodies or {}).items()}, manifest)


def stand_in(number: int, **manifest: Any) -> bytes:
    """One of the extensions under tests/extensions, zipped as real ones are: without a mode."""
    (folder,) = EXTENSIONS.glob(f"{number:02}-*")
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return zipped(files, manifest)


def zipped(files: dict[str, bytes], manifest: dict[str, Any]) -> bytes:
    """`<kind>.sh` are the commands; those that are missing do nothing, and enable says success."""
    beside = {"signingInfo": manifest.pop("signing_info")} if "signing_info" in manifest else {}
    commands = {f"{kind}Command": f"{kind}.sh" for kind in KINDS}
    document = [{"version": 1.0, "handlerManifest": commands | manifest, **beside}]
    files = {"HandlerManifest.json": json.dumps(document).encode(), **files}
    for kind in KINDS:
        body = files.pop(f"{kind}.sh", b":" if kind != "enable" else ENABLE.encode()).decode()
        files[f"{kind}.sh"] = f"#!/bin/bash\nkind={kind}\n{PREAMBLE}\nsay begin\n{body}\nsay end\n".encode()
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return buffer.getvalue()


class Machine:
    """One root: its host and its guestagent."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._environment = {**os.environ, "AZVMAGENT_ROOT": str(root), "TEST_ROOT": str(root)}
        self.host = self._start("fabric", "serve", "--root", str(root))
        self.endpoints = self._until_it_serves()
        addresses = "".join(f'{one} = "{self.endpoints[one]}"\n' for one in ("wireserver", "hostgaplugin", "imds"))
        (root / "azvmagent.toml").write_text(f"[host]\n{addresses}")
        self.agent: subprocess.Popen[bytes] | None = None

    def configure(self, lines: str) -> None:
        """More of the configuration, before the agent starts."""
        with (self.root / "azvmagent.toml").open("a") as file:
            file.write(lines)

    def start_agent(self, sources: Path | None = None) -> None:
        """From another copy of the source tree, if one is named."""
        self.agent = self._start("guestagent", sources=sources)

    def kill_agent(self, number: signal.Signals = signal.SIGKILL) -> None:
        assert self.agent is not None
        self.agent.send_signal(number)
        self.agent.wait()
        self.agent = None

    def close(self) -> None:
        for one in (self.agent, self.host):
            if one is not None:
                one.terminate()
                one.wait(timeout=30)

    def log(self) -> str:
        path = self.root / "guestagent.log"
        return "\n".join(path.read_text(errors="replace").splitlines()[-30:]) if path.exists() else ""

    def _until_it_serves(self) -> dict[str, str]:
        path = self.root / "fabric" / "endpoints.json"
        until = time.monotonic() + PATIENCE
        while not path.exists():
            assert self.host.poll() is None, "the host ended"
            assert time.monotonic() < until, "the host does not serve"
        endpoints: dict[str, str] = json.loads(path.read_text())
        return endpoints

    def _start(self, *words: str, sources: Path | None = None) -> subprocess.Popen[bytes]:
        environment = self._environment | ({"PYTHONPATH": str(sources)} if sources else {})
        with (self.root / f"{words[0]}.log").open("ab") as log:
            command = [sys.executable, "-P", "-m", *words]
            return subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd="/")


class Life:
    """One extension's life on a machine; its name is its own."""

    def __init__(self, machine: Machine, name: str) -> None:
        self.machine = machine
        self.root = machine.root
        self.name = name
        self.other = f"{name}Other"
        self.lib = machine.root / "lib" / "waagent"
        self.start_agent, self.kill_agent = machine.start_agent, machine.kill_agent

    @property
    def go(self) -> Path:
        """What a waiting command waits for."""
        return self.root / f"{self.name}.go"

    def want(
        self, zipped: bytes | None, version: str = "1.0.0", name: str = "", settings: Any = None, **order: Any
    ) -> dict[str, Any]:
        """Publish and ask for it; without a zip, ask again."""
        name = name or self.name
        if zipped is not None:
            self.call("PUT", "/api/packages", data=zipped, params={"name": name, "version": version})
        body = {"name": name, "version": version, "settings": settings if settings is not None else {}, **order}
        added: dict[str, Any] = self.call("POST", "/api/extensions", json=body)
        return added

    def publish(self, zipped: bytes, version: str = "1.0.0", name: str = "") -> None:
        self.call("PUT", "/api/packages", data=zipped, params={"name": name or self.name, "version": version})

    def goal(self, *handlers: dict[str, Any], fast_track: bool = False) -> None:
        """The whole goal state, to the letter; `name` and `version` have defaults."""
        wanted = [{"name": self.name, "version": "1.0.0", **one} for one in handlers]
        self.call("PUT", "/api/goal", json={"handlers": wanted, "fast_track": fast_track})

    def status(self, name: str = "", extension: str = "") -> dict[str, Any]:
        """What the host was last told of the extension's own status."""
        for one in self.handlers():
            runtime = one.get("runtimeSettingsStatus", {})
            if one["handlerName"] == (name or self.name) and runtime.get("extensionName", "") == extension:
                found: dict[str, Any] = runtime.get("settingsStatus", {}).get("status", {})
                return found
        return {}

    def says(self, word: str, text: str = "", extension: str = "") -> dict[str, Any]:
        """Wait until the extension's own status is this word, with this text in it."""

        def look() -> dict[str, Any]:
            found = self.status(extension=extension)
            message = (found.get("formattedMessage") or {}).get("message", "")
            return found if found.get("status") == word and text in message else {}

        found: dict[str, Any] = self.until(look, f"{self.name} to say {word} {text}")
        return found

    def remove(self, name: str = "", **query: str) -> None:
        self.call("DELETE", f"/api/extensions/{name or self.name}", params=query)

    def fault(self, endpoint: str, fault: str, value: float | None = None, **more: Any) -> None:
        self.call("POST", "/api/faults", json={"endpoint": endpoint, "fault": fault, "value": value, **more})

    def no_faults(self) -> None:
        self.call("DELETE", "/api/faults")

    def told(self) -> dict[str, Any]:
        told: dict[str, Any] = self.call("GET", "/api/told")
        return told

    def call(self, method: str, path: str, **what: Any) -> Any:
        answer = requests.request(method, self.machine.endpoints["portal"] + path, timeout=30, **what)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def agent_version(self) -> str:
        """As the host was last told."""
        status = self.told()["status"]
        return str(status["aggregateStatus"]["guestAgentStatus"]["version"]) if status else ""

    def handlers(self) -> list[dict[str, Any]]:
        """As the host was last told."""
        status = self.told()["status"]
        found: list[dict[str, Any]] = status["aggregateStatus"]["handlerAggregateStatus"] if status else []
        return found

    def handler(self, name: str = "") -> dict[str, Any]:
        """As the host was last told; empty if it was not."""
        return next((one for one in self.handlers() if one["handlerName"] == (name or self.name)), {})

    def gone(self, name: str = "") -> None:
        self.until(lambda: not self.handler(name), f"{name or self.name} to be gone")

    def ready(self, version: str = "1.0.0", sequence: int | None = None, name: str = "") -> dict[str, Any]:
        """Wait until the host was told that this version is Ready and its extension a success."""

        def look() -> dict[str, Any]:
            one = self.handler(name)
            runtime = one.get("runtimeSettingsStatus", {})
            status = runtime.get("settingsStatus", {}).get("status", {}).get("status")
            good = (one.get("handlerVersion"), one.get("status"), status) == (version, "Ready", "success")
            return one if good and sequence in (None, runtime.get("sequenceNumber")) else {}

        found: dict[str, Any] = self.until(look, f"{name} {version} to be Ready with success")
        return found

    def failed(self, name: str = "") -> dict[str, Any]:
        def look() -> dict[str, Any]:
            one = self.handler(name)
            return one if one.get("code") else {}

        found: dict[str, Any] = self.until(look, f"{name} to fail")
        return found

    def agentctl(self, *words: str) -> subprocess.CompletedProcess[str]:
        """The real command, on a wide terminal."""
        command = [sys.executable, "-m", "agentctl", *words, "--root", str(self.root)]
        environment = {**os.environ, "COLUMNS": "200"}
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    def verdict(self, expected: str, *words: str, name: str = "", extension: str = "") -> dict[str, Any]:
        """Wait until `agentctl explain` comes to it; each word must be somewhere in what it says."""

        def look() -> dict[str, Any]:
            found = self._explanation(name or self.name, extension)
            return found if found["verdict"] == expected else {}

        found: dict[str, Any] = self.until(look, f"the verdict {expected}")
        for word in words:
            assert word in json.dumps(found), (word, found)
        assert found["next_step"]
        return found

    def _explanation(self, name: str, extension: str) -> dict[str, Any]:
        done = self.agentctl("explain", name, "--extension", extension, "--json")
        if done.returncode == 3 or "is known" in done.stderr:
            return {"verdict": "guestagent or the goal state has not come yet"}
        found: dict[str, Any] = json.loads(done.stdout)
        assert done.returncode == (0 if found["verdict"] == "well" else 1)
        return found

    def calls(self, only: str = "", name: str = "") -> list[str]:
        """What the extension did, oldest first."""
        path = self.root / f"{name or self.name}.calls"
        return [line for line in path.read_text().splitlines() if only in line] if path.exists() else []

    def until(self, condition: Callable[[], Any], what: str) -> Any:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            if found := condition():
                return found
        pytest.fail(f"waited {PATIENCE:g} s for {what}\ncalls: {self.calls()}\n{self.machine.log()}")


@pytest.fixture(scope="module")
def make_machine(tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Machine]:
    """With a host and no agent yet."""
    return lambda: Machine(tmp_path_factory.mktemp("machine"))


@pytest.fixture(scope="module")
def machine(make_machine: Callable[[], Machine]) -> Iterator[Machine]:
    machine = make_machine()
    machine.start_agent()
    yield machine
    machine.close()


_NUMBERS = itertools.count(1)


@pytest.fixture
def life(machine: Machine) -> Iterator[Life]:
    life = Life(machine, f"Test.Life{next(_NUMBERS)}")
    yield life
    life.no_faults()
    if machine.agent is None:
        machine.start_agent()


@pytest.fixture
def make_package() -> Callable[..., bytes]:
    return package


@pytest.fixture
def make_stand_in() -> Callable[..., bytes]:
    return stand_in
