"""The instance metadata service: who the VM is, and an honest no for what only Azure has (protocol: IMDS)."""

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from fabric import bodies
from fabric.errors import FabricError
from fabric.instance import VERSIONS, instance
from fabric.vm import Vm

_EVENT_VERSIONS = ("2017-03-01", "2017-08-01", "2017-11-01", "2019-01-01", "2019-04-01", "2019-08-01", "2020-07-01")
_MORE = "For more information refer to aka.ms/azureimds"


class _Start(msgspec.Struct, rename="pascal"):
    event_id: str


class _Starts(msgspec.Struct, rename="pascal"):
    """The body by which a VM lets a scheduled event begin before its time."""

    start_requests: list[_Start]


async def answer(vm: Vm, request: Request) -> Response:
    """Everything below /metadata. Raises FabricError."""
    path = request.scope["path"].rstrip("/")
    if request.method != "GET" and not (request.method == "POST" and path == "/metadata/scheduledevents"):
        return _error("The requested method is not supported", 405)
    if request.headers.get("metadata", "").lower() != "true":
        return _error("Bad request. Required metadata header not specified", 400)
    if "x-forwarded-for" in request.headers:
        return _error("Bad request. X-Forwarded-For is not taken: a VM asks for itself only", 400)
    if path == "/metadata/versions":
        return JSONResponse({"apiVersions": list(VERSIONS)})
    match path.split("/")[1:3]:
        case ["metadata", "scheduledevents"] if path.count("/") == 2:
            return _version_refused(request, _EVENT_VERSIONS) or await _events(request)
        case ["metadata", "instance"]:
            return _version_refused(request, VERSIONS) or _instance(vm, request, path.split("/")[3:])
        case ["metadata", "identity"]:
            return _version_refused(request, VERSIONS) or _no_identity(request)
        case ["metadata", "attested"]:
            reason = "Not found. Attested data is signed by Microsoft, which no local host can do"
            return _version_refused(request, VERSIONS) or _error(reason, 404)
        case ["metadata", "loadbalancer"]:
            return _version_refused(request, VERSIONS) or _error("No load balancer metadata is found", 404)
    return _version_refused(request, VERSIONS) or _error("Not found", 404)


def _version_refused(request: Request, known: tuple[str, ...]) -> Response | None:
    """As Azure refuses a version that is missing or that it does not know; None: it is known."""
    asked = request.query_params.get("api-version", "")
    if asked in known:
        return None
    what = "api-version is invalid" if asked else "api-version was not specified in the request"
    newest = sorted(known, reverse=True)[:3]
    return JSONResponse({"error": f"Bad request. {what}. {_MORE}", "newest-versions": newest}, 400)


def _instance(vm: Vm, request: Request, names: list[str]) -> Response:
    """The whole, a part, or one value."""
    kind = request.query_params.get("format", "json").lower()
    if kind not in {"json", "text"}:
        return _error("Bad request. format is json or text", 400)
    address = request.client.host if request.client else ""
    found: object = instance(vm, request.query_params["api-version"], address)
    for name in names:
        if isinstance(found, dict) and name in found:
            found = found[name]
        elif (
            isinstance(found, list) and name.isascii() and name.isdecimal() and len(name) < 6 and int(name) < len(found)
        ):
            found = found[int(name)]
        else:
            return _error("Not found", 404)
    if kind == "text":
        return PlainTextResponse(_as_text(found))
    if not isinstance(found, dict | list):
        return _error("Bad request. One value is given out with format=text only", 400)
    return JSONResponse(found)


def _as_text(found: object) -> str:
    """One value, or the names of what is there, each with a slash if there is more below."""
    match found:
        case dict():
            pairs = [(str(name), value) for name, value in found.items()]
        case list():
            pairs = [(str(number), value) for number, value in enumerate(found)]
        case _:
            return str(found)
    return "\n".join(name + ("/" if isinstance(value, dict | list) else "") for name, value in pairs)


async def _events(request: Request) -> Response:
    """Nothing is ever scheduled here: no VM of this host is moved or restarted by it."""
    if request.method == "GET":
        return JSONResponse({"DocumentIncarnation": 1, "Events": []})
    try:
        asked = bodies.parse_json(await bodies.read(request), _Starts)
    except FabricError as error:
        return _error(f"Bad request. {error}", error.status)
    names = ", ".join(one.event_id[:80] for one in asked.start_requests[:5]) or "nothing"
    return _error(f"Bad request. There is no scheduled event to start here, and {names} was asked for", 400)


def _no_identity(request: Request) -> Response:
    """As a VM without a managed identity is answered."""
    if request.scope["path"].rstrip("/") not in {"/metadata/identity/oauth2/token", "/metadata/identity/info"}:
        return _error("Not found", 404)
    resource = request.query_params.get("resource") or request.scope["path"].rstrip("/").endswith("info")
    why = "Identity not found" if resource else "Required query variable 'resource' is missing"
    return JSONResponse({"error": "invalid_request", "error_description": why}, 400)


def _error(text: str, status: int) -> Response:
    return JSONResponse({"error": text}, status)
