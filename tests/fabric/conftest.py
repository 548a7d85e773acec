"""A real host as a child process, and independent hands to reach it: requests, sockets, openssl. Never wire/."""

import base64
import contextlib
import http.client
import io
import json
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import sys
import xml.etree.ElementTree as ET
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import requests

PATIENCE = 30.0
NAME = "Contoso.Tools.Greeter"
SERVERS = ("wireserver", "hostgaplugin", "imds", "blob")
"""At one address for all workers."""


def package(name: str = NAME, version: str = "1.0.0", files: dict[str, bytes] | None = None) -> bytes:
    """The smallest package that says what it is called."""
    publisher, _, kind = name.rpartition(".")
    manifest = {
        "version": 1.0,
        "signingInfo": {"publisher": publisher, "type": kind, "version": version},
        "handlerManifest": {"installCommand": "true", "enableCommand": "true"},
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for one, content in {"HandlerManifest.json": json.dumps([manifest]).encode(), **(files or {})}.items():
            # A fixed time makes the same package each time.
            archive.writestr(zipfile.ZipInfo(one, (2026, 1, 1, 0, 0, 0)), content)
    return buffer.getvalue()


class RunningHost:
    """`python -m fabric serve` on free loopback ports, and one call per server."""

    def __init__(self, root: Path, *inside: str) -> None:
        """`inside`: words before the command, such as of a namespace."""
        self.root = root
        self._inside = inside
        self.log = root / "serve.log"
        self.endpoints: dict[str, Any] = {}
        self._child: subprocess.Popen[bytes] | None = None

    # -- its life --------------------------------------------------------------------------------------------------

    def start(self, *options: str) -> None:
        command = [*self._inside, sys.executable, "-P", "-m", "fabric", "serve", "--root", str(self.root), *options]
        self.root.mkdir(exist_ok=True)
        with self.log.open("ab") as log:
            self._child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        until = monotonic() + PATIENCE
        while monotonic() < until:
            with contextlib.suppress(FileNotFoundError):
                self.endpoints = json.loads((self.root / "fabric" / "endpoints.json").read_text())
                if self.endpoints["pid"] == self._child.pid:
                    return
            # Also the pause between two looks.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(0.02)
                break
        self.kill()
        pytest.fail(f"the host did not start:\n{self.log.read_text()}")

    @property
    def pid(self) -> int:
        assert self._child is not None
        return self._child.pid

    def signalled(self, number: signal.Signals) -> None:
        assert self._child is not None
        self._child.send_signal(number)

    def ended(self) -> int:
        """Its exit status, once it has ended."""
        assert self._child is not None
        return self._child.wait(PATIENCE)

    def stop(self) -> int:
        self.signalled(signal.SIGTERM)
        return self.ended()

    def kill(self) -> None:
        self.signalled(signal.SIGKILL)
        self.ended()

    def bugs(self) -> list[str]:
        """What its endpoints did not expect, whatever the client was told."""
        found = self.log.read_text().split("Exception in ASGI application")[1:]
        # The server lets them answer also when it has refused the rest of a request itself.
        return [one for one in found if "can't handle event type Response when role=SERVER" not in one]

    # -- its servers -----------------------------------------------------------------------------------------------

    def call(self, server: str, method: str, path: str, **what: Any) -> requests.Response:
        """One request on a connection of its own; `path` may be a whole URL."""
        with requests.Session() as session:
            session.trust_env = False
            url = path if path.startswith("http") else self.endpoints[server] + path
            return session.request(method, url, timeout=PATIENCE, allow_redirects=False, **what)

    def api(self, method: str, path: str, **what: Any) -> Any:
        """The control API; must succeed."""
        answer = self.call("portal", method, path, **what)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def told(self) -> dict[str, Any]:
        told: dict[str, Any] = self.api("GET", "/api/told")
        return told

    def add(self, name: str = NAME, version: str = "1.0.0", **order: Any) -> dict[str, Any]:
        """Publish the smallest package and want it."""
        self.api("PUT", "/api/packages", data=package(name, version))
        added: dict[str, Any] = self.api("POST", "/api/extensions", json={"name": name, "version": version, **order})
        return added

    def fault(self, endpoint: str, name: str, value: float | None = None, count: int | None = None) -> None:
        order = {"endpoint": endpoint, "fault": name, "value": value, "count": count}
        self.api("POST", "/api/faults", json=order)

    def named(self, server: str, data: bytes) -> bytes:
        """With the host's own name: the portal answers to no other."""
        return data.replace(b"Host: a\r\n", f"Host: {self.endpoints[server].removeprefix('http://')}\r\n".encode())

    def address(self, server: str) -> tuple[str, int]:
        address, _, port = self.endpoints[server].removeprefix("http://").rpartition(":")
        return address, int(port)

    def raw(self, server: str, data: bytes) -> bytes:
        """Bytes as they are but for `Host: a`, our side left open; all that comes back until the host closes."""
        data = self.named(server, data)
        with socket.create_connection(self.address(server), PATIENCE) as connection:
            with contextlib.suppress(ConnectionError):
                connection.sendall(data)
            return received(connection)


def received(connection: socket.socket) -> bytes:
    """Everything until the other side closes or resets."""
    parts = []
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


def answered(connection: socket.socket) -> bytes:
    """The body of one answer; the connection stays open."""
    with http.client.HTTPResponse(connection) as answer:
        answer.begin()
        return answer.read()


@dataclass
class Vm:
    """What an agent knows after one goal state, and the headers it sends."""

    host: RunningHost
    incarnation: str
    container_id: str
    instance_id: str
    config_name: str
    urls: dict[str, str]

    WIRE = {"x-ms-agent-name": "WALinuxAgent", "x-ms-version": "2012-11-30"}

    @property
    def plugin(self) -> dict[str, str]:
        return {
            "x-ms-version": "2015-09-01",
            "x-ms-containerid": self.container_id,
            "x-ms-host-config-name": self.config_name,
        }

    def config(self) -> ET.Element:
        """ExtensionsConfig."""
        url = self.urls["ExtensionsConfig"]
        return parsed(self.host.call("wireserver", "GET", url, headers=self.WIRE).content)

    def vm_settings(self) -> dict[str, Any]:
        answer = self.host.call("hostgaplugin", "GET", "/vmSettings", headers=self.plugin)
        assert answer.status_code == 200, answer.text
        settings: dict[str, Any] = answer.json()
        return settings

    def status_url(self) -> str:
        return self.config().findtext("StatusUploadBlob") or ""

    def health(self, state: str = "Ready", details: str = "") -> requests.Response:
        body = (
            '<?xml version="1.0" encoding="utf-8"?><Health xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">'
            f"<GoalStateIncarnation>{self.incarnation}</GoalStateIncarnation><Container>"
            f"<ContainerId>{self.container_id}</ContainerId><RoleInstanceList><Role>"
            f"<InstanceId>{self.instance_id}</InstanceId><Health><State>{state}</State>{details}</Health>"
            "</Role></RoleInstanceList></Container></Health>"
        )
        headers = {**self.WIRE, "Content-Type": "text/xml;charset=utf-8"}
        return self.host.call("wireserver", "POST", "/machine?comp=health", data=body.encode(), headers=headers)

    def report(self, content: bytes, *, kind: str = "BlockBlob", url: str = "") -> requests.Response:
        """A status blob through HostGAPlugin."""
        headers = {"Content-Length": str(len(content)), "x-ms-blob-type": kind, "x-ms-version": "2014-02-14"}
        return self.order(url or self.status_url(), headers, content)

    def order(self, url: str, headers: dict[str, str], content: bytes | None = None) -> requests.Response:
        """PUT /status: have HostGAPlugin do a PUT."""
        body: dict[str, Any] = {
            "requestUri": url,
            "headers": [{"headerName": name, "headerValue": value} for name, value in headers.items()],
        }
        if content is not None:
            body["content"] = base64.b64encode(content).decode()
        return self.host.call("hostgaplugin", "PUT", "/status", json=body, headers=self.plugin)


def parsed(document: bytes) -> ET.Element:
    """By the standard library's parser, not by wire/."""
    return ET.fromstring(document)  # noqa: S314  # what our own host says


def vm_of(host: RunningHost) -> Vm:
    """Reads the goal state as an agent does."""
    answer = host.call("wireserver", "GET", "/machine/?comp=goalstate", headers=Vm.WIRE)
    assert answer.status_code == 200, answer.text
    root = parsed(answer.content)

    def text(path: str) -> str:
        return root.findtext(path) or ""

    role = "Container/RoleInstanceList/RoleInstance"
    configuration = root.find(f"{role}/Configuration")
    return Vm(
        host,
        incarnation=text("Incarnation"),
        container_id=text("Container/ContainerId"),
        instance_id=text(f"{role}/InstanceId"),
        config_name=text(f"{role}/Configuration/ConfigName"),
        urls={} if configuration is None else {one.tag: one.text or "" for one in configuration},
    )


def status_blob(*handlers: dict[str, Any]) -> bytes:
    aggregate = {
        "guestAgentStatus": {"version": "9.9.9.9", "status": "Ready"},
        "handlerAggregateStatus": list(handlers),
    }
    return json.dumps({"version": "1.1", "aggregateStatus": aggregate}).encode()


def handler_status(
    name: str = NAME, version: str = "1.0.0", sequence: int = 0, status: str = "success", message: str = "done"
) -> dict[str, Any]:
    inner = {"name": name, "status": status, "code": 0, "formattedMessage": {"lang": "en-US", "message": message}}
    return {
        "handlerName": name,
        "handlerVersion": version,
        "status": "Ready",
        "code": 0,
        "runtimeSettingsStatus": {"sequenceNumber": sequence, "settingsStatus": {"version": 1.0, "status": inner}},
    }


@dataclass
class Transport:
    """A key and certificate as an agent makes them, by the openssl program."""

    key: Path
    certificate: Path

    @property
    def header(self) -> str:
        return re.sub(r"-----[A-Z ]+-----|\s", "", self.certificate.read_text())

    def opens(self, envelope: bytes) -> bytes:
        """Decrypt DER CMS; CalledProcessError if it is not for us."""
        command: list[str | Path] = ["openssl", "cms", "-decrypt", "-inform", "DER"]
        command += ["-recip", self.certificate, "-inkey", self.key]
        return subprocess.run(command, input=envelope, capture_output=True, check=True).stdout


def make_transport(folder: Path, name: str = "transport", *options: str) -> Transport:
    made = Transport(folder / f"{name}.key", folder / f"{name}.pem")
    new = ["-newkey", "rsa:2048", *options] if "-newkey" not in options else list(options)
    command: list[str | Path] = ["openssl", "req", "-x509", "-nodes", *new, "-subj", "/CN=LinuxTransport"]
    command += ["-days", "730", "-keyout", made.key, "-out", made.certificate]
    subprocess.run(command, capture_output=True, check=True)
    return made


def run_azfabric(root: Path, *arguments: str | Path, check: int = 0) -> subprocess.CompletedProcess[str]:
    """The command; `check` is the exit status it must end with."""
    command = [sys.executable, "-P", "-m", "fabric", *map(str, arguments), "--root", str(root)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert done.returncode == check, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    # What a person meets is a paragraph.
    assert "Traceback" not in done.stderr
    return done


def until(condition: Callable[[], Any], what: str) -> Any:
    """The first true value of a condition that asks something real."""
    end = monotonic() + PATIENCE
    while monotonic() < end:
        if value := condition():
            return value
    pytest.fail(f"waited {PATIENCE:g} s for {what}")


@contextlib.contextmanager
def running(root: Path) -> Iterator[RunningHost]:
    host = RunningHost(root)
    host.start()
    try:
        yield host
    finally:
        assert (host.stop(), host.bugs()) == (0, [])


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHost]:
    """One for all tests of a module."""
    with running(tmp_path_factory.mktemp("host") / "root") as one:
        yield one


@pytest.fixture
def own_host(tmp_path: Path) -> Iterator[RunningHost]:
    """For tests that end it, or need it untouched."""
    with running(tmp_path / "root") as one:
        yield one


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A URL. The server listens at a socket in its own folder only; it declines to be root."""
    folder = Path("/tmp") / f"azvmagent-postgresql-{os.getpid()}"
    folder.mkdir(mode=0o755)
    programs = max(Path("/usr/lib/postgresql").glob("*/bin"))
    owner = ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups"] if os.getuid() == 0 else []
    if owner:
        user = pwd.getpwnam("postgres")
        os.chown(folder, user.pw_uid, user.pw_gid)
    data = folder / "data"
    making: list[str | Path] = [
        *owner,
        programs / "initdb",
        "-D",
        data,
        "-U",
        "azfabric",
        "--auth=trust",
        "-E",
        "UTF8",
        "--no-sync",
    ]
    subprocess.run(making, check=True, capture_output=True, timeout=60, cwd="/")
    with (folder / "log").open("wb") as log:
        serving: list[str | Path] = [
            *owner,
            programs / "postgres",
            "-D",
            data,
            "-k",
            folder,
            "-c",
            "listen_addresses=",
            "-F",
        ]
        child = subprocess.Popen(serving, stdout=log, stderr=log, cwd="/")
    try:
        end = monotonic() + PATIENCE
        while subprocess.run([programs / "pg_isready", "-h", folder], capture_output=True).returncode != 0:
            assert child.poll() is None, (folder / "log").read_text()
            assert monotonic() < end, (folder / "log").read_text()
        yield f"postgresql://azfabric@/postgres?host={folder}"
    finally:
        child.terminate()
        child.wait(PATIENCE)
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def fleet(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RunningHost]]:
    folder = tmp_path_factory.mktemp("fleet")
    shared = ["--database", database, "--blobs", str(folder / "blobs")]
    workers: list[RunningHost] = []
    for name in ("one", "two"):
        worker = RunningHost(folder / name)
        ports = [f"--{server}-port={workers[0].address(server)[1]}" for server in SERVERS] if workers else []
        worker.start(*shared, *ports)
        workers.append(worker)
    yield workers
    for worker in workers:
        assert (worker.stop(), worker.bugs()) == (0, [])


@pytest.fixture
def vm(host: RunningHost) -> Iterator[Vm]:
    """The VM of the module's host; faults are lifted behind it."""
    yield vm_of(host)
    host.api("DELETE", "/api/faults")


@pytest.fixture(scope="session")
def transport(tmp_path_factory: pytest.TempPathFactory) -> Transport:
    return make_transport(tmp_path_factory.mktemp("transport"))


def kept(host: RunningHost) -> bytes:
    """All of what is on its disk about VMs."""
    return b"".join(one.read_bytes() for one in (host.root / "fabric").glob("state.sqlite*"))


def status_line(answer: bytes) -> int:
    """The status of raw bytes."""
    match = re.match(rb"HTTP/1\.1 (\d{3}) ", answer)
    assert match, answer[:200]
    return int(match[1])


@contextlib.contextmanager
def connected(host: RunningHost, server: str) -> Iterator[http.client.HTTPConnection]:
    """A connection whose answer is waited for later."""
    with contextlib.closing(http.client.HTTPConnection(*host.address(server), timeout=PATIENCE)) as connection:
        yield connection
