"""Output blobs: append blobs against the fabric's store, and against a store that loses answers."""

import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from guestagent.runcommand.blobs import AppendBlob
from guestagent.runcommand.identity import NoToken, token_headers
from guestagent.runcommand.order import BlobTarget, Identity
from wire.errors import HostError
from wire.http import HttpClient


class LossyStore:
    """A blob store of one append blob on a real socket; each PUT may be stored, or answered, or neither."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.content: bytes | None = None
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.heads_lost = 0
        self.plan: list[str] = []
        """For the next Append Blocks: `store`, `lose answer`, `lose both`, `refuse`."""
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                self._converse(connection)

    def _converse(self, connection: socket.socket) -> None:
        data = b""
        while b"\r\n\r\n" not in data:
            part = connection.recv(65536)
            if not part:
                return
            data += part
        head, _, body = data.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        while len(body) < int(headers.get("content-length", "0")):
            body += connection.recv(65536)
        self.requests.append((lines[0], headers))
        answer = self._answer(lines[0], headers, body)
        if answer:
            connection.sendall(answer)

    def _answer(self, line: str, headers: dict[str, str], body: bytes) -> bytes:
        if "/metadata/identity" in line:
            return reply(200, b'{"access_token": "TOKEN"}')
        if line.startswith("HEAD") and self.heads_lost:
            self.heads_lost -= 1
            return b""
        if line.startswith("HEAD"):
            return reply(200, b"", f"Content-Length: {len(self.content or b'')}\r\n")
        if "comp=appendblock" not in line:
            if "sig=spent" in line:
                return reply(403)
            self.content = b""
            return reply(201)
        act = self.plan.pop(0) if self.plan else "store"
        if act == "refuse":
            return reply(403)
        if act != "lose both":
            if int(headers["x-ms-blob-condition-appendpos"]) != len(self.content or b""):
                return reply(412)
            self.content = (self.content or b"") + body
        return reply(201) if act == "store" else b""


def reply(status: int, body: bytes = b"", headers: str = "") -> bytes:
    length = headers or f"Content-Length: {len(body)}\r\n"
    return f"HTTP/1.1 {status} X\r\n{length}Connection: close\r\n\r\n".encode() + body


@pytest.fixture
def lossy() -> Iterator[LossyStore]:
    store = LossyStore()
    yield store
    store.close()


def blob(store: LossyStore, source: Path, query: str = "sig=x", **target: Any) -> AppendBlob:
    wanted = BlobTarget(url=f"{store.url}/c/b" + (f"?{query}" if query else ""), signed=bool(query), **target)
    return AppendBlob(HttpClient("test"), store.url, wanted, source)


def test_both_streams_are_stored_whole(managed: Any, script: Any, store: Any) -> None:
    out, err = store.signed("whole"), store.signed("whole-err")
    view = managed.run(
        script(
            "head -c 9000000 /dev/zero | tr '\\0' x; echo end; echo bad >&2; exit 3",
            outputBlobUri=out.partition("?")[0],
            errorBlobUri=err.partition("?")[0],
        ),
        {
            "outputBlobSASToken": "?" + out.partition("?")[2],
            "errorBlobSASToken": err.partition("?")[2],  # tokens come with and without their question mark
        },
    )
    assert view["executionMessage"].endswith("exit status=3"), "nothing is said of the blobs when all is well"
    assert store.output("vm1.whole-0.stdout") == b"x" * 9_000_000 + b"end\n"
    assert store.output("vm1.whole-err-0.stdout") == b"bad\n"


def test_a_blob_that_cannot_be_made_is_minus_101_and_nothing_runs(
    managed: Any, script: Any, store: Any, tmp_path: Path
) -> None:
    url = store.signed("refused").partition("?")[0]
    managed.enable(script(f"touch {tmp_path}/ran", outputBlobUri=url), {"outputBlobSASToken": "sv=1&sig=CANARY"})
    assert managed.ended()["status"] == "success"
    view = managed.view()
    assert (view["executionState"], view["exitCode"]) == ("Failed", -101)
    assert "error creating AppendBlob" in view["executionMessage"]
    assert "CANARY" not in view["executionMessage"]
    assert not (tmp_path / "ran").exists()


def test_an_unreachable_store_is_minus_101(managed: Any, script: Any, closed_port: int) -> None:
    view = managed.run(
        script("true", outputBlobUri=f"http://127.0.0.1:{closed_port}/c/b"), {"outputBlobSASToken": "sig=x"}
    )
    assert view["exitCode"] == -101


def test_a_store_that_fails_later_costs_the_blob_and_not_the_run(managed: Any, script: Any, store: Any) -> None:
    out = store.signed("later")
    managed.enable(
        script("mkfifo fifo; echo up; read x < fifo; echo more", outputBlobUri=out.partition("?")[0]),
        {"outputBlobSASToken": out.partition("?")[2]},
    )
    managed.started()
    assert store.azfabric("fault", "add", "outputblob", "status", "--value", "403").returncode == 0
    try:
        (managed.place().work / "fifo").write_text("\n")
        managed.ended()
    finally:
        store.azfabric("fault", "clear")
    view = managed.view()
    assert (view["executionState"], view["exitCode"]) == ("Succeeded", 0)
    assert "the output blob was not completed" in view["executionMessage"]


def test_it_grows_while_the_script_runs(managed: Any, script: Any, store: Any, until: Callable[..., Any]) -> None:
    out = store.signed("grows")
    managed.settings(
        script("mkfifo fifo; echo first; read x < fifo; echo second", outputBlobUri=out.partition("?")[0]),
        {"outputBlobSASToken": out.partition("?")[2]},
    )
    code = (
        "import sys; from pathlib import Path\n"
        "from guestagent.runcommand.outside import Outside\n"
        "from guestagent.runcommand.place import own_place\n"
        "from guestagent.runcommand.processes import myself\n"
        "from guestagent.runcommand.record import Record\n"
        "from guestagent.runcommand.worker import Worker\n"
        "place = own_place(Path(sys.argv[1]), {'ConfigExtensionName': 'job'})\n"
        "record = Record(name='job', sequence_number=0, phase='accepted', worker=myself(), mark='m', accepted_at=1.0)\n"
        "Worker(place, record, Outside(), report_seconds=0.1).run()\n"
    )
    worker = subprocess.Popen([sys.executable, "-c", code, str(managed.folder.path)], start_new_session=True)
    file = store.root / "fabric" / "blobs" / "output" / "vm1.grows-0.stdout"
    until(lambda: file.exists() and file.read_bytes() == b"first\n", "the blob to grow")
    (managed.place().work / "fifo").write_text("\n")
    assert worker.wait(60) == 0
    assert file.read_bytes() == b"first\nsecond\n"


def test_a_block_whose_answer_was_lost_is_not_stored_twice(lossy: LossyStore, tmp_path: Path) -> None:
    source = tmp_path / "stdout"
    source.write_bytes(b"one ")
    one = blob(lossy, source)
    one.create()
    lossy.plan = ["lose answer"]
    assert one.append(10.0)
    assert lossy.content == b"one "
    source.write_bytes(b"one two ")
    lossy.plan = ["lose both"]
    assert not one.append(10.0)
    assert one.problem
    assert one.append(10.0)
    assert lossy.content == b"one two "
    assert one.stored == 8
    assert one.problem == ""


def test_a_lost_answer_is_made_up_for_later_when_the_output_has_grown(lossy: LossyStore, tmp_path: Path) -> None:
    source = tmp_path / "stdout"
    source.write_bytes(b"one ")
    one = blob(lossy, source)
    one.create()
    lossy.plan, lossy.heads_lost = ["lose answer"], 1
    assert not one.append(10.0)
    source.write_bytes(b"one two ")
    assert one.append(10.0)
    assert lossy.content == b"one two "


def test_somebody_else_s_blob_is_left_alone(lossy: LossyStore, tmp_path: Path) -> None:
    source = tmp_path / "stdout"
    source.write_bytes(b"ours")
    one = blob(lossy, source)
    one.create()
    lossy.content = b"not ours"
    assert not one.append(10.0)
    assert "412" in one.problem
    assert lossy.content == b"not ours"


def test_what_is_sent_is_what_stores_take(lossy: LossyStore, tmp_path: Path) -> None:
    source = tmp_path / "stdout"
    source.write_bytes(b"x" * (4 * 1024 * 1024 + 5))
    one = blob(lossy, source, "sv=1&sig=abc")
    one.create()
    assert one.append(30.0)
    (create, how), (first, block), (second, rest) = lossy.requests
    assert create == "PUT /c/b?sv=1&sig=abc HTTP/1.1"
    assert (how["x-ms-blob-type"], how["content-length"]) == ("AppendBlob", "0")
    assert first == second == "PUT /c/b?sv=1&sig=abc&comp=appendblock HTTP/1.1"
    assert (block["x-ms-blob-condition-appendpos"], block["content-length"]) == ("0", "4194304")
    assert (rest["x-ms-blob-condition-appendpos"], rest["content-length"]) == ("4194304", "5")
    assert {one["x-ms-version"] for one in (how, block, rest)} == {"2018-03-28"}


def test_a_script_that_empties_its_output_goes_on_being_stored(lossy: LossyStore, tmp_path: Path) -> None:
    source = tmp_path / "stdout"
    source.write_bytes(b"much to say, ")
    one = blob(lossy, source)
    one.create()
    assert one.append(10.0)
    source.write_bytes(b"less")
    assert one.append(10.0)
    assert lossy.content == b"much to say, less"


def test_the_time_for_storing_is_bounded(lossy: LossyStore, tmp_path: Path) -> None:
    source = tmp_path / "stdout"
    source.write_bytes(b"x")
    one = blob(lossy, source)
    one.create()
    assert not one.append(0.0)
    assert "in time" in one.problem


# -- managed identities: the store is reached as a proxy, for its name must be that of a real one ---------------------


def by_identity(store: LossyStore, source: Path, query: str, identity: Identity | None) -> AppendBlob:
    url = "http://account.blob.core.windows.net/c/b" + (f"?{query}" if query else "")
    target = BlobTarget(url=url, signed=bool(query), identity=identity)
    client = HttpClient("test", proxies={"http": store.url})
    return AppendBlob(client, "http://metadata.invalid", target, source)


@pytest.mark.parametrize("query", ["", "sv=1&sig=spent"])
def test_an_identity_s_token_is_used_where_no_signature_does(lossy: LossyStore, tmp_path: Path, query: str) -> None:
    source = tmp_path / "stdout"
    source.write_bytes(b"out")
    one = by_identity(lossy, source, query, Identity(client_id="me"))
    one.create()
    assert one.append(10.0)
    assert lossy.content == b"out"
    token = [line for line, _ in lossy.requests if "/metadata/" in line]
    assert len(token) == 1, "one token serves them all"
    assert "client_id=me" in token[0]
    assert "resource=https%3A%2F%2Fstorage.azure.com%2F" in token[0]
    puts = [(line, headers) for line, headers in lossy.requests if line.startswith("PUT") and "spent" not in line]
    assert {headers["authorization"] for _, headers in puts} == {"Bearer TOKEN"}
    assert not [line for line, _ in puts if "sig=" in line]


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1/c/b", "http://evil.example/c/b", "http://account.blob.core.windows.net.evil.example/b"]
)
def test_a_token_goes_to_azure_s_stores_only(lossy: LossyStore, url: str) -> None:
    with pytest.raises(NoToken, match="no Azure blob store"):
        token_headers(HttpClient("test"), lossy.url, url, None)
    assert not lossy.requests


def test_without_a_metadata_service_the_reason_is_told(closed_port: int, tmp_path: Path) -> None:
    target = BlobTarget(url="http://account.blob.core.windows.net/c/b", signed=False)
    one = AppendBlob(HttpClient("test"), f"http://127.0.0.1:{closed_port}", target, tmp_path / "x")
    with pytest.raises((NoToken, HostError), match="managed identity needs a token"):
        one.create()
