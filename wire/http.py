"""The one HTTP client, over `requests`. Blocking: components call it in threads.

What it adds: a deadline for the whole conversation (a host that sends a byte a second does not outlive it), lengths
checked, sizes bounded, redirects never followed, no proxy unless told, secrets out of every log line, downloads gone on
with where they broke off, and a `close` that ends conversations under way. Exceptions of the libraries below are mapped
here and nowhere else.
"""

import contextlib
import http.client
import logging
import socket
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from wire.body import CHUNK, announced, chunks
from wire.deadline import Deadline
from wire.download import PATIENTLY, Download, Downloaded, Patience, Unchanged
from wire.errors import Gone, HostError, InvalidContainer, Refused, TimedOut, Truncated, Unplain, Unreachable
from wire.redact import redact
from wire.retry import ONCE, Policy, attempt

if TYPE_CHECKING:
    import requests

BODY_LIMIT = 8 * 1024 * 1024
"""Bytes of a document; packages are streamed to disk under a limit of their own."""

_CONNECT_SECONDS = 10.0
_EXCERPT = 300
_SUCCESS = frozenset({200, 201, 202, 304})
# A download of which nothing comes for so long has broken off.
_SILENCE_SECONDS = 20.0

logger = logging.getLogger("wire")


class Response(msgspec.Struct, frozen=True, kw_only=True):
    """An answer with a success or 304 status."""

    status: int
    headers: Mapping[str, str]
    """Looked up without case."""
    body: bytes


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
                content = b"".join(chunks(answer, url, limit))
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
        known: str = "",
        patience: Patience = PATIENTLY,
        plain: bool = False,
    ) -> Downloaded | Unchanged:
        """Stream a body to `target`, which appears whole or not at all. Raises HostError, OSError (the disk).

        What breaks off is gone on with: at once as long as each answer brings something, else by the next call for the
        same `target`, be it after a restart. `known` is the ETag of a copy the caller has, which may turn out to be
        `unchanged`. `plain` refuses a body with a content coding.
        """

        @contextlib.contextmanager
        def converse(headers: Mapping[str, str], accepted: frozenset[int]) -> "Iterator[requests.Response]":
            with self._conversation(
                "GET",
                url,
                deadline,
                headers,
                accepted=accepted,
                answer_within=patience.answer_within,
                silence=_SILENCE_SECONDS,
            ) as answer:
                coding = answer.headers.get("Content-Encoding", "identity").strip().lower()
                if plain and coding != "identity":
                    raise Unplain(url, f"Content-Encoding {coding[:40]!r}, which nobody asked for")
                yield answer

        one = Download(
            url, target, headers=headers or {}, limit=limit, known=known, patience=patience, converse=converse
        )
        return attempt(policy, deadline, lambda: one.run(deadline, self.pause), self.pause)

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
        self,
        method: str,
        url: str,
        deadline: Deadline,
        headers: Mapping[str, str],
        body: bytes | None = None,
        *,
        accepted: frozenset[int] = _SUCCESS,
        answer_within: float | None = None,
        silence: float | None = None,
    ) -> "Iterator[requests.Response]":
        conversation = _Conversation()
        with self._lock:
            self._open.add(conversation)
        left = max(0.001, deadline.left())
        conversation.end_after(left if answer_within is None else min(left, answer_within))
        try:
            with _mapped(url, conversation, self._closing), conversation.session() as session:
                session.proxies.update(self._proxies)
                answer = session.request(
                    method,
                    url,
                    headers={"User-Agent": self._user_agent, "Accept-Encoding": "identity", **headers},
                    data=body,
                    timeout=(min(_CONNECT_SECONDS, left), left if silence is None else min(left, silence)),
                    allow_redirects=False,
                    stream=True,
                )
                with answer:
                    conversation.end_after(deadline.left())
                    _check_status(answer, url, accepted)
                    yield answer
        except HostError as error:
            logger.debug("%s %s: %s", method, redact(url), error.reason)
            raise
        finally:
            conversation.over()
            with self._lock:
                self._open.discard(conversation)


class _Conversation:
    """One request's connection, so that another thread can end it."""

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []
        self._aborted = False
        self._watchdog: threading.Timer | None = None
        self.late = False
        """Whether its time was up."""

    def end_after(self, seconds: float) -> None:
        """From now on; what was said before does not count any more."""
        self.over()
        self._watchdog = threading.Timer(seconds, self._time_is_up)
        self._watchdog.daemon = True
        self._watchdog.start()

    def over(self) -> None:
        if self._watchdog is not None:
            self._watchdog.cancel()

    def abort(self) -> None:
        """The thread that reads sees the end of the stream."""
        self._aborted = True
        for one in self._sockets:
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _time_is_up(self) -> None:
        self.late = True
        self.abort()

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


def _check_status(answer: "requests.Response", url: str, accepted: frozenset[int]) -> None:
    if answer.status_code in accepted:
        return
    excerpt = b"".join(chunks(answer, url, CHUNK)) if (announced(answer) or 0) <= CHUNK else b""
    text = " ".join(f"{answer.reason or ''} {excerpt[:_EXCERPT].decode('utf-8', 'replace')}".split())
    if answer.status_code == http.client.GONE:
        raise Gone(url, answer.status_code, text)
    if answer.status_code == http.client.BAD_REQUEST and "InvalidContainerConfiguration" in text:
        raise InvalidContainer(url, answer.status_code, text)
    location = answer.headers.get("Location", "") if answer.is_redirect else ""
    raise Refused(url, answer.status_code, text, location)


@contextlib.contextmanager
def _mapped(url: str, conversation: _Conversation, closing: threading.Event) -> Iterator[None]:
    """Whatever the libraries throw becomes one of our errors."""
    import requests
    import urllib3

    try:
        yield
    except HostError as error:
        if conversation.late and isinstance(error, Truncated):
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
        if conversation.late or isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError | TimeoutError):
            raise TimedOut(url, "no complete answer in time") from error
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
