"""Probes answered: by our own reading, by the lab's prober, by HAProxy; whatever clients do."""

import asyncio
import contextlib
import socket
import struct
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric.lab.probe import Probe, once
from netagent import nft
from netagent.firewall import ruleset
from netagent.probe import ProbeResponder, judge
from tests.netagent.street import AGENT, LISTENER, NOBODY, VM, WIRESERVER, Street

PATIENCE = 20.0
GET = b"GET /health?x=1 HTTP/1.1\r\nHost: 10.0.0.4\r\n\r\n"

# The real thing in the VM, told what to do line by line: `ready`, `not REASON`, `serve PORTS`.
SERVER = """
import asyncio, sys
from netagent.probe import ProbeResponder
async def main():
    responder = ProbeResponder()
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    print("started", flush=True)
    while line := (await reader.readline()).decode().strip():
        word, _, rest = line.partition(" ")
        if word == "serve":
            await responder.serve(tuple(map(int, rest.split())))
        responder.ready, responder.reason = (word == "ready", rest) if word != "serve" else (responder.ready, "")
        seen = {port: (one.probes, one.last_source) for port, one in responder.counters.items()}
        print(responder.problems, seen, flush=True)
asyncio.run(main())
"""


def run(test: Callable[[ProbeResponder, int], Awaitable[None]], **limits: float) -> None:
    """With one port served."""

    async def whole() -> None:
        async with serving(**limits) as (responder, port):
            await test(responder, port)

    asyncio.run(whole())


@contextlib.asynccontextmanager
async def serving(**limits: float) -> AsyncIterator[tuple[ProbeResponder, int]]:
    responder = ProbeResponder(**limits)  # type: ignore[arg-type]
    port = free_port()
    await responder.serve((port,))
    assert responder.problems == {}
    try:
        yield responder, port
    finally:
        await responder.close()


def free_port() -> int:
    with socket.socket(socket.AF_INET6) as one:
        one.bind(("::", 0))
        return int(one.getsockname()[1])


async def talk(port: int, data: bytes, host: str = "127.0.0.1", *, end: bool = False) -> bytes:
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(data)
    if end:
        writer.write_eof()
    async with asyncio.timeout(PATIENCE):
        try:
            answer = await reader.read()
        except ConnectionResetError:
            answer = b""
    writer.close()
    return answer


async def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited {PATIENCE:g} s for {what}"
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_answer_is_the_state_of_the_moment(host: str) -> None:
    async def test(responder: ProbeResponder, port: int) -> None:
        responder.reason = "guestagent is hung\r\nX: y"
        answer = await talk(port, GET, host)
        assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        assert answer.endswith(b"\r\n\r\nnot ready: guestagent is hung  X: y\n")
        responder.ready = True
        answer = await talk(port, GET, host)
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.endswith(b"Connection: close\r\n\r\nready\n")
        assert responder.counters[port].last_source == host
        assert responder.counters[port].probes == 2
        assert responder.counters[port].answers == {503: 1, 200: 1}
        assert abs(responder.counters[port].last_at - time.time()) < PATIENCE

    run(test)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.0\r\n\r\n", 200),
        (b"GET / HTTP/1.1\n\n", 200),
        (b"GET http://10.0.0.4/ HTTP/1.1\r\nHost: x\r\n\r\n", 200),
        (b"HEAD / HTTP/1.1\r\n\r\n", 200),
        (b"POST / HTTP/1.1\r\n\r\n", 405),
        (b"GET /\r\n\r\n", 400),
        (b"GET  HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\n\r\n", 400),
        (b"GET / a HTTP/1.1\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\n", 400),
        (b"\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 3000, 400),
        (b"\xff" * 9000, 400),
    ],
)
def test_requests(request_: bytes, status: int) -> None:
    async def test(responder: ProbeResponder, port: int) -> None:
        responder.ready = True
        answer = await talk(port, request_)
        # What is unread when we close makes the kernel take the answer back.
        assert answer.startswith(b"HTTP/1.1 %d " % status) or (status == 400 and answer == b"")
        assert responder.counters[port].answers == {status: 1}
        assert (b"ready\n" in answer) is (status == 200 and not request_.startswith(b"HEAD"))
        assert (b"Allow: GET, HEAD" in answer) is (status == 405)

    run(test)


