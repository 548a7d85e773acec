"""The host's sockets: small answers leave at once."""

import asyncio
import contextlib
import socket

import pytest

from fabric.errors import FabricError
from fabric.sockets import listening

LOOPBACK = "127.0.0.1"


@pytest.mark.parametrize("shared", [False, True])
def test_a_small_answer_does_not_wait_for_the_one_before(shared: bool) -> None:
    async def tried() -> int:
        accepted: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def came(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            accepted.set_result(writer.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
            writer.close()

        one = listening(LOOPBACK, 0, shared=shared)
        async with await asyncio.start_server(came, sock=one):
            with contextlib.closing(socket.create_connection(one.getsockname())):
                return await accepted

    assert asyncio.run(tried()) == 1


def test_an_address_that_is_taken_is_named() -> None:
    with contextlib.closing(listening(LOOPBACK, 0)) as one:
        port = one.getsockname()[1]
        with pytest.raises(FabricError, match=f"cannot listen at {LOOPBACK} port {port} in there: Address already"):
            listening(LOOPBACK, port, where=" in there")
