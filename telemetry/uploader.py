"""Posting entries to the host, in a process of its own: `python -m telemetry.uploader WIRESERVER`.

Entries come in on standard input, one JSON object a line; the number of entries the host has taken, from the first on,
goes out. An upload is rare, and the HTTP library is the largest thing telemetry would ever load; here it is given back.
"""

import itertools
import sys
from collections.abc import Iterator

import msgspec

from ipc.contract.telemetry import Entry
from telemetry import __version__
from telemetry.events import as_event, as_extension_event
from telemetry.extensionevents import COMPONENT
from wire.deadline import Deadline
from wire.errors import InvalidContainer, Refused, WireError
from wire.events import AGENT_EVENTS, EXTENSION_EVENTS, bodies
from wire.http import HttpClient
from wire.wireserver import WireServer

# Well below the time telemetry gives this process: being ended would cost the account of what the host has taken.
_SECONDS = 40.0
_UNREADABLE = frozenset({400, 413})


def upload(wireserver: WireServer, entries: list[Entry], deadline: Deadline) -> tuple[int, str]:
    """How many of the entries, from the first on, the host has taken, and what was wrong.

    Behind the deadline no further body is begun; that is no failure. A body the host cannot read is given up: sent
    again it would bring the same answer and hold up all that comes after.
    """
    taken, given_up = 0, ""
    for body, count in _bodies(entries):
        if deadline.left() == 0:
            break
        try:
            wireserver.send_telemetry(body)
        except Refused as error:
            if error.status not in _UNREADABLE or isinstance(error, InvalidContainer):
                return taken, str(error)
            given_up = f"{count} events given up: {error}"
        except WireError as error:
            return taken, str(error)
        taken += count
    return taken, given_up


def _bodies(entries: list[Entry]) -> Iterator[tuple[bytes, int]]:
    """One provider a body, in the order of the entries: what the host has taken is told by their number."""
    for of_extension, some in itertools.groupby(entries, lambda one: one.component == COMPONENT):
        if of_extension:
            yield from bodies(EXTENSION_EVENTS, map(as_extension_event, some))
        else:
            yield from bodies(AGENT_EVENTS, map(as_event, some))


def main(arguments: list[str]) -> int:
    deadline = Deadline.after(_SECONDS)
    entries = [msgspec.json.decode(line, type=Entry) for line in sys.stdin.buffer]
    client = HttpClient(f"azvmagent/{__version__}")
    taken, reason = upload(WireServer(client, arguments[0]), entries, deadline)
    sys.stdout.write(f"{taken}\n")
    if reason:
        sys.stderr.write(f"{reason}\n")
    return 1 if reason else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
