"""HostGAPlugin's endpoints (protocol: HostGAPlugin): the host as the VM's proxy to storage."""

import base64
import binascii
from urllib.parse import parse_qsl, urlsplit

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from fabric import documents, tenant
from fabric.errors import Unknown
from fabric.host import Host
from fabric.wireserver import preferred_wait

API_VERSION = "2015-09-01"
_LOG_LIMIT = 256 * 1024 * 1024


class _Header(msgspec.Struct, rename="camel"):
    header_name: str
    header_value: str


class _Order(msgspec.Struct, rename="camel"):
    """The body of PUT /status: a PUT to be done for the VM."""

    request_uri: str
    headers: list[_Header]
    content: str = ""


def endpoint(method: str, path: str) -> str:
    """The endpoint's name; empty if there is none."""
    return {
        ("GET", "/versions"): "pluginversions",
        ("GET", "/vmSettings"): "vmsettings",
        ("GET", "/extensionArtifact"): "artifact",
        ("PUT", "/status"): "status",
        ("PUT", "/vmAgentLog"): "agentlog",
        ("GET", "/health"): "pluginhealth",
    }.get((method, path), "")


async def answer(host: Host, name: str, request: Request) -> Response:
    """The answer of one endpoint; stale ids are 410."""
    identity = host.vm.identity
    if name == "pluginhealth":
        return Response(status_code=200)
    if request.headers.get("x-ms-containerid") != identity.container_id:
        return _text("this container is not here any more", 410)
    if name == "pluginversions":
        return Response(f'["{API_VERSION}"]', media_type="application/json")
    if request.headers.get("x-ms-version") != API_VERSION:
        return _text(f"x-ms-version: {API_VERSION} is required", 400)
    if name == "agentlog":
        await request.body()
        host.vm.told.agent_logs += 1
        host.touch()
        return Response(status_code=200)
    if request.headers.get("x-ms-host-config-name") != identity.config_name:
        return _text("this configuration is not here any more", 410)
    if name == "vmsettings":
        return await _vm_settings(host, request)
    if name == "artifact":
        return _artifact(host, request)
    return await _status(host, request)


async def _vm_settings(host: Host, request: Request) -> Response:
    known = request.headers.get("if-none-match", "")
    wait = preferred_wait(request)
    if known and wait:
        await host.wait_for_change(known, lambda: documents.vm_settings_etag(host.vm), wait)
    etag = documents.vm_settings_etag(host.vm)
    if not etag:
        return _text("there are no vmSettings here", 404)
    headers = {"ETag": etag, **({"Preference-Applied": f"wait={wait:g}"} if wait else {})}
    if known == etag:
        return Response(status_code=304, headers=headers)
    body = documents.vm_settings(host.vm, host.urls(), tenant.thumbprint(host.vm.identity))
    return Response(body, headers=headers, media_type="application/json")


def _artifact(host: Host, request: Request) -> Response:
    location = request.headers.get("x-ms-artifact-location", "")
    parts = urlsplit(location)
    if f"{parts.scheme}://{parts.netloc}" != host.endpoints.blob:
        return _text("x-ms-artifact-location is no blob of this host", 502)
    if dict(parse_qsl(parts.query)).get("sig") != dict(parse_qsl(urlsplit(host.signed(parts.path)).query))["sig"]:
        return _text("the storage answered 403", 502)
    try:
        return Response(host.blobs.get(parts.path), media_type="application/octet-stream")
    except Unknown as error:
        return _text(f"the storage answered 404: {error}", 404)


async def _status(host: Host, request: Request) -> Response:
    try:
        order = msgspec.json.decode(await request.body(), type=_Order)
        content = base64.b64decode(order.content, validate=True)
    except (msgspec.DecodeError, UnicodeDecodeError, binascii.Error, ValueError) as error:
        return _text(f"the status order cannot be read: {error}", 400)
    parts = urlsplit(order.request_uri)
    if f"{parts.scheme}://{parts.netloc}" != host.endpoints.blob:
        return _text("requestUri is no blob of this host", 502)
    headers = {one.header_name.lower(): one.header_value for one in order.headers}
    status = host.blobs.upload(parts.path, dict(parse_qsl(parts.query)), headers, content, "hostgaplugin")
    return Response(status_code=200) if status == 201 else _text(f"the storage answered {status}", 502)


def _text(text: str, status: int) -> Response:
    return Response(text, status, media_type="text/plain")
