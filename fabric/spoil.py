"""A state as a host gives it out that is wrong in one point. Pure."""

import msgspec

from fabric.faults import Fault
from fabric.state import VmState


def spoiled(state: VmState, fault: Fault | None) -> VmState:
    """What the documents are to be made of."""
    match fault:
        case Fault(fault="inconsistent") if state.previous is not None:
            # Its workers are not of one mind: the goal state is new, the configuration is not.
            return msgspec.structs.replace(state, fabric=state.previous)
        case Fault(fault="stale-ticks"):
            fast = msgspec.structs.replace(state.fast_track, ticks=2) if state.fast_track else None
            old = msgspec.structs.replace(state.fabric, ticks=1)
            return msgspec.structs.replace(state, fabric=old, fast_track=fast)
    return state


def without_ticks(fault: Fault | None) -> bool:
    return fault is not None and fault.fault == "missing-ticks"
