"""What may not change of a component while the sources of versions are away, and in words what did."""

import msgspec

from agentctl.drill.group.stage import Stage
from agentctl.drill.group.updates import Versions
from ipc.contract.rdagent import BadVersion, Updates
from ipc.places import COMPONENTS
from release.record import Chosen, Record


class Sight(msgspec.Struct, frozen=True, kw_only=True):
    """Of one component at one moment."""

    pid: int
    """0: supervisord runs none."""
    running: str
    """Versions, as the updater tells of them."""
    current: str
    previous: str
    bad: list[BadVersion] = []
    record: Record
    """As it lies on the disk."""


def sights(stage: Stage, versions: Versions, patience: float) -> dict[str, Sight]:
    """By component, once the updater knows what everybody runs. Raises CommandError."""

    def whole() -> Updates | None:
        updates = versions.updates()
        known = updates is not None and len(updates.components) == len(COMPONENTS)
        return updates if updates and known and all(one.running for one in updates.components) else None

    updates = stage.until(whole, "update status to know what everybody runs", patience)
    pids = versions.pids()
    return {
        one.component: Sight(
            pid=pids[one.component],
            running=one.running,
            current=one.current,
            previous=one.previous,
            bad=one.bad,
            record=versions.record(one.component),
        )
        for one in updates.components
    }


def what_changed(component: str, before: Sight, after: Sight) -> str:
    """Everything that differs, in one line; empty if nothing does."""
    ended = before.pid != after.pid
    told = [f"{component} was restarted: pid {before.pid}, then {after.pid}"] if ended else []
    told += _differences(f"{component}: ", before, after, but=("pid", "record"))
    told += _differences(f"the record of {component}: ", before.record, after.record, but=())
    return "; ".join(told)


def _differences(of: str, before: msgspec.Struct, after: msgspec.Struct, but: tuple[str, ...]) -> list[str]:
    names = [name for name in before.__struct_fields__ if name not in but]
    pairs = [(name, getattr(before, name), getattr(after, name)) for name in names]
    return [f"{of}`{name}` was {_words(old)}, is {_words(new)}" for name, old, new in pairs if old != new]


def _words(value: object) -> str:
    match value:
        case None:
            return "nothing"
        case Chosen():
            return value.version
        case dict() | list():
            return ", ".join(_words(one) for one in value) or "empty"
        case BadVersion():
            return value.version
        case _:
            return str(value) or "empty"
