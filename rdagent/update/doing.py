"""What is under way, and how it is told. Pure."""

import msgspec

from ipc.contract.rdagent import TrialView, UpdateView
from rdagent.update.gate import Verdict
from rdagent.update.offers import Offer


class Doing(msgspec.Struct, frozen=True, kw_only=True):
    """One version on its way."""

    offer: Offer
    phase: str
    """`fetch`, `trial` or `roll back`."""
    since: float
    """UTC, seconds since the epoch."""
    verdict: Verdict = Verdict()
    why: str = ""
    """One line: what its end waits for, or why it comes back."""


def with_doing(view: UpdateView, doing: Doing, trial_seconds: float) -> UpdateView:
    """`view` was decided before that began. `trial_seconds`: how long a version on trial has to be well.

    One that comes back is `on trial` until the version before runs, without a `trial`: it has no start left.
    """
    fetching = doing.phase == "fetch"
    view = msgspec.structs.replace(
        view,
        state="fetching" if fetching else "on trial",
        wanted=doing.offer.version,
        wanted_by=doing.offer.wanted_by,
        since=doing.since,
        why=doing.why,
        lift="",
    )
    if fetching:
        return view
    if doing.phase == "roll back":
        return msgspec.structs.replace(view, trial=None)
    before = view.trial or TrialView(version=doing.offer.version, digest="", tries_left=0)
    trial = msgspec.structs.replace(
        before, since=doing.since, well_seconds=doing.verdict.well_seconds, needed_seconds=trial_seconds
    )
    return msgspec.structs.replace(view, trial=trial)
