"""A handler's folder as guestagent makes it, its commands run as guestagent runs them, and servers to fetch from."""

import base64
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fabric.state import Identity
from fabric.tenant import make_tenant_certificate, protect, thumbprint
from guestagent.builtin import lay_out
from guestagent.layout import HandlerFolder
from guestagent.runcommand.place import ACTION, MANAGED, Place, place_of
from guestagent.runcommand.processes import end_all, left_of
from guestagent.runcommand.record import Record, read_record
from wire.extensions import Settings

PATIENCE = 60.0


class Handler:
    """One built-in handler on a disk of its own."""

    def __init__(self, root: Path, name: str, version: str = "1.3.27") -> None:
        self.folder = HandlerFolder(root / "lib", root / "log", name, version)
        self.manifest = lay_out(self.folder)
        self.folder.prepare()
        self.environment: dict[str, str] = {}
        self.prefix: list[str] = []
        """Put before every command, for example a namespace."""

    @property
    def action(self) -> bool:
        return self.folder.name == ACTION

    def place(self, number: int = 0, name: str = "job") -> Place:
        return place_of(self.folder, "" if self.action else name, number)

    def settings(self, public: Any, protected: Any = None, number: int = 0, name: str = "job") -> Settings:
        """Written as guestagent writes them; `protected` is encrypted for a certificate of this VM."""
        sealed, thumb = (seal(self.folder.path.parent, protected)) if protected is not None else (None, None)
        settings = Settings(
            name="" if self.action else name, sequence_number=number, public=public, protected=sealed, thumbprint=thumb
        )
        self.folder.write_settings(settings)
        return settings

    def command(self, verb: str, number: int = 0, name: str = "job", **more: str) -> subprocess.CompletedProcess[str]:
        line = getattr(self.manifest, verb)
        environment = {**os.environ, "ConfigSequenceNumber": str(number), **self.environment}
        if not self.action:
            environment["ConfigExtensionName"] = name
        environment |= more
        return subprocess.run(
            [*self.prefix, "/bin/sh", "-c", f"{self.folder.path}/{line}"],
            cwd=self.folder.path,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            start_new_session=True,
        )

    def enable(self, public: Any, protected: Any = None, number: int = 0, name: str = "job") -> None:
        self.settings(public, protected, number, name)
        done = self.command("enable", number, name)
        assert done.returncode == 0, done.stdout + done.stderr

    def status(self, number: int = 0, name: str = "job") -> dict[str, Any]:
        (item,) = json.loads(self.place(number, name).status_file.read_text())
        status: dict[str, Any] = item["status"]
        return status

    def view(self, number: int = 0, name: str = "job") -> dict[str, Any]:
        """v2's message."""
        view: dict[str, Any] = json.loads(self.status(number, name)["formattedMessage"]["message"])
        return view

    def record(self, number: int = 0, name: str = "job") -> Record:
        record = read_record(self.place(number, name))
        assert record is not None
        return record

    def ended(self, number: int = 0, name: str = "job") -> dict[str, Any]:
        """The status, once the run has ended and its worker is gone."""
        until_true(lambda: self.record(number, name).phase == "ended", f"run {number} of {name} to end")
        until_true(lambda: not self.record(number, name).worker.alive(), "its worker to be gone")
        return self.status(number, name)

    def run(self, public: Any, protected: Any = None, number: int = 0, name: str = "job") -> dict[str, Any]:
        """enable to end; v2's view, v1's status."""
        self.enable(public, protected, number, name)
        status = self.ended(number, name)
        return status if self.action else self.view(number, name)

    def started(self, number: int = 0, name: str = "job", word: str = "up") -> Record:
        """Once the script has printed `word`."""
        until_true(lambda: word in self.output(number, name), f"the script to say {word}")
        until_true(lambda: self.record(number, name).script is not None, "the record to name the script")
        return self.record(number, name)

    def output(self, number: int = 0, name: str = "job") -> str:
        with contextlib.suppress(FileNotFoundError):
            return self.place(number, name).stdout.read_text(errors="replace")
        return ""

    def end(self) -> None:
        """Whatever a test left running."""
        for path in (self.place().data / "runs").glob("*.json"):
            with contextlib.suppress(OSError, msgspec.DecodeError):
                record = msgspec.json.decode(path.read_bytes(), type=Record)
                if record.script is not None:
                    record.script.signal(signal.SIGKILL)
                record.worker.signal(signal.SIGKILL)
                end_all(lambda mark=record.mark: left_of(mark, 0), 0.0, lambda: None)  # type: ignore[misc]


