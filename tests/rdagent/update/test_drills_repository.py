"""Drills 1 to 14: a repository, or the host's store, that is away or lies in every way. It costs one line of reason.

Each drill goes both ways: the signed repository by its child, and the URLs of the host's manifest.
"""

import asyncio
import contextlib
import fcntl
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import pytest

from ipc.places import Places
from rdagent.update.fetch import fetch_by_url, layer_url
from rdagent.update.repository import Repository
from rdagent.update.source import Answer, Kind, Order, SourceError, layer_target
from tests.rdagent.update.conftest import Blocking
from tests.rdagent.update.lying import LyingServer, Script, SignedRepository, drip, endless, reply, silent, zipped
from wire.deadline import Deadline
from wire.http import HttpClient

LIMIT = 1 << 20
TARGET = "packages/telemetry/telemetry-0.2.0.zip"
PAGE = reply(b"<!DOCTYPE html><html><body>Sign in</body></html>", headers="Content-Type: text/html\r\n")
STATUSES = ("400 No", "401 No", "403 No", "404 No", "410 Gone", "429 Wait", "500 No", "502 No", "503 No")


def refused(repository: Blocking, seconds: float = 30.0) -> SourceError:
    with pytest.raises(SourceError) as caught:
        repository.look(seconds=seconds)
    assert "\n" not in caught.value.reason
    return caught.value


def not_fetched(repository: Blocking, path: Path, seconds: float = 30.0) -> SourceError:
    with pytest.raises(SourceError) as caught:
        repository.fetch(TARGET, path, seconds=seconds)
    assert_nothing(path)
    return caught.value


def not_got(urls: list[str], path: Path, seconds: float = 30.0) -> SourceError:
    client = HttpClient("test")
    with pytest.raises(SourceError) as caught:
        fetch_by_url(client, urls, path, limit=LIMIT, deadline=Deadline.after(seconds))
    assert_nothing(path)
    return caught.value


def assert_nothing(path: Path) -> None:
    """No package, and nothing that could be taken for one."""
    assert not path.exists()
    assert not list(path.parent.glob(f".{path.name}.checked"))


def returns(repository: Blocking, path: Path, server: LyingServer) -> None:
    """The repository is itself again: nothing has to be repaired by hand."""
    server.lies.clear()
    repository.fetch(TARGET, path)
    assert path.read_bytes() == zipped(b"0.2.0")


def both(
    repository: Blocking, server: LyingServer, path: Path, lie: Script, metadata: set[Kind], package: set[Kind]
) -> None:
    """The lie told of the metadata, of the package, and of the host's URL; then the truth."""
    server.lies = {"timestamp.json": lie}
    assert (refused(repository)).kind in metadata
    server.lies = {"/targets/": lie}
    assert (not_fetched(repository, path)).kind in package
    server.lies = {"/agents/": lie}
    assert not_got([f"{server.url}/agents/telemetry_0.2.0.zip?sig=secret"], path).kind in package
    returns(repository, path, server)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "package.zip"


