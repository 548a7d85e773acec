"""Run Command as the host orders it: a run is a settings instance of a handler that the VM brings itself."""

import asyncio
import base64
import re
from typing import Annotated, Any

import msgspec
from fastapi import Depends, FastAPI, Request
from fastapi.responses import Response

from fabric import bodies, described
from fabric.described import NAMES
from fabric.errors import FabricError, Unknown
from fabric.host import Host
from fabric.orders import Removed
from fabric.state import VmState, WantedHandler, WantedInstance
from fabric.vm import Vm
from fabric.vmorders import chooser

ACTION, ACTION_VERSION = "Microsoft.CPlat.Core.RunCommandLinux", "1.0.5"
MANAGED, MANAGED_VERSION = "Microsoft.CPlat.Core.RunCommandHandlerLinux", "1.3.27"

OUTPUT_LIMIT = 64 * 1024
"""Bytes of each stream that an operator is shown."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,79}")
_PARAMETERS_LIMIT = 1000


class Parameter(msgspec.Struct, frozen=True, kw_only=True):
    """Without a name it is an argument."""

    value: str
    name: str = ""


Parameters = Annotated[list[Parameter], msgspec.Meta(max_length=_PARAMETERS_LIMIT)]


class RunOrder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A script to be run on the VM."""

    script: Annotated[str, msgspec.Meta(min_length=1)]
    name: Annotated[str, msgspec.Meta(extra_json_schema={"pattern": f"^{_NAME.pattern}$"})] = "run"
    """Managed only: a new run of the same name replaces the one before."""
    action: bool = False
    """The old kind (v1): one at a time, no name, no parameters."""
    parameters: Parameters = []
    protected_parameters: Parameters = []
    user: Annotated[str, msgspec.Meta(max_length=256)] = ""
    timeout: Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)] = 0
    """Seconds; 0: what the handler takes for itself."""
    asynchronous: bool = False
    failure_is_error: bool = False
    output_blobs: bool = False
    fast_track: bool = False


class Ordered(msgspec.Struct, frozen=True, kw_only=True):
    """What is in the goal state now."""

    handler: str
    name: str
    sequence_number: int
    output_blob: str = ""
    """Signed URLs; empty if not asked for."""
    error_blob: str = ""


def order_run(vm: Vm, order: RunOrder) -> Ordered:
    """Put it into the goal state. Raises FabricError."""
    if order.action:
        return _order_action(vm, order)
    if not _NAME.fullmatch(order.name):
        raise FabricError(f"{order.name[:80]!r} cannot be the name of a run")
    ordered: list[Ordered] = []

    def make(state: VmState) -> list[WantedHandler]:
        handlers = {one.name: one for one in state.handlers}
        before = handlers.get(MANAGED)
        # One that was deleted is gone once something else is wanted.
        instances = {one.name: one for one in (before.instances if before else []) if one.state == "enabled"}
        number = instances[order.name].sequence_number + 1 if order.name in instances else 0
        blobs = _blobs(vm, f"{vm.name}.{order.name}-{number}") if order.output_blobs else {}
        instances[order.name] = WantedInstance(
            name=order.name,
            sequence_number=number,
            public=_public(order, blobs),
            protected=_protected(vm, order, blobs),
        )
        handlers[MANAGED] = WantedHandler(name=MANAGED, version=MANAGED_VERSION, instances=list(instances.values()))
        ordered.append(
            Ordered(
                handler=MANAGED,
                name=order.name,
                sequence_number=number,
                output_blob=blobs.get("output", ""),
                error_blob=blobs.get("error", ""),
            )
        )
        return list(handlers.values())

    vm.want_all(make, fast_track=order.fast_track)
    return ordered[-1]


def remove_run(vm: Vm, name: str, *, fast_track: bool) -> None:
    """Have the VM end it and forget it. Raises Unknown."""

    def make(state: VmState) -> list[WantedHandler]:
        handlers = {one.name: one for one in state.handlers}
        before = handlers.get(MANAGED)
        if before is None or name not in {one.name for one in before.instances}:
            raise Unknown(f"there is no run called {name[:80]!r}")
        instances = [
            msgspec.structs.replace(one, state="disabled") if one.name == name else one for one in before.instances
        ]
        handlers[MANAGED] = msgspec.structs.replace(before, instances=instances)
        return list(handlers.values())

    vm.want_all(make, fast_track=fast_track)


