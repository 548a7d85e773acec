"""A watch on a real host: the fabric as a child process, or one of paper that says whatever a test wants."""

import asyncio
import contextlib
import http.server
import io
import json
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest
import requests

from guestagent.config import Settings
from guestagent.history import History
from guestagent.watch import HostWatch
from ipc.bus import Bus
from ipc.contract.telemetry import Entry
from ipc.hostaddress import HostAddress
from ipc.places import Places
from ipc.record import Emitter
from wire.extensions import ExtensionsGoalState
from wire.http import HttpClient
from wire.redact import redact

PATIENCE = 40.0


class Fabric:
    """`python -m fabric serve` on free loopback ports."""

    def __init__(self, root: Path) -> None:
        root.mkdir(exist_ok=True)
        log = root / "serve.log"
        command = [sys.executable, "-P", "-m", "fabric", "serve", "--root", str(root)]
        with log.open("ab") as file:
            self._child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            with contextlib.suppress(FileNotFoundError):
                endpoints = json.loads((root / "fabric" / "endpoints.json").read_text())
                self.wireserver, self.hostgaplugin = str(endpoints["wireserver"]), str(endpoints["hostgaplugin"])
                self.portal = str(endpoints["portal"])
                return
            # Also the pause between two looks.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(0.02)
                break
        self._child.kill()
        self._child.wait()
        pytest.fail(f"the host did not start:\n{log.read_text()}")

    def stop(self) -> None:
        self._child.send_signal(signal.SIGTERM)
        assert self._child.wait(PATIENCE) == 0

    def api(self, method: str, path: str, order: object = None, data: bytes | None = None) -> Any:
        with requests.Session() as session:
            session.trust_env = False
            answer = session.request(method, self.portal + path, json=order, data=data, timeout=PATIENCE)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def add(self, name: str = "Contoso.Tools.Greeter", **order: Any) -> None:
        """Publish the smallest package and want it."""
        self.api("PUT", f"/api/packages?name={name}&version=1.0.0", data=_package())
        self.api("POST", "/api/extensions", {"name": name, "version": "1.0.0", **order})

    def fault(self, endpoint: str, fault: str, value: float | None = None, count: int | None = None) -> None:
        self.api("POST", "/api/faults", {"endpoint": endpoint, "fault": fault, "value": value, "count": count})

    def requests(self, endpoint: str) -> int:
        return int(self.api("GET", "/api/told")["requests"].get(endpoint, 0))


@dataclass
class Paper:
    """A host whose every word is the test's: WireServer and HostGAPlugin at one address."""

    url: str = ""
    incarnation: str = "1"
    instance: str = "dep._vm0"
    config: bytes | None = None
    """ExtensionsConfig; None if the goal state names none. So are the certificates."""
    certificates: bytes | None = None
    fast: tuple[int, str, bytes] = (404, "", b"")
    """Status, ETag and body of vmSettings."""
    refuse_cipher: str = ""
    asked: list[str] = field(default_factory=list)
    """Paths; of certificates with the cipher behind."""
    shut: dict[str, threading.Event] = field(default_factory=dict)
    """Paths that are answered once their event is set."""

    def answer(self, path: str, headers: Any) -> tuple[int, dict[str, str], bytes]:
        asked = path.partition("?")[2] or path
        if asked == "certificates":
            asked += f" {headers.get('x-ms-cipher-name')}"
        self.asked.append(asked)
        if asked in self.shut:
            assert self.shut[asked].wait(PATIENCE)
        match asked.split():
            case ["comp=versions"]:
                return 200, {}, b"<Versions><Supported><Version>2012-11-30</Version></Supported></Versions>"
            case ["comp=goalstate"]:
                return 200, {}, self._goal_state()
            case ["extensions"]:
                return 200, {}, self.config or b""
            case ["environment"]:
                return 200, {}, b"<HostingEnvironmentConfig/>"
            case ["shared"]:
                return 200, {}, b"<SharedConfig/>"
            case ["certificates", cipher]:
                return (400, {}, b"") if cipher == self.refuse_cipher else (200, {}, self.certificates or b"")
            case ["/vmSettings"]:
                status, etag, body = self.fast
                if etag and headers.get("if-none-match") == etag:
                    return 304, {"ETag": etag}, b""
                return status, {"ETag": etag} if etag else {}, body
        return 404, {}, b""

    def _goal_state(self) -> bytes:
        config = f"<ExtensionsConfig>{self.url}/?extensions</ExtensionsConfig>" if self.config is not None else ""
        certificates = f"<Certificates>{self.url}/?certificates</Certificates>" if self.certificates else ""
        return (
            f"<GoalState><Incarnation>{self.incarnation}</Incarnation><Container><ContainerId>c1</ContainerId>"
            f"<RoleInstanceList><RoleInstance><InstanceId>{self.instance}</InstanceId><Configuration>"
            f"<HostingEnvironmentConfig>{self.url}/?environment</HostingEnvironmentConfig>"
            f"<SharedConfig>{self.url}/?shared</SharedConfig>{config}"
            f"{certificates}<ConfigName>dep.1.xml</ConfigName>"
            "</Configuration></RoleInstance></RoleInstanceList></Container></GoalState>"
        ).encode()


