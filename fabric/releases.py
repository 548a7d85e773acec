"""The component repository's part of the control API."""

import asyncio
from typing import Annotated, Any

import msgspec
from fastapi import FastAPI, Path, Query, Request
from fastapi.responses import Response

from fabric import bodies, described
from fabric.componentpackage import (
    COMPONENT_PATTERN,
    DIGEST_PATTERN,
    VERSION_PATTERN,
    ComponentPackage,
    component_package,
    layer_digest,
)
from fabric.errors import BadPackage
from fabric.files import Unfinished
from fabric.host import Host
from fabric.packages import PACKAGE_LIMIT
from fabric.repository import Released

_COMPONENT = Annotated[str, Path(pattern=COMPONENT_PATTERN)]
_VERSION = Annotated[str, Path(max_length=50, pattern=VERSION_PATTERN)]
_DIGEST = Annotated[str, Path(pattern=DIGEST_PATTERN)]


class LayerKept(msgspec.Struct, frozen=True):
    """By its digest."""

    layer: str


def add_routes(api: FastAPI, host: Host) -> None:
    """Into the control API."""

    @api.get("/api/repository", responses=described.answers(list[Released]))
    async def listed() -> Response:
        """The versions in the component repository."""
        return bodies.json(await asyncio.to_thread(host.repository.listed))

    @api.get("/api/repository/root", responses=described.answers(dict[str, Any], 503))
    async def root() -> Response:
        """root.json: what agents are to trust. The repository is made when somebody asks for it first."""
        return Response(await asyncio.to_thread(host.repository.root), media_type="application/json")

    @api.put(
        "/api/repository/packages",
        responses=described.answers(Released, 400, 403, 409, 413, 422, 503),
        openapi_extra=described.package(),
    )
    async def publish(
        request: Request,
        channel: Annotated[str, Query(max_length=30, pattern="^[a-z][a-z0-9_-]*$")] = "stable",
        ring: Annotated[int, Query(ge=0, le=100)] = 1,
    ) -> Response:
        """Publish a package of a component: the body is the zip. In the repository, and in the family of its name."""
        with host.blobs.incoming() as incoming:
            await _receive(request, incoming)
            package = await asyncio.to_thread(component_package, incoming.file)
            is_new = package.component not in host.family_names()
            released = await asyncio.to_thread(_publish, host, package, incoming, channel, ring)
        if is_new:
            host.announce_families()
        return bodies.json(released)

    @api.put(
        "/api/repository/layers/{digest}",
        responses=described.answers(LayerKept, 400, 403, 413, 422, 503),
        openapi_extra=described.package(),
    )
    async def layer(request: Request, digest: _DIGEST) -> Response:
        """Hand in a layer that a package needs; before the package."""
        with host.blobs.incoming() as incoming:
            await _receive(request, incoming)
            await asyncio.to_thread(_take_layer, host, digest, incoming)
        return bodies.json(LayerKept(digest))

    @api.delete(
        "/api/repository/packages/{component}/{version}", responses=described.answers(Released, 400, 403, 404, 422, 503)
    )
    async def withdraw(component: _COMPONENT, version: _VERSION) -> Response:
        """Recall a version: neither the repository nor the family has it any more."""
        return bodies.json(await asyncio.to_thread(_withdraw, host, component, version))


async def _receive(request: Request, incoming: Unfinished) -> None:
    async for part in bodies.parts(request, PACKAGE_LIMIT):
        incoming.write(part)


def _publish(host: Host, package: ComponentPackage, incoming: Unfinished, channel: str, ring: int) -> Released:
    """Blocking. Raises FabricError."""
    with host.repository.changing():
        released = host.repository.publish(package, incoming, channel, ring)
        host.publish_family(package.component, package.version, incoming)
    return released


def _withdraw(host: Host, component: str, version: str) -> Released:
    """Blocking. Raises FabricError."""
    with host.repository.changing():
        released = host.repository.released(component, version)
        # The family first: who is killed between the two can be asked again.
        host.withdraw_family(component, released.version)
        host.repository.withdraw(component, released.version)
    return released


def _take_layer(host: Host, digest: str, incoming: Unfinished) -> None:
    """Blocking. Raises FabricError."""
    if (found := layer_digest(incoming.file)) != digest:
        raise BadPackage(f"this is the layer {found}, not {digest}")
    with host.repository.changing():
        host.publish_layer(digest, host.repository.take_layer(digest, incoming))
