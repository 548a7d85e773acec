"""The one HTTP client, over `requests`. Blocking: components call it in threads.

What it adds: a deadline for the whole conversation (a host that sends a byte a second does not outlive it), lengths
checked, sizes bounded, redirects never followed, no proxy unless told, secrets out of every log line, and a `close`
that ends conversations under way. Exceptions of the libraries below are mapped here and nowhere else.
"""

import contextlib
import hashlib
import http.client
import logging
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import msgspec

from wire.deadline import Deadline
from wire.errors import Gone, HostError, InvalidContainer, Refused, TimedOut, TooLarge, Truncated, Unreachable
from wire.redact import redact
from wire.retry import ONCE, Policy, attempt

if TYPE_CHECKING:
    import requests

BODY_LIMIT = 8 * 1024 * 1024
"""Bytes of a document; packages are streamed to disk under a limit of their own."""

_CHUNK = 64 * 1024
_CONNECT_SECONDS = 10.0
_EXCERPT = 300

logger = logging.getLogger("wire")


class Response(msgspec.Struct, frozen=True, kw_only=True):
    """An answer with a success or 304 status."""

    status: int
    headers: Mapping[str, str]
    """Looked up without case."""
    body: bytes


class Downloaded(msgspec.Struct, frozen=True, kw_only=True):
    """A file that arrived whole."""

    size: int
    sha256: str


class HttpClient:
    """One per component. May be used from several threads at once."""

    def __init__(self, user_agent: str, proxies: Mapping[str, str] | None = None) -> None:
        """`proxies` maps `http`/`https` to a proxy URL; the environment's are never used."""
        self._user_agent = user_agent
        self._proxies = dict(proxies or {})
        self._closing = threading.Event()
        self._open: set[_Conversation] = set()
        self._lock = threading.Lock()

    def request(
        self,
        method: str,
        url: str,
        *,
        deadline: Deadline,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        policy: Policy = ONCE,
        limit: int = BODY_LIMIT,
    ) -> Response:
        """One answer, body included. 200, 201, 202 and 304 are success. Raises HostError."""

        def act() -> Response:
            with self._conversation(method, url, deadline, headers or {}, body) as answer:
                content = b"".join(_chunks(answer, url, limit))
                return Response(status=answer.status_code, headers=answer.headers, body=content)

        return attempt(policy, deadline, act, self.pause)

    def download(
        self,
        url: str,
        target: Path,
        *,
        deadline: Deadline,
        headers: Mapping[str, str] | None = None,
        policy: Policy = ONCE,
        limit: int,
    ) -> Downloaded:
        """Stream a body to `target`, which appears whole or not at all. Raises HostError, OSError (the disk)."""

        def act() -> Downloaded:
            part = target.with_name(f".{target.name}.part")
            try:
                with (
                    self._conversation("GET", url, deadline, headers or {}, None) as answer,
                    part.open("wb") as file,
                ):
                    done = _store(answer, url, file, limit)
                part.replace(target)
            finally:
                part.unlink(missing_ok=True)
            return done

        return attempt(policy, deadline, act, self.pause)

    def pause(self, seconds: float) -> bool:
        """Wait in this thread; True if the client was closed meanwhile."""
        return self._closing.wait(seconds)

    def close(self) -> None:
        """End every conversation under way and refuse new ones: each raises Unreachable at once."""
        self._closing.set()
        with self._lock:
            conversations = list(self._open)
        for conversation in conversations:
            conversation.abort()

    @contextlib.contextmanager
    def _conversation(
        self, method: str, url: str, deadline: Deadline, headers: Mapping[str, str], body: bytes | None
    ) -> "Iterator[requests.Response]":
        conversation = _Conversation()
        with self._lock:
            self._open.add(conversation)
        watchdog = threading.Timer(deadline.left(), conversation.abort)
        watchdog.daemon = True
        watchdog.start()
        try:
            with _mapped(url, deadline, self._closing), conversation.session() as session:
                session.proxies.update(self._proxies)
                answer = session.request(
                    method,
                    url,
                    headers={"User-Agent": self._user_agent, "Accept-Encoding": "identity", **headers},
                    data=body,
                    timeout=(min(_CONNECT_SECONDS, deadline.left()), max(0.001, deadline.left())),
                    allow_redirects=False,
                    stream=True,
                )
                with answer:
                    _check_status(answer, url)
                    yield answer
        except HostError as error:
            logger.debug("%s %s: %s", method, redact(url), error.reason)
            raise
        finally:
            watchdog.cancel()
            with self._lock:
                self._open.discard(conversation)


