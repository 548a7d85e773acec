"""Manifests and packages from real servers: who is asked in which order, who fails how, and what the copies are for."""

import contextlib
import io
import json
import socket
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest

from guestagent.artifacts import Artifacts
from guestagent.cache import Cache
from guestagent.errors import ConfigurationError, DownloadError, PackageError, SignatureError, VersionMissing
from guestagent.handlermanifest import HandlerManifest
from guestagent.layout import HandlerFolder
from guestagent.mirrors import Attempt, Mirrors
from wire.deadline import Deadline
from wire.errors import TooSlow
from wire.hostplugin import HostPlugin
from wire.http import HttpClient
from wire.manifest import Package

NAME = "Test.One"
COMMANDS = {f"{kind}Command": f"{kind}.sh" for kind in ("install", "enable", "disable", "update", "uninstall")}
QUERY = "sig=CANARYSECRET"


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """How a server answers for one path."""

    body: bytes = b""
    status: int = 200
    etag: str = ""
    breaks_at: int | None = None
    """The connection breaks after so many bytes of the body."""
    silent: bool = False
    """Nothing comes until the server closes."""


NOWHERE = Answer(status=404)
# As artifact repositories have failed.
FAILURES = [
    *(Answer(status=status) for status in (400, 403, 404, 409, 429, 500, 503)),
    Answer(status=200, body=b"<html>Sign in</html>"),
    Answer(status=200, body=b""),
    Answer(status=200, body=b"x" * 100, breaks_at=0),
]


class Server:
    """One mirror, or the host's plugin: the same paths, asked for by location."""

    def __init__(self, name: str, asked: list[str]) -> None:
        """`asked` is told `<server> <path>`, with the first byte if it is not 0."""
        self.answers: dict[str, Answer] = {}
        self._ends = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:  # its caller's name
                place = urlsplit(self.headers.get("x-ms-artifact-location") or self.path).path
                start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").rstrip("-"))
                asked.append(f"{name} {place}" + (f" from {start}" if start else ""))
                with contextlib.suppress(OSError):
                    outer.answer(self, outer.answers.get(place, NOWHERE), start)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # its caller's name
                """Not to our terminal."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def answer(self, handler: BaseHTTPRequestHandler, answer: Answer, start: int) -> None:
        handler.close_connection = True
        if answer.silent:
            self._ends.wait()
            return
        status, body = answer.status, answer.body[start:]
        if answer.etag and handler.headers.get("If-None-Match") == answer.etag:
            status, body = 304, b""
        handler.send_response(206 if start else status)
        handler.send_header("Content-Length", str(len(body)))
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(answer.body) - 1}/{len(answer.body)}")
        if answer.etag:
            handler.send_header("ETag", answer.etag)
        handler.end_headers()
        handler.wfile.write(body if answer.breaks_at is None or start else body[: answer.breaks_at])
        handler.wfile.flush()
        with contextlib.suppress(OSError):
            handler.connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._ends.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class World:
    """Two mirrors, the host, and an agent's artifacts; `again` is the same disk with a new process."""

    def __init__(self, root: Path) -> None:
        self.lib = root / "lib"
        self.lib.mkdir()
        self.root = root
        self.asked: list[str] = []
        self.one, self.two, self.host = (Server(name, self.asked) for name in ("one", "two", "host"))
        self.client = HttpClient("azvmagent/test")
        self.plugin = HostPlugin(self.client, self.host.url, "container", "config")
        self.now = 1_700_000_000.0
        self.came: list[bytes] = []
        self.artifacts = self.again()

    def again(self, limit_bytes: int = 10**6) -> Artifacts:
        cache = Cache(self.root / "cache", limit_bytes=limit_bytes, limit_entries=100, clock=lambda: self.now)
        told = self.came
        self.artifacts = Artifacts(self.client, self.lib, cache, lambda _, data: told.append(data), lambda: self.now)
        return self.artifacts

    def publish(self, *servers: Server, **answers: Answer) -> None:
        """`manifest` and `package` at each of the servers, and nothing of either anywhere else."""
        for server in (self.one, self.two, self.host):
            there = server in servers
            server.answers = {f"/{name}": answer if there else NOWHERE for name, answer in answers.items()}

    def fail(self, failure: Answer) -> None:
        for server in (self.one, self.two, self.host):
            server.answers = {"/manifest": failure, "/package": failure}

    def choose(self, version: str = "1.0.0") -> Any:
        self.asked.clear()
        places = [f"{server.url}/manifest?{QUERY}" for server in (self.one, self.two)]
        return self.artifacts.choose(self.plugin, NAME, version, places)

    def fetch(self, version: str = "1.0.0", name: str = NAME, **what: Any) -> Any:
        self.asked.clear()
        folder = HandlerFolder(self.lib, self.root / "log", name, version)
        uris = tuple(f"{server.url}/package?{QUERY}" for server in (self.one, self.two))
        return self.artifacts.fetch(self.plugin, folder, Package(version=version, uris=uris), "http://m/", **what)

    def close(self) -> None:
        self.client.close()
        for server in (self.one, self.two, self.host):
            server.close()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.close()


