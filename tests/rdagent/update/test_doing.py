"""What is under way is told as what it is, whatever was decided before it began."""

import pytest

from ipc.contract.rdagent import TrialView, UpdateView
from rdagent.update.doing import Doing, with_doing
from rdagent.update.gate import Verdict
from tests.rdagent.update.situations import offer

TRIAL = TrialView(version="0.2.0", digest="d", tries_left=2)


@pytest.mark.parametrize("trial", [TRIAL, None])
def test_each_phase(trial: TrialView | None) -> None:
    view = UpdateView(component="telemetry", running="0.1.0", state="waiting", wanted="0.2.0", trial=trial)

    def told(phase: str, why: str = "") -> UpdateView:
        verdict = Verdict(well_seconds=3.0)
        return with_doing(view, Doing(offer=offer("0.2.0"), phase=phase, since=5.0, verdict=verdict, why=why), 20.0)

    assert told("fetch").state == "fetching"
    on_trial = told("trial")
    assert (on_trial.state, on_trial.why) == ("on trial", "")
    assert on_trial.trial is not None
    assert (on_trial.trial.version, on_trial.trial.well_seconds, on_trial.trial.needed_seconds) == ("0.2.0", 3.0, 20.0)
    why = "0.2.0 failed: it ends; the version before is started"
    back = told("roll back", why)
    # Under way: the host is told when it has come back.
    assert (back.state, back.wanted, back.why, back.trial, back.since) == ("on trial", "0.2.0", why, None, 5.0)
