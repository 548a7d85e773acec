"""What stands in the way of an offer, each a line of cause and the command that would lift it. Pure."""

from collections.abc import Sequence

import msgspec

from rdagent.config import UpdateSettings
from rdagent.update import window
from rdagent.update.decision import Found, Refuse, Unasked, Wait
from rdagent.update.jitter import jitter
from rdagent.update.offers import Offer
from rdagent.update.policy import Hold, Policy, held, stopped_by
from rdagent.update.words import moment, one_line
from release.manifest import is_version, same_version, version_key
from release.record import Bad, Record

_IMPORT = "agentctl bundle import FILE"


class Situation(msgspec.Struct, frozen=True, kw_only=True):
    """All that counts beside the offer itself; see `plan.decide`."""

    found: Found
    running: str
    """The version in force; empty: not known."""
    offers: Sequence[Offer]
    policy: Policy
    settings: UpdateSettings
    now: float
    machine: str
    unasked: Unasked


def other_build(offer: Offer, found: Found) -> Refuse | None:
    """The number runs, and the offer is another build of it."""
    if offer.digest and found.running_digest and offer.digest != found.running_digest:
        return _other_content(offer, "runs")
    return None


def obstacle(offer: Offer, situation: Situation) -> Wait | Refuse | None:
    """The first thing in the way of an offer of another version than runs. What ends by itself comes last."""
    return (
        _by_operator(offer, situation)
        or _by_failure(offer, situation)
        or _by_direction(offer, situation)
        or _by_content(offer, situation)
        or _by_ring(offer, situation)
        or _by_hold(offer, situation)
        or _by_time(offer, situation)
        or _by_machine(offer, situation.found)
    )


def _by_operator(offer: Offer, situation: Situation) -> Refuse | None:
    pinned = situation.policy.pins.get(offer.component)
    if pinned is not None and not same_version(pinned, offer.version):
        lift = f"agentctl update pin {offer.component} --off"
        return Refuse(offer=offer, why=f"{offer.component} is pinned to {pinned}", lift=lift)
    hold = held(situation.policy, offer.component, situation.now)
    if hold is None or hold.until is not None:
        return None
    what, lift = _hold_words(offer, hold, situation)
    return Refuse(offer=offer, why=what, lift=lift)


def _by_hold(offer: Offer, situation: Situation) -> Wait | None:
    """A hold that ends. After what does not: who waits must not find another no at its end."""
    hold = held(situation.policy, offer.component, situation.now)
    if hold is None or hold.until is None:
        return None
    what, lift = _hold_words(offer, hold, situation)
    return Wait(offer=offer, until=hold.until, why=f"{what} until {moment(hold.until)}", lift=lift)


def _hold_words(offer: Offer, hold: Hold, situation: Situation) -> tuple[str, str]:
    if held(situation.policy, "", situation.now) == hold:
        return "all updates are held", "agentctl update hold --off"
    return f"updates of {offer.component} are held", f"agentctl update hold {offer.component} --off"


def _by_failure(offer: Offer, situation: Situation) -> Refuse | None:
    found = situation.found
    lift = f"agentctl update unblock {offer.component} {offer.version}"
    for digest, bad in _bad(found.record, offer.version):
        if not bad.holds(now=situation.now, environment=found.environment):
            continue
        other = "; this is another build of that number" if offer.digest and digest != offer.digest else ""
        ends = f", until {moment(bad.expires)}" if bad.expires is not None else ""
        why = f"{offer.name} is on the bad list{ends}: {one_line(bad.reason)}{other}"
        return Refuse(offer=offer, why=why, lift=lift, came_back=True)
    if _is_asked(offer, situation.policy):
        return None
    if stopped := stopped_by(situation.policy, offer, situation.offers):
        why = f"its release was stopped when {stopped.component} {stopped.version} came back: {one_line(stopped.why)}"
        return Refuse(offer=offer, why=why, lift=_now(offer))
    return None


def _bad(record: Record, version: str) -> list[tuple[str, Bad]]:
    """All entries of this number, by digest: the host's manifest tells no digests, and a new build needs a word too."""
    split = [(*key.partition("+"), bad) for key, bad in record.bad.items()]
    return [(digest, bad) for number, _, digest, bad in split if same_version(number, version)]


