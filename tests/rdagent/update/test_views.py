"""A decision as the contract tells it."""

import msgspec
import pytest
from hypothesis import given

from ipc.contract.rdagent import BadVersion, PlannedUpdate, TrialView, UpdateEvent
from rdagent.update.decision import Begin, Decision, Found, Refuse, Settled, Wait
from rdagent.update.offers import Offer
from rdagent.update.policy import Policy, hold, pin
from rdagent.update.views import story, to_step, to_view, with_story
from release.record import Record, Trial
from tests.rdagent.update import situations
from tests.rdagent.update.situations import NOW, bad, chosen, decided, digest_of, found, offer, on_disk


def test_a_step() -> None:
    here = found()
    assert to_step(Settled(component="telemetry"), here, now=NOW) == PlannedUpdate(
        component="telemetry", from_version="0.1.0"
    )
    step = to_step(Begin(offer=offer("0.2.0", "host")), here, now=NOW)
    assert (step.to_version, step.wanted_by, step.at, step.blocked) == ("0.2.0", "host", NOW, "")
    step = to_step(Wait(offer=offer(), until=NOW + 9, why="jitter", lift="do"), here, now=NOW)
    assert (step.at, step.blocked, step.lift) == (NOW + 9, "jitter", "do")
    step = to_step(Refuse(offer=offer(), why="bad", lift="do"), here, now=NOW)
    assert (step.at, step.blocked, step.lift) == (None, "bad", "do")


@pytest.mark.parametrize("running", ["0.1.0", "0.2.0"], ids=["the old one still answers", "the new one answers"])
@pytest.mark.parametrize("policy", [Policy(), hold(Policy(), "", NOW), pin(Policy(), "telemetry", "0.1.0")])
def test_a_step_on_trial_goes_on_whatever_was_said_since(running: str, policy: Policy) -> None:
    record = Record(component="telemetry", current=chosen("0.1.0"), trial=Trial(chosen("0.2.0"), 2))
    here = found(running=running, record=record)
    step = to_step(decided(offer("0.2.0", "host"), here=here, policy=policy), here, now=NOW)
    assert (step.from_version, step.to_version, step.wanted_by) == ("0.1.0", "0.2.0", "host")
    assert (step.at, step.blocked, step.lift) == (None, "telemetry 0.2.0 is on trial", "")


def test_a_step_on_trial_names_nobody_who_wants_something_else() -> None:
    here = found(running="0.2.0", record=Record(component="telemetry", trial=Trial(chosen("0.2.0"), 2)))
    for decision in (Settled(component="telemetry"), Begin(offer=offer("0.3.0", "host"))):
        step = to_step(decision, here, now=NOW)
        assert (step.from_version, step.to_version, step.wanted_by) == ("", "0.2.0", "")


def test_a_view() -> None:
    record = msgspec.structs.replace(bad("0.2.0", expires=NOW + 60), previous=chosen("0.0.9"))
    here = found(record=record, whole=(on_disk("0.1.0"), on_disk("0.0.9")))
    policy = hold(pin(Policy(), "telemetry", "0.2.0"), "", NOW)
    view = to_view(decided(offer(), here=here), here, policy, now=NOW)
    assert (view.running, view.running_digest) == ("0.1.0", digest_of("0.1.0"))
    assert (view.current, view.previous, view.staged) == ("0.1.0", "0.0.9", ["0.1.0", "0.0.9"])
    assert (view.pinned, view.held, view.wanted, view.wanted_by) == ("0.2.0", True, "0.2.0", "channel")
    assert view.bad == [BadVersion(version="0.2.0", digest=digest_of("0.2.0"), reason="hangs", expires=NOW + 60)]
    assert view.held_until is None
    longer = to_view(decided(), here, hold(hold(Policy(), "", NOW, NOW + 5), "telemetry", NOW, NOW + 9), now=NOW)
    assert (longer.held, longer.held_until) == (True, NOW + 9)
    assert view.state == "rolled back"
    assert view.why.endswith("hangs")
    assert view.lift == "agentctl update unblock telemetry 0.2.0"


def test_states() -> None:
    def state(decision: Decision, here: Found | None = None) -> str:
        return to_view(decision, here or found(), Policy(), now=NOW).state

    assert state(decided()) == "settled"
    assert state(decided(offer())) == "waiting"
    assert state(decided(offer(ring=0))) == "waiting"  # a release that goes round by and by is no fault
    assert state(decided(offer(), here=found(others_on_trial="netagent"))) == "waiting"
    on_trial = found(record=Record(component="telemetry", trial=Trial(chosen("0.2.0"), 2)))
    assert state(decided(here=on_trial), on_trial) == "on trial"
    assert to_view(decided(), on_trial, Policy(), now=NOW).trial == TrialView(
        version="0.2.0", digest=digest_of("0.2.0"), tries_left=2
    )


@given(situations.founds, situations.offers, situations.policies)
def test_each_decision_can_be_told(here: Found, one: Offer, policy: Policy) -> None:
    decision = decided(one, here=here, policy=policy)
    step, view = to_step(decision, here, now=NOW), to_view(decision, here, policy, now=NOW)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(view), type=type(view)) == view
    if here.record.trial:
        assert (step.at, step.to_version, step.lift) == (None, here.record.trial.target.version, "")
        return
    assert (step.to_version, step.blocked, step.lift) == (
        "" if isinstance(decision, Settled) else view.wanted,
        view.why,
        view.lift,
    )
    assert (step.at is None) == (isinstance(decision, Settled | Refuse) or getattr(decision, "until", NOW) is None)


def test_a_story_ends_when_something_else_happens_or_the_version_is_off_the_bad_list() -> None:
    def event(phase: str, version: str = "0.2.0") -> UpdateEvent:
        return UpdateEvent(at=NOW, component="telemetry", phase=phase, version=version, message="hangs")

    record = bad("0.2.0")
    assert story([event("trial"), event("roll back")], record) == (
        "0.2.0 was rolled back: hangs",
        "agentctl update unblock telemetry 0.2.0",
    )
    for history in ([], [event("roll back"), event("commit", "0.3.0")], [event("roll back", "0.3.0")]):
        assert story(history, record) == ("", "")
    assert story([event("roll back")], Record(component="telemetry")) == ("", "")


def test_what_was_to_begin_has_come_back_until_something_else_is() -> None:
    """The host hears of it before the loop decides anew; who asks meanwhile hears the same."""
    record, came_back = bad("0.2.0"), UpdateEvent(at=NOW, component="telemetry", phase="roll back", version="0.2.0")
    begins = to_view(decided(offer("0.2.0", "host")), found(), Policy(), now=NOW)
    shown = with_story(begins, [came_back], record)
    assert (shown.state, shown.lift, shown.since) == ("rolled back", "agentctl update unblock telemetry 0.2.0", NOW)
    another = to_view(decided(offer("0.3.0", "host")), found(), Policy(), now=NOW)
    assert with_story(another, [came_back], record) == another
    assert with_story(begins, [came_back], Record(component="telemetry")) == begins
    assert with_story(begins, [], Record(component="telemetry")) == begins
