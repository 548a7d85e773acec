"""The way into every protocol endpoint: whose it is, which it is; counted, and spoiled if a fault says so."""

import math
from collections.abc import Awaitable, Callable

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fabric.again import AT, PREFIX, Again
from fabric.errors import FabricError
from fabric.faults import Fault
from fabric.host import Host
from fabric.places import Door
from fabric.recording import Asked, Ordered, Tap
from fabric.vm import Vm

Name = Callable[[Request], str]
Answer = Callable[[Vm, str, Request, Fault | None], Awaitable[Response]]

_RUBBISH = b"\x00\xff\xfe rubbish <<<>>> }{ \x00" * 40
_PAGE = b"<!DOCTYPE html><html><body><h1>Sign in to this network</h1></body></html>"
_PIECE = 256 * 1024
_OWN = {"host", "connection", "content-length", "transfer-encoding", "accept-encoding"}
"""Headers of the connection: another one has its own."""
_ORDER_LIMIT = 64 * 1024 * 1024
_ANSWER_LIMIT = 64 * 1024


class Gate:
    """An ASGI application: `name` says which endpoint a request is for, `answer` answers it."""

    def __init__(self, host: Host, door: Door, server: str, name: Name, answer: Answer) -> None:
        self._host = host
        self._server = server
        self._door = door
        self._name = name
        self._answer = answer
        self._again = Again(host) if host.replaying else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        replayed_time(self._host, scope)
        tap = Tap(receive) if self._host.recorder is not None else None
        request = Request(scope, tap.receive if tap is not None else receive)
        address = scope["client"][0] if scope.get("client") else ""
        vm = self._host.vm_at(self._door, address)
        if vm is None:
            reason = f"no VM of tenant {self._door.tenant} has the address {address}: azfabric vm add NAME --address"
            await _send(Response(reason, 404, media_type="text/plain"), send)
            return
        name = self._name(request)
        self._host.stage.tick()
        if self._again is not None and self._again.part(vm.name, request.headers):
            await _send(Response(status_code=204), send)
            return
        fault = self._came(vm, name, request, tap)
        if fault is not None and fault.fault == "reset":
            self._count(vm, name, request, 0, fault, tap)
            _abort(send)
            return
        try:
            response = await self._respond(vm, name, request, fault)
        except ClientDisconnect:
            return
        except FabricError as error:
            response = Response(str(error), error.status, media_type="text/plain")
        self._count(vm, name or "unknown", request, response.status_code, fault, tap)
        match fault:
            case Fault(fault="truncate"):
                await _truncate(response, send)
            case Fault(fault="drip", value=value):
                await self._drip(response, value or 1, request, send)
            case Fault(fault="endless"):
                await self._endless(response, request, send)
            case _:
                await _send(response, send)

    def _came(self, vm: Vm, name: str, request: Request, tap: Tap | None) -> Fault | None:
        """What spoils this request. Whoever leaves before the answer has drawn, too."""
        if self._again is not None:
            return self._again.draw(vm.name, name, request.headers)
        if self._host.recorder is not None and tap is not None:
            tap.number = self._host.recorder.came(vm.name, self._server, name)
        return self._host.faults.take(vm.name, name)

    def _count(self, vm: Vm, name: str, request: Request, status: int, fault: Fault | None, tap: Tap | None) -> None:
        host, spoiled = self._host, fault.fault if fault else ""
        host.line(vm.name, name, request.method, request.scope["path"], status, spoiled)
        if host.recorder is not None and tap is not None:
            host.recorder.asked(
                Asked(
                    number=tap.number,
                    at=host.clock.now(),
                    vm=vm.name,
                    server=self._server,
                    endpoint=name,
                    method=request.method,
                    target=target_of(request.scope),
                    headers=[(key, value) for key, value in request.headers.items() if _is_kept(key)],
                    body=tap.body,
                    cut=tap.cut,
                    status=status,
                    fault=spoiled,
                )
            )
        host.stage.seen(vm.name, name)

    async def _respond(self, vm: Vm, name: str, request: Request, fault: Fault | None) -> Response:
        match fault:
            case Fault(fault="status", value=value):
                status = int(value or 500)
                # By HTTP these two have no body.
                return Response(None if status in {204, 304} else f"a fault asked for {status}", status)
            case Fault(fault="throttle", value=value):
                return Response("TooManyRequests", 429, {"Retry-After": f"{value or 0:.0f}"}, "text/plain")
            case Fault(fault="expired"):
                reason = "AuthenticationFailed: Signature not valid in the specified time frame"
                return Response(reason, 403, {"x-ms-error-code": "AuthenticationFailed"}, "text/plain")
            case Fault(fault="wrong-bytes"):
                return Response(_RUBBISH)
            case Fault(fault="html-page"):
                return Response(_PAGE, media_type="text/html")
            case Fault(fault="invalid-container"):
                return Response("InvalidContainerConfiguration", 400)
            case Fault(fault="slow", value=value):
                await self._host.pause(value or 0)
        if not name:
            return Response("there is no such endpoint here", 404)
        return await self._answer(vm, name, request, fault)

    async def _endless(self, response: Response, request: Request, send: Send) -> None:
        """The answer, and then more: without a length, until whoever asked has enough."""
        del response.headers["content-length"]
        await _start(response, send)
        await _pieces(response.body, send)
        # Nobody reads while a recording is replayed.
        while not (self._host.closing or self._host.replaying or await request.is_disconnected()):
            await send({"type": "http.response.body", "body": bytes(_PIECE), "more_body": True})
        _abort(send)

    async def _drip(self, response: Response, speed: float, request: Request, send: Send) -> None:
        body = response.body
        step = max(1, math.ceil(speed / 10))
        await _start(response, send)
        for start in range(0, len(body), step):
            if self._host.closing or await request.is_disconnected():
                _abort(send)
                return
            await send({"type": "http.response.body", "body": bytes(body[start : start + step]), "more_body": True})
            await self._host.pause(step / speed)
        await send({"type": "http.response.body", "body": b""})


