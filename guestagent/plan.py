"""What is to be done: wanted, found on disk and applied before, hence steps. Pure.

One table holds the sequences of the protocol; each step carries its name while it is done and the code if it fails.
"""

from typing import Literal

import msgspec

from guestagent.layout import HandlerState, Installed
from guestagent.record import Applied, digest, key
from wire.extensions import ExtensionsGoalState, Handler, Settings
from wire.version import BadVersion, Version

Action = Literal[
    "fetch", "install", "enable", "disable", "disable-old", "copy", "update", "uninstall-old", "uninstall", "remove"
]


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to do to one handler."""

    action: Action
    doing: str
    settings: Settings | None = None
    """Whose settings it is done with."""
    after: HandlerState | None = None
    """What HandlerState says once it succeeded."""


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """All steps of one handler, in order."""

    handler: Handler
    level: int
    steps: tuple[Step, ...]
    old_version: str = ""
    """The installed version that is updated or removed."""
    error: str = ""
    """Instead of steps: why nothing can be done."""


def plan(
    goal_state: ExtensionsGoalState, found: dict[str, list[Installed]], applied: dict[str, Applied]
) -> list[list[Work]]:
    """Work by dependency level: each inner list may be done at once, the next one after it.

    First what is disabled or uninstalled, in reverse order of dependency, then what is enabled.
    """
    works = [
        _work(handler, _current(found.get(handler.name, ())), applied, goal_state.id) for handler in goal_state.handlers
    ]
    levels: dict[int, list[Work]] = {}
    for work in works:
        if work.steps or work.error:
            levels.setdefault(work.level, []).append(work)
    return [levels[level] for level in sorted(levels)]


def vanished(goal_state: ExtensionsGoalState, found: dict[str, list[Installed]]) -> list[str]:
    """Handlers on disk that the goal state does not name: they are removed without a command, as the protocol says."""
    if goal_state.unsupported_features or goal_state.on_hold:
        return []
    return sorted(set(found) - {handler.name for handler in goal_state.handlers})


def _work(handler: Handler, installed: Installed | None, applied: dict[str, Applied], goal_state: str) -> Work:
    level = max((one.dependency_level for one in handler.settings), default=0)
    if handler.error:
        known = applied.get(handler.name)
        told = known is not None and known.message == handler.error and known.goal_state == goal_state
        return Work(handler=handler, level=level, steps=(), error="" if told else handler.error)
    old = installed.version if installed else ""
    if handler.state != "enabled":
        # Sorted before all that is enabled, and against the order of dependency.
        return Work(handler=handler, level=-level - 1, steps=_ending(handler, installed, applied), old_version=old)
    wanted = _wanted(handler, applied, goal_state)
    before = applied.get(key(handler.name, _all(handler)[0]))
    if not wanted and (before is None or not before.ok or _in_place(handler, installed, before)):
        return Work(handler=handler, level=level, steps=())
    same = _same(handler, installed, before)
    steps = _enabling(installed, wanted or _all(handler), same=same)
    return Work(handler=handler, level=level, steps=steps, old_version="" if same else old)


def _wanted(handler: Handler, applied: dict[str, Applied], goal_state: str) -> list[Settings | None]:
    """The settings that are not applied yet; a failure is tried again when the host asks anew."""
    wanted = []
    for settings in _all(handler):
        before = applied.get(key(handler.name, settings))
        same = before is not None and before.digest == digest(handler, settings)
        if not same or (before is not None and not before.ok and before.goal_state != goal_state):
            wanted.append(settings)
    return wanted


def _all(handler: Handler) -> list[Settings | None]:
    return list(handler.settings) or [None]


def _enabling(installed: Installed | None, wanted: list[Settings | None], *, same: bool) -> tuple[Step, ...]:
    first = wanted[0]
    ending = [_disabling(one) if one is not None and one.state == "disabled" else _enable(one) for one in wanted]
    if same:
        return tuple(ending)
    steps = [Step(action="fetch", doing="downloading", settings=first)]
    if installed is not None:
        if installed.state == "Enabled":
            steps.append(Step(action="disable-old", doing="disabling", settings=first))
        steps.append(Step(action="copy", doing="updating"))
        steps.append(Step(action="update", doing="updating", settings=first))
        steps.append(Step(action="uninstall-old", doing="uninstalling", settings=first, after="Installed"))
    # In an update it depends on the new manifest whether this is done.
    steps.append(Step(action="install", doing="installing", settings=first, after="Installed"))
    return (*steps, *ending)


def _enable(settings: Settings | None) -> Step:
    return Step(action="enable", doing="enabling", settings=settings, after="Enabled")


def _disabling(settings: Settings | None) -> Step:
    return Step(action="disable", doing="disabling", settings=settings, after="Installed")


def _ending(handler: Handler, installed: Installed | None, applied: dict[str, Applied]) -> tuple[Step, ...]:
    if installed is None:
        # Nothing to end; what is remembered of it goes too.
        return (Step(action="remove", doing="removing"),) if handler.name in applied else ()
    steps = []
    if installed.state == "Enabled":
        steps += [_disabling(settings) for settings in _all(handler)]
    if handler.state == "uninstall":
        steps.append(Step(action="uninstall", doing="uninstalling"))
        steps.append(Step(action="remove", doing="removing"))
    return tuple(steps)


def _current(found: list[Installed] | tuple[()]) -> Installed | None:
    """The highest version that is not a failed upgrade."""
    usable = [one for one in found if one.state != "FailedUpgrade"]
    return max(usable, key=lambda one: _version(one.version), default=None)


def _same(handler: Handler, installed: Installed | None, before: Applied | None) -> bool:
    """Whether what is installed is what is asked for; a version asked for by its first parts was chosen before."""
    if installed is None:
        return False
    chosen = before is not None and before.version == installed.version
    return installed.version == handler.version or (
        chosen and _version(installed.version).starts_with(_version(handler.version))
    )


def _in_place(handler: Handler, installed: Installed | None, before: Applied) -> bool:
    """Whether the folder is still there; somebody may have removed it behind our back."""
    return installed is not None and installed.state == "Enabled" and _same(handler, installed, before)


def _version(text: str) -> Version:
    try:
        return Version(text)
    except BadVersion:
        return Version("0")