def test_a_request_in_pieces_and_one_cut_off() -> None:
    async def test(responder: ProbeResponder, port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in range(len(GET)):
            writer.write(GET[number : number + 1])
            await writer.drain()
            await asyncio.sleep(0)
        assert (await reader.readline()).startswith(b"HTTP/1.1 503 ")
        writer.close()
        assert (await talk(port, GET[:-1], end=True)).startswith(b"HTTP/1.1 400 ")
        assert await talk(port, b"", end=True) == b""

    run(test)


def test_who_says_nothing_is_closed_in_time() -> None:
    async def test(responder: ProbeResponder, port: int) -> None:
        assert await talk(port, b"") == b""
        assert await talk(port, GET[:10]) == b""
        assert responder.counters[port].answers == {}

    run(test, seconds=0.2)


def test_very_many_idle_clients_do_not_keep_the_prober_out() -> None:
    async def test(responder: ProbeResponder, port: int) -> None:
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(20)]
        assert (await talk(port, GET)).startswith(b"HTTP/1.1 503 ")
        # The first to come were the first to go.
        for reader, _ in idle[:16]:
            assert await asyncio.wait_for(reader.read(), PATIENCE) == b""
        assert not idle[-1][0].at_eof()
        assert responder.counters[port].probes == 21
        for _, writer in idle:
            writer.close()

    run(test, connections=4)


def test_resets_and_a_flood() -> None:
    async def test(responder: ProbeResponder, port: int) -> None:
        for _ in range(50):
            with socket.create_connection(("127.0.0.1", port)) as one:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                one.send(GET)
        answers = await asyncio.gather(*(talk(port, GET) for _ in range(60)))
        assert all(one.startswith(b"HTTP/1.1 503 ") for one in answers)
        await until(lambda: responder.counters[port].probes == 110, "all to be counted")

    run(test)


def test_exactly_the_wanted_ports() -> None:
    async def test(responder: ProbeResponder, port: int) -> None:
        other = free_port()
        await responder.serve((port, other, other))
        assert responder.ports == tuple(sorted((port, other)))
        assert (await talk(other, GET)).startswith(b"HTTP/1.1 503 ")
        idle = await asyncio.open_connection("127.0.0.1", port)
        counted = responder.counters[other]
        await responder.serve((other,))
        assert responder.counters == {other: counted}, "what stays is not opened anew"
        assert await asyncio.wait_for(idle[0].read(), PATIENCE) == b""
        idle[1].close()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)
        # At once again, though connections of before linger.
        await responder.serve((port,))
        assert responder.ports == (port,)
        await responder.serve(())
        assert not responder.ports
        assert not responder.counters

    run(test)


