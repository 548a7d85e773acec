"""What a change makes of what is wanted of a VM. Pure: a state in, the same state changed."""

import msgspec

from fabric.errors import FabricError, Unknown
from fabric.state import EPOCH_TICKS, GoalStateVersion, VmState, WantedComponent, WantedHandler


def deliver(state: VmState, handlers: list[WantedHandler], *, fast_track: bool, now: float) -> None:
    """Make these the goal state, in a new incarnation or by FastTrack. `now`: UTC, seconds.

    Raises FabricError while FastTrack is off.
    """
    if fast_track and not state.fast_track_supported:
        raise FabricError("FastTrack is off: azfabric fast-track on")
    # Time may stand still or go back; what is newer must look newer.
    last = max(state.fabric.ticks, state.fast_track.ticks if state.fast_track else 0)
    ticks = max(last + 1, EPOCH_TICKS + int(now * 10_000_000))
    components = list(state.components)
    if fast_track:
        number = state.fast_track.number + 1 if state.fast_track else 1
        state.fast_track = GoalStateVersion(number=number, ticks=ticks, handlers=handlers, components=components)
    else:
        state.previous = state.fabric
        number = state.fabric.number + 1
        state.fabric = GoalStateVersion(number=number, ticks=ticks, handlers=handlers, components=components)


def with_handler(state: VmState, handler: WantedHandler) -> list[WantedHandler]:
    """The handlers with this one in its place; its sequence number follows the one before."""
    handlers = {one.name: one for one in state.handlers}
    if handler.name in handlers:
        handler.sequence_number = handlers[handler.name].sequence_number + 1
    handlers[handler.name] = handler
    return list(handlers.values())


def without_handler(state: VmState, name: str, *, vanish: bool) -> list[WantedHandler]:
    """To be uninstalled, or gone without a word. Raises Unknown."""
    handlers = state.handlers
    if name not in {one.name for one in handlers}:
        raise Unknown(f"{name[:200]} is not in the goal state")
    if vanish:
        return [one for one in handlers if one.name != name]
    return [msgspec.structs.replace(one, state="uninstall") if one.name == name else one for one in handlers]


def ask(state: VmState, component: WantedComponent, now: float) -> None:
    """Ask for this version instead of another of its family, by the channel it names. Raises FabricError."""
    state.components = [*(one for one in state.components if one.name != component.name), component]
    deliver(state, state.handlers, fast_track=component.fast_track, now=now)
    version = state.fast_track if component.fast_track and state.fast_track is not None else state.fabric
    component.incarnation, component.asked_at = version.number, now


def ask_no_more(state: VmState, name: str, now: float) -> int:
    """For this component, or for any if it has no name; how many there were. Raises Unknown."""
    left = [one for one in state.components if name and one.name != name]
    cleared = len(state.components) - len(left)
    if name and not cleared:
        raise Unknown(f"no version of {name[:63]!r} is asked for: azfabric want --list")
    if cleared:
        state.components = left
        deliver(state, state.handlers, fast_track=False, now=now)
    return cleared


def forget_uninstalled(state: VmState, reported: set[str]) -> bool:
    """Drop what the VM no longer reports after it was asked to uninstall it; whether there was any."""
    dropped = False
    for version in (state.fabric, state.fast_track):
        if version is not None:
            left = [one for one in version.handlers if one.state != "uninstall" or one.name in reported]
            dropped |= len(left) != len(version.handlers)
            version.handlers = left
    return dropped
