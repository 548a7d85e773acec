"""A scripted host on a real socket, and the documents."""

import importlib.util
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

Script = Callable[[socket.socket, bytes], None]


class ScriptedHost:
    """Accepts connections; each is handed, with its request head, to the next script (the last one stays)."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.requests: list[bytes] = []
        self.scripts: list[Script] = []
        self._threads: list[threading.Thread] = []
        self._connections: list[socket.socket] = []
        self._acceptor = threading.Thread(target=self._accept)
        self._acceptor.start()

    def answer(self, *scripts: Script) -> None:
        self.scripts = list(scripts)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._acceptor.join()
        for connection in self._connections:
            connection.close()
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
            self._connections.append(connection)
            thread = threading.Thread(target=self._converse, args=(connection, script))
            self._threads.append(thread)
            thread.start()

    def _converse(self, connection: socket.socket, script: Script) -> None:
        try:
            request = b""
            while b"\r\n\r\n" not in request:
                part = connection.recv(65536)
                if not part:
                    return
                request += part
            head, _, body = request.partition(b"\r\n\r\n")
            lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            wanted = int(lengths[0].split(b":")[1]) if lengths else 0
            while len(body) < wanted:
                body += connection.recv(65536)
            self.requests.append(head + b"\r\n\r\n" + body)
            script(connection, head)
        except OSError:
            return
        finally:
            connection.close()


def reply(body: bytes = b"", status: str = "200 OK", headers: str = "", announced: int | None = None) -> Script:
    """A whole answer; `announced` is a Content-Length that may lie."""

    def script(connection: socket.socket, _: bytes) -> None:
        length = len(body) if announced is None else announced
        head = f"HTTP/1.1 {status}\r\nContent-Length: {length}\r\n{headers}Connection: close\r\n\r\n"
        connection.sendall(head.encode() + body)

    return script


@pytest.fixture
def host() -> Iterator[ScriptedHost]:
    one = ScriptedHost()
    yield one
    one.close()


@pytest.fixture(scope="session")
def replies() -> Callable[..., Script]:
    return reply


@pytest.fixture(scope="session")
def documents() -> ModuleType:
    spec = importlib.util.spec_from_file_location("wire_documents", Path(__file__).with_name("documents.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