@pytest.mark.parametrize(
    ("family", "host"), [(socket.AF_INET, ""), (socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::")]
)
def test_a_port_of_another_program_is_left_to_it(family: socket.AddressFamily, host: str) -> None:
    async def test(responder: ProbeResponder, port: int) -> None:
        with socket.socket(family) as theirs:
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            theirs.bind((host, 0))
            theirs.listen()
            taken = theirs.getsockname()[1]
            await responder.serve((taken, port))
            assert responder.ports == (port,)
            assert responder.problems == {
                taken: f"port {taken} is taken by another program, which is left to answer the probes"
            }
        await responder.serve((taken, port))
        assert (responder.ports, responder.problems) == (tuple(sorted((taken, port))), {})

    run(test)


def test_ports_that_are_none_and_ports_too_many() -> None:
    async def test(responder: ProbeResponder, port: int) -> None:
        await responder.serve((0, 65536, -1, port))
        assert responder.ports == (port,)
        assert responder.problems[65536] == "port 65536: Invalid argument"
        assert set(responder.problems) == {0, 65536, -1}
        many = tuple(range(1_000_000, 1_000_064))
        await responder.serve(many)
        await responder.serve((*many, port))
        assert responder.problems[port] == "the goal state names 65 probe ports, only 64 are answered"

    run(test)


@given(
    st.binary(max_size=80) | st.lists(st.sampled_from([b"GET", b" ", b"/", b"HTTP/1.1", b"\r\n", b"\n"])).map(b"".join)
)
def test_any_bytes_are_judged(received: bytes) -> None:
    status = judge(received)
    assert status in {None, 200, 400, 405}
    if status is None:
        # It may still become a probe, or grows too long.
        assert judge(received + b"x" * 9000) is not None
    if status == 200:
        assert received.startswith((b"GET ", b"HEAD "))


class Served:
    """The responder as another process in a VM."""

    def __init__(self, street: Street) -> None:
        command = street.vm.command(*street.ours(SERVER))
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "started\n"

    def tell(self, line: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()


@pytest.fixture
def served(street: Street) -> Iterator[Served]:
    one = Served(street)
    with one.process:
        yield one
        one.process.kill()


def probed(street: Street, http: str = "/") -> str:
    probe = Probe(port=8080, http=http, interval=2.0)
    return asyncio.run(once(street.host.descriptor, VM, probe)).reason


def test_the_labs_prober(street: Street, served: Served) -> None:
    assert probed(street) == "Connection refused"
    street.vm.act(lambda: nft.apply(ruleset(WIRESERVER, (AGENT,))))
    assert served.tell("serve 8080") == "{} {8080: (0, '')}"
    assert probed(street) == "HTTP 503"
    assert probed(street, "") == "connected"
    # One that only connects is done when the kernel has it, and counted when it was accepted.
    until = time.monotonic() + PATIENCE
    while served.tell("ready") != f"{{}} {{8080: (2, '{WIRESERVER}')}}":
        assert time.monotonic() < until
    assert probed(street) == "HTTP 200"
    served.tell("not guestagent is hung")
    assert probed(street, "/any/path?query") == "HTTP 503"
    served.tell("serve")
    assert probed(street) == "Connection refused"


def test_a_program_of_the_user_answers_for_itself(street: Street, served: Served) -> None:
    with street.vm.start(LISTENER, "8080", uid=NOBODY) as theirs:
        assert "8080 is taken by another program" in served.tell("serve 8080 8081")
        assert probed(street) == "HTTP 200"
        theirs.kill()
    assert served.tell("serve 8080 8081") == "{} {8081: (0, ''), 8080: (0, '')}"
    assert probed(street) == "HTTP 503"


def test_haproxy(street: Street, served: Served, tmp_path: Path) -> None:
    """A load balancer that is not ours, with Azure's source address."""
    configuration = f"""
global
    stats socket {tmp_path}/stats level admin
defaults
    mode http
    timeout connect 1s
    timeout client 1s
    timeout server 1s
frontend front
    bind 127.0.0.1:9000
    default_backend vms
backend vms
    option httpchk GET /
    http-check expect status 200
    source {WIRESERVER}
    server vm {VM}:8080 check inter 50ms fall 1 rise 1
"""
    (tmp_path / "haproxy.cfg").write_text(configuration)
    command = street.host.command("haproxy", "-db", "-f", str(tmp_path / "haproxy.cfg"))
    served.tell("serve 8080")
    street.vm.act(lambda: nft.apply(ruleset(WIRESERVER, ())))

    def check() -> tuple[str, str]:
        with socket.socket(socket.AF_UNIX) as one:
            try:
                one.connect(str(tmp_path / "stats"))
            except OSError:
                return "", ""
            one.sendall(b"show stat\n")
            with one.makefile() as answer:
                rows = [line.split(",") for line in answer]
        found = next(dict(zip(rows[0], row, strict=False)) for row in rows if row[:2] == ["vms", "vm"])
        return found["status"], found["check_code"]

    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as haproxy:
        try:
            asyncio.run(until(lambda: check() == ("DOWN", "503"), "HAProxy to see us not ready"))
            served.tell("ready")
            asyncio.run(until(lambda: check() == ("UP", "200"), "HAProxy to see us ready"))
            served.tell("not again")
            asyncio.run(until(lambda: check() == ("DOWN", "503"), "HAProxy to see us not ready again"))
        finally:
            haproxy.kill()
