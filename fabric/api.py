"""The control API: what the host wants, what it was told, what goes wrong. `/docs` describes it."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any

import msgspec
from fastapi import FastAPI, Query, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field

from fabric import __version__, goals, runs, tenant, vmorders
from fabric.errors import FabricError, Unknown
from fabric.host import Host
from fabric.packages import PACKAGE_LIMIT, identify
from fabric.state import WantedHandler

_PAGE = Path(__file__).with_name("portal.html")


class ExtensionOrder(BaseModel):
    """An extension to be put into the goal state; its package must be in the repository."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(max_length=200)]
    version: Annotated[str, Field(max_length=80)]
    settings: dict[str, Any] | None = None
    protected: dict[str, Any] | None = None
    fast_track: bool = False


class FaultOrder(BaseModel):
    """A fault to be injected."""

    model_config = ConfigDict(extra="forbid")

    endpoint: Annotated[str, Field(max_length=80)]
    fault: Annotated[str, Field(max_length=80)]
    value: float | None = None
    count: int | None = None


def make_api(host: Host) -> FastAPI:
    """The application of the portal's port."""
    api = FastAPI(title="azvmagent fabric", version=__version__, summary="A local Azure host")

    @api.exception_handler(FabricError)
    async def refuse(_: Request, error: FabricError) -> Response:
        return JSONResponse({"reason": str(error)}, error.status)

    @api.middleware("http")
    async def bound(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
        # A page elsewhere must not be able to order the host about through somebody's browser.
        origin = request.headers.get("origin")
        if request.method not in {"GET", "HEAD"} and origin not in {None, host.endpoints.portal}:
            return JSONResponse({"reason": "orders come from the portal's own page only"}, 403)
        length = request.headers.get("content-length", "0")
        if not length.isdigit() or int(length) > PACKAGE_LIMIT:
            return JSONResponse({"reason": f"bodies are limited to {PACKAGE_LIMIT} bytes"}, 413)
        return await call_next(request)

    @api.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def page() -> str:
        return _PAGE.read_text(encoding="utf-8")

    @api.get("/api/told")
    async def told() -> Response:
        """What the VM told the host: health, status, events, observations."""
        return _json({**msgspec.to_builtins(host.vm.told), "ready": host.vm.told.ready})

    @api.get("/api/vms")
    async def vms() -> Response:
        """The VMs, with what is wanted of each."""
        return _json([_vm(host)])

    @api.get("/api/extensions")
    async def extensions() -> Response:
        """What the goal state asks for; settings included, protected ones encrypted."""
        return _json([msgspec.to_builtins(one) for one in host.vm.handlers])

    @api.put("/api/packages")
    async def package(
        request: Request,
        file_name: Annotated[str, Query(max_length=300)] = "",
        name: Annotated[str, Query(max_length=200)] = "",
        version: Annotated[str, Query(max_length=80)] = "",
    ) -> Response:
        """Publish an extension package: the body is the zip. Says what it is called."""
        data = await request.body()
        found = identify(data, file_name=file_name, name=name, version=version)
        host.publish(found.name, found.version, data)
        return _json(msgspec.to_builtins(found))

    @api.post("/api/extensions")
    async def add(order: ExtensionOrder) -> Response:
        """Ask the VM for an extension, with these settings."""
        if f"/packages/{order.name}_{order.version}.zip" not in host.blobs.paths("/packages/"):
            raise Unknown(f"no package {order.name} {order.version} is published: PUT /api/packages first")
        handler = WantedHandler(
            name=order.name,
            version=order.version,
            public=order.settings,
            protected=host.protect(order.protected) if order.protected is not None else None,
            thumbprint=tenant.thumbprint(host.vm.identity) if order.protected is not None else "",
            has_settings=order.settings is not None or order.protected is not None,
        )
        return _json(msgspec.to_builtins(await host.want(handler, fast_track=order.fast_track)))

    @api.delete("/api/extensions/{name}")
    async def remove(name: str, now: bool = False, fast_track: bool = False) -> Response:
        """Ask for uninstall; with `now`, have it vanish from the goal state without a word."""
        await host.remove(name, now=now, fast_track=fast_track)
        return _json({"removed": name})

    api.include_router(vmorders.router(host))

    @api.get("/api/faults")
    async def faults() -> Response:
        """The faults in force."""
        return _json([msgspec.to_builtins(one) for one in host.faults.listed()])

    @api.post("/api/faults")
    async def inject(order: FaultOrder) -> Response:
        """Inject a fault at an endpoint."""
        rule = host.faults.add(order.endpoint, order.fault, order.value, order.count)
        return _json(msgspec.to_builtins(rule))

    @api.delete("/api/faults")
    async def lift() -> Response:
        """Lift all faults."""
        return _json({"lifted": host.faults.clear()})

    @api.get("/api/transcript")
    async def transcript() -> Response:
        """The newest requests, oldest first."""
        return _json(list(host.transcript))

    runs.add_routes(api, host)
    goals.add_routes(api, host)
    return api


def _vm(host: Host) -> dict[str, Any]:
    vm = host.vm
    return {
        "name": vm.identity.vm,
        "container_id": vm.identity.container_id,
        "ready": vm.told.ready,
        "heartbeats": vm.told.heartbeats,
        "health": msgspec.to_builtins(vm.told.health),
        "incarnation": vm.fabric.number,
        "fast_track": vm.fast_track.number if vm.fast_track else None,
        "extensions": [one.name for one in vm.handlers],
        "status_at": vm.told.status_at,
    }


def _json(value: Any) -> Response:
    """By msgspec: FastAPI's encoder would walk a status blob of any size in Python."""
    return Response(msgspec.json.encode(value), media_type="application/json")
