"""One file from one place, gone on with where it broke off."""

import hashlib
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from wire.body import announced, chunks
from wire.deadline import Deadline
from wire.errors import InvalidContainer, Refused, TimedOut, TooSlow, Truncated, Unreachable
from wire.part import DiskError, Part, Rest, fits, usable_etag

if TYPE_CHECKING:
    import requests

# How servers say that they do not like to be asked for a part.
_NO_PART = frozenset({400, 412, 416})
_PAUSE = 0.1

Unchanged = Literal["unchanged"]
Converse = Callable[[Mapping[str, str], frozenset[int]], AbstractContextManager["requests.Response"]]
"""Ask with these headers; the answer has one of these statuses. Raises HostError."""


class Downloaded(msgspec.Struct, frozen=True, kw_only=True):
    """A file that arrived whole."""

    size: int
    sha256: str
    etag: str = ""
    """To be sent back when it is asked for again; empty if the server gave none that could be."""
    resumed: bool = False
    """Put together from several answers: if it turns out to be damaged, it may be our doing."""


class Patience(msgspec.Struct, frozen=True, kw_only=True):
    """What a download is given up for before its deadline."""

    answer_within: float | None = None
    """Seconds until the head of an answer is there."""
    slowest: float = 0.0
    """Bytes a second it must come with, looked at every `window` seconds."""
    window: float = 15.0


PATIENTLY = Patience()


class Download:
    """To `target`, which appears whole or not at all."""

    def __init__(
        self,
        url: str,
        target: Path,
        *,
        headers: Mapping[str, str],
        limit: int,
        known: str,
        patience: Patience,
        converse: Converse,
    ) -> None:
        self._url = url
        self._headers = {**headers, "If-None-Match": known} if known else dict(headers)
        self._known = known
        self._limit = limit
        self._patience = patience
        self._converse = converse
        self._part = Part(target)

    def run(self, deadline: Deadline, pause: Callable[[float], bool]) -> Downloaded | Unchanged:
        """Until it is whole, as long as each answer brings something. Raises HostError, OSError (the disk)."""
        try:
            while True:
                before = self._part.size
                try:
                    return self._answer()
                except _Misfit:
                    continue  # what did not fit is dropped by now: the whole is asked for
                except TooSlow:
                    raise
                except (Truncated, Unreachable, TimedOut):
                    further = self._part.rest() is not None and self._part.size > before
                    if not further or deadline.left() < _PAUSE or pause(_PAUSE):
                        raise
        except DiskError as error:
            self._part.drop()
            raise error.error from error
        finally:
            if self._part.rest() is None:
                self._part.drop()

    def _answer(self) -> Downloaded | Unchanged:
        """One answer. Raises HostError, DiskError, _Misfit; what came in before that is in the part."""
        rest = self._part.rest()
        asked, accepted = dict(self._headers), {200, 304} if self._known else {200}
        if rest is not None:
            asked |= {"Range": f"bytes={rest.start}-", "If-Range": rest.note.etag}
            accepted.add(206)
        try:
            with self._converse(asked, frozenset(accepted)) as answer:
                return self._take(answer, rest)
        except _Misfit:
            self._part.drop()
            raise
        except Refused as refusal:
            if rest is None or refusal.status not in _NO_PART or isinstance(refusal, InvalidContainer):
                raise
            self._part.drop()
            raise _Misfit from refusal

    def _take(self, answer: "requests.Response", rest: Rest | None) -> Downloaded | Unchanged:
        etag = answer.headers.get("ETag", "")
        if answer.status_code == 304:
            self._part.drop()
            return "unchanged"
        if answer.status_code == 200 or rest is None:
            return self._store(answer, etag, announced(answer))
        if not fits(rest, answer.headers.get("Content-Range", ""), etag):
            raise _Misfit
        return self._store(answer, etag, rest.note.total, rest.start)

    def _store(self, answer: "requests.Response", etag: str, total: int | None, start: int = 0) -> Downloaded:
        """The body, behind the `start` bytes that are there."""
        if start:
            digest = self._part.digest(start)
        else:
            digest = hashlib.sha256()
            self._part.begin(etag, total)
        size, since, before = start, time.monotonic(), start
        with self._part.appending() as write:
            for chunk in chunks(answer, self._url, (total if start and total else self._limit) - start):
                write(chunk)
                digest.update(chunk)
                size += len(chunk)
                seconds = time.monotonic() - since
                if seconds >= self._patience.window:
                    if size - before < self._patience.slowest * seconds:
                        raise TooSlow(self._url, f"{size - before} bytes in {seconds:.0f} seconds")
                    since, before = time.monotonic(), size
            if total is not None and size < total:
                raise Truncated(self._url, f"{size} of {total} bytes")
        self._part.finish()
        return Downloaded(size=size, sha256=digest.hexdigest(), etag=usable_etag(etag), resumed=start > 0)


class _Misfit(Exception):
    """An answer that has nothing to do with what is there already."""
