"""Whether the first nameserver answers: asked over UDP for a name that cannot exist, NXDOMAIN is as good as an answer.

One question and the head of its answer (RFC 1035 section 4.1) are all that is coded: a library would load more.
"""

import asyncio
import secrets
import struct
import time

import msgspec

from netagent.dns.wanted import NAME_LIMIT, DnsWanted, check_domain

_HEADER = struct.Struct(">HHHHHH")
_QUESTION = struct.Struct(">HH")
_A, _IN = 1, 1
_ANSWER, _OPCODE, _RECURSE, _RCODE = 0x8000, 0x7800, 0x0100, 0x000F
_RCODES = {0: "NOERROR", 1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED"}
_HEALTHY = {"NOERROR", "NXDOMAIN"}
_NOWHERE = "invalid"
"""Without a search domain: never delegated (RFC 6761)."""


class DnsHealth(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one look."""

    healthy: bool
    nameserver: str
    reason: str
    """The answer's code, or why there is none."""
    seconds: float


async def check(wanted: DnsWanted, *, port: int = 53, seconds: float = 2.0, tries: int = 2) -> DnsHealth:
    """Ask; an answer other than expected is said, never raised."""
    started = time.monotonic()
    server = wanted.nameservers[0]
    # A domain too long for one label more cannot be asked about.
    domain = next((one for one in wanted.search if len(one) + 17 <= NAME_LIMIT), _NOWHERE)
    name = f"{secrets.token_hex(8)}.{domain}"
    reason = f"no answer within {tries * seconds:g} s"
    for _ in range(tries):
        try:
            reason = await _ask(server, port, name, seconds)
            break
        except TimeoutError:
            continue
        except OSError as error:
            # Also when the machine said that nobody listens there.
            reason = error.strerror or str(error)
    return DnsHealth(healthy=reason in _HEALTHY, nameserver=server, reason=reason, seconds=time.monotonic() - started)


class _Asking(asyncio.DatagramProtocol):
    def __init__(self, query: bytes) -> None:
        self._query = query
        self.code: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def datagram_received(self, data: bytes, _: object) -> None:
        code = parse_answer(data, self._query)
        if code is not None and not self.code.done():
            self.code.set_result(code)

    def error_received(self, error: Exception) -> None:
        if not self.code.done():
            self.code.set_exception(error)


async def _ask(server: str, port: int, name: str, seconds: float) -> str:
    """The code of the answer. Raises TimeoutError, OSError."""
    query = make_query(secrets.randbelow(1 << 16), name)
    # Connected: what comes from elsewhere is not for us.
    transport, asking = await asyncio.get_running_loop().create_datagram_endpoint(
        lambda: _Asking(query), remote_addr=(server, port)
    )
    try:
        transport.sendto(query)
        async with asyncio.timeout(seconds):
            return await asking.code
    finally:
        transport.close()


def make_query(number: int, name: str) -> bytes:
    """A question for the address of a name. Raises DnsError."""
    check_domain(name)
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return _HEADER.pack(number, _RECURSE, 1, 0, 0, 0) + labels + b"\0" + _QUESTION.pack(_A, _IN)


def parse_answer(data: bytes, query: bytes) -> str | None:
    """The answer's code; None for what does not answer this question."""
    if len(data) < _HEADER.size:
        return None
    number, flags, questions, *_ = _HEADER.unpack_from(data)
    if number != _HEADER.unpack_from(query)[0] or not flags & _ANSWER or flags & _OPCODE:
        return None
    # A server that could not read the question need not repeat it.
    if questions and data[_HEADER.size : len(query)].lower() != query[_HEADER.size :].lower():
        return None
    code = flags & _RCODE
    if not questions and code in {0, 3}:
        return None
    return _RCODES.get(code, f"code {code}")
