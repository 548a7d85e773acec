"""`azfabric serve`: every port of the host on one event loop."""

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec
import uvicorn
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from fabric import hostplugin, imds, wireserver
from fabric.api import make_api
from fabric.errors import FabricError
from fabric.files import forget_unfinished, write_whole
from fabric.gate import Gate
from fabric.host import Endpoints, Host
from fabric.state import HostState, load


class Listen(msgspec.Struct, frozen=True, kw_only=True):
    """Addresses and ports; port 0 is a free one."""

    address: str = "127.0.0.1"
    imds_address: str = ""
    """Empty: as `address`."""
    portal_address: str = "127.0.0.1"
    wireserver_port: int = 0
    hostgaplugin_port: int = 0
    imds_port: int = 0
    blob_port: int = 0
    portal_port: int = 0


def serve(root: Path, listen: Listen) -> None:
    """Serve until SIGTERM or SIGINT. Raises FabricError."""
    folder = root / "fabric"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise FabricError(f"{folder} cannot be used: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise FabricError(f"a host already serves {root}; choose another --root") from error
    forget_unfinished(folder)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    try:
        asyncio.run(_serve(folder, listen))
    finally:
        os.close(lock)


async def _serve(folder: Path, listen: Listen) -> None:
    earlier = load(folder / "state.json")
    with contextlib.ExitStack() as stack:
        sockets = {
            name: stack.enter_context(_bind(address, port or _port(earlier, name, address)))
            for name, (address, port) in _places(listen).items()
        }
        urls = {name: f"http://{_authority(one)}" for name, one in sockets.items()}
        endpoints = Endpoints(pid=os.getpid(), **urls)
        host = Host(folder, endpoints, earlier)
        servers = [_server(application) for application in _applications(host).values()]
        file = folder / "endpoints.json"
        loop = asyncio.get_running_loop()
        closing: list[asyncio.Task[None]] = []

        def end() -> None:
            closing.append(loop.create_task(_close(host, servers)))

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, end)
        running = [loop.create_task(server.serve([one])) for server, one in zip(servers, sockets.values(), strict=True)]
        try:
            # The sockets listen already: whoever reads this file is answered.
            write_whole(file, msgspec.json.format(msgspec.json.encode(endpoints)) + b"\n")
            await asyncio.gather(*running)
            await asyncio.gather(*closing)
        finally:
            file.unlink(missing_ok=True)
            host.save()


async def _close(host: Host, servers: list["_Server"]) -> None:
    await host.close()
    for server in servers:
        server.should_exit = True
        for connection in list(server.server_state.connections):
            cycle = getattr(connection, "cycle", None)
            if cycle is not None and cycle.more_body:
                # Its request will not be whole in time, perhaps never.
                cycle.transport.close()


def _places(listen: Listen) -> dict[str, tuple[str, int]]:
    return {
        "wireserver": (listen.address, listen.wireserver_port),
        "hostgaplugin": (listen.address, listen.hostgaplugin_port),
        "imds": (listen.imds_address or listen.address, listen.imds_port),
        "blob": (listen.address, listen.blob_port),
        "portal": (listen.portal_address, listen.portal_port),
    }


def _port(earlier: HostState | None, name: str, address: str) -> int:
    """The last run's, if it is still free: a VM that runs goes on as if nothing had been."""
    before, _, port = (earlier.addresses.get(name, "") if earlier else "").removeprefix("http://").rpartition(":")
    if before.strip("[]") != address:
        return 0
    try:
        with _bind(address, int(port)):
            return int(port)
    except (FabricError, ValueError):
        return 0


def _applications(host: Host) -> dict[str, ASGIApp]:
    """In the order of `_places`."""

    async def wire(name: str, request: Request) -> Response:
        return await wireserver.answer(host, name, request)

    async def plugin(name: str, request: Request) -> Response:
        return await hostplugin.answer(host, name, request)

    async def metadata(_: str, request: Request) -> Response:
        return imds.answer(host, request)

    async def blob(_: str, request: Request) -> Response:
        return await host.blobs.answer(request)

    return {
        "wireserver": Gate(
            host, lambda one: wireserver.endpoint(one.method, one.scope["path"], dict(one.query_params)), wire
        ),
        "hostgaplugin": Gate(host, lambda one: hostplugin.endpoint(one.method, one.scope["path"]), plugin),
        "imds": Gate(host, lambda _: "imds", metadata),
        "blob": Gate(host, _blob_name, blob),
        "portal": make_api(host),
    }


def _blob_name(request: Request) -> str:
    folder = request.scope["path"].lstrip("/").partition("/")[0]
    known = {"manifests": "manifest", "agents": "manifest", "packages": "package", "output": "outputblob"}
    return known.get(folder, "statusblob")


@contextlib.contextmanager
def _bind(address: str, port: int) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind((address, port))
        except OSError as error:
            raise FabricError(f"cannot listen at {address} port {port}: {error.strerror}") from error
        one.listen(512)
        yield one


def _authority(one: socket.socket) -> str:
    address, port = one.getsockname()[:2]
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


class _Server(uvicorn.Server):
    """One of several on this loop: signals are ours to handle."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Never installed."""


def _server(application: Any) -> _Server:
    return _Server(
        uvicorn.Config(
            application,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            ws="none",
            proxy_headers=False,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=2,
            http="h11",
        )
    )
