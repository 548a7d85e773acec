"""Which sequence number belongs to which request for a run: on disk before anything of it is begun.

A request whose answer got lost is asked again, perhaps of our successor, while the first one's child still works on it.
<config>/<name>.<n>.token holds the request's token. A number is never given to another request.
"""

import glob
from typing import Literal

from guestagent.runcommand.place import Place
from guestagent.runcommand.record import locked, read_mrseq, read_record
from guestagent.runcommand.verbs import decide
from ipc.statefile import write_atomically

Standing = Literal["begun", "not begun", "superseded"]


class Superseded(Exception):
    """The request was remembered but never begun, and a later one took the name."""


def reserve(place: Place, token: str) -> Place:
    """The place of this request: the one it had before, or the next number. Raises OSError, Superseded.

    `place` is any of the name; with an empty token it is always the next number.
    """
    # A guestagent that is about to end may be in the middle of it, beside its successor.
    with locked(place):
        found = find(place, token)
        if found is None:
            taken = read_mrseq(place)
            number = 1 + max([-1 if taken is None else taken, *_reserved(place)])
            found = place.at(number)
            write_atomically(found.token_file, token.encode(), 0o600)
        elif standing(found) == "superseded":
            raise Superseded
        return found


def find(place: Place, token: str) -> Place | None:
    """Where this very request was remembered."""
    for number in sorted(_reserved(place), reverse=True) if token else ():
        one = place.at(number)
        try:
            if one.token_file.read_bytes() == token.encode():
                return one
        except OSError:
            continue  # forgotten meanwhile
    return None


def standing(place: Place) -> Standing:
    """How far a remembered request came."""
    record, taken = read_record(place), read_mrseq(place)
    decision = decide(taken, place.sequence_number, record, worker_alive=bool(record and record.worker.alive()))
    if decision == "taken":
        return "begun"
    newest = max([place.sequence_number, *_reserved(place)])
    # The later one has ended what ran, or is about to: this one must not end it in turn.
    return "superseded" if decision == "older" or newest > place.sequence_number else "not begun"


def _reserved(place: Place) -> list[int]:
    prefix = f"{place.name}."
    numbers = [
        path.name.removeprefix(prefix).removesuffix(".token")
        for path in place.config.glob(f"{glob.escape(prefix)}*.token")
    ]
    return [int(one) for one in numbers if one.isascii() and one.isdigit()]
