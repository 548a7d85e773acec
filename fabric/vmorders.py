"""Orders about VMs: add and remove, certificates, hold, required features, FastTrack, another container."""

import ipaddress
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Query
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from fabric import bodies
from fabric.errors import FabricError
from fabric.host import FIRST_TENANT, Host
from fabric.state import EPOCH_TICKS, Told
from fabric.vm import Vm

OpenDoors = Callable[[str], Awaitable[dict[str, str]]]
"""Servers of its own for a VM: base URLs by name."""


class CertificateOrder(BaseModel):
    """RSA, or elliptic curve."""

    model_config = ConfigDict(extra="forbid")

    ec: bool = False


class Switch(BaseModel):
    """On or off."""

    model_config = ConfigDict(extra="forbid")

    on: bool


class Features(BaseModel):
    """Names of features the VM must support."""

    model_config = ConfigDict(extra="forbid")

    names: Annotated[list[Annotated[str, Field(max_length=100)]], Field(max_length=100)]


class VmOrder(BaseModel):
    """A VM to be added."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(max_length=63)]
    tenant: Annotated[str, Field(max_length=63)] = FIRST_TENANT
    address: Annotated[str, Field(max_length=45)] = ""
    own_ports: bool = False


class Ports(BaseModel):
    """TCP ports."""

    model_config = ConfigDict(extra="forbid")

    ports: Annotated[list[Annotated[int, Field(ge=1, le=65535)]], Field(max_length=100)]


def router(host: Host, open_doors: OpenDoors) -> APIRouter:
    """Routes of the control API. `open_doors` gives a VM servers of its own."""
    routes = APIRouter()
    Chosen = Annotated[Vm, Depends(chooser(host))]  # noqa: N806  # a type

    @routes.get("/api/vms")
    async def vms() -> Response:
        """The VMs: who they are, what is wanted, how they are."""
        told = host.ledger.summaries()
        return bodies.json([listed(vm, told.get(vm.name, Told())) for vm in host.vms()])

    @routes.post("/api/vms")
    async def add_vm(order: VmOrder) -> dict[str, str]:
        """One more VM, known by its address within its tenant, or by ports of its own."""
        if order.address:
            _check_address(order.address)
        if order.own_ports and order.address:
            raise FabricError("a VM is known by its address or by ports of its own, not by both")
        doors = await open_doors(order.name) if order.own_ports else {}
        vm = host.add(order.name, of=order.tenant, address=order.address, doors=doors)
        return {"name": vm.name, **msgspec.structs.asdict(vm.addresses)}

    @routes.delete("/api/vms/{name}")
    async def remove_vm(name: str) -> dict[str, str]:
        """Forget a VM and all it told."""
        host.remove(name)
        return {"removed": name}

    @routes.post("/api/certificates/rotate")
    async def rotate(order: CertificateOrder, vm: Chosen) -> dict[str, str]:
        """Replace the tenant certificate, as hibernation does: the incarnation stays."""
        return {"thumbprint": vm.rotate_certificate(elliptic=order.ec)}

    @routes.post("/api/certificates")
    async def add(order: CertificateOrder, vm: Chosen) -> dict[str, str]:
        """One more certificate with its key, in a new incarnation."""
        return {"thumbprint": vm.add_certificate(elliptic=order.ec)}

    @routes.post("/api/hold")
    async def hold(order: Switch, vm: Chosen) -> dict[str, bool]:
        """Say in the artifacts profile whether extensions are on hold; the VM reads it with the next incarnation."""
        vm.hold(order.on)
        return {"on": order.on}

    @routes.post("/api/fast-track")
    async def fast_track(order: Switch, vm: Chosen) -> dict[str, bool]:
        """Support vmSettings, or answer 404 from now on."""
        vm.support_fast_track(order.on)
        return {"on": order.on}

    @routes.post("/api/required-features")
    async def require(order: Features, vm: Chosen) -> dict[str, list[str]]:
        """Require features, in a new incarnation."""
        vm.require(order.names)
        return {"names": order.names}

    @routes.post("/api/probe-ports")
    async def probe(order: Ports, vm: Chosen) -> dict[str, list[int]]:
        """The ports the load balancer probes, in a new incarnation."""
        vm.probe(order.ports)
        return {"ports": order.ports}

    @routes.post("/api/move")
    async def move(vm: Chosen) -> dict[str, str]:
        """Another container id from now on, without a new incarnation; the old one is answered with 410."""
        return {"container_id": vm.move()}

    return routes


def chooser(host: Host) -> Callable[[str], Vm]:
    """A dependency: the VM a request names by `?vm=`; the only one if it names none."""

    def chosen(
        vm: Annotated[str, Query(max_length=63, description="A VM's name; may be left out if there is one")] = "",
    ) -> Vm:
        return host.vm(vm)

    return chosen


def listed(vm: Vm, told: Told) -> dict[str, Any]:
    """What a list of VMs says of each."""
    state = vm.state
    newest = max(state.fabric.ticks, state.fast_track.ticks if state.fast_track else 0)
    return {
        "name": vm.name,
        "tenant": state.tenant,
        "address": state.address,
        "container_id": state.identity.container_id,
        "ready": told.ready,
        "heartbeats": told.heartbeats,
        "health": msgspec.to_builtins(told.health),
        "incarnation": state.fabric.number,
        "fast_track": state.fast_track.number if state.fast_track else None,
        "wanted_at": (newest - EPOCH_TICKS) / 10_000_000,
        "on_hold": state.on_hold is True,
        "extensions": [one.name for one in state.handlers],
        "status_at": told.status_at,
        "places": msgspec.structs.asdict(vm.addresses),
    }


def _check_address(text: str) -> None:
    try:
        ipaddress.ip_address(text)
    except ValueError as error:
        raise FabricError(f"{text[:60]!r} is no IP address") from error