def manifest(*versions: str) -> bytes:
    plugins = "".join(
        f"<Plugin><Version>{version}</Version><Uris><Uri>http://x/{version}</Uri></Uris></Plugin>"
        for version in versions or ("1.0.0",)
    )
    return f"<PluginVersionManifest><Plugins>{plugins}</Plugins></PluginVersionManifest>".encode()


def package(enable: bytes = b"enable") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("HandlerManifest.json", json.dumps([{"handlerManifest": COMMANDS}]))
        archive.writestr("enable.sh", enable)
    return buffer.getvalue()


ORDER = ["one /{}", "host /{}", "two /{}", "host /{}"]


def places(what: str, count: int = 4) -> list[str]:
    """The first so many of the places, as they are asked: each location directly, then through the host."""
    return [place.format(what) for place in ORDER[:count]]


# -- the order of places -----------------------------------------------------------------------------------------------


def test_the_first_place_that_has_it_is_the_last_that_is_asked(world: World) -> None:
    world.publish(world.one, manifest=Answer(body=manifest()), package=Answer(body=package()))
    assert world.choose().package == Package(version="1.0.0", uris=("http://x/1.0.0",))
    assert world.asked == places("manifest", 1)
    world.fetch()
    assert world.asked == places("package", 1)
    assert world.came == [manifest()]


def test_the_channel_that_worked_last_is_asked_first(world: World) -> None:
    world.publish(world.host, manifest=Answer(body=manifest()), package=Answer(body=package()))
    world.choose()
    assert world.asked == places("manifest", 2)
    world.fetch()
    assert world.asked == ["host /package"]
    world.publish(world.two, manifest=Answer(body=manifest()))
    world.choose()
    assert world.asked == ["host /manifest", "one /manifest", "host /manifest", "two /manifest"]
    world.publish(world.one, manifest=Answer(body=manifest()))
    world.choose()
    assert world.asked == ["one /manifest"]


@pytest.mark.parametrize("failure", FAILURES)
def test_whatever_is_wrong_with_a_place_the_next_one_is_asked(world: World, failure: Answer) -> None:
    world.fail(failure)
    world.two.answers = {"/manifest": Answer(body=manifest()), "/package": Answer(body=package(), etag='"p"')}
    world.choose()
    assert world.asked == places("manifest", 3)
    world.fetch()
    assert (world.lib / f"{NAME}-1.0.0" / "enable.sh").read_bytes() == b"enable"
    assert list(world.lib.glob("*.zip*")) == []


def test_a_manifest_without_the_version_is_no_answer_for_the_next_one(world: World) -> None:
    world.publish(world.one, manifest=Answer(body=manifest("0.9.0")))
    world.two.answers = {"/manifest": Answer(body=manifest("1.0.0"))}
    assert world.choose().package.version == "1.0.0"


def test_what_is_no_version_is_asked_for_nowhere(world: World) -> None:
    with pytest.raises(ConfigurationError):
        world.choose("one")
    assert world.asked == []


def test_one_who_does_not_answer_costs_only_what_he_was_given(world: World) -> None:
    world.one.answers = {"/x": Answer(silent=True)}
    world.two.answers = {"/x": Answer(body=b"here")}

    def get(attempt: Attempt) -> bytes:
        return world.client.request("GET", attempt.url, deadline=Deadline.after(0.2)).body

    urls = (f"{world.one.url}/x", f"{world.two.url}/x")
    found = Mirrors().bring("x", urls, get, seconds=60, code=-1)
    assert (found.what, found.url) == (b"here", urls[1])
    assert world.asked == ["one /x", "one /x", "two /x"]


