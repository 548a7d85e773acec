"""`agentctl bundle export` from a repository that is away or says no: which file, the reason, and what to look at."""

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from agentctl.bundlesource import Source
from agentctl.errors import CommandError
from fabric.repository import Repository


@pytest.fixture
def root(tmp_path: Path) -> Path:
    file = tmp_path / "root.json"
    file.write_bytes(Repository(tmp_path / "repository").root())
    return file


def exported(tmp_path: Path, url: str, root: Path) -> subprocess.CompletedProcess[str]:
    words = ["--out", str(tmp_path / "all.zip"), "--repository", url, "--trust-root", str(root)]
    command = [sys.executable, "-m", "agentctl", "bundle", "export", *words, "--root", str(tmp_path)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


@contextmanager
def answering(status: int) -> Iterator[str]:
    """A web server that has one answer; its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/repository"
        server.shutdown()
        thread.join()


def test_a_host_that_is_gone(tmp_path: Path, root: Path) -> None:
    with socket.socket() as taken:
        # Bound, and not listening: nobody else gets the port.
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/repository"
        found = exported(tmp_path, url, root)
    assert (found.returncode, found.stdout) == (1, "")
    assert found.stderr.startswith(f"agentctl: {url}/metadata/2.root.json: Connection refused. Is that the repository")


def test_a_host_that_says_no(tmp_path: Path, root: Path) -> None:
    with answering(403) as url:
        found = exported(tmp_path, url, root)
    assert (found.returncode, found.stdout) == (1, "")
    assert found.stderr.startswith(f"agentctl: {url}/metadata/timestamp.json: HTTP status 403. Is that the repository")


def test_a_host_that_answers_something_else(tmp_path: Path, root: Path) -> None:
    (tmp_path / "work").mkdir()
    with answering(200) as url, pytest.raises(CommandError) as raised:
        Source(url, root, tmp_path / "work")
    assert str(raised.value).startswith(f"{url}/metadata/2.root.json cannot be believed: ")
    assert "(--trust-root)" in str(raised.value)
