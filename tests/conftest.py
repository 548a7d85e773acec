"""What several folders of tests need: a root, a component that lives in the test's loop, a local host as a child."""

import asyncio
import contextlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import hypothesis
import pytest

from fabric.client import Client
from ipc.component import Component
from ipc.places import Places

PATIENCE = 30.0

# How long an example takes says more of the machine than of the code.
hypothesis.settings.register_profile("ours", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("ours")


# Who starts us in the background of a shell, by nohup, or as a worker, has us ignore Ctrl-C or the end of the terminal,
# and our children inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


class LocalHost:
    """`python -m fabric serve` on free loopback ports, and the hand that orders it about."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.wireserver = ""
        self._child: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """At the ports it had before, if it had any. Returns when it answers."""
        port = urlsplit(self.wireserver).port or 0
        command = [sys.executable, "-P", "-m", "fabric", "serve", "--root", str(self.root), "--wireserver-port"]
        with (self.root / "serve.log").open("ab") as log:
            child = subprocess.Popen([*command, str(port)], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._child = child
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until and child.poll() is None:
            with contextlib.suppress(FileNotFoundError):
                found = json.loads((self.root / "fabric" / "endpoints.json").read_text())
                if found["pid"] == child.pid:
                    self.wireserver = found["wireserver"]
                    return
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(0.02)  # the pause between two looks
        self.kill()
        pytest.fail(f"the host did not start:\n{(self.root / 'serve.log').read_text()}")

    def kill(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._child = None

    def runs(self) -> bool:
        return self._child is not None and self._child.poll() is None

    def signalled(self, number: signal.Signals) -> None:
        assert self._child is not None
        self._child.send_signal(number)

    def told(self) -> dict[str, Any]:
        """What it was told by the VM."""
        told: dict[str, Any] = Client(self.root).get("/api/told")
        return told

    def asked(self, endpoint: str) -> int:
        """How often it was asked there, and had answered."""
        return int(self.told()["requests"].get(endpoint, 0))

    def fault(self, endpoint: str, fault: str, value: float | None = None, count: int | None = None) -> None:
        order = {"endpoint": endpoint, "fault": fault, "value": value, "count": count}
        Client(self.root).post("/api/faults", order)

    def move(self) -> None:
        """The VM to another container."""
        Client(self.root).post("/api/move", {})

    def lift(self) -> None:
        """All faults."""
        Client(self.root).delete("/api/faults")


@asynccontextmanager
async def living(component: Component, *loops: Coroutine[Any, Any, None]) -> AsyncIterator[Component]:
    """A component that runs in this test's loop until the block ends."""
    async with component:
        task = asyncio.create_task(component.run(*loops))
        await asyncio.sleep(0)
        try:
            yield component
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def come_true(condition: Callable[[], Awaitable[Any] | Any], patience: float = PATIENCE) -> Any:
    """The first true value of `condition`, called or awaited again and again."""
    async with asyncio.timeout(patience):
        while True:
            value = condition()
            if asyncio.iscoroutine(value):
                value = await value
            if value:
                return value
            await asyncio.sleep(0.02)


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places.under(tmp_path)


@pytest.fixture(scope="session")
def alive() -> Callable[..., Any]:
    return living


@pytest.fixture(scope="session")
def until() -> Callable[..., Awaitable[Any]]:
    return come_true


@pytest.fixture(scope="module")
def module_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalHost]:
    host = LocalHost(tmp_path_factory.mktemp("host"))
    yield host
    host.kill()


@pytest.fixture
def local_host(module_host: LocalHost) -> LocalHost:
    """Runs and has no faults; what it was told by earlier tests of the module it remembers."""
    if not module_host.runs():
        module_host.start()
    module_host.lift()
    return module_host
