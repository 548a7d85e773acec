"""The sign of life that watchdog.py looks at: who cannot show one any more is ended and started again."""

import logging
import os
import time
from pathlib import Path

logger = logging.getLogger("rdagent")


class SignOfLife:
    """A few bytes in the run directory, written over with each look."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._trouble = False

    def show(self) -> None:
        """Write it. One that cannot be written is logged once: better to be ended than to end ourselves."""
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                # One call and always the same length: a reader sees the old one or the new.
                os.pwrite(descriptor, f"{os.getpid():<10d} {time.monotonic():<20.1f}\n".encode(), 0)
            finally:
                os.close(descriptor)
            self._trouble = False
        except OSError as error:
            if not self._trouble:
                logger.warning("%s cannot be written: %s", self._path, error.strerror)
            self._trouble = True
