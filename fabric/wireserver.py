"""The WireServer's endpoints, strict: a wrong client gets what Azure gives it (protocol: endpoint table)."""

import asyncio
import re
import xml.etree.ElementTree as ET
from typing import Any

import msgspec
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring
from starlette.requests import Request
from starlette.responses import Response

from fabric import bodies, documents, tenant
from fabric.envelope import CIPHERS
from fabric.errors import FabricError
from fabric.faults import Fault
from fabric.spoil import spoiled, without_ticks
from fabric.state import Health
from fabric.vm import Vm

PROTOCOL_VERSION = "2012-11-30"
_WAIT = re.compile(r"(?:^|,)\s*wait\s*=\s*([0-9]{1,4})", re.IGNORECASE)

_UNREADABLE = (ET.ParseError, DefusedXmlException, ValueError, LookupError)
"""What the XML parser raises: LookupError for an encoding nobody knows."""


class _Observation(msgspec.Struct, rename="pascal"):
    observation_name: str
    is_healthy: bool
    description: str | None = ""
    value: str | None = ""


class _Report(msgspec.Struct, rename="pascal"):
    """The body of POST /HealthService."""

    observations: list[_Observation]


def endpoint(method: str, path: str, query: dict[str, str]) -> str:
    """The endpoint's name, for faults and counts; empty if there is none. The slash of each path matters."""
    comp = query.get("comp", "")
    match (method, path, comp):
        case ("GET", "/", "versions"):
            return "versions"
        case ("GET", "/machine/", "goalstate"):
            return "goalstate"
        case ("POST", "/machine", "health"):
            return "health"
        case ("POST", "/machine", "roleProperties"):
            return "roleproperties"
        case ("POST", "/machine", "telemetrydata"):
            return "telemetry"
        case ("POST", "/HealthService", _):
            return "healthservice"
        case ("GET", _, "certificates") if path.startswith("/machine/"):
            return "certificates"
        case ("GET", _, "config") if path.startswith("/machine/"):
            kind = query.get("type", "").lower()
            known = {"hostingenvironmentconfig": "hostingenvironment", "sharedconfig": "sharedconfig"}
            return "extensionsconfig" if kind == "extensionsconfig" else known.get(kind, "")
    return ""


async def answer(vm: Vm, name: str, request: Request, fault: Fault | None) -> Response:
    """The answer of one endpoint. Raises FabricError."""
    if name not in {"versions", "healthservice"}:
        agent, version = request.headers.get("x-ms-agent-name"), request.headers.get("x-ms-version")
        if not agent or version != PROTOCOL_VERSION:
            return _text(f"x-ms-agent-name and x-ms-version: {PROTOCOL_VERSION} are required", 400)
    if name in _POSTS:
        return await _POSTS[name](vm, request)
    if name == "versions":
        return _xml(documents.VERSIONS)
    if name == "goalstate":
        return await _goal_state(vm, request, fault)
    if not request.scope["path"].startswith(f"/machine/{vm.identity.container_id}/"):
        return _text("this container is not here any more", 410)
    if name == "certificates":
        return _certificates(vm, request)
    state = spoiled(vm.state, fault)
    if name == "extensionsconfig":
        thumbprint, missing = tenant.thumbprint(vm.identity), without_ticks(fault)
        return _xml(documents.extensions_config(state, vm.urls(), thumbprint, ticks_are_missing=missing))
    return _xml(documents.shared_config(state) if name == "sharedconfig" else documents.hosting_environment(state))


def preferred_wait(request: Request) -> float:
    """Seconds of `Prefer: wait=N` (RFC 7240 section 4.3); 0 without."""
    match = _WAIT.search(",".join(request.headers.getlist("prefer")))
    return float(match[1]) if match else 0.0


async def _goal_state(vm: Vm, request: Request, fault: Fault | None) -> Response:
    wait = preferred_wait(request)
    known = request.headers.get("if-none-match", "").strip('"')
    if wait and known:
        await vm.wait_for_change(known, lambda: str(vm.state.fabric.number), wait)
    headers = {"ETag": f'"{vm.state.fabric.number}"'}
    if wait:
        headers["Preference-Applied"] = f"wait={wait:g}"
    with_role = fault is None or fault.fault != "no-role-instance"
    return _xml(documents.goal_state(vm.state, vm.addresses.wireserver, with_role=with_role), headers)


