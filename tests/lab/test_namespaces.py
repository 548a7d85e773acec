"""Sockets inside namespaces: the same address twice, and a reason when it does not work."""

import os
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from fabric.errors import FabricError
from fabric.lab.namespaces import NoNamespace, bind_in, inside, new_network

ANY = "0.0.0.0"  # noqa: S104  # nothing else is in these namespaces


def here() -> int:
    return Path("/proc/thread-self/ns/net").stat().st_ino


def test_the_same_address_and_port_listens_once_per_namespace() -> None:
    first, second = new_network(), new_network()
    assert len({os.fstat(first).st_ino, os.fstat(second).st_ino, here()}) == 3
    paths = [Path(f"/proc/self/fd/{one}") for one in (first, second)]
    with bind_in(paths[0], ANY, 80) as one, bind_in(paths[1], ANY, 80) as other:
        assert one.getsockname() == other.getsockname() == (ANY, 80)
        assert one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
        # Else asyncio does not send small answers at once.
        assert one.proto == socket.IPPROTO_TCP
        with pytest.raises(FabricError, match=r"at 0.0.0.0 port 80 in /proc/self/fd/\d+: Address already"):
            bind_in(paths[0], ANY, 80)
    os.close(first)
    os.close(second)


def test_the_caller_stays_where_it_was() -> None:
    before = here()
    namespace = new_network()
    assert inside(namespace, here) == os.fstat(namespace).st_ino != before
    assert here() == before
    assert not [one for one in threading.enumerate() if one.name == "namespace"]
    os.close(namespace)


def test_an_address_it_has_not_and_a_place_that_is_none(tmp_path: Path) -> None:
    namespace = new_network()
    # While the loopback was never up, the kernel has no local table and takes any address.
    subprocess.run(
        ["nsenter", f"--net=/proc/self/fd/{namespace}", "ip", "link", "set", "lo", "up"], pass_fds=[namespace]
    )
    with pytest.raises(FabricError, match="Cannot assign requested address"):
        bind_in(Path(f"/proc/self/fd/{namespace}"), "168.63.129.16", 80)
    os.close(namespace)
    with pytest.raises(NoNamespace, match="No such file"):
        bind_in(tmp_path / "none", "127.0.0.1", 80)
    (tmp_path / "file").touch()
    with pytest.raises(NoNamespace, match="Invalid argument"):
        bind_in(tmp_path / "file", "127.0.0.1", 80)


def test_what_the_act_raises_arrives() -> None:
    namespace = new_network()
    with pytest.raises(OSError, match="Network is unreachable"):
        inside(namespace, lambda: socket.create_connection(("10.0.0.4", 80), 1))
    os.close(namespace)
