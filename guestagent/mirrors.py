"""Each mirror, directly and through the host, until one brings what is wanted (protocol: channels)."""

import logging
import threading
from collections.abc import Callable
from typing import Generic, Literal, TypeVar

import msgspec

from guestagent.errors import DownloadError, PackageError
from wire.deadline import Deadline
from wire.errors import HostError, TooSlow, WireError
from wire.redact import redact

Channel = Literal["direct", "host"]
T = TypeVar("T")

CHANNELS: tuple[Channel, Channel] = ("direct", "host")
_REASON_LIMIT = 300

logger = logging.getLogger("guestagent")


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One mirror by one channel."""

    url: str
    channel: Channel
    deadline: Deadline
    hurried: bool
    """Others are left that may be faster."""


class Brought(msgspec.Struct, Generic[T], frozen=True, kw_only=True):
    """What came, and where from."""

    what: T
    url: str


class Mirrors:
    """The channel that worked last is tried first. May be used from several threads at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._first: Channel = "direct"

    def bring(
        self, what: str, urls: tuple[str, ...], act: Callable[[Attempt], T], *, seconds: float, code: int
    ) -> Brought[T]:
        """The first success of `act`. Who was too slow is asked once more, when all others have failed.

        Raises DownloadError with that `code`; PackageError when everybody brings a package that is bad.
        """
        budget = Deadline.after(seconds)
        failures: list[_Failure] = []
        places = [(url, channel) for url in urls for channel in self._channels()]
        for first_round in (True, False):
            slow: list[tuple[str, Channel]] = []
            for number, (url, channel) in enumerate(places, 1):
                if budget.left() == 0:
                    break
                hurried = first_round and (number < len(places) or bool(slow))
                try:
                    found = act(Attempt(url=url, channel=channel, deadline=budget, hurried=hurried))
                except (WireError, PackageError) as error:
                    failures.append(_Failure(url=url, channel=channel, error=error))
                    logger.info("%s: %s", what, failures[-1])
                    if isinstance(error, TooSlow):
                        slow.append((url, channel))
                else:
                    self._worked(channel)
                    return Brought(what=found, url=url)
            places = slow
        raise _verdict(what, failures, code)

    def _channels(self) -> tuple[Channel, Channel]:
        with self._lock:
            return CHANNELS if self._first == CHANNELS[0] else (CHANNELS[1], CHANNELS[0])

    def _worked(self, channel: Channel) -> None:
        with self._lock:
            self._first = channel


class _Failure(msgspec.Struct, frozen=True, kw_only=True):
    url: str
    channel: Channel
    error: Exception

    def __str__(self) -> str:
        reason = self.error.reason if isinstance(self.error, HostError) else redact(str(self.error))
        return f"{self.channel} {redact(self.url)}: {reason[:_REASON_LIMIT]}"


def _verdict(what: str, failures: list[_Failure], code: int) -> DownloadError | PackageError:
    """What came and is bad everywhere is the package's fault, and not the network's."""
    mirrors = tuple(str(one) for one in failures)
    text = "; ".join(mirrors) or "no URL is given"
    bad = [one.error for one in failures if isinstance(one.error, PackageError)]
    if bad and len(bad) == len(failures):
        return PackageError(f"{what} is bad wherever it comes from: {text}", bad[-1].code)
    return DownloadError(f"{what} could not be downloaded: {text}", code, mirrors)