def _certificates(vm: Vm, request: Request) -> Response:
    cipher = request.headers.get("x-ms-cipher-name", "")
    if cipher not in CIPHERS:
        return _text(f"x-ms-cipher-name must be one of {', '.join(CIPHERS)}", 400)
    certificate = request.headers.get("x-ms-guest-agent-public-x509-cert", "")
    try:
        envelope = tenant.certificates_envelope(vm.identity, certificate, cipher)
    except FabricError as error:
        return _text(str(error), 400)
    return _xml(documents.certificate_file(vm.state, envelope))


async def _health(vm: Vm, request: Request) -> Response:
    try:
        root = fromstring(await bodies.read(request), forbid_dtd=True)
    except _UNREADABLE as error:
        return _text(f"the health report cannot be read: {error}", 400)
    found = {one.tag: one.text or "" for one in root.iter()}
    if found.get("ContainerId") != vm.identity.container_id:
        return _text("this container is not here any more", 410)
    if found.get("State") not in {"Ready", "NotReady"} or found.get("InstanceId") != vm.identity.instance_id:
        return _text("the health report names no state or another instance", 400)
    vm.told_health(
        Health(
            state=found["State"],
            substatus=found.get("SubStatus", ""),
            description=found.get("Description", ""),
            incarnation=found.get("GoalStateIncarnation", ""),
            at=vm.host.clock.now(),
        )
    )
    return Response(status_code=200)


async def _role_properties(_: Vm, request: Request) -> Response:
    try:
        fromstring(await bodies.read(request), forbid_dtd=True)
    except _UNREADABLE as error:
        return _text(f"the role properties cannot be read: {error}", 400)
    return Response(status_code=202)


async def _telemetry(vm: Vm, request: Request) -> Response:
    try:
        # In a thread: one VM's thousands of events must not keep the others waiting.
        events = await asyncio.to_thread(_events, await bodies.read(request))
    except _UNREADABLE as error:
        return _text(f"the telemetry cannot be read: {error}", 400)
    except BadTelemetry as error:
        return _text(str(error), 400)
    vm.told_events(events)
    return Response(status_code=200)


class BadTelemetry(FabricError):
    """Readable, and not of the shape it has to be."""


def _events(body: bytes) -> list[dict[str, Any]]:
    """Those of each provider, once. Raises ParseError, BadTelemetry."""
    found = []
    for provider in fromstring(body, forbid_dtd=True):
        if provider.tag != "Provider" or any(one.tag != "Event" for one in provider):
            raise BadTelemetry("telemetry is Providers that hold Events, and nothing else")
        found += [_event(provider.get("id", ""), one) for one in provider]
    return found


def _event(provider: str, event: ET.Element) -> dict[str, Any]:
    """The parameters are XML once more, inside the text. Raises ParseError."""
    inner = fromstring(f"<Params>{event.text or ''}</Params>", forbid_dtd=True)
    parameters = {one.get("Name", ""): one.get("Value", "") for one in inner.iter("Param")}
    return {"provider": provider, "event_id": event.get("id", ""), **parameters}


async def _health_service(vm: Vm, request: Request) -> Response:
    body = await bodies.read(request)
    try:
        report = bodies.parse_json(body, _Report)
        vm.told_observations([_cut(msgspec.to_builtins(one)) for one in report.observations])
    except FabricError as error:
        return _text(f"the observations cannot be read: {error}", 400)
    return Response(status_code=200)


def _cut(observation: dict[str, Any]) -> dict[str, Any]:
    """To the protocol's lengths: what is longer was not told by an agent."""
    return {name: value[:128] if isinstance(value, str) else value for name, value in observation.items()}


_POSTS = {
    "health": _health,
    "roleproperties": _role_properties,
    "telemetry": _telemetry,
    "healthservice": _health_service,
}


def _xml(body: bytes, headers: dict[str, str] | None = None) -> Response:
    return Response(body, headers=headers, media_type="text/xml; charset=utf-8")


def _text(text: str, status: int) -> Response:
    return Response(text, status, media_type="text/plain")
