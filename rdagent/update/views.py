"""A decision as the contract tells it. Pure."""

import msgspec

from ipc.contract.rdagent import BadVersion, PlannedUpdate, TrialView, UpdateState, UpdateView
from rdagent.update.decision import Decision, Found, Refuse, Settled, Wait
from rdagent.update.policy import Policy, held
from release.record import Bad


def to_step(decision: Decision, found: Found, *, now: float) -> PlannedUpdate:
    """`now`: UTC, seconds since the epoch: when what may begin does."""
    step = PlannedUpdate(component=decision.component, from_version=found.running)
    if isinstance(decision, Settled):
        return step
    offer = decision.offer
    step = msgspec.structs.replace(step, to_version=offer.version, wanted_by=offer.wanted_by)
    if isinstance(decision, Wait):
        return msgspec.structs.replace(step, at=decision.until, blocked=decision.why, lift=decision.lift)
    if isinstance(decision, Refuse):
        return msgspec.structs.replace(step, blocked=decision.why, lift=decision.lift)
    return msgspec.structs.replace(step, at=now)


def to_view(decision: Decision, found: Found, policy: Policy, *, now: float) -> UpdateView:
    """Without what only the updater's loop knows: `since`, how far a trial is, and that a package is being fetched."""
    record, offer, trial = found.record, decision.offer, found.record.trial
    return UpdateView(
        component=decision.component,
        running=found.running,
        running_digest=found.running_digest,
        current=record.current.version if record.current else "",
        previous=record.previous.version if record.previous else "",
        staged=[one.version for one in found.whole],
        trial=TrialView(version=trial.target.version, digest=trial.target.digest, tries_left=trial.tries)
        if trial
        else None,
        bad=[_bad(key, bad) for key, bad in record.bad.items()],
        pinned=policy.pins.get(decision.component, ""),
        held=held(policy, decision.component, now) is not None,
        state=_state(decision, found),
        wanted=offer.version if offer else "",
        wanted_by=offer.wanted_by if offer else "",
        why=decision.why if isinstance(decision, Wait | Refuse) else "",
        lift=decision.lift if isinstance(decision, Wait | Refuse) else "",
    )


def _bad(key: str, bad: Bad) -> BadVersion:
    version, _, digest = key.partition("+")
    return BadVersion(version=version, digest=digest, reason=bad.reason, expires=bad.expires)


def _state(decision: Decision, found: Found) -> UpdateState:
    if found.record.trial:
        return "on trial"
    if isinstance(decision, Settled):
        return "settled"
    if isinstance(decision, Refuse):
        return "rolled back" if decision.came_back else "refused"
    return "waiting"
