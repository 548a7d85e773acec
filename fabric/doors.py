"""Where requests come in: sockets, and a server behind each."""

import asyncio
import contextlib
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
from fabric.errors import FabricError
from fabric.faults import Fault
from fabric.gate import Gate, Orders
from fabric.host import FIRST_TENANT, Host
from fabric.lab.namespaces import bind_in
from fabric.patience import PatientProtocol
from fabric.places import Addresses, Door
from fabric.sockets import listening
from fabric.vm import Vm

WIRE_ADDRESS, IMDS_ADDRESS = "168.63.129.16", "169.254.169.254"
_LAB_PORTS = {"wireserver": 80, "hostgaplugin": 32526, "imds": 80, "blob": 8080}
"""In a tenant's namespace; blobs have no port that agents expect."""

Sockets = dict[str, socket.socket]


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
    namespaces: dict[str, Path] = {}
    """Network namespaces by tenant, each with Azure's addresses in it."""

    def places(self) -> dict[str, tuple[str, int]]:
        """Address and port of each server."""
        return {
            "wireserver": (self.address, self.wireserver_port),
            "hostgaplugin": (self.address, self.hostgaplugin_port),
            "imds": (self.imds_address or self.address, self.imds_port),
            "blob": (self.address, self.blob_port),
            "portal": (self.portal_address, self.portal_port),
        }


class Doors:
    """All of a host's sockets and servers. Bind, make the host, open; close all at the end."""

    def __init__(self, listen: Listen, *, shared: bool) -> None:
        """`shared`: other workers listen at the same addresses."""
        self._listen = listen
        self._shared = shared
        self._sockets: Sockets = {}
        self._kept: list[socket.socket] = []
        self._servers: dict[_Server, asyncio.Task[None]] = {}
        self._own: dict[str, list[_Server]] = {}
        """By VM: the servers that are its alone."""
        self._host: Host | None = None

    def bind_all(self, earlier: dict[str, str]) -> dict[str, str]:
        """Take the addresses, the last run's (URLs by name) where they are free; URLs by name. Raises FabricError."""
        for name, (address, port) in self._listen.places().items():
            # The portals of a fleet are each worker's own.
            before = "" if self._shared and name == "portal" else earlier.get(name, "")
            self._sockets[name] = self._bind(address, port or self._free(before, address))
        return {name: _url(one) for name, one in self._sockets.items()}

    def open_all(self, host: Host, portal: ASGIApp) -> None:
        """Answer. Raises FabricError."""
        self._host = host
        self._serve(self._sockets.pop("portal"), Orders(host, portal))
        self._open(Door(tenant=FIRST_TENANT), self._sockets)
        for tenant, namespace in self._listen.namespaces.items():
            wire, imds_at = WIRE_ADDRESS, IMDS_ADDRESS
            found = {
                name: self._keep(bind_in(namespace, imds_at if name == "imds" else wire, port))
                for name, port in _LAB_PORTS.items()
            }
            host.tenants[tenant] = msgspec.convert({name: _url(one) for name, one in found.items()}, Addresses)
            self._open(Door(tenant=tenant), found)
        for vm in host.vms():
            if vm.state.doors:
                found = self._bind_own(vm.state.doors)
                host.settle_doors(vm, {name: _url(one) for name, one in found.items()})
                self._own[vm.name] = self._open(Door(tenant=vm.state.tenant, vm=vm.name), found)

    def open_own(self, vm: str) -> dict[str, str]:
        """Servers for this VM alone; URLs by name. Raises FabricError."""
        found = self._bind_own({})
        self._own[vm] = self._open(Door(tenant=FIRST_TENANT, vm=vm), found)
        return {name: _url(one) for name, one in found.items()}

    async def close_own(self, vm: str) -> None:
        """End this VM's servers, if it has any."""
        await self._close(self._own.pop(vm, []))

    async def close_all(self) -> None:
        """Answer nobody any more; returns when all servers have ended."""
        await self._close(list(self._servers))

    async def _close(self, servers: list["_Server"]) -> None:
        for server in servers:
            server.should_exit = True
            for connection in list(server.server_state.connections):
                cycle = getattr(connection, "cycle", None)
                if cycle is not None and cycle.more_body:
                    # Its request will not be whole in time, perhaps never.
                    cycle.transport.close()
        # Each closes its socket when it ends.
        await asyncio.gather(*(self._servers.pop(server) for server in servers))

    def close(self) -> None:
        for one in self._kept:
            one.close()

    def _bind_own(self, earlier: dict[str, str]) -> Sockets:
        address = self._listen.address
        found: Sockets = {}
        try:
            for name in (one for one in self._listen.places() if one != "portal"):
                found[name] = self._bind(address, self._free(earlier.get(name, ""), address))
        except FabricError:
            for one in found.values():
                one.close()
            raise
        return found

    def _open(self, door: Door, sockets: Sockets) -> list["_Server"]:
        if self._host is None:
            raise RuntimeError("there is no host yet")
        applications = _applications(self._host, door)
        return [self._serve(one, applications[name]) for name, one in sockets.items()]

    def _serve(self, one: socket.socket, application: ASGIApp) -> "_Server":
        server = _server(application)
        self._servers[server] = asyncio.get_running_loop().create_task(server.serve([one]))
        return server

    def _bind(self, address: str, port: int) -> socket.socket:
        return self._keep(listening(address, port, shared=self._shared))

    def _keep(self, one: socket.socket) -> socket.socket:
        self._kept.append(one)
        return one

    def _free(self, earlier: str, address: str) -> int:
        """The port of an earlier URL, if it is still free; 0 otherwise."""
        before, _, port = earlier.removeprefix("http://").rpartition(":")
        if before.strip("[]") != address:
            return 0
        try:
            with contextlib.closing(listening(address, int(port), shared=self._shared)):
                return int(port)
        except (FabricError, ValueError):
            return 0


def _applications(host: Host, door: Door) -> dict[str, ASGIApp]:
    async def blob(vm: Vm, name: str, request: Request, fault: Fault | None) -> Response:
        if name.startswith("repository"):
            return await asyncio.to_thread(host.repository.answer, request, fault)
        replayed = fault is not None and fault.fault == "replayed"
        return await host.blobs.answer(request, vm.addresses.blob, replayed=replayed)

    async def metadata(vm: Vm, _: str, request: Request, __: Fault | None) -> Response:
        return await imds.answer(vm, request)

    def wire_name(one: Request) -> str:
        return wireserver.endpoint(one.method, one.scope["path"], dict(one.query_params))

    def plugin_name(one: Request) -> str:
        return hostplugin.endpoint(one.method, one.scope["path"], one.headers.get("x-ms-artifact-location", ""))

    return {
        "wireserver": Gate(host, door, "wireserver", wire_name, wireserver.answer),
        "hostgaplugin": Gate(host, door, "hostgaplugin", plugin_name, hostplugin.answer),
        "imds": Gate(host, door, "imds", lambda _: "imds", metadata),
        "blob": Gate(host, door, "blob", _blob_name, blob),
    }


def _blob_name(request: Request) -> str:
    folder, _, file = request.scope["path"].lstrip("/").partition("/")
    if folder == "repository":
        return "repositorytargets" if file.startswith("targets/") else "repositorymetadata"
    if folder == "agents":
        return "agentmanifest" if file.endswith(".xml") else "agentpackage"
    return {"manifests": "manifest", "packages": "package", "output": "outputblob"}.get(folder, "statusblob")


def _url(one: socket.socket) -> str:
    address, port = one.getsockname()[:2]
    return f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"


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
            http=PatientProtocol,
        )
    )
