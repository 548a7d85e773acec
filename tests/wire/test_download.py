"""Downloads over connections that break: the right bytes, or a typed error, and never a mixture."""

import errno
import hashlib
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wire.deadline import Deadline
from wire.download import Downloaded, Patience, Unchanged
from wire.errors import HostError, InvalidContainer, Refused, TimedOut, TooLarge, TooSlow
from wire.hostplugin import HostPlugin
from wire.http import HttpClient
from wire.part import Note, Rest, fits, strong_etag, usable_etag

LIMIT = 10**6
CONTENT = hashlib.shake_256(b"package").digest(100_000)
OTHER = hashlib.shake_256(b"another").digest(100_000)


class Blob(msgspec.Struct, kw_only=True):
    """How one connection is answered."""

    content: bytes = CONTENT
    etag: str = '"one"'
    ranges: bool = True
    """Whether it knows of them."""
    if_range: bool = True
    """Whether it knows that a range may be conditional; Azure's blob service does not."""
    most: int = 10**9
    """It gives no longer range than this."""
    chunked: bool = False
    cut: int | None = None
    """The connection breaks after so many bytes of the answer, its head included."""
    spoil: tuple[str, str] | None = None
    """A piece of the head, and what stands there instead."""

    def __call__(self, connection: Any, head: bytes) -> None:
        connection.sendall(self.answer(head)[: self.cut])

    def answer(self, head: bytes) -> bytes:
        asked = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in head.decode("latin-1").split("\r\n")[1:])
        }
        fields = [f"ETag: {self.etag}"] if self.etag else []
        status, body = "200 OK", self.content
        if self.etag and asked.get("if-none-match") == self.etag:
            return self.spoilt([*fields, "Content-Length: 0"], "304 Not Modified")
        current = not self.if_range or asked.get("if-range") in (None, self.etag)
        if self.ranges and current and asked.get("range"):
            start = int(asked["range"].removeprefix("bytes=").rstrip("-"))
            if start >= len(body):
                return self.spoilt([*fields, "Content-Length: 0"], "416 Range Not Satisfiable")
            end = min(len(body), start + self.most)
            fields.append(f"Content-Range: bytes {start}-{end - 1}/{len(body)}")
            status, body = "206 Partial Content", body[start:end]
        if self.chunked:
            pieces = [body[at : at + 1000] for at in range(0, len(body), 1000)]
            body = b"".join(b"%x\r\n%s\r\n" % (len(one), one) for one in pieces) + b"0\r\n\r\n"
            fields.append("Transfer-Encoding: chunked")
        else:
            fields.append(f"Content-Length: {len(body)}")
        return self.spoilt(fields, status) + body

    def spoilt(self, fields: list[str], status: str) -> bytes:
        head = "\r\n".join([f"HTTP/1.1 {status}", *fields, "Connection: close", "", ""])
        return (head.replace(*self.spoil) if self.spoil else head).encode()


@pytest.fixture
def client() -> Iterator[HttpClient]:
    client = HttpClient("azvmagent/test")
    yield client
    client.close()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "package.zip"


def download(client: HttpClient, url: str, target: Path, **what: Any) -> Downloaded | Unchanged:
    return client.download(url, target, deadline=Deadline.after(20), limit=LIMIT, **what)


