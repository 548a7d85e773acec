"""Fetching scripts and the files beside them: by signature, by managed identity, or as anybody."""

from collections.abc import Callable
from pathlib import Path
from urllib.parse import urljoin

from guestagent.runcommand.errors import RunError
from guestagent.runcommand.identity import NoToken, is_blob_store, token_headers
from guestagent.runcommand.order import Source
from guestagent.runcommand.script import convert_file
from wire.deadline import Deadline
from wire.errors import HostError, Refused
from wire.http import HttpClient
from wire.redact import redact
from wire.retry import Policy

_SECONDS = 600.0
_LIMIT = 4 * 1024 * 1024 * 1024
_REDIRECTS = 5
_POLICY = Policy(attempts=4, first_pause=2.0)


def fetch(
    client: HttpClient, imds: str, source: Source, folder: Path, *, convert: bool, failed: Callable[[str], RunError]
) -> Path:
    """The file in `folder`, executable. Raises what `failed` makes of the reason."""
    target = folder / source.file_name
    if target.exists() or target.is_symlink():
        raise failed(f"there are two files called {source.file_name!r}")
    deadline = Deadline.after(_SECONDS)
    try:
        _download(client, source.url, target, {}, deadline)
    except HostError as error:
        reason = str(error)
        if not isinstance(error, Refused) or not is_blob_store(source.url):
            raise failed(f"failed to download file {redact(source.url)}: {error.reason}") from error
        try:
            headers = token_headers(client, imds, source.url, source.identity)
            _download(client, source.url.partition("?")[0], target, headers, deadline)
        except (HostError, NoToken) as second:
            raise failed(f"failed to download file: {reason}; then {second}") from second
    except OSError as error:
        raise failed(f"failed to save file {source.file_name!r}: {error.strerror}") from error
    try:
        target.chmod(0o500)
        if convert:
            convert_file(target)
    except OSError as error:
        raise failed(f"failed to post-process {source.file_name!r}: {error.strerror}") from error
    return target


def _download(client: HttpClient, url: str, target: Path, headers: dict[str, str], deadline: Deadline) -> None:
    """Redirects are followed a few times, without the headers. Raises HostError, OSError."""
    for _ in range(_REDIRECTS):
        try:
            client.download(url, target, headers=headers, deadline=deadline, policy=_POLICY, limit=_LIMIT)
        except Refused as refusal:
            if not refusal.location:
                raise
            url, headers = urljoin(url, refusal.location), {}
        else:
            return
    raise HostError(url, f"more than {_REDIRECTS} redirects")
