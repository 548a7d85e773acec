"""Bodies as they come in: bounded, and checked against the length their head announced."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from wire.errors import TooLarge, Truncated

if TYPE_CHECKING:
    import requests

CHUNK = 64 * 1024


def announced(answer: "requests.Response") -> int | None:
    """Content-Length, if it says one."""
    length = answer.headers.get("Content-Length", "")
    return int(length) if length.isascii() and length.isdigit() and len(length) < 19 else None


def chunks(answer: "requests.Response", url: str, limit: int) -> Iterator[bytes]:
    """The body, piece by piece. Raises TooLarge, Truncated."""
    if answer.request.method == "HEAD":
        return  # it announces what a GET would bring
    length = announced(answer)
    if answer.status_code == 200 and answer.request.method == "GET" and length is None and not _is_chunked(answer):
        # It would end where the connection ends, and a connection that broke would look like a whole answer.
        raise Truncated(url, "the head says neither a length nor chunks, or is cut short")
    if length is not None and length > limit:
        raise TooLarge(url, f"{length} bytes announced, limit {limit}")
    size = 0
    while chunk := answer.raw.read1(CHUNK):
        size += len(chunk)
        if size > limit:
            raise TooLarge(url, f"more than {limit} bytes")
        yield chunk
    if length is not None and size < length and answer.status_code != 304:
        raise Truncated(url, f"{size} of {length} bytes")


def _is_chunked(answer: "requests.Response") -> bool:
    return "chunked" in answer.headers.get("Transfer-Encoding", "").lower()