def whole(client: HttpClient, url: str, target: Path, content: bytes = CONTENT, **what: Any) -> Downloaded:
    """Downloaded, right, and with nothing left beside it."""
    done = download(client, url, target, **what)
    assert isinstance(done, Downloaded)
    assert target.read_bytes() == content
    assert (done.size, done.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert list(target.parent.iterdir()) == [target]
    return done


def ranges_asked(host: Any) -> list[str]:
    heads = [one.partition(b"\r\n\r\n")[0].decode("latin-1").split("\r\n") for one in host.requests]
    return [next((line[7:] for line in head if line.startswith("Range: ")), "") for head in heads]


def half(client: HttpClient, host: Any, target: Path, **blob: Any) -> int:
    """A download that broke off; how many bytes are there."""
    reached = threading.Event()

    def hang(connection: Any, head: bytes) -> None:
        connection.sendall(Blob(cut=50_000, **blob).answer(head)[:50_000])
        reached.set()
        connection.recv(1)

    host.answer(hang)
    with pytest.raises(TimedOut):
        client.download(host.url, target, deadline=Deadline.after(0.3), limit=LIMIT)
    assert reached.is_set()
    assert not target.exists()
    host.requests.clear()
    return target.with_name(f".{target.name}.part").stat().st_size


def test_a_broken_download_is_gone_on_with_at_once(client: HttpClient, host: Any, target: Path) -> None:
    host.answer(Blob(cut=10_000), Blob(cut=30_000), Blob(cut=1_000), Blob())
    done = whole(client, host.url, target)
    assert done.resumed
    assert done.etag == '"one"'
    first, *later = ranges_asked(host)
    assert first == ""
    starts = [int(one.removeprefix("bytes=").removesuffix("-")) for one in later]
    assert starts == sorted(set(starts))
    assert 30_000 < starts[-1] < 45_000
    assert all(b'If-Range: "one"' in one for one in host.requests[1:])


def test_and_by_a_later_call(client: HttpClient, host: Any, target: Path) -> None:
    there = half(client, host, target)
    host.answer(Blob())
    assert whole(client, host.url, target).resumed
    assert ranges_asked(host) == [f"bytes={there}-"]


@pytest.mark.parametrize(
    ("blob", "content"),
    [
        (Blob(ranges=False), CONTENT),
        (Blob(content=OTHER, etag='"two"'), OTHER),
        (Blob(content=OTHER, etag='"two"', if_range=False), OTHER),
        (Blob(content=OTHER[:100], etag='"two"', if_range=False), OTHER[:100]),
        (Blob(spoil=('ETag: "one"\r\n', "")), CONTENT),
        (Blob(spoil=("Content-Range: bytes 4", "Content-Range: bytes 3")), CONTENT),
        (Blob(spoil=("Content-Range: bytes", "Content-Range: items")), CONTENT),
        (Blob(spoil=("/100000", "/100001")), CONTENT),
        (Blob(spoil=("/100000", "/*")), CONTENT),
        (Blob(spoil=("206 Partial Content", "412 Precondition Failed")), CONTENT),
        (Blob(spoil=("206 Partial Content", "400 What Range")), CONTENT),
    ],
    ids=range(11),
)
def test_what_does_not_fit_is_dropped_and_the_whole_is_asked_for(
    client: HttpClient, host: Any, target: Path, blob: Blob, content: bytes
) -> None:
    """Each of these answers says that the bytes we have are not the beginning of what it has."""
    assert 49_000 < half(client, host, target) < 50_000
    host.answer(blob)
    assert not whole(client, host.url, target, content).resumed
    assert len(host.requests) <= 2
    assert ranges_asked(host)[0] != ""


@pytest.mark.parametrize(
    "blob", [Blob(etag=""), Blob(etag='W/"one"'), Blob(chunked=True)], ids=["none", "weak", "chunked"]
)
def test_what_cannot_be_gone_on_with_is_not_kept(client: HttpClient, host: Any, target: Path, blob: Blob) -> None:
    host.answer(msgspec.structs.replace(blob, cut=50_000))
    with pytest.raises(HostError):
        download(client, host.url, target)
    assert len(host.requests) == 1
    assert list(target.parent.iterdir()) == []


@pytest.mark.parametrize("note", [b"", b"{", b'{"etag": "*", "total": 100000}', b'{"etag": "\\"one\\"", "total": 7}'])
def test_a_damaged_note_costs_a_new_beginning(client: HttpClient, host: Any, target: Path, note: bytes) -> None:
    half(client, host, target)
    target.with_name(f".{target.name}.note").write_bytes(note)
    host.answer(Blob())
    assert not whole(client, host.url, target).resumed
    assert ranges_asked(host) == [""]


def test_ranges_shorter_than_asked_for_are_put_together(client: HttpClient, host: Any, target: Path) -> None:
    there = half(client, host, target)
    host.answer(Blob(most=20_000))
    assert whole(client, host.url, target).resumed
    assert ranges_asked(host) == [f"bytes={start}-" for start in range(there, len(CONTENT), 20_000)]


def test_a_part_never_keeps_the_note_of_another(client: HttpClient, host: Any, target: Path) -> None:
    half(client, host, target)
    host.answer(Blob(content=OTHER, etag='"two"', chunked=True, cut=30_000))
    with pytest.raises(HostError):
        download(client, host.url, target)
    host.answer(Blob())
    assert not whole(client, host.url, target).resumed


def test_a_whole_part_is_asked_whether_it_is_current(client: HttpClient, host: Any, target: Path) -> None:
    """Killed after the last byte and before the rename."""
    half(client, host, target)
    target.with_name(f".{target.name}.part").write_bytes(CONTENT)
    host.answer(Blob())
    whole(client, host.url, target)
    assert ranges_asked(host) == [f"bytes={len(CONTENT) - 1}-"]


def test_more_than_the_range_is_refused(client: HttpClient, host: Any, target: Path) -> None:
    there = half(client, host, target)
    rest = CONTENT[there:] + b"and more"

    def more(connection: Any, _: bytes) -> None:
        span = f"bytes {there}-{len(CONTENT) - 1}/{len(CONTENT)}"
        head = f'HTTP/1.1 206 Partial Content\r\nETag: "one"\r\nContent-Range: {span}\r\nConnection: close\r\n\r\n'
        connection.sendall(head.encode() + rest)

    host.answer(more)
    with pytest.raises(TooLarge):
        download(client, host.url, target)
    assert not target.exists()


def test_a_part_that_was_not_asked_for_is_refused(client: HttpClient, host: Any, target: Path) -> None:
    host.answer(Blob(spoil=("200 OK", "206 Partial Content")))
    with pytest.raises(Refused):
        download(client, host.url, target)
    with pytest.raises(Refused):
        client.request("GET", host.url, deadline=Deadline.after(5))
    host.answer(Blob(spoil=("200 OK", "304 Not Modified")))
    with pytest.raises(Refused):
        download(client, host.url, target)


def test_a_known_copy_may_be_unchanged(client: HttpClient, host: Any, target: Path) -> None:
    host.answer(Blob())
    assert download(client, host.url, target, known='"one"') == "unchanged"
    assert list(target.parent.iterdir()) == []
    assert b'If-None-Match: "one"' in host.requests[0]
    assert whole(client, host.url, target, known='"older"').etag == '"one"'


def test_with_a_known_copy_and_a_part_both_are_told(client: HttpClient, host: Any, target: Path) -> None:
    there = half(client, host, target)
    host.answer(Blob())
    assert whole(client, host.url, target, known='"older"').resumed
    assert ranges_asked(host) == [f"bytes={there}-"]
    target.unlink()
    half(client, host, target)
    host.answer(Blob(etag='"older"'))
    assert download(client, host.url, target, known='"older"') == "unchanged"
    assert list(target.parent.iterdir()) == [], "a part of something else than what is current"


def test_through_the_host_it_is_the_same(client: HttpClient, host: Any, target: Path) -> None:
    plugin = HostPlugin(client, host.url, "c", "n")

    def fetch(known: str = "") -> Downloaded | Unchanged:
        deadline = Deadline.after(20)
        return plugin.download("http://b/x?sig=s", target, manifest="m", limit=LIMIT, deadline=deadline, known=known)

    host.answer(Blob(cut=20_000), Blob())
    done = fetch()
    assert isinstance(done, Downloaded)
    assert done.resumed
    assert target.read_bytes() == CONTENT
    assert all(b"x-ms-artifact-location: http://b/x?sig=s" in one for one in host.requests)
    assert fetch('"one"') == "unchanged"
    target.unlink()
    half(client, host, target)
    host.answer(lambda connection, _: connection.sendall(b"HTTP/1.1 400 InvalidContainerConfiguration\r\n\r\n"))
    with pytest.raises(InvalidContainer):
        fetch()
    assert len(host.requests) == 1, "no reason to drop the part"


@pytest.mark.parametrize("where", ["before the head", "in the head"])
def test_who_does_not_answer_in_time_is_left(client: HttpClient, host: Any, target: Path, where: str) -> None:
    gone = threading.Event()

    def drip(connection: Any, _: bytes) -> None:
        if where == "in the head":
            connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
        while not gone.wait(0.02) and where == "in the head":
            connection.sendall(b"x")
        connection.recv(1)

    host.answer(drip)
    began = time.monotonic()
    with pytest.raises(TimedOut):
        download(client, host.url, target, patience=Patience(answer_within=0.3))
    gone.set()
    assert time.monotonic() - began < 15, "far less than the deadline"


def test_an_answer_that_began_in_time_may_take_its_time(client: HttpClient, host: Any, target: Path) -> None:
    began = threading.Event()

    def slowly(connection: Any, head: bytes) -> None:
        answer = Blob().answer(head)
        connection.sendall(answer[:1000])
        began.wait(1.0)  # longer than an answer may take to begin
        connection.sendall(answer[1000:])

    host.answer(slowly)
    whole(client, host.url, target, patience=Patience(answer_within=0.5))


def test_a_trickle_is_left_and_may_be_gone_on_with(client: HttpClient, host: Any, target: Path) -> None:
    gone = threading.Event()

    def trickle(connection: Any, head: bytes) -> None:
        answer = Blob().answer(head)
        connection.sendall(answer[:50_000])
        for at in range(50_000, len(answer), 10):
            if gone.wait(0.01):
                return
            connection.sendall(answer[at : at + 10])

    patience = Patience(slowest=10_000, window=0.3)
    host.answer(trickle)
    with pytest.raises(TooSlow, match="bytes in"):
        download(client, host.url, target, patience=patience)
    gone.set()
    assert len(host.requests) == 1
    host.answer(Blob())
    assert whole(client, host.url, target, patience=patience).resumed


def test_each_byte_at_which_an_answer_can_be_cut(client: HttpClient, host: Any, target: Path) -> None:
    content = b"0123456789"
    full = len(Blob(content=content).answer(b"GET / HTTP/1.1\r\n"))
    for cut in range(full):
        host.answer(Blob(content=content, cut=cut), Blob(content=content, cut=0))
        host.requests.clear()
        with pytest.raises(HostError):
            download(client, host.url, target)
        assert not target.exists()
        host.answer(Blob(content=content))
        whole(client, host.url, target, content)
        target.unlink()


@st.composite
def _connections(draw: st.DrawFn) -> list[Blob]:
    versions = [b"a" * draw(st.integers(0, 400)), b"b" * draw(st.integers(1, 400)), b"ab" * draw(st.integers(1, 200))]
    found = []
    for _ in range(draw(st.integers(1, 6))):
        version = draw(st.integers(0, len(versions) - 1))
        found.append(
            Blob(
                content=versions[version],
                etag=draw(st.sampled_from([f'"{version}"', f'"{version}"', f'W/"{version}"', ""])),
                ranges=draw(st.booleans()),
                if_range=draw(st.booleans()),
                most=draw(st.sampled_from([10**9, 10**9, 150])),
                chunked=draw(st.integers(0, 4)) == 0,
                cut=draw(st.none() | st.integers(0, 600)),
            )
        )
    return found


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(blobs=_connections())
def test_whatever_breaks_and_changes_nothing_is_ever_mixed(
    client: HttpClient, host: Any, target: Path, blobs: list[Blob]
) -> None:
    last = Blob(content=b"c" * 300, etag='"last"')
    left = [*blobs, last]

    def converse(connection: Any, head: bytes) -> None:
        (left.pop(0) if len(left) > 1 else last)(connection, head)

    host.answer(converse)
    versions = {one.content for one in blobs} | {last.content}
    for _ in range(len(blobs) + 1):
        target.unlink(missing_ok=True)
        try:
            done = download(client, host.url, target)
        except HostError:
            assert not target.exists()
            continue
        assert isinstance(done, Downloaded)
        content = target.read_bytes()
        assert content in versions
        assert done.sha256 == hashlib.sha256(content).hexdigest()
        if left == [last]:
            break
    else:
        pytest.fail("it never arrived")
    assert list(target.parent.iterdir()) == [target]
    target.unlink()


def test_a_killed_process_leaves_what_the_next_one_goes_on_with(client: HttpClient, host: Any, target: Path) -> None:
    reached, gone = threading.Event(), threading.Event()

    def hang(connection: Any, head: bytes) -> None:
        connection.sendall(Blob().answer(head)[:60_000])
        reached.set()
        gone.wait(60)

    host.answer(hang)
    script = """
        import sys
        from pathlib import Path
        from wire.deadline import Deadline
        from wire.http import HttpClient
        HttpClient("child").download(sys.argv[1], Path(sys.argv[2]), deadline=Deadline.after(60), limit=10**6)
        """
    child = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script), host.url, str(target)])
    part = target.with_name(f".{target.name}.part")
    assert reached.wait(30)
    until = time.monotonic() + 30
    while not (part.exists() and part.stat().st_size > 50_000) and time.monotonic() < until:
        pass
    child.kill()
    child.wait()
    gone.set()
    there = part.stat().st_size
    assert there > 50_000
    host.answer(Blob())
    assert whole(client, host.url, target).resumed
    assert ranges_asked(host)[-1] == f"bytes={there}-"