def test_when_the_whole_time_is_spent_nobody_else_is_asked(world: World) -> None:
    world.one.answers = {"/x": Answer(silent=True)}

    def get(attempt: Attempt) -> bytes:
        return world.client.request("GET", attempt.url, deadline=attempt.deadline).body

    with pytest.raises(DownloadError) as caught:
        Mirrors().bring("x", (f"{world.one.url}/x", f"{world.two.url}/x"), get, seconds=0.3, code=1001)
    assert (len(caught.value.mirrors), caught.value.code) == (1, 1001)
    assert world.asked == ["one /x"]


def test_who_was_too_slow_is_asked_once_more_in_no_hurry_when_all_others_have_failed() -> None:
    asked = []

    def act(attempt: Attempt) -> str:
        asked.append((attempt.url, attempt.channel, attempt.hurried))
        if attempt.url == "http://slow/" and not attempt.hurried:
            return "slowly"
        raise TooSlow(attempt.url, "too slow") if attempt.url == "http://slow/" else PackageError("bad")

    assert Mirrors().bring("x", ("http://slow/", "http://bad/"), act, seconds=60, code=-1).what == "slowly"
    assert asked == [
        ("http://slow/", "direct", True),
        ("http://slow/", "host", True),
        ("http://bad/", "direct", True),
        ("http://bad/", "host", True),
        ("http://slow/", "direct", False),
    ]


# -- nobody has it -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", FAILURES)
def test_when_nobody_has_it_each_place_is_named_with_its_reason_and_without_its_secret(
    world: World, failure: Answer
) -> None:
    world.fail(failure)
    with pytest.raises(DownloadError) as caught:
        world.choose()
    assert world.asked == places("manifest")
    assert [one.split()[0] for one in caught.value.mirrors] == ["direct", "host", "direct", "host"]
    assert all(f"{server.url}/manifest" in str(caught.value) for server in (world.one, world.two))
    assert "CANARYSECRET" not in str(caught.value)
    assert world.artifacts.unreachable == {NAME: world.now}
    world.now += 60
    with pytest.raises((DownloadError, PackageError)):
        world.fetch()
    assert world.asked == places("package")
    # Since it was first seen to be away, until it is back.
    assert world.artifacts.unreachable_since == world.now - 60
    world.publish(world.one, manifest=Answer(body=manifest()), package=Answer(body=package()))
    world.choose()
    world.fetch()
    assert world.artifacts.unreachable_since is None


def test_bytes_that_are_bad_everywhere_are_the_packages_fault(world: World) -> None:
    world.publish(world.one, world.two, world.host, package=Answer(body=b"no zip"))
    with pytest.raises(PackageError, match="bad wherever it comes from"):
        world.fetch()
    world.one.answers["/package"] = Answer(status=403)
    with pytest.raises(DownloadError, match="HTTP 403"):
        world.fetch()
    assert not (world.lib / f"{NAME}-1.0.0").exists()


def test_whoever_is_asked_for_approval_ends_the_matter(world: World) -> None:
    world.publish(world.one, world.two, world.host, package=Answer(body=package()))
    seen = []

    def approve(zipped: Path, manifest: HandlerManifest) -> None:
        seen.append((zipped.read_bytes(), manifest.enable))
        raise SignatureError("unsigned", "nobody signed it")

    with pytest.raises(SignatureError):
        world.fetch(approve=approve)
    assert seen == [(package(), "enable.sh")]
    assert world.asked == places("package", 1)
    assert not (world.lib / f"{NAME}-1.0.0").exists()
    assert not world.artifacts.has(NAME, "1.0.0")


# -- the copies --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("again", [False, True])
def test_what_was_good_once_is_had_without_anybody(world: World, failure: Answer, again: bool) -> None:
    world.publish(world.one, manifest=Answer(body=manifest()), package=Answer(body=package()))
    world.choose()
    world.fetch()
    since, world.now = world.now, world.now + 3600
    world.fail(failure)
    if again:
        world.again()
    choice = world.choose()
    assert (choice.package.version, choice.stale_since) == ("1.0.0", since)
    assert all(f"{server.url}/manifest" in choice.reason for server in (world.one, world.two))
    fetched = world.fetch()
    assert (fetched.stale_since, fetched.manifest.enable) == (since, "enable.sh")
    assert world.asked == places("package")


