"""Listening sockets."""

import socket

from fabric.errors import FabricError


def listening(address: str, port: int, *, shared: bool = False, where: str = "") -> socket.socket:
    """A TCP socket that listens; `shared` with other processes. Raises FabricError, which says `where`."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    # The protocol is named: only then does asyncio send small answers at once (TCP_NODELAY).
    one = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        one.bind((address, port))
        one.listen(512)
    except OSError as error:
        one.close()
        reason = error.strerror or str(error)
        raise FabricError(f"cannot listen at {address} port {port}{where}: {reason}") from error
    return one