class Orders:
    """An ASGI application around the control API: records the orders that are taken."""

    def __init__(self, host: Host, application: ASGIApp) -> None:
        self._host = host
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        host = self._host
        if scope["type"] != "http" or scope["method"] in {"GET", "HEAD"}:
            await self._application(scope, receive, send)
            return
        replayed_time(host, scope)
        if host.recorder is None:
            await self._application(scope, receive, send)
            return
        tap, status, answer = Tap(receive, _ORDER_LIMIT), 0, b""

        async def sent(message: Message) -> None:
            nonlocal status, answer
            status = message.get("status", status)
            answer += message.get("body", b"")[: _ANSWER_LIMIT - len(answer)]
            await send(message)

        await self._application(scope, tap.receive, sent)
        if status == 200 and host.recorder is not None:
            headers = Request(scope).headers
            host.recorder.ordered(
                Ordered(
                    at=host.clock.now(),
                    method=scope["method"],
                    target=target_of(scope),
                    content_type=headers.get("content-type", ""),
                    body=tap.body,
                    cut=tap.cut,
                    answer=answer,
                )
            )


def _is_kept(header: str) -> bool:
    return header not in _OWN and not header.startswith(PREFIX)


def target_of(scope: Scope) -> str:
    """Path and query as they came."""
    path = bytes(scope.get("raw_path") or scope["path"].encode()).partition(b"?")[0]
    query = bytes(scope.get("query_string", b""))
    return (path + (b"?" + query if query else b"")).decode("latin-1")


def replayed_time(host: Host, scope: Scope) -> None:
    """While a recording is replayed, each request says when it is."""
    if host.replaying:
        for name, value in scope["headers"]:
            if name == AT.encode():
                host.clock.replay(float(value))


async def _start(response: Response, send: Send) -> None:
    await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})


async def _send(response: Response, send: Send) -> None:
    await _start(response, send)
    await _pieces(response.body, send)
    await send({"type": "http.response.body", "body": b""})


async def _pieces(body: bytes | memoryview, send: Send) -> None:
    """The whole of a large package at once would hold up everybody else on this loop."""
    for start in range(0, len(body), _PIECE):
        await send({"type": "http.response.body", "body": bytes(body[start : start + _PIECE]), "more_body": True})


async def _truncate(response: Response, send: Send) -> None:
    body = response.body
    if not body and "content-length" in response.headers:
        # There is no half of nothing: announce something.
        response.headers["content-length"] = "1"
    await _start(response, send)
    await _pieces(body[: len(body) // 2], send)
    _abort(send)


def _abort(send: Send) -> None:
    """Close the connection under uvicorn's feet: ASGI has no word for it."""
    transport = getattr(getattr(send, "__self__", None), "transport", None)
    if transport is not None:
        transport.close()
