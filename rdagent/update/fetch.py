"""Packages by the host's way: the URLs of a manifest, one after the other. Blocking.

Nothing here is trusted: what may run is decided by the signatures in the package.
"""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

from rdagent.update.source import Kind, SourceError, forget
from wire.deadline import Deadline
from wire.errors import HostError, Refused, TooLarge, Truncated, Unplain
from wire.http import HttpClient
from wire.redact import redact

EACH_SECONDS = 300.0


def fetch_by_url(
    client: HttpClient,
    urls: Sequence[str],
    target: Path,
    *,
    limit: int,
    deadline: Deadline,
    each_seconds: float = EACH_SECONDS,
) -> str:
    """The first of `urls` that gives a zip of up to `limit` bytes, to `target`: which one it was.

    Each has `each_seconds` in all, so that one that drips does not keep us from the next. Raises SourceError, whose
    reason names what went wrong with each; `target` is then not there.
    """
    forget(target)
    failures: list[SourceError] = []
    for url in urls:
        try:
            _fetch(client, url, target, limit, Deadline.after(min(each_seconds, deadline.left())))
        except SourceError as error:
            failures.append(error)
        else:
            return url
        if not deadline.left():
            failures.append(SourceError("unreachable", "no time is left for another"))
            break
    if not failures:
        raise SourceError("missing", "the manifest names no URL for this version")
    kinds = {one.kind for one in failures}
    # If one of them may yet answer, the rest does not matter.
    kind = failures[0].kind if len(kinds) == 1 else "unreachable" if "unreachable" in kinds else failures[0].kind
    raise SourceError(kind, "; ".join(one.reason for one in failures))


def layer_url(package_url: str, sha256: str) -> str:
    """Where a package's layer lies: in the folder `layers` beside it, with the same query (a signature of them all)."""
    parts = urlsplit(package_url)
    folder = parts.path.rpartition("/")[0]
    return urlunsplit(parts._replace(path=f"{folder}/layers/{sha256}.zip"))


def _fetch(client: HttpClient, url: str, target: Path, limit: int, deadline: Deadline) -> None:
    """Raises SourceError."""
    if reason := why_no_url(url):
        raise SourceError("damaged", f"{redact(url)[:200]}: {reason}")
    try:
        client.download(url, target, deadline=deadline, limit=limit, plain=True)
        if not zipfile.is_zipfile(target):
            target.unlink()
            raise SourceError("damaged", f"{redact(url)[:200]}: what came is no zip")
    except HostError as error:
        raise SourceError(_kind(error), str(error)) from error
    except OSError as error:
        raise SourceError("disk", f"{target}: {error.strerror or error}") from error


def why_no_url(url: str) -> str:
    """Why this is not asked for; empty if it may be."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        return f"is no URL: {error}"
    if parts.scheme not in {"http", "https"}:
        return "only http and https are asked"
    if not parts.hostname or port == 0:
        return "names no server"
    return ""


def _kind(error: HostError) -> Kind:
    match error:
        case Truncated() | TooLarge() | Unplain():
            return "damaged"
        case Refused(status=404 | 410):
            return "missing"
    return "unreachable"