def test_a_full_disk_is_the_disks_error_and_leaves_no_part(host: Any, target: Path) -> None:
    host.answer(Blob())
    script = """
        import resource, sys
        from pathlib import Path
        from wire.deadline import Deadline
        from wire.http import HttpClient
        resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))
        try:
            HttpClient("child").download(sys.argv[1], Path(sys.argv[2]), deadline=Deadline.after(20), limit=10**6)
        except OSError as error:
            print(error.errno)
        """
    command = [sys.executable, "-c", textwrap.dedent(script), host.url, str(target)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == str(errno.EFBIG), done.stderr
    assert list(target.parent.iterdir()) == []


def test_closing_ends_a_download_that_would_be_gone_on_with(client: HttpClient, host: Any, target: Path) -> None:
    def cut_and_close(connection: Any, head: bytes) -> None:
        Blob(cut=5000)(connection, head)
        client.close()

    host.answer(cut_and_close)
    with pytest.raises(HostError):
        download(client, host.url, target)
    assert len(host.requests) == 1


@given(text=st.text(max_size=300))
def test_what_is_sent_back_as_an_etag_cannot_break_a_head(text: str) -> None:
    for found in (usable_etag(text), strong_etag(text)):
        assert found in ("", text)
        assert not set(found) & set("\r\n ,\0")
        assert found.removeprefix("W/") != "*"


@pytest.mark.parametrize("text", ['"0x8D4BCC2E4835CD0"', "0x8D4BCC2E4835CD0", 'W/"x"'])
def test_etags_as_azure_and_others_write_them(text: str) -> None:
    assert usable_etag(text) == text
    assert strong_etag(text) == ("" if text.startswith("W/") else text)


@given(text=st.text(st.sampled_from("bytes 0123456789-/*"), max_size=40))
def test_a_content_range_fits_or_does_not(text: str) -> None:
    rest = Rest(start=4, note=Note(etag='"e"', total=10))
    if fits(rest, text, '"e"'):
        assert text.strip() in {f"bytes 4-{end}/10" for end in range(4, 10)} or "0" in text
    assert fits(rest, "bytes 4-9/10", '"e"')
    assert not fits(rest, "bytes 4-9/10", '"f"')
    assert not fits(rest, "bytes 5-9/10", '"e"')
    assert not fits(rest, "bytes 4-10/10", '"e"')
    assert not fits(rest, "bytes 4-3/10", '"e"')
