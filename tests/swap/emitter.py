"""One release's emitter: `emitter.py spool|deliver ROOT VERSION`, with that release's ipc in PYTHONPATH.

`spool` writes three entries while nobody takes them, and waits to be killed; `deliver` hands over what it finds.
"""

import asyncio
import os
import sys
from pathlib import Path

from ipc.component import Component
from ipc.places import Places
from ipc.record import Emitter


async def main(verb: str, places: Places, version: str) -> None:
    async with Component("guestagent", version, places) as component:
        emitter = Emitter(places, component.bus, "guestagent", version, str)
        if verb == "spool":
            for number in range(3):
                emitter.emit("Enable", f"of {version}, {number}", ok=False, subject="x", duration_ms=number)
        os.write(1, b"ready\n")
        await component.run(*([emitter.deliver()] if verb == "deliver" else []))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Places.under(Path(sys.argv[2])), sys.argv[3]))
