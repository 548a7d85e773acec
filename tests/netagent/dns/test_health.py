"""Whether the nameserver answers: a real one, none, a silent one, one that lies."""

import asyncio
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netagent.dns.errors import BadWish
from netagent.dns.health import DnsHealth, check, make_query, parse_answer
from netagent.dns.wanted import DnsWanted
from tests.netagent.dns.conftest import until

QUERY = make_query(7, "0123456789abcdef.a.example")


def looked(port: int, *search: str, host: str = "127.0.0.1", seconds: float = 5.0) -> DnsHealth:
    wanted = DnsWanted(link="lo", nameservers=(host,), search=search)
    return asyncio.run(check(wanted, port=port, seconds=seconds))


@pytest.fixture
def dnsmasq() -> Iterator[int]:
    """Knows a.example, has nobody to ask about the rest."""
    while True:
        port = free_port()
        with served(port) as process:
            # Somebody else may have taken the port meanwhile: then it ends.
            until(partial(is_settled, process, port), "dnsmasq")
            if process.poll() is None:
                yield port
                return


def is_settled(process: "subprocess.Popen[bytes]", port: int) -> bool:
    return process.poll() is not None or looked(port, "a.example").reason == "NXDOMAIN"


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def served(port: int) -> Iterator["subprocess.Popen[bytes]"]:
    command = ["dnsmasq", "-d", "-C", "/dev/null", "--no-hosts", "--no-resolv", "--bind-interfaces", f"--port={port}"]
    command += [
        "--listen-address=127.0.0.1",
        "--listen-address=::1",
        "--local=/a.example/",
        "--address=/b.example/1.2.3.4",
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        yield process
        process.kill()


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_an_answer_and_no_such_name_are_both_healthy(dnsmasq: int, host: str) -> None:
    found = looked(dnsmasq, "a.example", host=host)
    assert (found.healthy, found.reason, found.nameserver) == (True, "NXDOMAIN", host)
    assert looked(dnsmasq, "b.example", "c.example", host=host).reason == "NOERROR"


def test_a_refusal_is_not(dnsmasq: int) -> None:
    found = looked(dnsmasq, "c.example")
    assert (found.healthy, found.reason) == (False, "REFUSED")


def test_the_longest_domain(dnsmasq: int) -> None:
    longest = ".".join(["x" * 62] * 4)
    assert looked(dnsmasq, longest + "y").reason == "REFUSED"
    assert looked(dnsmasq, longest + "y", "a.example").reason == "NXDOMAIN"


def test_nobody_there() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
        found = looked(port, seconds=0.05)
        assert (found.healthy, found.reason) == (False, "no answer within 0.1 s")
        assert len(one.recv(512)) > 12
        assert len(one.recv(512)) > 12, "asked twice"
    assert looked(port).reason == "Connection refused"


def test_no_way_there() -> None:
    found = looked(53, host="fe80::1%lo", seconds=0.05)
    assert not found.healthy


class Liar(asyncio.DatagramProtocol):
    """Answers with what `make` makes of the question, all of it."""

    def __init__(self, make: Callable[[bytes], list[bytes]]) -> None:
        self.make = make

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, sender: tuple[str, int]) -> None:
        for answer in self.make(data):
            self.transport.sendto(answer, sender)


def lied(make: Callable[[bytes], list[bytes]], seconds: float = 5.0) -> str:
    async def whole() -> str:
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_datagram_endpoint(lambda: Liar(make), ("127.0.0.1", 0))
        port = transport.get_extra_info("sockname")[1]
        found = await check(
            DnsWanted(link="lo", nameservers=("127.0.0.1",), search=("a.example",)), port=port, seconds=seconds
        )
        transport.close()
        return found.reason

    return asyncio.run(whole())


def answer(query: bytes, code: int) -> bytes:
    return query[:2] + bytes([0x81, 0x80 | code]) + query[4:]


def test_what_is_no_answer_is_not_taken_for_one() -> None:
    def make(query: bytes) -> list[bytes]:
        wrong_number = bytes([query[0] ^ 1]) + answer(query, 0)[1:]
        wrong_name = answer(query, 0).replace(b"\x07example", b"\x07exemple")
        return [b"", b"x", b"\xff" * 2000, query, wrong_number, wrong_name, answer(query, 2)]

    assert lied(make) == "SERVFAIL"
    assert lied(lambda query: make(query)[:-1], 0.05) == "no answer within 0.1 s"


@pytest.mark.parametrize(
    ("code", "reason"), [(0, "NOERROR"), (3, "NXDOMAIN"), (5, "REFUSED"), (1, "FORMERR"), (9, "code 9")]
)
def test_codes(code: int, reason: str) -> None:
    assert lied(lambda query: [answer(query, code)]) == reason


def test_a_server_that_could_not_read_the_question_need_not_repeat_it() -> None:
    assert parse_answer(QUERY[:2] + b"\x80\x01" + bytes(8), QUERY) == "FORMERR"
    assert parse_answer(QUERY[:2] + b"\x80\x00" + bytes(8), QUERY) is None


def test_a_query() -> None:
    assert QUERY == b"\0\7\1\0\0\1\0\0\0\0\0\0\x100123456789abcdef\1a\7example\0\0\1\0\1"
    for name in ("", "a..b", "x" * 64, "a b", "é"):
        with pytest.raises(BadWish):
            make_query(1, name)


@given(st.binary(max_size=80) | st.binary(max_size=40).map(lambda tail: QUERY[:2] + tail) | st.tuples(
    st.integers(0, len(QUERY) - 1), st.integers(0, 255)).map(
        lambda at: answer(QUERY, 0)[: at[0]] + bytes([at[1]]) + answer(QUERY, 0)[at[0] + 1 :]))  # fmt: skip
def test_any_datagram(data: bytes) -> None:
    code = parse_answer(data, QUERY)
    if code is not None:
        assert data[:2] == QUERY[:2]
        assert data[2] & 0x80
    if code in {"NOERROR", "NXDOMAIN"}:
        assert data[12 : len(QUERY)].lower() == QUERY[12:]
