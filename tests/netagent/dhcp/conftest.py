"""A VM and its host, each a network namespace, and a cable between them; without root."""

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
MAC = "00:0d:3a:01:02:03"
PATIENCE = 30.0


class Talker:
    """A child that says one JSON document a line, and is told lines."""

    def __init__(self, command: list[str]) -> None:
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        self._said: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self.all: list[dict[str, Any]] = []
        self.pid = self._child.pid
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        assert self._child.stdout is not None
        for line in self._child.stdout:
            self._said.put(json.loads(line))
        self._said.put(None)

    def tell(self, line: str) -> None:
        assert self._child.stdin is not None
        self._child.stdin.write(line + "\n")
        self._child.stdin.flush()

    def wait_for(self, event: str, within: float = PATIENCE, **facts: Any) -> dict[str, Any]:
        """The next document of that kind, with these facts."""
        until = time.monotonic() + within
        while True:
            try:
                said = self._said.get(timeout=max(until - time.monotonic(), 0.001))
            except queue.Empty:
                pytest.fail(f"no {event} {facts}; heard: {self.all[-8:]}")
            assert said is not None, f"it ended; heard: {self.all[-8:]}"
            self.all.append(said)
            if said["event"] == event and all(said[name] == value for name, value in facts.items()):
                return said

    def end(self) -> None:
        if self._child.poll() is None:
            assert self._child.stdin is not None
            self._child.stdin.close()
            try:
                self._child.wait(5)
            except subprocess.TimeoutExpired:
                self._child.kill()
                self._child.wait()
        self._listener.join(5)
        assert self._child.stdout is not None
        self._child.stdout.close()


class Cable:
    """Host 10.0.0.1 on the bridge `br0`, with 168.63.129.16 behind it; the VM's end is `eth0`."""

    def __init__(self) -> None:
        script = "ip link set lo up && echo up && exec cat"
        self._host = self._started(["unshare", "-rn", "sh", "-c", script])
        self._vm = self._started(["nsenter", *self._target(self._host), "unshare", "-n", "sh", "-c", script])
        self._talkers: list[Talker] = []
        self._servers: list[subprocess.Popen[bytes]] = []
        self.on_host("ip link add br0 type bridge")
        self.on_host("ip link set br0 address 12:34:56:78:9a:bc up")
        self.on_host("ip address add 10.0.0.1/24 dev br0")
        self.on_host("ip address add 168.63.129.16/32 dev lo")
        self.on_host("ip address add 169.254.169.254/32 dev lo")
        self.plug()

    def plug(self, mac: str = MAC, name: str = "eth0") -> None:
        self.on_host(f"ip link add p0 type veth peer name {name} address {mac} netns {self._vm.pid}")
        self.on_host("ip link set p0 master br0 up")
        self.in_vm(f"ip link set {name} up")

    def _started(self, command: list[str]) -> subprocess.Popen[str]:
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        assert child.stdout.readline() == "up\n"
        return child

    def _target(self, child: subprocess.Popen[str]) -> list[str]:
        return [f"--target={child.pid}", "--user", "--net", "--preserve-credentials"]

    def vm_command(self, *command: str) -> list[str]:
        return ["nsenter", *self._target(self._vm), *command]

    def host_command(self, *command: str) -> list[str]:
        return ["nsenter", *self._target(self._host), *command]

    def in_vm(self, command: str) -> str:
        return self._run(self.vm_command(*command.split()))

    def on_host(self, command: str) -> str:
        return self._run(self.host_command(*command.split()))

    def nft(self, rules: str) -> None:
        """In the VM."""
        done = subprocess.run(self.vm_command("nft", "-f", "-"), input=rules, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    def _run(self, command: list[str]) -> str:
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def addresses(self) -> list[str]:
        """Of eth0, in the VM."""
        found = json.loads(self.in_vm("ip -json -4 address show dev eth0") or "[]")
        return [f"{one['local']}/{one['prefixlen']}" for link in found if link for one in link["addr_info"]]

    def owner(self, kept: Path, link: str = "eth0", **settings: Any) -> Talker:
        """The client in the VM, not yet started."""
        program = [sys.executable, "-m", "tests.netagent.dhcp.owner", link, str(kept), json.dumps(settings)]
        owner = self._talker(self.vm_command(*program))
        owner.wait_for("ready")
        return owner

    def neighbour(self, kept: Path) -> Talker:
        """Another client, at the host's end of the same wire."""
        self.on_host("ip link add p8 type veth peer name eth8 address 00:0d:3a:08:08:08")
        self.on_host("ip link set p8 master br0 up")
        self.on_host("ip link set eth8 up")
        program = [sys.executable, "-m", "tests.netagent.dhcp.owner", "eth8", str(kept), "{}"]
        neighbour = self._talker(self.host_command(*program))
        neighbour.wait_for("ready")
        return neighbour

    def hostile(self) -> Talker:
        """The server without scruples, at the host."""
        hostile = self._talker(self.host_command(sys.executable, "-m", "tests.netagent.dhcp.hostile", "br0"))
        hostile.wait_for("ready")
        return hostile

    def _talker(self, command: list[str]) -> Talker:
        self._talkers.append(Talker(command))
        return self._talkers[-1]

    def serve(
        self, command: list[str], log: Path, ready: str, environment: dict[str, str] | None = None
    ) -> Callable[[], None]:
        """A server at the host, which says `ready` in its log; what is returned ends it."""
        with log.open("wb") as file:
            child = subprocess.Popen(
                self.host_command(*command),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env={**os.environ, **(environment or {})},
            )
        self._servers.append(child)
        until = time.monotonic() + PATIENCE
        while ready not in log.read_text():
            assert child.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            try:
                child.wait(0.02)  # the pause between two looks
            except subprocess.TimeoutExpired:
                continue

        def stop() -> None:
            child.kill()
            child.wait()

        return stop

    def end(self) -> None:
        for talker in self._talkers:
            talker.end()
        for server in self._servers:
            server.kill()
            server.wait()
        for child in (self._vm, self._host):
            child.communicate("")


@pytest.fixture
def cable() -> Iterator[Cable]:
    one = Cable()
    yield one
    one.end()


@pytest.fixture(scope="module")
def module_cable() -> Iterator[Cable]:
    """For tests that leave nothing behind."""
    one = Cable()
    yield one
    one.end()
