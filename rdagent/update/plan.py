"""What is to be done about one component's version, and if nothing, why. Pure: what is known in, a decision out.

Of those who want a version the first is heard alone: operator, then host, then channel. Of the channel's versions the
newest that nothing forbids is taken. Each no is one line of cause and the command that would lift it.

An update that was asked for (`Policy.asked`) ignores window, jitter, ring and a stopped release. A pin or a hold is a
word of the operator too, so it has to be lifted first; and nothing but its own command lifts a bad version.
"""

from collections.abc import Iterable, Sequence

from rdagent.config import UpdateSettings
from rdagent.update.decision import Begin, Decision, Found, Refuse, Settled, Unasked, Wait
from rdagent.update.obstacles import Situation, obstacle, other_build
from rdagent.update.offers import RANK, Offer, from_operator
from rdagent.update.policy import Policy
from release.manifest import is_version, same_version, version_key

_ALL_ASKED = Unasked()
ORDER = ("telemetry", "netagent", "guestagent", "rdagent")
"""Of a release for several: who is missed least comes first, who installs the others last."""


def decide(
    component: str,
    found: Found,
    offers: Sequence[Offer],
    policy: Policy,
    settings: UpdateSettings,
    *,
    now: float,
    machine: str,
    unasked: Unasked = _ALL_ASKED,
) -> Decision:
    """`offers`: of all components; `now`: UTC, seconds since the epoch; `machine`: what tells it from others."""
    running = _running(found)
    candidates = _candidates(component, offers, policy, running)
    if not candidates:
        return Settled(component=component)
    situation = Situation(
        found=found,
        running=running,
        offers=offers,
        policy=policy,
        settings=settings,
        now=now,
        machine=machine,
        unasked=unasked,
    )
    decisions = [_judge(offer, situation) for offer in candidates]
    return _best(decisions)


def answer_to_host(decisions: Iterable[Decision]) -> Settled | Wait | Refuse | None:
    """The one it hears of, of those about what it asked for: rather what is refused, then what waits, then what runs.

    None: nothing is decided about it, or it is being tried.
    """
    kinds = (Refuse, Wait, Settled)
    asked = [one for one in decisions if isinstance(one, kinds) and one.offer and one.offer.wanted_by == "host"]
    return min(asked, key=lambda one: kinds.index(type(one)), default=None)


def order(decisions: Iterable[Decision]) -> list[Decision]:
    """As they are to be begun, one after the other."""
    return sorted(decisions, key=lambda one: (_place(one.component), one.component))


def _running(found: Found) -> str:
    """The version in force; empty if not known. A process that is mute, or announces junk, is that of the record."""
    if is_version(found.running):
        return found.running
    return found.record.current.version if found.record.current else ""


def _candidates(component: str, offers: Iterable[Offer], policy: Policy, running: str) -> list[Offer]:
    """What the first in rank wants, best first. Only what the operator asked for now counts as his."""
    asked = policy.asked.get(component, "")
    mine = [one for one in offers if one.component == component and is_version(one.version)]
    mine = [one for one in mine if one.wanted_by != "operator" or same_version(one.version, asked)]
    if asked and not any(one.wanted_by == "operator" for one in mine):
        mine.append(from_operator(component, asked, mine, ()))
    for wanter in RANK:
        wanted = [one for one in mine if one.wanted_by == wanter and (wanter != "channel" or _is_news(one, running))]
        if wanted:
            return sorted(wanted, key=lambda one: version_key(one.version), reverse=True)
    return []


def _is_news(offer: Offer, running: str) -> bool:
    """The channel never goes back. The same number is looked at for its content."""
    return not running or version_key(offer.version) >= version_key(running)


def _best(decisions: list[Decision]) -> Decision:
    """The first in their order that may begin, else that will by itself, else what stands in the way of the first.

    What waits for a word of somebody else, as for its ring, is told where nothing else is.
    """
    return min(decisions, key=_rank)


def _rank(decision: Decision) -> int:
    match decision:
        case Begin():
            return 0
        case Wait(until=None, lift=lift) if lift:
            return 3
        case Wait():
            return 1
        case Refuse():
            return 2
        case Settled():
            return 4


def _judge(offer: Offer, situation: Situation) -> Decision:
    found = situation.found
    if same_version(offer.version, situation.running) and not (_is_outdated(offer, found) or _is_given_up(found)):
        return other_build(offer, found) or Settled(component=offer.component, offer=offer)
    return obstacle(offer, situation) or Begin(offer=offer)


def _is_outdated(offer: Offer, found: Found) -> bool:
    """Whether the record is ahead of what was last heard of the process: who asks for that has yet to be obeyed."""
    current = found.record.current
    swapped = current is not None and found.record.trial is None and not same_version(offer.version, current.version)
    return swapped and offer.wanted_by == "operator"


def _is_given_up(found: Found) -> bool:
    """Whether what runs is on the bad list, and runs only because it could not be replaced yet."""
    current = found.record.current
    if not found.restart_due or (current is not None and same_version(current.version, found.running)):
        return False
    return any(same_version(key.partition("+")[0], found.running) for key in found.record.bad)


def _place(component: str) -> int:
    return ORDER.index(component) if component in ORDER else len(ORDER)