def _by_direction(offer: Offer, situation: Situation) -> Wait | Refuse | None:
    """Floor, downgrade, major version."""
    running, by_name = situation.running, offer.wanted_by == "operator"
    if not running:
        if by_name:
            return None
        why = f"{offer.component} does not answer and no record says which version is in force"
        return Wait(offer=offer, until=None, why=why, lift=f"{_now(offer)} {offer.version}")
    floor = floor_of(situation.found, running)
    if version_key(offer.version) < version_key(floor):
        why = f"{offer.name} is below {floor}, the floor of {offer.component} {running}: what that wrote it cannot read"
        return Refuse(offer=offer, why=why, lift="")
    if version_key(offer.version) < version_key(running) and not by_name:
        return _downgrade(offer, running)
    if offer.disallow_major and not by_name and version_key(offer.version)[0] != version_key(running)[0]:
        why = f"{offer.name} is another major version than {running}, and its publisher wants that chosen by hand"
        return Refuse(offer=offer, why=why, lift=f"{_now(offer)} {offer.version}")
    return None


def floor_of(found: Found, running: str) -> str:
    """The oldest version that may follow. Of what runs and of what is in force: both may have written state."""
    known = {running, found.record.current.version if found.record.current else running}
    floors = [one.floor for one in found.whole if any(same_version(one.version, version) for version in known)]
    return max(filter(is_version, floors), key=version_key, default="0.0.0")


def _downgrade(offer: Offer, running: str) -> Refuse | None:
    if same_version(offer.from_version, running):
        return None
    why = f"{offer.name} is older than {running}, and the host gave no fromVersion"
    if offer.from_version:
        why = f"{offer.name} is older than {running}, and the host would have it follow {_said(offer.from_version)}"
    return Refuse(offer=offer, why=why, lift=f"{_now(offer)} {offer.version}")


def _by_content(offer: Offer, situation: Situation) -> Wait | Refuse | None:
    found = situation.found
    lying = next((one for one in found.whole if same_version(one.version, offer.version)), None)
    if lying is None:
        if offer.urls or offer.target:
            return None
        if unasked := situation.unasked.why(offer.component):
            why = f"where {offer.name} is to be had is not known: {one_line(unasked)}"
            return Wait(offer=offer, until=situation.unasked.again_at, why=why, lift=_IMPORT)
        why = f"nobody says where {offer.name} is to be had: not the repository, not the host, and it is not on disk"
        return Refuse(offer=offer, why=why, lift=_IMPORT)
    if offer.digest and offer.digest != lying.digest:
        return _other_content(offer, "lies on disk")
    if is_version(found.python) and version_key(lying.min_python) > version_key(found.python):
        why = f"{offer.name} needs Python {lying.min_python}, here is {found.python}"
        return Refuse(offer=offer, why=why, lift="")
    return None


def _other_content(offer: Offer, where: str) -> Refuse:
    why = f"{offer.name} {where} with another content: one number has one content, publish it under a new one"
    return Refuse(offer=offer, why=why, lift="")


def _by_ring(offer: Offer, situation: Situation) -> Wait | None:
    """A release that has not come to this ring yet is as it should be: nobody has to do anything."""
    if offer.wanted_by != "channel" or offer.ring is None or _is_asked(offer, situation.policy):
        return None
    if offer.ring >= situation.settings.ring:
        return None
    why = f"{offer.name} is released up to ring {offer.ring}, this machine is in ring {situation.settings.ring}"
    return Wait(offer=offer, until=None, why=why, lift=_now(offer))


def _by_time(offer: Offer, situation: Situation) -> Wait | None:
    """Window and jitter are for what nobody asked for."""
    settings, now = situation.settings, situation.now
    if offer.wanted_by != "channel" or _is_asked(offer, situation.policy):
        return None
    # Seen later than now: by a clock that was wrong, so nothing is waited for.
    due = offer.seen_at + jitter(situation.machine, offer.component, offer.version, settings.jitter)
    turn = due if offer.seen_at <= now else now
    opens = window.next_open(window.parse(settings.window), max(turn, now))
    if opens <= now:
        return None
    why = f"outside the window {settings.window!r} until {moment(opens)}"
    if opens == turn:
        why = f"this machine's turn comes at {moment(opens)} (jitter)"
    return Wait(offer=offer, until=opens, why=why, lift=_now(offer))


def _by_machine(offer: Offer, found: Found) -> Wait | Refuse | None:
    if found.record.trial:
        return Wait(offer=offer, until=None, why=f"{offer.component} {found.record.trial.target.version} is on trial")
    if found.others_on_trial:
        return Wait(offer=offer, until=None, why=f"a version of {found.others_on_trial} is on trial")
    return None


def _is_asked(offer: Offer, policy: Policy) -> bool:
    asked = policy.asked.get(offer.component)
    return asked is not None and (not asked or same_version(asked, offer.version))


def _said(version: str) -> str:
    return one_line(version, 64)


def _now(offer: Offer) -> str:
    return f"agentctl update now {offer.component}"