class _Conversation:
    """One request's connection, so that another thread can end it."""

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []
        self._aborted = False

    def abort(self) -> None:
        """The thread that reads sees the end of the stream."""
        self._aborted = True
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def session(self) -> "requests.Session":
        """A session of one connection, without the environment's proxies, netrc or certificates."""
        import requests
        import requests.adapters
        import urllib3

        conversation = self

        class Connection(urllib3.connection.HTTPConnection):
            def connect(self) -> None:
                super().connect()
                conversation.watch(self.sock)

        class TlsConnection(urllib3.connection.HTTPSConnection):
            def connect(self) -> None:
                super().connect()
                conversation.watch(self.sock)

        class Pool(urllib3.HTTPConnectionPool):
            ConnectionCls = Connection

        class TlsPool(urllib3.HTTPSConnectionPool):
            ConnectionCls = TlsConnection

        class Session(requests.Session):
            def get_redirect_target(self, resp: requests.Response) -> str | None:  # noqa: ARG002
                # Even where redirects are not followed, the library would read the body of one whole.
                return None

        adapter = requests.adapters.HTTPAdapter(pool_connections=1, pool_maxsize=1)
        adapter.poolmanager.pool_classes_by_scheme = {"http": Pool, "https": TlsPool}
        session = Session()
        session.trust_env = False
        session.mount("http://", adapter)
        session.mount("https://", adapter)
        return session

    def watch(self, connected: socket.socket | None) -> None:
        if connected is not None:
            self._sockets.append(connected)
            if self._aborted:
                self.abort()


def _check_status(answer: "requests.Response", url: str) -> None:
    if answer.status_code in {200, 201, 202, 206, 304}:
        return
    excerpt = b"".join(_chunks(answer, url, _CHUNK)) if int(answer.headers.get("Content-Length") or 0) < _CHUNK else b""
    text = " ".join(f"{answer.reason or ''} {excerpt[:_EXCERPT].decode('utf-8', 'replace')}".split())
    if answer.status_code == http.client.GONE:
        raise Gone(url, answer.status_code, text)
    if answer.status_code == http.client.BAD_REQUEST and "InvalidContainerConfiguration" in text:
        raise InvalidContainer(url, answer.status_code, text)
    location = answer.headers.get("Location", "") if answer.is_redirect else ""
    raise Refused(url, answer.status_code, text, location)


def _store(answer: "requests.Response", url: str, file: BinaryIO, limit: int) -> Downloaded:
    digest, size = hashlib.sha256(), 0
    for chunk in _chunks(answer, url, limit):
        file.write(chunk)
        digest.update(chunk)
        size += len(chunk)
    file.flush()
    os.fsync(file.fileno())
    return Downloaded(size=size, sha256=digest.hexdigest())


def _chunks(answer: "requests.Response", url: str, limit: int) -> Iterator[bytes]:
    """The body as it comes in; its length is checked against what was announced."""
    if answer.request.method == "HEAD":
        return  # it announces what a GET would bring
    announced = answer.headers.get("Content-Length", "")
    if answer.status_code == 200 and answer.request.method == "GET" and not announced and not _is_chunked(answer):
        # It would end where the connection ends, and a connection that broke would look like a whole answer.
        raise Truncated(url, "the head says neither a length nor chunks, or is cut short")
    if announced.isdigit() and int(announced) > limit:
        raise TooLarge(url, f"{announced} bytes announced, limit {limit}")
    size = 0
    while chunk := answer.raw.read1(_CHUNK):
        size += len(chunk)
        if size > limit:
            raise TooLarge(url, f"more than {limit} bytes")
        yield chunk
    if announced.isdigit() and size < int(announced) and answer.status_code != 304:
        raise Truncated(url, f"{size} of {announced} bytes")


def _is_chunked(answer: "requests.Response") -> bool:
    return "chunked" in answer.headers.get("Transfer-Encoding", "").lower()


@contextlib.contextmanager
def _mapped(url: str, deadline: Deadline, closing: threading.Event) -> Iterator[None]:
    """Whatever the libraries throw becomes one of our errors."""
    import requests
    import urllib3

    try:
        yield
    except HostError as error:
        if deadline.left() == 0 and isinstance(error, Truncated):
            raise TimedOut(url, "the deadline passed while the body came in") from error
        raise
    except (
        requests.RequestException,
        urllib3.exceptions.HTTPError,
        http.client.HTTPException,
        OSError,
        ValueError,
    ) as error:
        if closing.is_set():
            raise Unreachable(url, "the client is closed") from error
        if deadline.left() == 0 or isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError | TimeoutError):
            raise TimedOut(url, "no complete answer before the deadline") from error
        if isinstance(
            error, urllib3.exceptions.IncompleteRead | urllib3.exceptions.ProtocolError | http.client.IncompleteRead
        ):
            raise Truncated(url, f"broken off: {error}") from error
        raise Unreachable(url, _reason(error)) from error


def _reason(error: BaseException) -> str:
    """The innermost cause: requests wraps it in several layers of text."""
    while (inner := getattr(error, "reason", None) or (error.args[0] if error.args else None)) and isinstance(
        inner, BaseException
    ):
        error = inner
    return f"{type(error).__name__}: {error}"[:_EXCERPT]
