"""Orders about the VM itself: certificates, hold, required features, FastTrack, another container."""

from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from fabric.host import Host


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


def router(host: Host) -> APIRouter:
    """Routes of the control API."""
    routes = APIRouter()

    @routes.post("/api/certificates/rotate")
    async def rotate(order: CertificateOrder) -> dict[str, str]:
        """Replace the tenant certificate, as hibernation does: the incarnation stays."""
        return {"thumbprint": host.rotate_certificate(elliptic=order.ec)}

    @routes.post("/api/certificates")
    async def add(order: CertificateOrder) -> dict[str, str]:
        """One more certificate with its key, in a new incarnation."""
        return {"thumbprint": await host.add_certificate(elliptic=order.ec)}

    @routes.post("/api/hold")
    async def hold(order: Switch) -> dict[str, bool]:
        """Say in the artifacts profile whether extensions are on hold; the VM reads it with the next incarnation."""
        host.hold(order.on)
        return {"on": order.on}

    @routes.post("/api/fast-track")
    async def fast_track(order: Switch) -> dict[str, bool]:
        """Support vmSettings, or answer 404 from now on."""
        await host.support_fast_track(order.on)
        return {"on": order.on}

    @routes.post("/api/required-features")
    async def require(order: Features) -> dict[str, list[str]]:
        """Require features, in a new incarnation."""
        await host.require(order.names)
        return {"names": order.names}

    @routes.post("/api/move")
    async def move() -> dict[str, str]:
        """Another container id from now on, without a new incarnation; the old one is answered with 410."""
        return {"container_id": host.move()}

    return routes
