"""A recording's requests at the host that replays it: each comes in, and is answered, when it did then.

Faults are drawn when a request comes in. Where something else happened until it was answered, the two are asked for
one by one.
"""

from typing import TYPE_CHECKING

from starlette.datastructures import Headers

from fabric.faults import Fault

if TYPE_CHECKING:
    from fabric.host import Host

PREFIX = "x-azfabric-"
"""Of the headers below. Nobody else's are recorded."""
AT = f"{PREFIX}at"
"""When this comes in, or is answered if it came in before; UTC, seconds."""
ANSWERED = f"{PREFIX}answered"
"""When it is answered, if nothing else happened until then."""
NUMBER = f"{PREFIX}number"
"""Of a request that came in before."""
CAME = f"{PREFIX}came"
"""NUMBER ENDPOINT: a request for it comes in, to be answered later or never."""
PASSED = f"{PREFIX}passed"
"""NUMBER ENDPOINT: it was answered, but cannot be had again."""


class Again:
    """Of one gate."""

    def __init__(self, host: "Host") -> None:
        self._host = host
        self._drawn: dict[str, Fault | None] = {}
        """By number: of requests that came in."""

    def part(self, vm: str, headers: Headers) -> bool:
        """Whether this was no more than one part of a request, and is done now."""
        if CAME in headers:
            number, _, name = headers[CAME].partition(" ")
            self._drawn[number] = self._host.faults.take(vm, name)
        elif PASSED in headers:
            number, _, name = headers[PASSED].partition(" ")
            self._drawn.pop(number, None)
            self._host.stage.seen(vm, name)
        else:
            return False
        return True

    def draw(self, vm: str, name: str, headers: Headers) -> Fault | None:
        """What spoils a request that is to be answered now."""
        number = headers.get(NUMBER, "")
        fault = self._drawn.pop(number) if number in self._drawn else self._host.faults.take(vm, name)
        if ANSWERED in headers:
            self._host.clock.replay(float(headers[ANSWERED]))
            self._host.stage.tick()
        return fault
