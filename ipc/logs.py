"""One log format for all: lines on standard error, which supervisord keeps and rotates."""

import logging
import time
from collections.abc import Callable


class _Line(logging.Formatter):
    """`2026-01-31T12:00:00.000001Z INFO guestagent text`, one line each, redacted last of all."""

    def __init__(self, component: str, redact: Callable[[str], str]) -> None:
        super().__init__(f"%(utc)s %(levelname)s {component} %(message)s")
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        record.utc = (
            f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(record.created))}.{int(record.created % 1 * 1e6):06d}Z"
        )
        # A message from outside must not be able to forge a line of its own.
        first, *rest = super().format(record).splitlines() or [""]
        return self._redact("\n".join([first, *(f"    {line}" for line in rest)]))


def start_logging(component: str, redact: Callable[[str], str], *, verbose: bool = False) -> None:
    """Send this process's log to standard error. `redact` takes secrets out of every line."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Line(component, redact))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG if verbose else logging.INFO)
    # Libraries below us: their debug lines carry URLs with signatures.
    for library in ("urllib3", "requests", "asyncio"):
        logging.getLogger(library).setLevel(logging.WARNING)
