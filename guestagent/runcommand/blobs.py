"""A stream of the output as an append blob: created empty, then grown by what is new (Put Blob, Append Block).

Each block says where it must begin, so that a block whose answer was lost is not stored twice.
"""

import os
import time
from pathlib import Path

from guestagent.runcommand.identity import STORAGE_VERSION, NoToken, token_headers
from guestagent.runcommand.order import BlobTarget
from wire.deadline import Deadline
from wire.errors import HostError, Refused
from wire.http import HttpClient
from wire.retry import Policy

# Of this protocol version (Append Block, remarks).
_BLOCK_LIMIT = 4 * 1024 * 1024
_CREATE_SECONDS = 60.0
_CREATE_POLICY = Policy(attempts=3)
# A token is good for hours; a run may last days.
_TOKEN_SECONDS = 1800.0


class AppendBlob:
    """One blob that follows one file. Its methods block; call them from one thread at a time."""

    def __init__(self, client: HttpClient, imds: str, target: BlobTarget, source: Path) -> None:
        self._client = client
        self._imds = imds
        self._target = target
        self._source = source
        self._read = 0
        self._stored = 0
        self._by_token = False
        self._token: dict[str, str] = {}
        self._token_at = 0.0
        self.problem = ""
        """Why the last append did not work; empty when it did."""

    @property
    def stored(self) -> int:
        """Bytes in the blob."""
        return self._stored

    def create(self) -> None:
        """Make it, empty, or empty the one that is there. Raises HostError, NoToken."""
        if self._target.signed:
            try:
                self._put_blob()
            except Refused as refusal:
                # Anybody may give us a signature that is spent; our own identity may still do.
                try:
                    self._create_by_token()
                except (NoToken, HostError) as error:
                    raise HostError(self._target.url, f"{refusal.reason}; then {error}") from error
        else:
            self._create_by_token()

    def append(self, seconds: float) -> bool:
        """Store what the file has grown by; whether all of it is stored. What went wrong is in `problem`."""
        deadline = Deadline.after(seconds)
        try:
            while block := self._next_block():
                if not deadline.left():
                    self.problem = f"only {self._stored} bytes were stored in time"
                    return False
                count = self._append_block(block, deadline)
                self._read += count
                self._stored += count
        except (HostError, NoToken, OSError) as error:
            self.problem = str(error)
            return False
        self.problem = ""
        return True

    def _create_by_token(self) -> None:
        self._by_token = True
        self._put_blob()

    def _put_blob(self) -> None:
        headers = {"x-ms-blob-type": "AppendBlob", "Content-Length": "0"}
        self._put(self._url(""), headers, b"", Deadline.after(_CREATE_SECONDS), _CREATE_POLICY)

    def _append_block(self, block: bytes, deadline: Deadline) -> int:
        """How many of its bytes are in the blob now. Raises HostError, NoToken."""
        headers = {"x-ms-blob-condition-appendpos": str(self._stored), "Content-Length": str(len(block))}
        try:
            self._put(self._url("comp=appendblock"), headers, block, deadline)
        except HostError as error:
            if isinstance(error, Refused) and error.status != 412:
                raise
            # An answer may have been lost, this one's or an earlier one's; the bytes perhaps not.
            count = self._length(deadline) - self._stored
            if not 0 < count <= len(block):
                raise
            return count
        return len(block)

    def _length(self, deadline: Deadline) -> int:
        """Bytes in the blob, as the store says. Raises HostError, NoToken."""
        answer = self._client.request("HEAD", self._url(""), headers=self._headers(), deadline=deadline)
        text = answer.headers.get("Content-Length", "")
        return int(text) if text.isdigit() else -1

    def _put(
        self, url: str, headers: dict[str, str], body: bytes, deadline: Deadline, policy: Policy | None = None
    ) -> None:
        answer = self._client.request(
            "PUT", url, headers={**self._headers(), **headers}, body=body, deadline=deadline, policy=policy or Policy()
        )
        if answer.status != 201:
            raise Refused(url, answer.status, "the blob store did not create it")

    def _headers(self) -> dict[str, str]:
        headers = {"x-ms-version": STORAGE_VERSION}
        if not self._by_token:
            return headers
        if not self._token or time.monotonic() - self._token_at > _TOKEN_SECONDS:
            self._token = token_headers(self._client, self._imds, self._target.url, self._target.identity)
            self._token_at = time.monotonic()
        return {**headers, **self._token}

    def _url(self, addition: str) -> str:
        url = self._target.url.partition("?")[0] if self._by_token else self._target.url
        return url + ("&" if "?" in url else "?") + addition if addition else url

    def _next_block(self) -> bytes:
        with self._source.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size < self._read:
                # The script emptied its own output: what comes now is new.
                self._read = 0
            file.seek(self._read)
            return file.read(_BLOCK_LIMIT)
