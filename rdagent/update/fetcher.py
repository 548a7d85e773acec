"""HTTP for the library that reads the repository: our client, with its one deadline for all and its limits."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tuf.api.exceptions import DownloadError, DownloadHTTPError, DownloadLengthMismatchError
from tuf.ngclient import FetcherInterface

from rdagent import __version__
from wire.deadline import Deadline
from wire.errors import HostError, Refused, TooLarge
from wire.http import BODY_LIMIT, HttpClient


class Fetcher(FetcherInterface):
    """Raises DownloadError and nothing else for what the network does, OSError for the disk.

    The library's own fetchers have no total deadline, and let a body that breaks off escape as another library's error.
    """

    def __init__(self, deadline: Deadline) -> None:
        self._client = HttpClient(f"azvmagent/{__version__}")
        self._deadline = deadline
        self.path = Path()
        """Where the next file shall lie. It is fetched to a hidden one beside it: a download that breaks off is gone on
        with next time."""

    def download_bytes(self, url: str, max_length: int) -> bytes:
        """One document."""
        with _translated():
            return self._client.request("GET", url, deadline=self._deadline, limit=max_length).body

    @contextmanager
    def download_file(self, url: str, max_length: int) -> Iterator[IO[bytes]]:
        """One target, on disk; gone at the end of the block."""
        fetched = self.path.with_name(f".{self.path.name}.fetched")
        try:
            with _translated():
                self._client.download(url, fetched, deadline=self._deadline, limit=max_length, plain=True)
            with fetched.open("rb") as file:
                yield file
        finally:
            fetched.unlink(missing_ok=True)

    def _fetch(self, url: str) -> Iterator[bytes]:
        return iter([self.download_bytes(url, BODY_LIMIT)])


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except Refused as error:
        raise DownloadHTTPError(str(error), error.status) from error
    except TooLarge as error:
        raise DownloadLengthMismatchError(str(error)) from error
    except HostError as error:
        raise DownloadError(str(error)) from error
