"""The control API: what the host wants, what it was told, what goes wrong. `/docs` describes it."""

import asyncio
from typing import Annotated
from urllib.parse import urlsplit

import fastapi
import msgspec
from fastapi import Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from fabric import (
    __version__,
    bodies,
    components,
    described,
    families,
    faults,
    goals,
    page,
    releases,
    runs,
    scenes,
    stream,
    vmorders,
)
from fabric.described import NAMES
from fabric.errors import FabricError, Refused
from fabric.host import Host
from fabric.orders import ExtensionOrder, Removed
from fabric.packages import PACKAGE_LIMIT, PackageName, identify
from fabric.state import Told, WantedHandler
from fabric.told import EVENTS_LIMIT, TRANSCRIPT_LIMIT, Line
from fabric.vm import Vm


class Lifted(msgspec.Struct, frozen=True):
    """How many faults, or which."""

    lifted: int


_MORE = {"ready": bool | None, "components": list[components.AskedComponent]}
"""What is told beside what the VM told."""


def make_api(host: Host, doors: vmorders.OwnDoors) -> FastAPI:
    """The application of the portal's port. Whatever is refused is refused as {"reason": ...}."""

    async def own_page(request: Request) -> None:
        # A page elsewhere must not be able to order the host about through somebody's browser, nor to read what it
        # knows under a name of its own that leads here.
        if not _is_ours(request.headers.get("host", ""), host.endpoints.portal):
            raise Refused(403, f"the portal is asked as {host.endpoints.portal}")
        if request.method != "GET" and request.headers.get("origin") not in {None, host.endpoints.portal}:
            raise Refused(403, "orders come from the portal's own page only")

    api = FastAPI(
        title="azvmagent fabric",
        version=__version__,
        summary="A local Azure host",
        dependencies=[Depends(own_page)],
        # The framework's own pages load their scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        responses=described.refused(507),
    )

    @api.exception_handler(FabricError)
    async def refuse(_: Request, error: FabricError) -> Response:
        return JSONResponse({"reason": str(error)}, error.status)

    @api.exception_handler(HTTPException)
    async def nowhere(request: Request, error: HTTPException) -> Response:
        reason = f"{request.method} {request.scope['path'][:200]}: {error.detail}. /docs says what there is"
        headers = {"Allow": ", ".join(_allowed(api, request))} if error.status_code == 405 else error.headers
        return JSONResponse({"reason": reason}, error.status_code, headers)

    @api.exception_handler(RequestValidationError)
    async def misused(_: Request, error: RequestValidationError) -> Response:
        reasons = [f"{one['loc'][-1]}: {one['msg']}" for one in error.errors()]
        return JSONResponse({"reason": "; ".join(reasons)}, 422)

    @api.exception_handler(ClientDisconnect)
    async def gone(_: Request, __: ClientDisconnect) -> Response:
        return Response(status_code=400)

    Chosen = Annotated[Vm, Depends(vmorders.chooser(host))]  # noqa: N806  # a type

    @api.get("/api/told", responses=described.answers(Told, 400, 404, 422, more=_MORE))
    async def told(vm: Chosen, events: Annotated[int, Query(ge=0, le=EVENTS_LIMIT)] = EVENTS_LIMIT) -> Response:
        """What the VM told the host: health, status, the newest events, observations; what came of versions."""
        told = vm.told()
        told.events = told.events[len(told.events) - min(events, len(told.events)) :]
        asked = components.outcomes(vm, told)
        return bodies.json({**msgspec.to_builtins(told), "ready": told.ready, "components": asked})

    @api.get("/api/extensions", responses=described.answers(list[WantedHandler], 400, 404, 422))
    async def extensions(vm: Chosen) -> Response:
        """What the goal state asks for; settings included, protected ones encrypted."""
        return bodies.json(vm.state.handlers)

    @api.put(
        "/api/packages",
        responses=described.answers(PackageName, 400, 403, 413, 422),
        openapi_extra=described.package(),
    )
    async def package(
        request: Request,
        file_name: Annotated[str, Query(max_length=300)] = "",
        name: Annotated[str, Query(max_length=200)] = "",
        version: Annotated[str, Query(max_length=80)] = "",
    ) -> Response:
        """Publish an extension package: the body is the zip. Says what it is called."""
        with host.blobs.incoming() as incoming:
            async for part in bodies.parts(request, PACKAGE_LIMIT):
                incoming.write(part)
            # In a thread: others must not wait for the whole of a large package.
            found = await asyncio.to_thread(identify, incoming.file, file_name=file_name, name=name, version=version)
            await asyncio.to_thread(host.publish, found.name, found.version, incoming)
        return bodies.json(found)

    @api.post(
        "/api/extensions",
        responses=described.answers(WantedHandler, *described.ORDER, 422),
        openapi_extra=described.order(ExtensionOrder),
    )
    async def add(request: Request, vm: Chosen) -> Response:
        """Ask the VM for an extension, with these settings."""
        order = await bodies.order(request, ExtensionOrder)
        return bodies.json(vm.order(order))

    @api.delete("/api/extensions/{name}", responses=described.answers(Removed, 400, 403, 404, 422))
    async def remove(name: NAMES, vm: Chosen, now: bool = False, fast_track: bool = False) -> Response:
        """Ask for uninstall; with `now`, have it vanish from the goal state without a word."""
        vm.remove(name, vanish=now, fast_track=fast_track)
        return bodies.json(Removed(name))

    api.include_router(vmorders.router(host, doors))

    @api.get("/api/faults", responses=described.answers(list[faults.Fault]))
    async def in_force() -> Response:
        """The faults in force."""
        return bodies.json(host.faults.listed())

    @api.get("/api/fault-catalogue", responses=described.answers(faults.Catalogue))
    async def catalogue() -> Response:
        """Faults, endpoints and groups there are to choose from."""
        return bodies.json(faults.catalogue())

    @api.post(
        "/api/faults",
        responses=described.answers(faults.Fault, *described.ORDER),
        openapi_extra=described.order(faults.Order),
    )
    async def inject(request: Request) -> Response:
        """Inject a fault at an endpoint, or at a group of them."""
        order = await bodies.order(request, faults.Order)
        if order.vm:
            host.vm(order.vm)
        rule = host.faults.add(order)
        host.changes.tell("faults")
        return bodies.json(rule)

    @api.delete("/api/faults", responses=described.answers(Lifted, 403))
    async def lift_all() -> Response:
        """Lift all faults."""
        lifted = host.faults.clear()
        host.changes.tell("faults")
        return bodies.json(Lifted(lifted))

    @api.delete("/api/faults/{number}", responses=described.answers(Lifted, 403, 404, 422))
    async def lift(number: Annotated[int, fastapi.Path(ge=1, le=2**31 - 1)]) -> Response:
        """Lift one fault."""
        host.faults.lift(number)
        host.changes.tell("faults")
        return bodies.json(Lifted(number))

    @api.get("/api/transcript", responses=described.answers(list[Line], 422))
    async def transcript(
        limit: Annotated[int, Query(ge=1, le=TRANSCRIPT_LIMIT)] = 500,
        vm: Annotated[str, Query(max_length=63, description="Only those of this VM")] = "",
    ) -> Response:
        """The newest requests of all VMs, oldest first."""
        lines = host.ledger.transcript(limit)
        return bodies.json([one for one in lines if one.vm == vm] if vm else lines)

    families.add_routes(api, host)
    releases.add_routes(api, host)
    api.include_router(components.router(host))
    page.add_routes(api)
    stream.add_routes(api, host)
    scenes.add_routes(api, host)
    runs.add_routes(api, host)
    goals.add_routes(api, host)
    return api


def _is_ours(asked: str, portal: str) -> bool:
    """Whether a Host header names the portal by its address, or as localhost. Any name will do where it listens at all
    addresses: somebody wanted that."""
    address = urlsplit(portal)
    if address.hostname in {"0.0.0.0", "::"}:  # noqa: S104  # seen, not bound
        return True
    # No browser leaves it out.
    return asked in {"", address.netloc, f"localhost:{address.port}"}


def _allowed(api: FastAPI, request: Request) -> list[str]:
    """All methods of a path: each operation is a route of its own, and names only its own method."""

    def knows(method: str) -> bool:
        asked = {**request.scope, "method": method}
        return any(route.matches(asked)[0] is Match.FULL for route in api.routes)

    return [one for one in ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT") if knows(one)]
