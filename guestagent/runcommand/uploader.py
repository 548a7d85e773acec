"""Growing the output blobs beside the running script: a thread of its own, so that a slow store delays nothing."""

import threading
import time
from typing import TYPE_CHECKING

from guestagent.runcommand.outside import Outside

if TYPE_CHECKING:
    from guestagent.runcommand.blobs import AppendBlob

_APPEND_SECONDS = 60.0
_FINAL_SECONDS = 60.0
# A slow store is given a second for each of these at the end.
_BYTES_A_SECOND = 1024 * 1024


class Uploader:
    """Follows the files until told that they are complete."""

    def __init__(self, outside: Outside, blobs: "list[AppendBlob]", period: float) -> None:
        self._outside = outside
        self._blobs = blobs
        self._period = period
        self._complete = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)
        if blobs:
            self._thread.start()

    def finish(self, left_bytes: int, *, seconds: float | None = None) -> str:
        """Store what is left; what went wrong, empty if nothing."""
        if not self._blobs:
            return ""
        self._complete.set()
        until = time.monotonic() + (_FINAL_SECONDS + left_bytes / _BYTES_A_SECOND if seconds is None else seconds)
        self._thread.join(max(0.0, until - time.monotonic()))
        if self._thread.is_alive():
            # Its conversation ends at once, and its loop with it.
            self._outside.client.close()
            self._thread.join(5.0)
            return "the output blob was not completed in time"
        for blob in self._blobs:
            if not blob.append(until - time.monotonic()):
                return f"the output blob was not completed: {blob.problem}"
        return ""

    def _follow(self) -> None:
        while not self._complete.wait(self._period):
            for blob in self._blobs:
                blob.append(_APPEND_SECONDS)
