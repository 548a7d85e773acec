"""A program for a test's VM: what netagent does around the DHCP client, and no more.

Configures what it is given with `ip`, says on its standard output what happened, one JSON document a line, and does
what is written to its standard input: `start`, `stop`, `renew NAME`, `link`, `release`, `inform ADDRESS`, `state`.
"""

import asyncio
import json
import logging
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec

from netagent.dhcp.client import DhcpClient, DhcpSettings, inform
from netagent.dhcp.errors import DhcpError
from netagent.dhcp.lease import Lease


def say(event: str, **facts: Any) -> None:
    sys.stdout.write(json.dumps({"event": event, **facts}) + "\n")
    sys.stdout.flush()


class SaysLog(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        say("log", level=record.levelname, text=record.getMessage())


class Owner:
    """Of one interface."""

    def __init__(self, link: str, kept: Path, settings: DhcpSettings) -> None:
        self.link = link
        self.kept = kept
        self.settings = settings
        self.client: DhcpClient | None = None
        self.task: asyncio.Task[None] | None = None

    def on_lease(self, lease: Lease) -> None:
        lines = [f"address replace {lease.address}/{lease.prefix} dev {self.link}"]
        routes = sorted(lease.routes, key=lambda one: one.destination, reverse=True)
        for route in routes:
            # The flag `onlink` is for a gateway; a route without one refuses it.
            via = f"via {route.gateway} dev {self.link} onlink" if route.gateway else f"dev {self.link}"
            lines.append(f"route replace {route.destination} {via} proto 66")
        others = subprocess.run(["ip", "-json", "-4", "address", "show", self.link], capture_output=True, text=True)
        for found in json.loads(others.stdout or "[]"):
            for one in found["addr_info"]:
                if one["local"] != lease.address:
                    lines.insert(0, f"address del {one['local']}/{one['prefixlen']} dev {self.link}")
        done = subprocess.run(["ip", "-force", "-batch", "-"], input="\n".join(lines), capture_output=True, text=True)
        say("lease", problem=done.stderr, **msgspec.to_builtins(lease))

    def on_lost(self, reason: str) -> None:
        subprocess.run(["ip", "-4", "address", "flush", "dev", self.link], capture_output=True)
        say("lost", reason=reason)

    def start(self) -> None:
        self.client = DhcpClient(
            self.link, kept=self.kept, settings=self.settings, on_lease=self.on_lease, on_lost=self.on_lost
        )
        self.task = asyncio.create_task(self.client.run())
        self.task.add_done_callback(self.ended)

    def ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            error = task.exception()
            say("ended", kind=type(error).__name__, text=str(error))
            if not isinstance(error, DhcpError):
                sys.exit(f"{error!r}")

    async def stop(self) -> None:
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)
            say("stopped")

    async def order(self, word: str, rest: str) -> None:
        client = self.client
        if word == "start":
            self.start()
            await asyncio.sleep(0)  # it asks at once, before it is asked anything
        elif word == "stop":
            await self.stop()
        elif word == "inform":
            found = await inform(self.link, rest)
            say("informed", lease=msgspec.to_builtins(found))
        elif client is not None:
            if word == "renew":
                client.renew(rest)
            elif word == "link":
                client.link_changed()
            elif word == "release":
                await client.release()
                say("released")
            elif word == "state":
                usage = resource.getrusage(resource.RUSAGE_SELF)
                lease = client.lease
                say(
                    "state",
                    state=client.state,
                    address=lease.address if lease else "",
                    cpu=usage.ru_utime + usage.ru_stime,
                    memory=usage.ru_maxrss,
                )


async def main() -> None:
    link, kept, settings = sys.argv[1:4]
    logging.getLogger("netagent").addHandler(SaysLog())
    logging.getLogger("netagent").setLevel(logging.DEBUG)
    owner = Owner(link, Path(kept), msgspec.json.decode(settings, type=DhcpSettings))
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    say("ready")
    while line := (await reader.readline()).decode().strip():
        word, _, rest = line.partition(" ")
        await owner.order(word, rest)
    await owner.stop()


if __name__ == "__main__":
    asyncio.run(main())
