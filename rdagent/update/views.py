"""A decision as the contract tells it. Pure."""

from collections.abc import Sequence

import msgspec

from ipc.contract.rdagent import BadVersion, PlannedUpdate, TrialView, UpdateEvent, UpdateState, UpdateView
from rdagent.update.decision import Decision, Found, Refuse, Settled, Wait
from rdagent.update.offers import Offer
from rdagent.update.policy import Policy, held
from release.manifest import same_version
from release.record import Bad, Chosen, Record


def to_step(decision: Decision, found: Found, *, now: float) -> PlannedUpdate:
    """`now`: UTC, seconds since the epoch: when what may begin does."""
    step = PlannedUpdate(component=decision.component, from_version=found.running)
    if found.record.trial:
        # Whatever was said since, the trial goes on.
        return _on_trial(step, found.record.current, found.record.trial.target, decision.offer)
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
    hold = held(policy, decision.component, now)
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
        held=hold is not None,
        held_until=hold.until if hold else None,
        state=_state(decision, found),
        wanted=offer.version if offer else "",
        wanted_by=offer.wanted_by if offer else "",
        why=decision.why if isinstance(decision, Wait | Refuse) else "",
        lift=decision.lift if isinstance(decision, Wait | Refuse) else "",
    )


def story(history: Sequence[UpdateEvent], record: Record) -> tuple[str, str]:
    """What is to be said of a component whose last event is that a version came back, and what ends that; both empty if
    there is nothing to say, or that version is off the bad list.
    """
    last = history[-1] if history else None
    if last is None or last.phase != "roll back" or last.version not in {key.partition("+")[0] for key in record.bad}:
        return "", ""
    lift = f"agentctl update unblock {last.component} {last.version}"
    return f"{last.version} was rolled back: {last.message}", lift


def with_story(view: UpdateView, history: Sequence[UpdateEvent], record: Record) -> UpdateView:
    """One that came back says so until something else happened to it; `record` and `history` may be newer than `view`.

    What was to begin has come back since then, if it is the version that the history ends with.
    """
    why, lift = story(history, record)
    if not why or view.why:
        return view
    if view.state != "settled" and not (view.state == "waiting" and view.wanted == history[-1].version):
        return view
    return msgspec.structs.replace(view, state="rolled back", why=why, lift=lift, since=history[-1].at)


def with_damage(view: UpdateView, damage: str, mend: str) -> UpdateView:
    """Told whatever else is wanted of it; and where nothing is, that is why what is in force does not run."""
    if damage and view.state == "settled":
        view = msgspec.structs.replace(view, why=damage, lift=mend)
    return msgspec.structs.replace(view, damage=damage, mend=mend)


def with_trouble(view: UpdateView, trouble: str) -> UpdateView:
    """One that cannot be brought to where it should be; why a version came back stays told."""
    if view.state == "on trial":
        return msgspec.structs.replace(view, why=trouble, lift="")
    if view.state not in {"settled", "waiting"}:
        return view
    return msgspec.structs.replace(view, why=trouble, lift="agentctl status")


def _on_trial(step: PlannedUpdate, current: Chosen | None, target: Chosen, offer: Offer | None) -> PlannedUpdate:
    wanted_by = offer.wanted_by if offer and same_version(offer.version, target.version) else ""
    runs = step.from_version if step.from_version != target.version else ""
    return msgspec.structs.replace(
        step,
        from_version=current.version if current else runs,
        to_version=target.version,
        wanted_by=wanted_by,
        blocked=f"{step.component} {target.version} is on trial",
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