def test_a_version_that_no_manifest_names_any_more_is_had_only_from_a_copy(world: World) -> None:
    world.publish(world.one, manifest=Answer(body=manifest("1.0.0", "1.1.0")), package=Answer(body=package()))
    world.choose()
    world.fetch("1.0.0")
    world.publish(world.one, manifest=Answer(body=manifest("2.0.0")))
    assert world.choose("1.0.0").stale_since == world.now
    # Withdrawn, and never here: not to be fetched from where it once was.
    with pytest.raises(VersionMissing):
        world.choose("1.1.0")


def test_without_a_manifest_the_newest_copy_that_fits_will_do(world: World) -> None:
    world.publish(world.one, package=Answer(body=package()))
    for version in ("1.0.0", "1.0.10", "1.0.9", "2.0.0"):
        world.fetch(version)
    world.fail(Answer(status=403))
    assert world.choose("1.0").package == Package(version="1.0.10", uris=())


def test_what_the_repository_confirms_is_not_sent_again_and_other_bytes_are(world: World) -> None:
    world.publish(world.one, package=Answer(body=package(), etag='"first"'))
    world.fetch()
    # It says that nothing has changed; were its bytes taken, they would be bad.
    world.publish(world.one, package=Answer(body=b"no zip", etag='"first"'))
    assert world.fetch().stale_since is None
    assert world.asked == places("package", 1)
    world.publish(world.one, package=Answer(body=package(b"newer"), etag='"second"'))
    world.fetch()
    assert (world.lib / f"{NAME}-1.0.0" / "enable.sh").read_bytes() == b"newer"


def test_a_download_that_broke_off_is_gone_on_with_where_it_was(world: World) -> None:
    content = package(b"x" * 50_000)
    broken = Answer(body=content, etag='"p"', breaks_at=20_000)
    world.publish(world.one, package=broken)
    world.fetch()
    assert world.asked == ["one /package", "one /package from 20000"]
    assert (world.lib / f"{NAME}-1.0.0" / "enable.sh").read_bytes() == b"x" * 50_000
    assert list(world.lib.glob(".*")) == []


def test_what_is_installed_is_never_given_up_for_room_and_the_rest_is(world: World) -> None:
    content = package(b"x" * 1000)
    world.again(limit_bytes=len(content) * 2)
    world.publish(world.one, package=Answer(body=content))
    world.artifacts.pin([("Test.Installed", "1.0.0")])
    for name in ("Test.Installed", "Test.Gone"):
        world.fetch(name=name)
    # Both are needed until it is next said what is.
    world.artifacts.pin([("Test.Installed", "1.0.0")])
    for name in ("Test.More", "Test.Newest"):
        world.fetch(name=name)
        world.artifacts.pin([("Test.Installed", "1.0.0")])
    names = ("Test.Installed", "Test.Gone", "Test.More", "Test.Newest")
    held = [name for name in names if world.artifacts.has(name, "1.0.0")]
    assert held == ["Test.Installed", "Test.Newest"]


def test_manifests_are_kept_one_for_each_handler(world: World) -> None:
    world.publish(world.one, manifest=Answer(body=manifest("1.0.0")))
    world.choose()
    world.publish(world.one, manifest=Answer(body=manifest("1.0.0", "1.1.0")))
    world.choose()
    kept = [path.read_bytes() for path in (world.root / "cache" / "manifests").glob("*/*")]
    assert kept == [manifest("1.0.0", "1.1.0")]


def test_a_folder_is_restored_from_the_copy_and_what_the_handler_wrote_stays(world: World) -> None:
    world.publish(world.one, package=Answer(body=package()))
    folder: HandlerFolder = world.fetch().folder
    (folder.path / "enable.sh").write_bytes(b"damaged")
    (folder.path / "mrseq").write_bytes(b"7")
    world.fail(Answer(status=403))
    assert world.artifacts.restore(folder).enable == "enable.sh"
    assert (folder.path / "enable.sh").read_bytes() == b"enable"
    assert (folder.path / "mrseq").read_bytes() == b"7"
    with pytest.raises(PackageError, match="no copy"):
        world.artifacts.restore(HandlerFolder(world.lib, world.root, "Test.Other", "1.0.0"))
