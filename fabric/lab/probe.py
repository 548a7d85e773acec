"""Load-balancer probes, as Azure makes them: from 168.63.129.16, by TCP handshake or HTTP GET."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from typing import Literal

import msgspec

from fabric.lab.namespaces import inside
from fabric.lab.plan import PROBE_SOURCE

State = Literal["unknown", "up", "down"]

_LINE_LIMIT = 4096


class Probe(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of a VM. Azure's default interval is 15 s, its least 5."""

    port: int
    http: str = ""
    """A path, for HTTP; a TCP handshake otherwise."""
    interval: float = 15.0
    threshold: int = 1
    """So many equal results in a row change the state."""


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it so far."""

    state: State = "unknown"
    reason: str = ""
    ok: bool = False
    """The last result."""
    streak: int = 0
    """So many in a row were like it."""
    count: int = 0


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """Of one probe. `refused`: by a RST or a wrong HTTP answer, which counts at once."""

    ok: bool
    reason: str
    refused: bool = False


def judge(seen: Seen, result: Result, threshold: int) -> Seen:
    """The state after one more result."""
    streak = seen.streak + 1 if result.ok == seen.ok else 1
    state = seen.state
    if result.refused or streak >= threshold:
        state = "up" if result.ok else "down"
    return Seen(state=state, reason=result.reason, ok=result.ok, streak=streak, count=seen.count + 1)


async def probing(namespace: int, address: str, probe: Probe) -> AsyncIterator[Seen]:
    """For ever: once at once, then every interval."""
    loop = asyncio.get_running_loop()
    seen = Seen()
    while True:
        due = loop.time() + probe.interval
        seen = judge(seen, await once(namespace, address, probe), probe.threshold)
        yield seen
        await asyncio.sleep(due - loop.time())


async def once(namespace: int, address: str, probe: Probe) -> Result:
    """One probe, which has its interval's time."""
    loop = asyncio.get_running_loop()
    try:
        with inside(namespace, _socket) as one:
            async with asyncio.timeout(probe.interval):
                await loop.sock_connect(one, (address, probe.port))
                if not probe.http:
                    return Result(ok=True, reason="connected")
                return await _http(one, address, probe)
    except TimeoutError:
        return Result(ok=False, reason=f"no answer within {probe.interval:g} s")
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        return Result(ok=False, reason=reason, refused=isinstance(error, ConnectionError))


def _socket() -> socket.socket:
    one = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    one.setblocking(False)
    one.bind((PROBE_SOURCE, 0))
    return one


async def _http(one: socket.socket, address: str, probe: Probe) -> Result:
    loop = asyncio.get_running_loop()
    request = f"GET {probe.http} HTTP/1.1\r\nHost: {address}:{probe.port}\r\nConnection: close\r\n\r\n"
    await loop.sock_sendall(one, request.encode())
    answer = b""
    while b"\n" not in answer and len(answer) < _LINE_LIMIT:
        piece = await loop.sock_recv(one, _LINE_LIMIT)
        if not piece:
            break
        answer += piece
    return judge_line(answer.partition(b"\n")[0])


def judge_line(line: bytes) -> Result:
    """A status line is up with 200 and nothing else."""
    words = line.split()
    if len(words) >= 2 and words[0].startswith(b"HTTP/1.") and words[1] == b"200":
        return Result(ok=True, reason="HTTP 200")
    if len(words) >= 2 and words[0].startswith(b"HTTP/1.") and words[1].isdigit():
        return Result(ok=False, reason=f"HTTP {words[1][:8].decode()}", refused=True)
    return Result(ok=False, reason="no HTTP answer", refused=True)
