"""What the operator said about versions: pins, holds, and what is to be done at once. Pure: old policy in, new one out.

Times are the wall clock's, UTC, because the operator names them by it, and that clock may jump. Forward: what was to
last until then is over; nothing waits for a clock to come back. Back: a hold made later than now was made by a clock
that was wrong, so it lasts as long from now as it was to last then (`expire`, once a look). A hold is never made
longer than it was meant, and only one without an end stays for ever.
"""

from collections.abc import Iterable
from typing import TypeVar

import msgspec

from rdagent.update.offers import Offer
from release.manifest import is_version, same_version, version_key

V = TypeVar("V")


class Hold(msgspec.Struct, frozen=True):
    """No update begins. Both UTC, seconds since the epoch."""

    since: float
    until: float | None = None
    """None: until it is released."""


class Stopped(msgspec.Struct, frozen=True, kw_only=True):
    """A release that was broken off: one of its versions came back, so the others are not tried."""

    component: str
    version: str
    """The one that came back."""
    why: str
    rest: dict[str, str]
    """Of each component the newest version the channel had then."""


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """Everything the operator decided, and the release that waits for a word of his."""

    pins: dict[str, str] = {}
    """By component: the one version that may be begun."""
    holds: dict[str, Hold] = {}
    """By component; "" for all of them."""
    asked: dict[str, str] = {}
    """By component: begin this version at once; "" for whatever is wanted."""
    stopped: Stopped | None = None


def pin(policy: Policy, component: str, version: str) -> Policy:
    """Only this version may be begun. Raises ValueError for what is no version."""
    _check(version)
    return msgspec.structs.replace(policy, pins={**policy.pins, component: version})


def unpin(policy: Policy, component: str) -> Policy:
    return msgspec.structs.replace(policy, pins=_without(policy.pins, component))


def hold(policy: Policy, component: str, now: float, until: float | None = None) -> Policy:
    """Begin nothing, of `component` or (empty) of any. Takes the place of an earlier one."""
    return msgspec.structs.replace(policy, holds={**policy.holds, component: Hold(now, until)})


def release(policy: Policy, component: str) -> Policy:
    """The hold on all (empty) and those on single components are apart: each is released by its own name."""
    return msgspec.structs.replace(policy, holds=_without(policy.holds, component))


def ask(policy: Policy, component: str, version: str = "") -> Policy:
    """Begin at once: no window, no jitter, no ring, and a stopped release goes on. Raises ValueError for junk."""
    if version:
        _check(version)
    return msgspec.structs.replace(policy, asked={**policy.asked, component: version})


def forget(policy: Policy, component: str) -> Policy:
    """What was asked has begun, or was refused."""
    return msgspec.structs.replace(policy, asked=_without(policy.asked, component))


def expire(policy: Policy, now: float) -> Policy:
    """Without the holds that are over, and those of a wrong clock put right. The same object if nothing changed."""
    holds = {name: right for name, one in policy.holds.items() if (right := _put_right(one, now)) is not None}
    return policy if holds == policy.holds else msgspec.structs.replace(policy, holds=holds)


def held(policy: Policy, component: str, now: float) -> Hold | None:
    """The hold in force that lasts longest; one without an end lasts longest of all."""
    holds = [policy.holds[name] for name in ("", component) if name in policy.holds]
    current = [right for one in holds if (right := _put_right(one, now)) is not None]
    return max(current, key=lambda one: float("inf") if one.until is None else one.until, default=None)


def abort_rest(policy: Policy, failed: Offer, why: str, offers: Iterable[Offer]) -> Policy:
    """A version from the channel came back: what the channel has now is not tried, of no component.

    Whoever else wanted the version that failed wanted that one alone, so nothing else is stopped.
    """
    if failed.wanted_by != "channel":
        return policy
    rest = {failed.component: failed.version}
    for offer in offers:
        if offer.wanted_by == "channel" and is_version(offer.version):
            known = rest.get(offer.component, "0.0")
            rest[offer.component] = max(known, offer.version, key=version_key)
    stopped = Stopped(component=failed.component, version=failed.version, why=why, rest=rest)
    return msgspec.structs.replace(policy, stopped=stopped)


def go_on(policy: Policy) -> Policy:
    """The operator took the version that failed off the bad list: its release is no longer stopped."""
    return msgspec.structs.replace(policy, stopped=None)


def sound(policy: Policy) -> Policy:
    """Without what no operator can have said: a file may hold anything. The same object if nothing is wrong."""
    pins = {name: version for name, version in policy.pins.items() if is_version(version)}
    asked = {name: version for name, version in policy.asked.items() if not version or is_version(version)}
    stopped = policy.stopped
    if stopped and not is_version(stopped.rest.get(stopped.component, "")):
        stopped = None
    right = msgspec.structs.replace(policy, pins=pins, asked=asked, stopped=stopped)
    return policy if right == policy else right


def stopped_by(policy: Policy, offer: Offer, offers: Iterable[Offer]) -> Stopped | None:
    """The broken-off release this offer belongs to. A newer version of itself, or of the one that failed, is free."""
    stopped = policy.stopped
    if stopped is None or offer.wanted_by != "channel":
        return None
    last = stopped.rest.get(offer.component)
    if last is None or not _is_after(last, offer.version, strict=False):
        return None
    mended = any(
        one.component == stopped.component
        and one.wanted_by == "channel"
        and _is_after(one.version, stopped.rest[stopped.component])
        for one in offers
    )
    return None if mended else stopped


def _is_after(version: str, other: str, *, strict: bool = True) -> bool:
    if not (is_version(version) and is_version(other)):
        return False
    return version_key(version) > version_key(other) or (not strict and same_version(version, other))


def _put_right(one: Hold, now: float) -> Hold | None:
    if one.until is None:
        return one
    if one.since > now:
        one = Hold(now, now + max(one.until - one.since, 0.0))
    return one if one.until is not None and now < one.until else None


def _without(names: dict[str, V], name: str) -> dict[str, V]:
    return {one: value for one, value in names.items() if one != name}


def _check(version: str) -> None:
    if not is_version(version):
        raise ValueError(f"{version[:64]!r} is no version: write two to four numbers, e.g. 0.2.0")
