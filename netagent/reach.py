"""Whether the host takes a connection."""

import asyncio
import contextlib
from urllib.parse import urlsplit

_PATIENCE = 2.0


async def reaches(url: str) -> bool:
    """One TCP handshake with the WireServer."""
    parts = urlsplit(url)
    with contextlib.suppress(OSError, TimeoutError, ValueError):
        async with asyncio.timeout(_PATIENCE):
            _, writer = await asyncio.open_connection(parts.hostname, parts.port or 80)
        writer.close()
        return True
    return False
