"""The goal state as a whole: handed out as a document, and made anew from one. For what no single order says."""

from typing import Annotated, Any

import msgspec
from fastapi import Depends, FastAPI, Request
from fastapi.responses import Response

from fabric import bodies
from fabric.errors import FabricError, Unknown
from fabric.host import Host
from fabric.state import HandlerState, WantedHandler, WantedInstance
from fabric.vm import Vm
from fabric.vmorders import chooser

_LIMIT = 4 * 1024 * 1024


class InstanceOrder(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One settings instance of a multi-config handler."""

    name: str
    sequence_number: int = 0
    state: str = "enabled"
    settings: Any = None
    protected: Any = None
    """Encrypted for the VM on its way into the goal state."""
    dependency_level: int = 0
    depends_on: list[str] = []
    """`handler`, or `handler/extension`."""


class HandlerOrder(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """One handler; `instances` instead of settings make it multi-config."""

    name: str
    version: str
    state: HandlerState = "enabled"
    sequence_number: int = 0
    settings: Any = None
    protected: Any = None
    dependency_level: int = 0
    depends_on: list[str] = []
    instances: list[InstanceOrder] = []
    signature: str = ""
    """Of the package: base64 of a detached CMS signature."""


class GoalOrder(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Everything the VM is to have."""

    handlers: list[HandlerOrder]
    fast_track: bool = False
    """Deliver by vmSettings instead of a new incarnation."""


def order_goal(vm: Vm, order: GoalOrder) -> None:
    """Make it the goal state. Raises FabricError."""
    names = [one.name for one in order.handlers]
    if twice := {name for name in names if names.count(name) > 1}:
        raise FabricError(f"named twice: {', '.join(sorted(twice))}")
    for one in order.handlers:
        if not vm.host.versions(one.name) and not one.name.startswith("Microsoft.CPlat.Core.Run"):
            raise Unknown(f"no package of {one.name} is published: PUT /api/packages first")
    handlers = [_handler(vm, one) for one in order.handlers]
    vm.want_all(lambda _: handlers, fast_track=order.fast_track)


def add_routes(api: FastAPI, host: Host) -> None:
    """Into the control API."""

    Chosen = Annotated[Vm, Depends(chooser(host))]  # noqa: N806  # a type

    @api.put("/api/goal")
    async def goal(request: Request, vm: Chosen) -> Response:
        """Make this the goal state, to the letter: `{"handlers": [{"name", "version", "state", "sequence_number",
        "settings", "protected", "dependency_level", "depends_on", "instances": [...],
        "signature"}], "fast_track": false}`."""
        order = bodies.parse_json(await bodies.read(request, _LIMIT), GoalOrder)
        order_goal(vm, order)
        return bodies.json({"handlers": len(order.handlers)})


def _handler(vm: Vm, order: HandlerOrder) -> WantedHandler:
    return WantedHandler(
        name=order.name,
        version=order.version,
        state=order.state,
        sequence_number=order.sequence_number,
        public=order.settings,
        protected=vm.protect(order.protected) if order.protected is not None else None,
        has_settings=order.settings is not None or order.protected is not None or bool(order.instances),
        dependency_level=order.dependency_level,
        depends_on=order.depends_on,
        instances=[_instance(vm, one) for one in order.instances],
        signature=order.signature,
    )


def _instance(vm: Vm, order: InstanceOrder) -> WantedInstance:
    return WantedInstance(
        name=order.name,
        sequence_number=order.sequence_number,
        state="disabled" if order.state == "disabled" else "enabled",
        public=order.settings,
        protected=vm.protect(order.protected) if order.protected is not None else None,
        dependency_level=order.dependency_level,
        depends_on=order.depends_on,
    )
