"""Agent families: the agent itself and its components, as the repository has them. Each VM is told of all of them."""

import asyncio
from typing import Annotated

import msgspec
from fastapi import FastAPI, Path, Query, Request
from fastapi.responses import Response

from fabric import bodies, described
from fabric.host import Host
from fabric.packages import FAMILY, PACKAGE_LIMIT, check_family, family_version

_NAME = Annotated[str, Path(max_length=63, pattern=f"^{FAMILY.pattern}$")]


class FamilyPackage(msgspec.Struct, frozen=True, kw_only=True):
    """What was published."""

    family: str
    version: str


class Family(msgspec.Struct, frozen=True, kw_only=True):
    """What the repository has of one, oldest first."""

    name: str
    versions: list[str]


def add_routes(api: FastAPI, host: Host) -> None:
    """Into the control API."""

    @api.get("/api/families", responses=described.answers(list[Family]))
    async def families() -> Response:
        """The agent families there are, with their versions."""
        return bodies.json([Family(name=name, versions=found) for name, found in host.families().items()])

    @api.put(
        "/api/families/{name}",
        responses=described.answers(FamilyPackage, 400, 403, 413, 422),
        openapi_extra=described.package(),
    )
    async def package(
        request: Request,
        name: _NAME,
        file_name: Annotated[str, Query(max_length=300)] = "",
        version: Annotated[str, Query(max_length=80)] = "",
    ) -> Response:
        """Publish a package of an agent family: the body is the zip. VMs find it in the family's manifest."""
        check_family(name)
        with host.blobs.incoming() as incoming:
            async for part in bodies.parts(request, PACKAGE_LIMIT):
                incoming.write(part)
            # In a thread: others must not wait for the whole of a large package.
            found = await asyncio.to_thread(family_version, incoming.file, file_name=file_name, version=version)
            is_new = name not in host.family_names()
            await asyncio.to_thread(host.publish_family, name, found, incoming)
        if is_new:
            host.announce_families()
        return bodies.json(FamilyPackage(family=name, version=found))