def extensions_config(ticks: str = "", name: str = "Contoso.Tools.Greeter", *, blob: bool = True) -> bytes:
    """One handler; `ticks` as they stand in the attribute."""
    created = f' createdOnTicks="{ticks}"' if ticks else ""
    status = "<StatusUploadBlob>http://h/s?sig=secret</StatusUploadBlob>" if blob else ""
    return (
        f'<Extensions><Plugins><Plugin name="{name}" version="1.0.0" location="http://h/m?sv=1&amp;sig=secret" '
        f'state="enabled"/></Plugins>{status}<InVMGoalStateMetaData{created}/></Extensions>'
    ).encode()


def vm_settings(ticks: int, *, thumbprint: str = "", source: str = "FastTrack") -> bytes:
    """One handler, with protected settings if a thumbprint is named."""
    settings = {"publicSettings": "{}", "protectedSettings": "TUlJQg==", "protectedSettingsCertThumbprint": thumbprint}
    handler = {
        "name": "Contoso.Tools.Greeter",
        "version": "1.0.0",
        "state": "enabled",
        "settingsSeqNo": 1,
        "settings": [settings if thumbprint else {"publicSettings": "{}"}],
    }
    return json.dumps(
        {
            "hostGAPluginVersion": "1.0.8.160",
            "extensionsLastModifiedTickCount": ticks,
            "extensionGoalStatesSource": source,
            "statusUploadBlob": {"value": "http://h/s?sig=secret"},
            "extensionGoalStates": [handler],
        }
    ).encode()


class Watching:
    """A watch that runs, and what it said."""

    def __init__(self, places: Places, watch: HostWatch, arrivals: list[str], changes: list[str]) -> None:
        self.places = places
        self.watch = watch
        self.arrivals = arrivals
        """Ids of what was to be executed, in order."""
        self.changes = changes

    @property
    def current(self) -> ExtensionsGoalState:
        assert self.watch.current is not None
        return self.watch.current

    @property
    def container(self) -> str:
        return self.watch.goal_state.container_id if self.watch.goal_state else ""

    @property
    def id(self) -> str:
        """Of what is in force, a moment before it is written down and announced."""
        return self.watch.current.id if self.watch.current else ""

    @property
    def last(self) -> str:
        """Of what was announced last."""
        return self.arrivals[-1] if self.arrivals else ""

    def entries(self, operation: str) -> list[Entry]:
        found = []
        for path in sorted((self.places.state_of("guestagent") / "entries").glob("*.jsonl")):
            found += [msgspec.json.decode(line, type=Entry) for line in path.read_bytes().splitlines()]
        return [one for one in found if one.operation == operation]

    def history(self) -> list[str]:
        return sorted(path.name for path in (self.places.lib / "history").iterdir())

    async def until(self, condition: Callable[[], object], what: str = "") -> None:
        """Fails with what the watch has to say when patience ends."""
        try:
            async with asyncio.timeout(PATIENCE):
                while not condition():
                    await asyncio.sleep(0.02)
        except TimeoutError:
            pytest.fail(f"waited for {what}: {self.id}, {self.arrivals}, {self.watch.problem!r}")


Start = Callable[..., AbstractAsyncContextManager[Watching]]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """`start(host)` runs a watch on a host; called again it is the same machine after a restart."""

    @asynccontextmanager
    async def started(host: Fabric | Paper, **settings: Any) -> AsyncIterator[Watching]:
        places = Places.under(tmp_path / "vm")
        places.lib.mkdir(mode=0o700, parents=True, exist_ok=True)
        plugin = host.hostgaplugin if isinstance(host, Fabric) else host.url
        wireserver = host.wireserver if isinstance(host, Fabric) else host.url
        client, bus = HttpClient("test"), Bus(places, "guestagent", "1")
        arrivals: list[str] = []
        changes: list[str] = []
        watch = HostWatch(
            settings=msgspec.convert({"goal_state_period": 0.1, "long_poll": 0.0, **settings}, Settings),
            client=client,
            find_host=lambda: HostAddress(wireserver=wireserver, hostgaplugin=plugin, imds=wireserver),
            lib=places.lib,
            state=places.state_of("guestagent"),
            history=History(places.lib),
            emitter=Emitter(places, bus, "guestagent", "1", redact),
            arrived=lambda: arrivals.append(watch.current.id if watch.current else ""),
            changed=lambda: changes.append(watch.current.id if watch.current else ""),
        )
        running: list[Coroutine[Any, Any, None]] = [watch.watch_wireserver(), watch.watch_host_plugin()]
        tasks = [asyncio.create_task(one) for one in running]
        try:
            yield Watching(places, watch, arrivals, changes)
            for task in tasks:
                assert not task.done(), task
        finally:
            for task in tasks:
                task.cancel()
            client.close()
            await asyncio.gather(*tasks, return_exceptions=True)
            bus.close()

    return started


@pytest.fixture
def fabric(tmp_path: Path) -> Iterator[Fabric]:
    one = Fabric(tmp_path / "host")
    yield one
    one.stop()


@pytest.fixture
def paper() -> Iterator[Paper]:
    one = Paper()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = one.answer(self.path, self.headers)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if status != 304:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            """Nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    one.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield one
    server.shutdown()
    thread.join()
    server.server_close()


def _package() -> bytes:
    manifest = {"installCommand": "true", "enableCommand": "true"}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("HandlerManifest.json", json.dumps([{"version": 1.0, "handlerManifest": manifest}]))
    return buffer.getvalue()
