"""Posting entries to the host, in a process of its own: `python -m telemetry.uploader WIRESERVER`.

Entries come in on standard input, one JSON object a line; the number of entries the host has taken, from the first on,
goes out. An upload is rare, and the HTTP library is the largest thing telemetry would ever load; here it is given back.
"""

import sys

import msgspec

from ipc.contract.telemetry import Entry
from telemetry import __version__
from telemetry.events import as_event
from wire.errors import WireError
from wire.events import AGENT_EVENTS, bodies
from wire.http import HttpClient
from wire.wireserver import WireServer


def upload(wireserver: WireServer, entries: list[Entry]) -> tuple[int, str]:
    """How many of the entries, from the first on, the host has taken, and why not more."""
    taken = 0
    for body, count in bodies(AGENT_EVENTS, map(as_event, entries)):
        try:
            wireserver.send_telemetry(body)
        except WireError as error:
            return taken, str(error)
        taken += count
    return taken, ""


def main(arguments: list[str]) -> int:
    entries = [msgspec.json.decode(line, type=Entry) for line in sys.stdin.buffer]
    client = HttpClient(f"azvmagent/{__version__}")
    taken, reason = upload(WireServer(client, arguments[0]), entries)
    sys.stdout.write(f"{taken}\n")
    if reason:
        sys.stderr.write(f"{reason}\n")
    return 1 if reason else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
