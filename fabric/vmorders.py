"""Orders about VMs: add and remove, certificates, hold, required features, FastTrack, another container."""

import ipaddress
from collections.abc import Callable
from typing import Annotated, Any, Protocol
from urllib.parse import urlsplit

import msgspec
from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response

from fabric import bodies, described
from fabric.described import NAMES
from fabric.errors import FabricError
from fabric.host import FIRST_TENANT, NAME, Host
from fabric.orders import Removed
from fabric.places import Addresses
from fabric.state import EPOCH_TICKS, Health, Told
from fabric.vm import Vm


class OwnDoors(Protocol):
    """Servers of a VM's own."""

    def open_own(self, vm: str) -> dict[str, str]:
        """Base URLs by name. Raises FabricError."""

    async def close_own(self, vm: str) -> None:
        """Nothing if it has none."""


Name = Annotated[str, msgspec.Meta(max_length=63, extra_json_schema={"pattern": f"^{NAME.pattern}$"})]
"""Of a VM or a tenant; the host itself says what is wrong with it."""


class CertificateOrder(msgspec.Struct, forbid_unknown_fields=True):
    """RSA, or elliptic curve."""

    ec: bool = False


class Thumbprint(msgspec.Struct, frozen=True):
    """Of the new certificate."""

    thumbprint: str


class Switch(msgspec.Struct, forbid_unknown_fields=True):
    """On or off."""

    on: bool


class Features(msgspec.Struct, forbid_unknown_fields=True):
    """Names of features the VM must support."""

    names: Annotated[list[Annotated[str, msgspec.Meta(max_length=100)]], msgspec.Meta(max_length=100)]


class VmOrder(msgspec.Struct, forbid_unknown_fields=True):
    """A VM to be added."""

    name: Name
    tenant: Name = FIRST_TENANT
    address: Annotated[str, msgspec.Meta(max_length=45)] = ""
    """Empty, if `own_ports` or if all other addresses are its."""
    own_ports: bool = False
    mac: Annotated[str, msgspec.Meta(pattern=r"^(([0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2})?\Z")] = ""
    """Of its network card, for IMDS to tell; empty: one is made up."""


class AddedVm(Addresses, frozen=True, kw_only=True):
    """Its name, and where it finds the host."""

    name: str


class Ports(msgspec.Struct, forbid_unknown_fields=True):
    """TCP ports."""

    ports: Annotated[list[Annotated[int, msgspec.Meta(ge=1, le=65535)]], msgspec.Meta(max_length=100)]


class Container(msgspec.Struct, frozen=True):
    """Where the VM is now."""

    container_id: str


class ListedVm(msgspec.Struct, kw_only=True):
    """One VM in short."""

    name: str
    tenant: str
    address: str
    catch_all: bool
    """Whether requests from every address that is nobody else's are its."""
    container_id: str
    ready: bool | None
    heartbeats: int
    health: Health | None
    incarnation: int
    fast_track: int | None
    wanted_at: float
    """When something was last asked of it; UTC, seconds."""
    on_hold: bool
    extensions: list[str]
    status_at: float | None
    places: Addresses