class StreamEnd(msgspec.Struct, frozen=True, kw_only=True):
    """The end of one stream."""

    size: int
    """Bytes of the whole."""
    text: str
    cut: bool


class RunOutput(msgspec.Struct, frozen=True, kw_only=True):
    """What a run wrote so far."""

    name: str
    sequence_number: int
    output: StreamEnd
    error: StreamEnd


def read_output(vm: Vm, name: str) -> RunOutput:
    """The end of both output blobs of a run as it is wanted now. Blocking. Raises Unknown."""
    handlers = {one.name: one for one in vm.state.handlers}
    instances = {one.name: one for one in handlers[MANAGED].instances} if MANAGED in handlers else {}
    if name not in instances:
        raise Unknown(f"there is no run called {name[:80]!r}")
    number = instances[name].sequence_number
    public = instances[name].public
    if not isinstance(public, dict) or "outputBlobUri" not in public:
        raise Unknown(f"{name} keeps no output blobs: order it with output_blobs")
    ends = {}
    for which, path in _blob_paths(f"{vm.name}.{name}-{number}").items():
        size, content = vm.host.blobs.tail(path, OUTPUT_LIMIT)
        ends[which] = StreamEnd(size=size, text=content.decode("utf-8", "replace"), cut=size > len(content))
    return RunOutput(name=name, sequence_number=number, **ends)


def add_routes(api: FastAPI, host: Host) -> None:
    """Into the control API."""

    Chosen = Annotated[Vm, Depends(chooser(host))]  # noqa: N806  # a type

    @api.post(
        "/api/runs",
        responses=described.answers(Ordered, *described.ORDER, 422),
        openapi_extra=described.order(RunOrder),
    )
    async def run(request: Request, vm: Chosen) -> Response:
        """Run a script on the VM."""
        order = await bodies.order(request, RunOrder)
        return bodies.json(order_run(vm, order))

    @api.get("/api/runs/{name}/output", responses=described.answers(RunOutput, 400, 404, 422))
    async def output(name: NAMES, vm: Chosen) -> Response:
        """What the run wrote so far, if it keeps output blobs: the end of either stream."""
        return bodies.json(await asyncio.to_thread(read_output, vm, name))

    @api.delete("/api/runs/{name}", responses=described.answers(Removed, 400, 403, 404, 422))
    async def remove(name: NAMES, vm: Chosen, fast_track: bool = False) -> Response:
        """Have the VM end a run and forget it."""
        remove_run(vm, name, fast_track=fast_track)
        return bodies.json(Removed(name))


def _order_action(vm: Vm, order: RunOrder) -> Ordered:
    if order.parameters or order.protected_parameters or order.user or order.timeout or order.output_blobs:
        raise FabricError("v1 knows no parameters, users, time limits and blobs")
    handler = WantedHandler(
        name=ACTION,
        version=ACTION_VERSION,
        public={"script": base64.b64encode(order.script.encode()).decode()},
    )
    wanted = vm.want(handler, fast_track=order.fast_track)
    return Ordered(handler=ACTION, name="", sequence_number=wanted.sequence_number)


def _public(order: RunOrder, blobs: dict[str, str]) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "source": {"script": order.script},
        "parameters": [msgspec.to_builtins(one) for one in order.parameters],
        "timeoutInSeconds": order.timeout,
        "asyncExecution": order.asynchronous,
        "treatFailureAsDeploymentFailure": order.failure_is_error,
    }
    if order.user:
        settings["runAsUser"] = order.user
    return settings | {f"{which}BlobUri": url.partition("?")[0] for which, url in blobs.items()}


def _protected(vm: Vm, order: RunOrder, blobs: dict[str, str]) -> str | None:
    settings: dict[str, Any] = {}
    if order.protected_parameters:
        settings["protectedParameters"] = [msgspec.to_builtins(one) for one in order.protected_parameters]
    # Azure hands the signature on with its question mark.
    settings |= {f"{which}BlobSASToken": "?" + url.partition("?")[2] for which, url in blobs.items()}
    return vm.protect(settings) if settings else None


def _blobs(vm: Vm, stem: str) -> dict[str, str]:
    return {which: vm.signed(path) for which, path in _blob_paths(stem).items()}


def _blob_paths(stem: str) -> dict[str, str]:
    return {"output": f"/output/{stem}.stdout", "error": f"/output/{stem}.stderr"}
