"""Versions of the agent and its components that are asked of a VM, and what the VM says of them."""

from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response

from fabric import bodies, described
from fabric.described import NAMES
from fabric.host import Host
from fabric.orders import ComponentOrder, Removed
from fabric.reports import dig
from fabric.state import Told, WantedComponent
from fabric.vm import Vm
from fabric.vmorders import chooser

_OURS = "azvmagent."
"""What our agent's observations of its components begin with."""


class AskedComponent(msgspec.Struct, frozen=True, kw_only=True):
    """One version that is asked for, beside what the VM told."""

    component: str
    version: str
    from_version: str
    incarnation: int
    """Of the goal state that said it first."""
    fast_track: bool
    """That was vmSettings, whose `inSvdSeqNo` this is."""
    asked_at: float
    """UTC, seconds."""
    state: Literal["asked", "running", "refused"]
    """`asked`: not yet running."""
    reported: str
    """The version the VM says it runs; empty: it said nothing of it."""
    reason: str
    """Why it is refused or has to wait, in the VM's words."""


class Cleared(msgspec.Struct, frozen=True):
    """How many are asked for no more."""

    cleared: int


def outcome(wanted: WantedComponent, told: Told) -> AskedComponent:
    """What came of it as far as the VM has said. Pure; a VM may say anything."""
    agent = dig(told.status, "aggregateStatus", "guestAgentStatus")
    observed = told.observations.get(_OURS + wanted.name)
    # What is no component of ours that somebody watches is the agent as a whole.
    reported = _text(observed.get("Value") if observed else dig(agent, "version"))
    update = dig(agent, "updateStatus")
    about = {wanted.version} if observed else {wanted.version, reported}
    answered = (
        # The reference agent names the version it runs, not the one it should run.
        _text(dig(update, "expectedVersion")) in about
        and (told.status_at or 0.0) >= wanted.asked_at
        and not _is_about_another(_text(dig(update, "formattedMessage", "message")), wanted, told)
    )
    said = dig(update, "status") if answered else ""
    state: Literal["asked", "running", "refused"] = "refused" if said == "Error" else "asked"
    return AskedComponent(
        component=wanted.name,
        version=wanted.version,
        from_version=wanted.from_version,
        incarnation=wanted.incarnation,
        fast_track=wanted.fast_track,
        asked_at=wanted.asked_at,
        state="running" if reported == wanted.version else state,
        reported=reported,
        reason=_text(dig(update, "formattedMessage", "message")) if said in {"Error", "Transitioning"} else "",
    )


def outcomes(vm: Vm, told: Told) -> list[AskedComponent]:
    """Of all that is asked of a VM."""
    return [outcome(one, told) for one in vm.state.components]


def router(host: Host) -> APIRouter:
    """Routes of the control API."""
    routes = APIRouter()
    Chosen = Annotated[Vm, Depends(chooser(host))]  # noqa: N806  # a type

    @routes.get("/api/components", responses=described.answers(list[AskedComponent], 400, 404, 422))
    async def asked(vm: Chosen) -> Response:
        """The versions asked of the VM, and what it says of them."""
        return bodies.json(outcomes(vm, vm.told()))

    @routes.post(
        "/api/components",
        responses=described.answers(AskedComponent, *described.ORDER, 422),
        openapi_extra=described.order(ComponentOrder),
    )
    async def ask(request: Request, vm: Chosen) -> Response:
        """Ask for a version of an agent family, in a new incarnation or by FastTrack."""
        wanted = vm.ask(await bodies.order(request, ComponentOrder))
        return bodies.json(outcome(wanted, vm.told()))

    @routes.delete("/api/components", responses=described.answers(Cleared, 400, 403, 404, 422))
    async def clear(vm: Chosen) -> Response:
        """Ask for no version any more, in a new incarnation."""
        return bodies.json(Cleared(vm.ask_no_more()))

    @routes.delete("/api/components/{name}", responses=described.answers(Removed, 400, 403, 404, 422))
    async def forget(name: NAMES, vm: Chosen) -> Response:
        """Ask for no version of this one any more, in a new incarnation."""
        vm.ask_no_more(name)
        return bodies.json(Removed(name))

    return routes


def _is_about_another(message: str, wanted: WantedComponent, told: Told) -> bool:
    """Our agent has one field for all its components, and begins the message with the one it speaks of."""
    name = message.partition(" ")[0]
    return name != wanted.name and _OURS + name in told.observations


def _text(value: Any) -> str:
    return value[:1000] if isinstance(value, str) else ""