def router(host: Host, doors: OwnDoors) -> APIRouter:
    """Routes of the control API. `doors` gives a VM servers of its own."""
    routes = APIRouter()
    Chosen = Annotated[Vm, Depends(chooser(host))]  # noqa: N806  # a type

    @routes.get("/api/vms", responses=described.answers(list[ListedVm]))
    async def vms() -> Response:
        """The VMs: who they are, what is wanted, how they are."""
        told = host.ledger.summaries()
        return bodies.json([listed(vm, told.get(vm.name, Told())) for vm in host.vms()])

    @routes.post(
        "/api/vms", responses=described.answers(AddedVm, *described.ORDER, 409), openapi_extra=described.order(VmOrder)
    )
    async def add_vm(request: Request) -> Response:
        """One more VM, known by its address within its tenant, or by ports of its own."""
        order = await bodies.order(request, VmOrder)
        if order.address:
            _check_address(order.address, host.tenants[order.tenant].wireserver if order.tenant in host.tenants else "")
        if order.own_ports and order.address:
            raise FabricError("a VM is known by its address or by ports of its own, not by both")
        host.check_new(order.name, of=order.tenant)
        places = doors.open_own(order.name) if order.own_ports else {}
        try:
            vm = host.add(order.name, of=order.tenant, address=order.address, doors=places, mac=order.mac)
        except FabricError:
            await doors.close_own(order.name)
            raise
        return bodies.json(AddedVm(name=vm.name, **msgspec.structs.asdict(vm.addresses)))

    @routes.delete("/api/vms/{name}", responses=described.answers(Removed, 403, 404, 422))
    async def remove_vm(name: NAMES) -> Response:
        """Forget a VM and all it told."""
        host.remove(name)
        await doors.close_own(name)
        return bodies.json(Removed(name))

    @routes.post("/api/certificates/rotate", **_ordered(CertificateOrder, Thumbprint))
    async def rotate(request: Request, vm: Chosen) -> Response:
        """Replace the tenant certificate, as hibernation does: the incarnation stays."""
        order = await bodies.order(request, CertificateOrder)
        return bodies.json(Thumbprint(vm.rotate_certificate(elliptic=order.ec)))

    @routes.post("/api/certificates", **_ordered(CertificateOrder, Thumbprint))
    async def add(request: Request, vm: Chosen) -> Response:
        """One more certificate with its key, in a new incarnation."""
        order = await bodies.order(request, CertificateOrder)
        return bodies.json(Thumbprint(vm.add_certificate(elliptic=order.ec)))

    @routes.post("/api/hold", **_ordered(Switch, Switch))
    async def hold(request: Request, vm: Chosen) -> Response:
        """Say in the artifacts profile whether extensions are on hold; the VM reads it with the next incarnation."""
        order = await bodies.order(request, Switch)
        vm.hold(order.on)
        return bodies.json(order)

    @routes.post("/api/fast-track", **_ordered(Switch, Switch))
    async def fast_track(request: Request, vm: Chosen) -> Response:
        """Support vmSettings, or answer 404 from now on."""
        order = await bodies.order(request, Switch)
        vm.support_fast_track(order.on)
        return bodies.json(order)

    @routes.post("/api/required-features", **_ordered(Features, Features))
    async def require(request: Request, vm: Chosen) -> Response:
        """Require features, in a new incarnation."""
        order = await bodies.order(request, Features)
        vm.require(order.names)
        return bodies.json(order)

    @routes.post("/api/probe-ports", **_ordered(Ports, Ports))
    async def probe(request: Request, vm: Chosen) -> Response:
        """The ports the load balancer probes, in a new incarnation."""
        order = await bodies.order(request, Ports)
        vm.probe(order.ports)
        return bodies.json(order)

    @routes.post("/api/move", responses=described.answers(Container, 400, 403, 404, 422))
    async def move(vm: Chosen) -> Response:
        """Another container id from now on, without a new incarnation; the old one is answered with 410."""
        return bodies.json(Container(vm.move()))

    return routes


def chooser(host: Host) -> Callable[[str], Vm]:
    """A dependency: the VM a request names by `?vm=`; the only one if it names none."""

    def chosen(
        vm: Annotated[str, Query(max_length=63, description="A VM's name; may be left out if there is one")] = "",
    ) -> Vm:
        return host.vm(vm)

    return chosen


def listed(vm: Vm, told: Told) -> ListedVm:
    """What a list of VMs says of each."""
    state = vm.state
    newest = max(state.fabric.ticks, state.fast_track.ticks if state.fast_track else 0)
    return ListedVm(
        name=vm.name,
        tenant=state.tenant,
        address=state.address,
        catch_all=not state.address and not state.doors,
        container_id=state.identity.container_id,
        ready=told.ready,
        heartbeats=told.heartbeats,
        health=told.health,
        incarnation=state.fabric.number,
        fast_track=state.fast_track.number if state.fast_track else None,
        wanted_at=(newest - EPOCH_TICKS) / 10_000_000,
        on_hold=state.on_hold is True,
        extensions=[one.name for one in state.handlers],
        status_at=told.status_at,
        places=vm.addresses,
    )


def _ordered(kind: type[msgspec.Struct], answer: type[msgspec.Struct]) -> dict[str, Any]:
    """The description of an order about one VM."""
    return {
        "responses": described.answers(answer, *described.ORDER, 422),
        "openapi_extra": described.order(kind),
    }


def _check_address(text: str, wireserver: str) -> None:
    """Whether requests may come from there to a host that is found at this URL. Raises FabricError."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError as error:
        raise FabricError(f"{text[:60]!r} is no IP address") from error
    host = urlsplit(wireserver).hostname
    listening = ipaddress.ip_address(host) if host else None
    if listening and listening.is_loopback and not (address.is_loopback and address.version == listening.version):
        there = "one of 127.0.0.0/8" if listening.version == 4 else "::1"
        raise FabricError(
            f"this host listens at {listening}, and nothing that asks there comes from {address}: take {there}, "
            "--own-ports, or a lab (azfabric lab up), where VMs have addresses of their own"
        )
