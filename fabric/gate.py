"""The way into every protocol endpoint: name it, count it, spoil it if a fault says so."""

import asyncio
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


class Gate:
    """An ASGI application: `name` says which endpoint a request is for, `answer` answers it."""

    def __init__(self, host: Host, name: Name, answer: Answer) -> None:
        self._host = host
        self._name = name
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        name = self._name(request)
        fault = self._host.faults.take(name)
        if fault is not None and fault.fault == "reset":
            self._host.count(name, request.method, request.url.path, 0)
            _abort(send)
            return
        try:
            response = await self._respond(name, request, fault)
        except ClientDisconnect:
            return
        except FabricError as error:
            response = Response(str(error), error.status)
        self._host.count(name or "unknown", request.method, request.url.path, response.status_code)
        if fault is not None and fault.fault in {"truncate", "drip"}:
            await _send_badly(response, fault, send)
        else:
            await response(scope, receive, send)

    async def _respond(self, name: str, request: Request, fault: Fault | None) -> Response:
        match fault:
            case Fault(fault="status", value=value):
                return Response(f"a fault asked for {value:g}", int(value or 500))
            case Fault(fault="wrong-bytes"):
                return Response(_RUBBISH)
            case Fault(fault="no-role-instance"):
                body = documents.goal_state(self._host.vm, self._host.urls(), with_role=False)
                return Response(body, media_type="text/xml")
            case Fault(fault="invalid-container"):
                return Response("InvalidContainerConfiguration", 400)
            case Fault(fault="slow", value=value):
                await asyncio.sleep(value or 0)
        if not name:
            return Response("there is no such endpoint here", 404)
        return await self._answer(name, request)


async def _send_badly(response: Response, fault: Fault, send: Send) -> None:
    body = bytes(response.body)
    await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
    if fault.fault == "truncate":
        await send({"type": "http.response.body", "body": body[: len(body) // 2], "more_body": True})
        _abort(send)
        return
    step = max(1, math.ceil((fault.value or 1) / 10))
    for start in range(0, len(body), step):
        await send({"type": "http.response.body", "body": body[start : start + step], "more_body": True})
        await asyncio.sleep(step / (fault.value or 1))
    await send({"type": "http.response.body", "body": b""})


def _abort(send: Send) -> None:
    """Close the connection under uvicorn's feet: ASGI has no word for it."""
    transport = getattr(getattr(send, "__self__", None), "transport", None)
    if transport is not None:
        transport.close()