def test_drill_01_connection_refused(signed: SignedRepository, places: Places, path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one:
        url = f"http://127.0.0.1:{one.getsockname()[1]}"
    error = refused(Blocking(url, places))
    assert error.kind == "unreachable"
    assert url in error.reason
    assert not_got([f"{url}/x.zip"], path).kind == "unreachable"


def test_drill_02_name_does_not_resolve(signed: SignedRepository, places: Places, tmp_path: Path) -> None:
    """In a network without anybody who could be asked."""
    order = Order(
        url="http://repository.invalid",
        root=str(places.trust / "root.json"),
        state=str(tmp_path / "state"),
        seconds=20,
        components=("telemetry",),
    )
    alone = ["unshare", "--net"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--net"]
    command = [*alone, sys.executable, "-P", "-m", "rdagent.update.tufchild"]
    done = subprocess.run(command, input=msgspec.json.encode(order), capture_output=True, timeout=60)
    answer = msgspec.json.decode(done.stdout, type=Answer)
    assert answer.kind == "unreachable"
    assert "repository.invalid" in answer.reason


def test_drill_03_accepts_and_never_answers(repository: Blocking, server: LyingServer, path: Path) -> None:
    server.lies = {"/": silent(server)}
    began = time.monotonic()
    assert (refused(repository, 1.0)).kind == "unreachable"
    assert (not_fetched(repository, path, 1.0)).kind == "unreachable"
    assert not_got([f"{server.url}/x.zip"], path, 1.0).kind == "unreachable"
    assert time.monotonic() - began < 12.0
    server.lies = {"/targets/": silent(server)}
    assert (not_fetched(repository, path, 2.0)).kind == "unreachable"
    returns(repository, path, server)


def test_drill_04_drip_feed_ends_at_the_total_deadline(
    repository: Blocking, signed: SignedRepository, server: LyingServer, path: Path
) -> None:
    lie = drip(server, server.files["/metadata/timestamp.json"])
    began = time.monotonic()
    server.lies = {"timestamp.json": lie}
    assert (refused(repository, 2.0)).kind == "unreachable"
    server.lies = {"/": lie}
    assert not_got([f"{server.url}/x.zip"], path, 2.0).kind == "unreachable"
    server.lies = {"/targets/": lie}
    assert (not_fetched(repository, path, 3.0)).kind in {"unreachable", "damaged"}
    assert time.monotonic() - began < 15.0
    returns(repository, path, server)


def test_drill_05_each_status_on_the_metadata(repository: Blocking, server: LyingServer, path: Path) -> None:
    for status in STATUSES:
        server.lies = {"timestamp.json": reply(b"no", status)}
        error = refused(repository)
        assert error.kind == "unreachable"
        assert f"HTTP {status[:3]}" in error.reason
        assert not_got([f"{server.url}/timestamp.json"], path).kind in {"unreachable", "missing"}
    # A root that is refused means that there is none newer, but for what the server cannot help.
    server.lies = {"root.json": reply(b"no", "503 No")}
    assert (refused(repository)).kind == "unreachable"
    server.lies = {"root.json": reply(b"no", "403 No")}
    repository.look()
    returns(repository, path, server)


@pytest.mark.parametrize("status", ["403 No", "404 No"])
def test_drill_06_the_package_is_refused(repository: Blocking, server: LyingServer, path: Path, status: str) -> None:
    server.lies = {"/targets/": reply(b"no", status)}
    error = not_fetched(repository, path)
    assert error.kind == "unreachable"
    assert f"HTTP {status[:3]}" in error.reason
    returns(repository, path, server)


def test_drill_07_redirects_are_not_followed(
    repository: Blocking, server: LyingServer, places: Places, path: Path
) -> None:
    leads = [f"{server.url}/metadata/timestamp.json", "file:///etc/passwd", "ftp://127.0.0.1/x", "//["]
    lies = [reply(b"", "302 Found", f"Location: {place}\r\n") for place in leads]
    for lie in lies[:2]:
        both(repository, server, path, lie, {"unreachable"}, {"unreachable"})
    for lie in lies:
        server.lies = {"/agents/": lie}
        assert not_got([f"{server.url}/agents/x.zip"], path).kind == "unreachable"
    assert refused(Blocking(f"file://{path.parent}", places)).kind == "unreachable"
    # And no URL of another kind is asked for at all.
    for url in ("file:///etc/passwd", "ftp://127.0.0.1/x.zip", "http://", "http://[x/", "x.zip", "http://h:99999/"):
        assert not_got([url], path).kind == "damaged"


def test_drill_08_captive_portal(repository: Blocking, server: LyingServer, path: Path) -> None:
    both(repository, server, path, PAGE, {"damaged"}, {"damaged"})
    server.lies = {"/": PAGE}
    assert (refused(repository)).kind == "damaged"
    returns(repository, path, server)


def test_drill_09_not_http_at_all(repository: Blocking, server: LyingServer, path: Path) -> None:
    def lie(connection: socket.socket) -> None:
        connection.sendall(b"220 smtp.example ESMTP\r\n" + bytes(range(256)) * 10)

    kinds: set[Kind] = {"unreachable", "damaged"}
    both(repository, server, path, lie, kinds, kinds)


@pytest.mark.parametrize("announced", [True, False])
def test_drill_10_truncated(
    repository: Blocking, signed: SignedRepository, server: LyingServer, path: Path, announced: bool
) -> None:
    whole = zipped(b"0.2.0")

    def cut(connection: socket.socket) -> None:
        length = f"Content-Length: {len(whole)}\r\n" if announced else ""
        connection.sendall(f"HTTP/1.1 200 OK\r\n{length}Connection: close\r\n\r\n".encode() + whole[:-20])

    both(repository, server, path, cut, {"damaged"}, {"damaged"})


def test_drill_11_a_bit_flipped_or_nothing(
    repository: Blocking, signed: SignedRepository, server: LyingServer, path: Path
) -> None:
    for name, kind in (("timestamp.json", "untrusted"), ("snapshot.json", "untrusted"), ("/targets/", "damaged")):
        (found,) = [one for one in server.files if name in one][-1:]
        content = bytearray(server.files[found])
        # In metadata a figure of a signature, in the package any byte.
        place = content.find(b'"sig":"') + 10 if name.endswith("json") else len(content) // 2
        content[place] ^= 1
        server.lies = {name: reply(bytes(content))}
        assert (not_fetched(repository, path)).kind == kind, name
        server.lies = {name: reply(b"")}
        assert (not_fetched(repository, path)).kind == "damaged", name
    server.lies = {"/": reply(b"")}
    assert not_got([f"{server.url}/x.zip"], path).kind == "damaged"
    returns(repository, path, server)


def test_drill_12_endless_body(repository: Blocking, server: LyingServer, path: Path) -> None:
    began = time.monotonic()
    both(repository, server, path, endless(server, zipped()), {"damaged"}, {"damaged"})
    assert time.monotonic() - began < 20.0


def test_drill_12_length_of_nine_exabytes(repository: Blocking, server: LyingServer, path: Path) -> None:
    lie = reply(zipped(), announced=9 * 10**18)
    both(repository, server, path, lie, {"damaged"}, {"damaged"})
    lie = reply(zipped(), announced=8 * 10**17)
    both(repository, server, path, lie, {"damaged"}, {"damaged"})


def test_drill_12_content_encoding(repository: Blocking, server: LyingServer, path: Path) -> None:
    """Even around the very package that was asked for: what unpacks it has no limit."""
    lie = reply(zipped(b"0.2.0"), headers="Content-Encoding: gzip\r\n")
    both(repository, server, path, lie, {"damaged"}, {"damaged"})


def test_drill_13_first_url_bad_next_good(server: LyingServer, path: Path) -> None:
    good = server.files["/good/x.zip"] = zipped(b"the good one")
    client = HttpClient("test")
    bad: dict[str, Script] = {
        "/silent/": silent(server),
        "/page/": PAGE,
        "/away/": reply(b"", "404 No"),
        "/large/": reply(zipped(), announced=LIMIT + 1),
        "/packed/": reply(good, headers="Content-Encoding: br\r\n"),
    }
    server.lies = bad
    urls = [f"{server.url}{one}x.zip" for one in bad]
    urls = ["file:///etc/passwd", *urls, f"{server.url}/good/x.zip"]
    began = time.monotonic()
    used = fetch_by_url(client, urls, path, limit=LIMIT, deadline=Deadline.after(30), each_seconds=1.0)
    assert used == urls[-1]
    assert path.read_bytes() == good
    assert time.monotonic() - began < 10.0
    path.unlink()
    # All bad: each is in the reason, and no more time is spent than there is.
    error = not_got(urls[:-1], path, 2.0)
    assert error.kind == "unreachable"
    assert all(word in error.reason for word in ("only http", "/silent/"))
    assert not_got([], path).kind == "missing"


def test_drill_14_version_withdrawn_meanwhile(
    repository: Blocking, signed: SignedRepository, server: LyingServer, path: Path
) -> None:
    (offered,) = (repository.look()).offered
    del signed.telemetry.targets[TARGET]
    signed.save()
    error = not_fetched(repository, path)
    assert error.kind == "missing"
    assert offered.target in error.reason
    assert (repository.look()).offered == ()
    assert not_got([f"{server.url}/agents/telemetry_0.2.0.zip"], path).kind == "missing"


def test_an_unchanged_look_asks_twice(repository: Blocking, server: LyingServer) -> None:
    repository.look()
    server.asked.clear()
    repository.look()
    assert server.asked == ["/metadata/2.root.json", "/metadata/timestamp.json"]


def test_what_is_offered_is_what_was_signed(repository: Blocking, signed: SignedRepository, path: Path) -> None:
    content = signed.publish("0.3.0", ring=0, channel="edge", floor="0.2.0", layers=["cd" * 32])
    signed.put(layer_target("cd" * 32), b"a layer")
    signed.save()
    answer = repository.look()
    newest = answer.offered[-1]
    assert (newest.component, newest.version, newest.channel, newest.ring) == ("telemetry", "0.3.0", "edge", 0)
    assert (newest.floor, newest.layers, newest.size) == ("0.2.0", ("cd" * 32,), len(content))
    repository.fetch(layer_target("cd" * 32), path)
    assert path.read_bytes() == b"a layer"
    # It costs this process nothing but the waiting.
    assert 0 < answer.memory < 100 << 20


@pytest.mark.parametrize(
    "custom",
    [
        None,
        {},
        {"component": "rdagent"},
        {"version": "0.3.1"},
        {"version": "0.3.0-beta"},
        {"ring": -1},
        {"digest": "../x"},
        {"layers": ["../../etc"]},
        {"floor": 7},
    ],
)
def test_junk_is_passed_over_and_said(
    repository: Blocking, signed: SignedRepository, custom: dict[str, object] | None
) -> None:
    whole = {"component": "telemetry", "version": "0.3.0", "channel": "stable", "ring": 1, "digest": "ab" * 32}
    signed.put("packages/telemetry/telemetry-0.3.0.zip", b"x", {**whole, **custom} if custom else custom)
    signed.save()
    answer = repository.look()
    assert [one.version for one in answer.offered] == ["0.2.0"]
    (reason,) = answer.skipped
    assert "telemetry-0.3.0.zip" in reason


def test_a_child_that_hangs_is_ended(
    repository: Blocking, server: LyingServer, signed: SignedRepository, places: Places
) -> None:
    """It waits for a lock that nobody lets go."""
    state = places.state_of("rdagent") / "repository"
    state.mkdir(parents=True)
    with (state / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        began = time.monotonic()
        assert refused(repository, 0.5).kind == "unreachable"
        assert time.monotonic() - began < 6.0
    repository.look()


def test_cancelled_the_child_is_gone_and_the_next_one_works(
    server: LyingServer, signed: SignedRepository, places: Places, path: Path
) -> None:
    """As when rdagent itself ends in the middle of a download."""
    asked, gone = threading.Event(), threading.Event()

    def hold(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nPK")
        asked.set()
        with contextlib.suppress(ConnectionResetError):  # what it had not read yet is lost with it
            assert connection.recv(1) == b""
        gone.set()

    async def begin_and_leave() -> None:
        task = asyncio.create_task(Repository(server.url, places).fetch(TARGET, path))
        assert await asyncio.to_thread(asked.wait, 30.0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    server.lies = {"/targets/": hold}
    asyncio.run(begin_and_leave())
    assert gone.wait(30.0)
    assert_nothing(path)
    returns(Blocking(server.url, places), path, server)


def test_the_updater_itself_loads_neither_http_nor_signatures() -> None:
    code = "import sys, rdagent.update.repository, rdagent.update.fetch, json; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert not loaded & {"tuf", "requests", "urllib3", "cryptography", "securesystemslib"}


@pytest.mark.parametrize(
    ("package", "layer"),
    [
        ("http://h:80/agents/telemetry_0.2.0.zip?sig=a&sp=r", "http://h:80/agents/layers/{}.zip?sig=a&sp=r"),
        ("https://h/X.zip", "https://h/layers/{}.zip"),
        ("http://h/a/b/X.zip#part", "http://h/a/b/layers/{}.zip#part"),
    ],
)
def test_a_layer_lies_beside_its_package(package: str, layer: str) -> None:
    assert layer_url(package, "ab" * 32) == layer.format("ab" * 32)