def until_true(condition: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    until = time.monotonic() + patience
    while time.monotonic() < until:
        if value := condition():
            return value
        time.sleep(0.02)
    pytest.fail(f"waited {patience:g} s for {what}")


_IDENTITY: list[Identity] = []


def seal(lib: Path, protected: Any) -> tuple[str, str]:
    """Base64 CMS and thumbprint; the certificate's files are put where handlers look for them."""
    if not _IDENTITY:
        key, certificate = make_tenant_certificate("test")
        _IDENTITY.append(
            Identity(
                vm="vm1", container_id="c", deployment_id="d", tenant_key_pem=key, tenant_certificate_pem=certificate
            )
        )
    identity = _IDENTITY[0]
    thumb = thumbprint(identity)
    (lib / f"{thumb}.crt").write_text(identity.tenant_certificate_pem)
    (lib / f"{thumb}.prv").write_text(identity.tenant_key_pem)
    data = protected if isinstance(protected, bytes) else json.dumps(protected).encode()
    return protect(identity, data), thumb


class Files:
    """An HTTP server of files by path; remembers what it was asked, and may be told to answer otherwise."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.answers: dict[str, tuple[int, dict[str, str]]] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        outer = self

        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append((self.path, dict(self.headers)))
                path = self.path.partition("?")[0]
                status, headers = outer.answers.get(path, (200 if path in outer.files else 404, {}))
                body = outer.files.get(path, b"no such file") if status == 200 else b"no"
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class Store:
    """The fabric's blob store, as a process; signed URLs are made as the host makes them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        log = (root / "fabric.out").open("wb")
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "fabric", "serve", "--root", str(root)], stdout=log, stderr=log
        )
        log.close()
        file = root / "fabric" / "endpoints.json"
        until_true(file.exists, "the host to listen")
        self.endpoints: dict[str, Any] = json.loads(file.read_text())

    def output(self, name: str) -> bytes:
        return (self.root / "fabric" / "blobs" / "output" / name).read_bytes()

    def azfabric(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-P", "-m", "fabric", *arguments, "--root", str(self.root)],
            capture_output=True,
            text=True,
            timeout=120,
        )

    def signed(self, name: str) -> str:
        """URL of a blob under /output/, by ordering a run that wants it: only the host can sign."""
        script = self.root / "script.sh"
        script.write_text("true")
        done = self.azfabric("run", str(script), "--name", name, "--output-blob")
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()[1]

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(30)


@pytest.fixture
def managed(tmp_path: Path) -> Iterator[Handler]:
    handler = Handler(tmp_path, MANAGED)
    yield handler
    handler.end()


@pytest.fixture
def action(tmp_path: Path) -> Iterator[Handler]:
    handler = Handler(tmp_path, ACTION, "1.0.5")
    yield handler
    handler.end()


@pytest.fixture
def make_handler() -> Iterator[Callable[..., Handler]]:
    made: list[Handler] = []

    def make(root: Path, name: str = MANAGED, version: str = "1.3.27") -> Handler:
        made.append(Handler(root, name, version))
        return made[-1]

    yield make
    for handler in made:
        handler.end()


@pytest.fixture
def files() -> Iterator[Files]:
    server = Files()
    yield server
    server.close()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    one = Store(tmp_path_factory.mktemp("store"))
    yield one
    one.close()


@pytest.fixture(scope="session")
def until() -> Callable[..., Any]:
    return until_true


@pytest.fixture(scope="session")
def script() -> Callable[..., dict[str, Any]]:
    """v2's public settings around a script."""

    def make(text: str, **more: Any) -> dict[str, Any]:
        return {"source": {"script": text}, **more}

    return make


@pytest.fixture(scope="session")
def encoded() -> Callable[[str | bytes], str]:
    return lambda text: base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


@pytest.fixture
def closed_port() -> int:
    """Where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port
