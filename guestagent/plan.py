"""What is to be done: wanted, found on disk and applied before, hence work. Pure.

Asked anew whenever something has changed: a goal state came, a handler's work ended, a status changed, a pause is over.
"""

from collections.abc import Iterator, Mapping
from typing import Literal

import msgspec

from guestagent.layout import HandlerState, Installed
from guestagent.record import Applied, Good, digest, key
from guestagent.retry import again_when_asked_anew
from wire.extensions import ExtensionsGoalState, Handler, Settings
from wire.version import BadVersion, Version

Action = Literal[
    "fetch", "disable-old", "copy", "update", "uninstall-old", "install", "enable", "rewrite", "commit",
    "disable", "uninstall", "remove",
    "uninstall-new", "install-old", "enable-old",
]  # fmt: skip
"""`-old` and `-new` are the two versions of an update; the last three are the way back."""

State = Literal["success", "error", "pending"]
"""Of one extension, as those that depend on it see it."""

DEPENDENCY_SECONDS = 90 * 60.0


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to do to one handler."""

    action: Action
    doing: str
    settings: Settings | None = None
    """Whose settings it is done with."""
    after: HandlerState | None = None
    """What HandlerState of the folder it was done in says once it succeeded."""


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """All that is to be done to one handler now, in order."""

    handler: Handler
    steps: tuple[Step, ...] = ()
    version: str = ""
    """The installed version that is worked on; empty if another one is to be fetched."""
    old_version: str = ""
    """The installed version that is updated."""
    error: str = ""
    """Instead of steps: why nothing can be done."""
    refused: bool = False
    """It is the policy that says so."""


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """An extension whose turn has not come."""

    reason: str
    on: str = ""
    """Whom it waits for, by `key`."""
    failed: bool = False
    """It will not come, unless what it depends on is mended."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What follows from a moment's facts."""

    works: tuple[Work, ...] = ()
    """May all be begun at once."""
    waiting: dict[str, Waiting] = {}
    """By `key`."""
    vanished: tuple[str, ...] = ()
    """Handlers on disk that the goal state does not name: removed without a command, as the protocol says."""
    look_again_at: float | None = None
    """UTC, seconds since the epoch: when a pause is over."""

    @property
    def settled(self) -> bool:
        """Whether nothing is left to do or to wait for."""
        return not self.works and all(one.failed for one in self.waiting.values())


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """All a plan is made from, beside the goal state."""

    found: Mapping[str, list[Installed]]
    applied: Mapping[str, Applied]
    good: Mapping[str, Good] = {}
    states: Mapping[str, State] = {}
    """By `key`: how each extension stands."""
    busy: frozenset[str] = frozenset()
    """Handlers that are being worked on."""
    refused: Mapping[str, str] = {}
    """Handlers the policy does not allow, with the reason."""
    since: float = 0.0
    """When this goal state came into force."""
    now: float = 0.0


def plan(goal_state: ExtensionsGoalState, facts: Facts) -> Plan:
    """First what is disabled or uninstalled, against the order of dependency; then what is enabled, along it."""
    if goal_state.on_hold or goal_state.unsupported_features or goal_state.withheld:
        return Plan()
    ending, enabling = [], []
    waiting: dict[str, Waiting] = {}
    edges = _edges(goal_state)
    circle = _in_circles(edges)
    for handler in goal_state.handlers:
        if handler.name in facts.busy:
            continue
        if handler.state == "enabled":
            if work := _enabling(handler, goal_state.id, facts, edges, waiting, circle):
                enabling.append(work)
        elif work := _ending(handler, goal_state.id, facts):
            ending.append(work)
    wanted = {handler.name for handler in goal_state.handlers}
    ends = [one for one in goal_state.handlers if one.state != "enabled"]
    if ending or facts.busy & {one.name for one in ends}:
        for work in enabling:
            if not work.error:
                waiting[work.handler.name] = Waiting(reason="waits for what is being disabled or uninstalled")
        enabling = [work for work in enabling if work.error]
        ending = _uppermost(ending, ends, facts.busy)
    return Plan(
        works=(*ending, *enabling),
        waiting=waiting,
        # One that the host named badly must not count as one it no longer names.
        vanished=tuple(sorted(set(facts.found) - wanted - facts.busy)) if goal_state.names_all else (),
        look_again_at=_next_pause(goal_state, facts),
    )


def way_back(
    begun: frozenset[Action], settings: Settings | None, good: Good | None, *, was_enabled: bool
) -> tuple[Step, ...]:
    """From a failed update, begun with `settings`, to the version before; nothing if that was not touched yet."""
    if "disable-old" not in begun and "update" not in begun:
        return ()
    before: tuple[Settings | None, ...] = (good.settings if good else ()) or (None,)
    steps = []
    if "install" in begun:
        steps.append(Step(action="uninstall-new", doing="returning", settings=settings))
    if "uninstall-old" in begun:
        steps.append(Step(action="install-old", doing="returning", settings=before[0], after="Installed"))
    if was_enabled:
        steps += [Step(action="enable-old", doing="returning", settings=one, after="Enabled") for one in before]
    return tuple(steps)


