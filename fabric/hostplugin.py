"""HostGAPlugin's endpoints (protocol: HostGAPlugin): the host as the VM's proxy to storage."""

import base64
import binascii
from urllib.parse import parse_qsl

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from fabric import bodies, documents, tenant
from fabric.errors import FabricError, Refused
from fabric.faults import Fault
from fabric.spoil import spoiled, without_ticks
from fabric.vm import Vm
from fabric.wireserver import preferred_wait

API_VERSION = "2015-09-01"
_LOG_LIMIT = 256 * 1024 * 1024
_STATUS_LIMIT = 16 * 1024 * 1024
"""Room for 4 MiB of pages, as base64."""


class _Header(msgspec.Struct, rename="camel"):
    header_name: str
    header_value: str


class _Order(msgspec.Struct, rename="camel"):
    """The body of PUT /status: a PUT to be done for the VM."""

    request_uri: str
    headers: list[_Header]
    content: str = ""


def endpoint(method: str, path: str, artifact: str) -> str:
    """The endpoint's name; empty if there is none. `artifact`: the URL that is asked for by proxy."""
    name = {
        ("GET", "/versions"): "pluginversions",
        ("GET", "/vmSettings"): "vmsettings",
        ("GET", "/extensionArtifact"): "artifact",
        ("PUT", "/status"): "status",
        ("PUT", "/vmAgentLog"): "agentlog",
        ("GET", "/health"): "pluginhealth",
    }.get((method, path), "")
    return "agentartifact" if name == "artifact" and "/agents/" in artifact else name


async def answer(vm: Vm, name: str, request: Request, fault: Fault | None) -> Response:
    """The answer of one endpoint; stale ids are 410. Raises FabricError."""
    identity = vm.identity
    if name == "pluginhealth":
        return Response(status_code=200)
    if request.headers.get("x-ms-containerid") != identity.container_id:
        return _text("this container is not here any more", 410)
    if name == "pluginversions":
        return Response(f'["{API_VERSION}"]', media_type="application/json")
    if request.headers.get("x-ms-version") != API_VERSION:
        return _text(f"x-ms-version: {API_VERSION} is required", 400)
    if name == "agentlog":
        async for _ in bodies.parts(request, _LOG_LIMIT):
            pass
        vm.told_log()
        return Response(status_code=200)
    if request.headers.get("x-ms-host-config-name") != identity.config_name:
        return _text("this configuration is not here any more", 410)
    if name == "vmsettings":
        return await _vm_settings(vm, request, fault)
    if name in {"artifact", "agentartifact"}:
        return _artifact(vm, request, fault)
    return await _status(vm, request)


async def _vm_settings(vm: Vm, request: Request, fault: Fault | None) -> Response:
    known = request.headers.get("if-none-match", "")
    wait = preferred_wait(request)
    if known and wait:
        await vm.wait_for_change(known, lambda: documents.vm_settings_etag(vm.state), wait)
    etag = documents.vm_settings_etag(vm.state)
    if not etag:
        return _text("there are no vmSettings here", 404)
    headers = {"ETag": etag, **({"Preference-Applied": f"wait={wait:g}"} if wait else {})}
    if known == etag:
        return Response(status_code=304, headers=headers)
    state, thumbprint = spoiled(vm.state, fault), tenant.thumbprint(vm.identity)
    body = documents.vm_settings(state, vm.urls(), thumbprint, ticks_are_missing=without_ticks(fault))
    return Response(body, headers=headers, media_type="application/json")


def _artifact(vm: Vm, request: Request, fault: Fault | None) -> Response:
    try:
        path, query = _blob(vm, request.headers.get("x-ms-artifact-location", ""))
        replayed = fault is not None and fault.fault == "replayed"
        content = vm.host.blobs.download(path, query, vm.addresses.blob, replayed=replayed)
    except FabricError as error:
        # A blob that is missing is no failure of the storage.
        return _text(f"the storage answered {error.status}: {error}", 404 if error.status == 404 else 502)
    return Response(content, media_type="application/octet-stream")


async def _status(vm: Vm, request: Request) -> Response:
    body = await bodies.read(request, _STATUS_LIMIT)
    try:
        order = bodies.parse_json(body, _Order)
        content = base64.b64decode(order.content, validate=True)
    except (FabricError, binascii.Error, ValueError) as error:
        return _text(f"the status order cannot be read: {error}", 400)
    headers = {one.header_name.lower(): one.header_value for one in order.headers}
    try:
        path, query = _blob(vm, order.request_uri)
        await vm.host.blobs.upload(path, query, headers, content, "hostgaplugin")
    except FabricError as error:
        return _text(f"the storage answered {error.status}: {error}", 502)
    return Response(status_code=200)


def _blob(vm: Vm, url: str) -> tuple[str, dict[str, str]]:
    """Path and query of a URL that is one of our blob store. Raises Refused."""
    base, slash, rest = url.removeprefix(vm.addresses.blob).partition("/")
    if not url.startswith(vm.addresses.blob) or base or not slash:
        raise Refused(400, "the URL is no blob of this host")
    path, _, query = rest.partition("?")
    return f"/{path}", dict(parse_qsl(query))


def _text(text: str, status: int) -> Response:
    return Response(text, status, media_type="text/plain")
