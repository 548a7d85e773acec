"""The way into every protocol endpoint: name it, count it, spoil it if a fault says so."""

import math
from collections.abc import Awaitable, Callable

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from fabric import documents
from fabric.errors import FabricError
from fabric.faults import Fault
from fabric.host import Host

Name = Callable[[Request], str]
Answer = Callable[[str, Request], Awaitable[Response]]

_RUBBISH = b"\x00\xff\xfe rubbish <<<>>> }{ \x00" * 40
_PIECE = 256 * 1024


class Gate:
    """An ASGI application: `name` says which endpoint a request is for, `answer` answers it."""

    def __init__(self, host: Host, name: Name, answer: Answer) -> None:
        self._host = host
        self._name = name
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        name = self._name(request)
        fault = self._host.faults.take(name)
        if fault is not None and fault.fault == "reset":
            self._host.count(name, request.method, scope["path"], 0)
            _abort(send)
            return
        try:
            response = await self._respond(name, request, fault)
        except ClientDisconnect:
            return
        except FabricError as error:
            response = Response(str(error), error.status, media_type="text/plain")
        self._host.count(name or "unknown", request.method, scope["path"], response.status_code)
        match fault:
            case Fault(fault="truncate"):
                await _truncate(response, send)
            case Fault(fault="drip", value=value):
                await self._drip(response, value or 1, request, send)
            case _:
                await _send(response, send)

    async def _respond(self, name: str, request: Request, fault: Fault | None) -> Response:
        match fault:
            case Fault(fault="status", value=value):
                status = int(value or 500)
                # By HTTP these two have no body.
                return Response(None if status in {204, 304} else f"a fault asked for {status}", status)
            case Fault(fault="wrong-bytes"):
                return Response(_RUBBISH)
            case Fault(fault="no-role-instance"):
                body = documents.goal_state(self._host.vm, self._host.urls(), with_role=False)
                return Response(body, media_type="text/xml")
            case Fault(fault="invalid-container"):
                return Response("InvalidContainerConfiguration", 400)
            case Fault(fault="slow", value=value):
                await self._host.pause(value or 0)
        if not name:
            return Response("there is no such endpoint here", 404)
        return await self._answer(name, request)

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