# -- enabling ----------------------------------------------------------------------------------------------------------


def _enabling(
    handler: Handler,
    goal_state: str,
    facts: Facts,
    edges: dict[str, tuple[str, ...]],
    waiting: dict[str, Waiting],
    circle: frozenset[str],
) -> Work | None:
    error = handler.error or facts.refused.get(handler.name, "")
    if error:
        known = facts.applied.get(handler.name)
        told = known is not None and known.message == error and known.goal_state == goal_state
        return None if told else Work(handler=handler, error=error, refused=not handler.error)
    installed = current(facts.found.get(handler.name, ()))
    due: list[Settings | None] = []
    for settings in _all(handler):
        if not _due(handler, settings, installed, goal_state, facts):
            continue
        own = key(handler.name, settings)
        obstacle = None
        if own in circle:
            obstacle = Waiting(reason=f"not begun: dependencies in a circle: {', '.join(sorted(circle))}", failed=True)
        elif settings and settings.state == "enabled":
            obstacle = _obstacle(edges.get(own, ()), facts)
        if obstacle is None:
            due.append(settings)
        else:
            waiting[own] = obstacle
    if not due:
        return None
    before = facts.applied.get(key(handler.name, due[0])) or facts.applied.get(handler.name)
    same = _same(handler, installed, before)
    return Work(
        handler=handler,
        steps=tuple(_enabling_steps(handler, installed, due, facts, same=same)),
        version=installed.version if same and installed is not None else "",
        old_version="" if same or installed is None else installed.version,
    )


def _due(
    handler: Handler, settings: Settings | None, installed: Installed | None, goal_state: str, facts: Facts
) -> bool:
    """Whether something is to be done for these settings."""
    before = facts.applied.get(key(handler.name, settings))
    if settings is not None and settings.state == "disabled":
        return installed is not None and settings.name in installed.enabled_extensions
    if before is None or before.digest != digest(handler, settings):
        return True
    if before.ok:
        in_place = installed is not None and installed.state == "Enabled" and _same(handler, installed, before)
        return not in_place or _secrets_changed(handler, settings, facts)
    if before.kind == "refused" or (before.retry_at is not None and before.retry_at <= facts.now):
        return True
    return before.goal_state != goal_state and before.kind != "" and again_when_asked_anew(before.kind)


def _secrets_changed(handler: Handler, settings: Settings | None, facts: Facts) -> bool:
    """The same settings, encrypted for another certificate."""
    good = facts.good.get(handler.name)
    kept = good.for_extension(settings) if good else None
    return kept is not None and settings is not None and kept.protected != settings.protected


def _enabling_steps(
    handler: Handler, installed: Installed | None, due: list[Settings | None], facts: Facts, *, same: bool
) -> Iterator[Step]:
    first = due[0]
    if not same:
        yield Step(action="fetch", doing="downloading", settings=first)
        if installed is not None:
            if installed.state == "Enabled":
                for settings in _before_update(handler, installed, facts):
                    yield Step(action="disable-old", doing="disabling", settings=settings)
            yield Step(action="copy", doing="updating")
            yield Step(action="update", doing="updating", settings=first)
            yield Step(action="uninstall-old", doing="uninstalling", settings=first)
        # In an update it depends on the new manifest whether this is done.
        yield Step(action="install", doing="installing", settings=first, after="Installed")
    for one in due:
        if one is not None and one.state == "disabled":
            yield Step(action="disable", doing="disabling", settings=one)
        elif same and _only_secrets(handler, one, installed, facts):
            yield Step(action="rewrite", doing="enabling", settings=one)
        else:
            yield Step(action="enable", doing="enabling", settings=one, after="Enabled")
    yield Step(action="commit", doing="enabling")


def _only_secrets(handler: Handler, settings: Settings | None, installed: Installed | None, facts: Facts) -> bool:
    before = facts.applied.get(key(handler.name, settings))
    same = before is not None and before.ok and before.digest == digest(handler, settings)
    return same and installed is not None and installed.state == "Enabled"


def _before_update(handler: Handler, installed: Installed, facts: Facts) -> list[Settings | None]:
    """Whose disable is run: each enabled extension's of a multi-config handler, else the goal state's settings."""
    if not installed.enabled_extensions:
        return _all(handler)[:1]
    good = facts.good.get(handler.name)
    known = {one.name: one for one in (*(good.settings if good else ()), *handler.settings)}
    return [known.get(name, Settings(name=name, sequence_number=0)) for name in sorted(installed.enabled_extensions)]


# -- ending ------------------------------------------------------------------------------------------------------------


