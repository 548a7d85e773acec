"""Taking a bundle apart, in a process of its own: an order on standard input, an answer on standard output.

A hostile zip costs this process, not the one that has to beat. Nothing here is trusted: see stager.py.
"""

import sys
from pathlib import Path

import msgspec

from release.bundle import Entry, unpack_bundle
from release.errors import ReleaseError

_ORDER_LIMIT = 1 << 20


class Order(msgspec.Struct, frozen=True):
    """Both absolute."""

    bundle: str
    folder: str
    """Empty; what is in the bundle comes there."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it."""

    packages: tuple[Entry, ...] = ()
    reason: str = ""
    """Why nothing did; empty if it did."""


def main() -> None:
    order = msgspec.json.decode(sys.stdin.buffer.read(_ORDER_LIMIT), type=Order)
    try:
        answer = Answer(packages=unpack_bundle(Path(order.bundle), Path(order.folder)).packages)
    except ReleaseError as error:
        answer = Answer(reason=str(error))
    sys.stdout.buffer.write(msgspec.json.encode(answer))


if __name__ == "__main__":
    main()