def _ending(handler: Handler, goal_state: str, facts: Facts) -> Work | None:
    installed = current(facts.found.get(handler.name, ()))
    before = facts.applied.get(handler.name)
    asked = digest(handler, None)
    refused = facts.refused.get(handler.name, "")
    if handler.error or refused:
        told = before is not None and before.message == (handler.error or refused) and before.goal_state == goal_state
        error = handler.error or refused
        return None if told else Work(handler=handler, error=error, refused=not handler.error)
    if before is not None and before.digest == asked and not before.ok:
        due = before.kind == "refused" or (before.retry_at is not None and before.retry_at <= facts.now)
        due = due or (before.goal_state != goal_state and before.kind != "" and again_when_asked_anew(before.kind))
        if not due:
            return None
    steps = tuple(_ending_steps(handler, installed, facts))
    return Work(handler=handler, steps=steps, version=installed.version if installed else "") if steps else None


def _ending_steps(handler: Handler, installed: Installed | None, facts: Facts) -> Iterator[Step]:
    if installed is not None and installed.state == "Enabled":
        for settings in _before_update(handler, installed, facts):
            yield Step(action="disable", doing="disabling", settings=settings)
    if handler.state == "uninstall":
        if installed is not None:
            yield Step(action="uninstall", doing="uninstalling", settings=_all(handler)[0])
        if facts.found.get(handler.name) or any(one.partition("/")[0] == handler.name for one in facts.applied):
            yield Step(action="remove", doing="removing")


def _uppermost(works: list[Work], ends: list[Handler], busy: frozenset[str]) -> list[Work]:
    """Those on which nothing depends that is still there."""
    left = [_level(one) for one in ends if one.name in busy or one.name in {work.handler.name for work in works}]
    return [work for work in works if _level(work.handler) >= max(left, default=0)]


def _level(handler: Handler) -> int:
    return max((one.dependency_level for one in handler.settings), default=0)


# -- dependencies ------------------------------------------------------------------------------------------------------


def _edges(goal_state: ExtensionsGoalState) -> dict[str, tuple[str, ...]]:
    """Whom each extension waits for, by `key`.

    Those it names; who has a level and names nobody waits for all that is below it, as the reference agent does.
    """
    enabled = [
        (key(handler.name, one), one)
        for handler in goal_state.handlers
        if handler.state == "enabled"
        for one in handler.settings
        if one.state == "enabled"
    ]
    found: dict[str, tuple[str, ...]] = {}
    for own, settings in enabled:
        named = [
            other
            for other, _ in enabled
            for name in settings.depends_on
            if other != own and (other == name or other.partition("/")[0] == name)
        ]
        below = [other for other, one in enabled if one.dependency_level < settings.dependency_level]
        found[own] = tuple(dict.fromkeys(named or ([] if settings.depends_on else below)))
    return found


def _in_circles(edges: dict[str, tuple[str, ...]]) -> frozenset[str]:
    """Extensions that wait for each other, and those that wait for such."""
    left = dict(edges)
    while free := [own for own, others in left.items() if not any(other in left for other in others)]:
        for own in free:
            del left[own]
    return frozenset(left)


def _obstacle(waits_for: tuple[str, ...], facts: Facts) -> Waiting | None:
    """Why it is not this extension's turn; None if it is."""
    states = {name: facts.states.get(name, "pending") for name in waits_for}
    if failed := [name for name, state in states.items() if state == "error"]:
        return Waiting(reason=f"not begun: {failed[0]}, which it depends on, failed", on=failed[0], failed=True)
    if pending := [name for name, state in states.items() if state == "pending"]:
        if facts.now > facts.since + DEPENDENCY_SECONDS:
            minutes = int(DEPENDENCY_SECONDS // 60)
            reason = f"not begun: {pending[0]}, which it depends on, did not finish in {minutes} minutes"
            return Waiting(reason=reason, on=pending[0], failed=True)
        return Waiting(reason=f"waits for {pending[0]}", on=pending[0])
    return None


# -- what is there -----------------------------------------------------------------------------------------------------


def current(found: list[Installed] | tuple[()]) -> Installed | None:
    """The version that is enabled, else the highest that is not a failed upgrade."""
    usable = [one for one in found if one.state != "FailedUpgrade"]
    return max(usable, key=lambda one: (one.state == "Enabled", version_of(one.version)), default=None)


def version_of(text: str) -> Version:
    """Anything unreadable is the lowest."""
    try:
        return Version(text)
    except BadVersion:
        return Version("0")


def _all(handler: Handler) -> list[Settings | None]:
    return list(handler.settings) or [None]


def _same(handler: Handler, installed: Installed | None, before: Applied | None) -> bool:
    """Whether what is installed is what is asked for; a version asked for by its first parts was chosen before."""
    if installed is None:
        return False
    chosen = before is not None and before.version == installed.version and not before.wanted
    return installed.version == handler.version or (
        chosen and version_of(installed.version).starts_with(version_of(handler.version))
    )


def _next_pause(goal_state: ExtensionsGoalState, facts: Facts) -> float | None:
    names = {handler.name for handler in goal_state.handlers}
    pauses = [
        one.retry_at
        for own, one in facts.applied.items()
        if not one.ok and one.retry_at is not None and own.partition("/")[0] in names and one.retry_at > facts.now
    ]
    return min(pauses, default=None)
