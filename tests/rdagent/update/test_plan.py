"""What is decided: each reason by itself, who is heard, and what holds for every input."""

from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as effort
from hypothesis import strategies as st

from rdagent.config import UpdateSettings
from rdagent.update.decision import Begin, Decision, Found, Refuse, Settled, Wait
from rdagent.update.jitter import jitter
from rdagent.update.offers import Offer
from rdagent.update.plan import ORDER, answer_to_host, decide, order
from rdagent.update.policy import Policy, abort_rest, ask, go_on, hold, pin
from release.manifest import is_version, same_version, version_key
from release.record import Chosen, Record, Trial
from tests.rdagent.update import situations
from tests.rdagent.update.situations import (
    AT_ONCE,
    MACHINE,
    NOW,
    bad,
    begun,
    chosen,
    decided,
    found,
    offer,
    on_disk,
    refused,
    settled,
    waits,
)

NOTHING_SAID = Policy()


# -- who is heard -------------------------------------------------------------------------------------------------


def test_nobody_wants_anything() -> None:
    assert decided() == Settled(component="telemetry")
    assert settled(decided(offer(component="netagent")))
    assert settled(decided(offer("0.0.9")))  # the channel never goes back


def test_what_is_wanted_runs() -> None:
    assert decided(offer("0.1.0")) == Settled(component="telemetry", offer=offer("0.1.0"))
    assert settled(decided(offer("0.1"), here=found(running_digest="")))  # the base install has no digest


def test_the_operators_word_is_not_answered_by_what_no_longer_runs() -> None:
    """A component that was swapped a moment ago, and has not been heard since."""
    word = ask(NOTHING_SAID, "telemetry", "0.1.0")
    swapped = found(record=Record(component="telemetry", current=chosen("0.2.0")), whole=(on_disk("0.1.0"),))
    assert begun(decided(offer("0.1.0", "operator"), here=swapped, policy=word)) == "0.1.0"
    assert settled(decided(offer("0.1.0"), here=swapped))
    same = found(record=Record(component="telemetry", current=chosen("0.1.0")))
    assert settled(decided(offer("0.1.0", "operator"), here=same, policy=word))


@pytest.mark.parametrize("wanted_by", ["operator", "host", "channel"])
@pytest.mark.parametrize("current", [None, chosen("0.1.0")], ids=["base install", "version"])
def test_what_was_given_up_and_runs_on_is_not_what_is_wanted(wanted_by: str, current: Chosen | None) -> None:
    """It is on the bad list, and its process has yet to be replaced."""
    record = msgspec.structs.replace(bad("0.2.0"), current=current)
    here = found("0.2.0", record=record, restart_due=True)
    asked = Policy(asked={"telemetry": "0.2.0"}) if wanted_by == "operator" else Policy()
    why, lift = refused(decided(offer("0.2.0", wanted_by), here=here, policy=asked))
    assert "is on the bad list" in why
    assert lift == "agentctl update unblock telemetry 0.2.0"


def test_a_base_install_with_the_number_of_what_is_bad_is_what_is_wanted() -> None:
    record = msgspec.structs.replace(bad("0.2.0"), current=None)
    assert settled(decided(offer("0.2.0", "host"), here=found("0.2.0", record=record, running_digest="")))


def test_the_operator_is_heard_before_the_host_and_the_host_before_the_channel() -> None:
    three = [offer("0.4.0"), offer("0.3.0", "host"), offer("0.2.0", "operator")]
    assert begun(decided(*three, policy=ask(NOTHING_SAID, "telemetry", "0.2.0"))) == "0.2.0"
    assert begun(decided(*three)) == "0.3.0"  # the operator asks no more
    assert begun(decided(three[0])) == "0.4.0"
    assert settled(decided(offer("0.4.0"), offer("0.1.0", "host")))  # what the host wants runs


def test_of_the_channel_the_newest_that_nothing_forbids() -> None:
    assert begun(decided(offer("0.2.0"), offer("0.10.0"), offer("0.9.0"))) == "0.10.0"
    assert begun(decided(offer("0.2.0"), offer("0.3.0", ring=0))) == "0.2.0"
    assert begun(decided(offer("0.2.0"), offer("0.3.0"), here=found(record=bad("0.3.0")))) == "0.2.0"


@pytest.mark.parametrize("junk", ["1.0.0-rc1", "1.0.0.rc1", "junk", "", "1", "1.2.3.4.5", "01.2", "1.2\n"])
def test_junk_and_pre_releases_are_no_offers(junk: str) -> None:
    assert settled(decided(offer(junk, digest="")))
    assert begun(decided(offer(junk, digest=""), offer())) == "0.2.0"


def test_what_the_operator_asked_for_and_nobody_has() -> None:
    why, lift = refused(decided(policy=ask(NOTHING_SAID, "telemetry", "0.7.0")))
    assert why.startswith("nobody says where telemetry 0.7.0 is to be had")
    assert lift
    here = found(whole=(on_disk("0.1.0"), on_disk("0.7.0")))
    assert begun(decided(here=here, policy=ask(NOTHING_SAID, "telemetry", "0.7.0"))) == "0.7.0"


# -- the operator's words -----------------------------------------------------------------------------------------


def test_a_pin() -> None:
    policy = pin(NOTHING_SAID, "telemetry", "0.2.0")
    lift = "agentctl update pin telemetry --off"
    assert refused(decided(offer("0.3.0"), policy=policy)) == ("telemetry is pinned to 0.2.0", lift)
    assert refused(decided(offer("0.3.0", "host"), policy=policy))[1] == lift
    assert begun(decided(offer("0.3.0"), offer("0.2.0"), policy=policy)) == "0.2.0"
    assert refused(decided(offer("0.3.0"), policy=ask(policy, "telemetry", "0.3.0")))[1] == lift
    assert begun(decided(offer("0.3.0"), policy=pin(NOTHING_SAID, "netagent", "0.2.0"))) == "0.3.0"


@pytest.mark.parametrize("wanted_by", ["host", "channel"])
def test_a_hold(wanted_by: str) -> None:
    one = offer(wanted_by=wanted_by)
    policy = hold(NOTHING_SAID, "telemetry", NOW - 5)
    assert refused(decided(one, policy=policy)) == (
        "updates of telemetry are held",
        "agentctl update hold telemetry --off",
    )
    assert refused(decided(one, policy=ask(policy, "telemetry"))) == refused(decided(one, policy=policy))
    all_held = hold(NOTHING_SAID, "", NOW - 5, NOW + 60)
    assert waits(decided(one, policy=all_held)) == (
        NOW + 60,
        "all updates are held until 2026-09-21 14:14:20Z",
        "agentctl update hold --off",
    )
    assert begun(decided(one, policy=hold(NOTHING_SAID, "", NOW - 5, NOW))) == "0.2.0"
    assert begun(decided(one, policy=hold(NOTHING_SAID, "netagent", NOW - 5))) == "0.2.0"


def test_now_waits_for_nothing_but_a_hold_a_pin_and_the_bad_list() -> None:
    slow = UpdateSettings(window="03:00-04:00", jitter=1e5)
    one = offer(ring=0, seen_at=NOW)
    stopped = abort_rest(NOTHING_SAID, offer(component="netagent"), "hangs", [one])
    for policy in (ask(stopped, "telemetry"), ask(stopped, "telemetry", "0.2.0")):
        assert begun(decided(one, policy=policy, settings=slow)) == "0.2.0"
        lift = "agentctl update unblock telemetry 0.2.0"
        assert refused(decided(one, policy=policy, here=found(record=bad("0.2.0"))))[1] == lift
    # Asked for another one: this one waits as before.
    assert refused(decided(one, policy=ask(stopped, "netagent"), settings=slow))


# -- what failed --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wanted_by", ["host", "channel", "operator"])
def test_the_bad_list(wanted_by: str) -> None:
    policy = ask(NOTHING_SAID, "telemetry", "0.2.0") if wanted_by == "operator" else NOTHING_SAID

    def at(record: Record, digest: str = "") -> Decision:
        return decided(offer(wanted_by=wanted_by, digest=digest), here=found(record=record), policy=policy)

    known = bad("0.2.0", expires=NOW + 60)
    assert refused(at(known)) == (
        "telemetry 0.2.0 is on the bad list, until 2026-09-21 14:14:20Z: hangs",
        "agentctl update unblock telemetry 0.2.0",
    )
    assert "this is another build of that number" in refused(at(known, "f" * 64))[0]
    assert refused(at(bad("0.2.0")))[0] == "telemetry 0.2.0 is on the bad list: hangs"
    assert begun(at(bad("0.2.0", expires=NOW))) == "0.2.0"
    assert begun(at(bad("0.2.0", environment="cpython-3.12.1"))) == "0.2.0"
    assert refused(at(bad("0.2.0", environment="")))
    assert begun(at(bad("0.3.0"))) == "0.2.0"


def test_a_downgrade_does_not_clear_the_bad_list() -> None:
    here = found("0.3.0", record=msgspec.structs.replace(bad("0.2.0"), current=chosen("0.3.0")))
    assert refused(decided(offer("0.2.0", "host", from_version="0.3.0"), here=here))[0].endswith("bad list: hangs")


def test_after_a_roll_back_the_rest_of_the_release_waits_for_a_word() -> None:
    release = [offer("0.2.0"), offer("0.2.0", component="netagent"), offer("0.1.5", component="netagent")]
    policy = abort_rest(NOTHING_SAID, release[1], "crashes", release)
    assert refused(decided(*release, policy=policy)) == (
        "its release was stopped when netagent 0.2.0 came back: crashes",
        "agentctl update now telemetry",
    )
    assert begun(decided(offer("0.2.0", "host"), *release, policy=policy)) == "0.2.0"
    assert begun(decided(*release, offer("0.2.1"), policy=policy)) == "0.2.1"
    assert begun(decided(*release, offer("0.2.1", component="netagent"), policy=policy)) == "0.2.0"
    assert begun(decided(*release, policy=go_on(policy))) == "0.2.0"


def test_what_the_host_alone_wanted_stops_nothing() -> None:
    assert abort_rest(NOTHING_SAID, offer("0.2.0", "host"), "hangs", [offer()]) == NOTHING_SAID


# -- direction and content ----------------------------------------------------------------------------------------


def test_the_floor_is_that_of_what_runs_and_of_what_is_in_force() -> None:
    policy = ask(NOTHING_SAID, "telemetry", "0.1.0")
    back = offer("0.1.0", "operator")
    here = found("0.3.0", whole=(on_disk("0.3.0", floor="0.2.0"), on_disk("0.1.0")))
    why, lift = refused(decided(back, here=here, policy=policy))
    assert why.startswith("telemetry 0.1.0 is below 0.2.0, the floor of telemetry 0.3.0")
    assert not lift
    # The base install runs because the version in force is rotten: its state is there all the same.
    behind = found("0.1.5", record=here.record, whole=here.whole, running_digest="")
    assert refused(decided(back, here=behind, policy=policy))[0] == why.replace("telemetry 0.3.0", "telemetry 0.1.5")
    low = found("0.3.0", whole=(on_disk("0.3.0", floor="0.1.0"),))
    assert begun(decided(back, here=low, policy=policy)) == "0.1.0"


def test_another_major_version_is_chosen_by_hand_where_its_publisher_says_so() -> None:
    major = offer("1.0.0", disallow_major=True)
    why, lift = refused(decided(major))
    assert "another major version" in why
    assert lift == "agentctl update now telemetry 1.0.0"
    assert begun(decided(major, offer("0.2.0", disallow_major=True))) == "0.2.0"
    by_name = msgspec.structs.replace(major, wanted_by="operator")
    assert begun(decided(by_name, policy=ask(NOTHING_SAID, "telemetry", "1.0.0"))) == "1.0.0"


def test_one_number_has_one_content() -> None:
    assert refused(decided(offer("0.1.0", digest="f" * 64)))[0].startswith("telemetry 0.1.0 runs with another content")
    here = found(whole=(on_disk("0.1.0"), on_disk("0.2.0", digest="e" * 64)))
    assert refused(decided(offer("0.2.0"), here=here))[0].startswith("telemetry 0.2.0 lies on disk with another")
    assert begun(decided(offer("0.2.0", digest=""), here=here)) == "0.2.0"


def test_a_version_for_a_newer_python() -> None:
    here = found(whole=(on_disk("0.1.0"), on_disk("0.2.0", min_python="3.12")))
    assert refused(decided(offer(), here=here)) == ("telemetry 0.2.0 needs Python 3.12, here is 3.11.7", "")
    assert begun(decided(offer(), here=found(whole=(on_disk("0.2.0", min_python="3.11"),)))) == "0.2.0"


def test_a_component_whose_version_nobody_knows_is_left_alone_unless_the_operator_names_one() -> None:
    here = found("", record=Record(component="telemetry"), whole=())
    until, why, lift = waits(decided(offer(), here=here))
    assert until is None
    assert "does not answer" in why
    assert lift == "agentctl update now telemetry 0.2.0"
    assert begun(decided(offer(), here=here, policy=ask(NOTHING_SAID, "telemetry", "0.2.0")))
    # One that announces junk, or is mute, is what the record says.
    for running in ("", "junk"):
        assert settled(decided(offer("0.0.9"), here=found(running, record=bad("9.0"), running_digest="")))


# -- time and machine ---------------------------------------------------------------------------------------------


def test_ring_jitter_and_window_are_for_what_nobody_asked_for() -> None:
    slow = UpdateSettings(window="Sat 22:00-23:00", jitter=14400.0, ring=1)
    assert waits(decided(offer(ring=0), settings=slow)) == (
        None,
        "telemetry 0.2.0 is released up to ring 0, this machine is in ring 1",
        "agentctl update now telemetry",
    )
    assert begun(decided(offer(ring=1))) == begun(decided(offer(ring=None))) == "0.2.0"
    assert begun(decided(offer("0.2.0", "host", ring=0, seen_at=NOW), settings=slow)) == "0.2.0"


def test_what_waits_for_its_ring_hides_nothing_that_needs_a_hand() -> None:
    ahead, failed = offer("0.3.0", ring=0), offer("0.2.0")
    assert waits(decided(ahead, offer("0.1.0")))[0] is None
    why, lift = refused(decided(ahead, failed, here=found(record=bad("0.2.0"))))
    assert (why.endswith("hangs"), lift) == (True, "agentctl update unblock telemetry 0.2.0")
    until, _, _ = waits(decided(ahead, failed, policy=hold(NOTHING_SAID, "", NOW, NOW + 60)))
    assert until == NOW + 60


def test_a_window() -> None:
    saturday = NOW - 14 * 3600 - 13 * 60 - 20 + 5 * 86400 + 22 * 3600
    assert waits(decided(offer(), settings=UpdateSettings(jitter=0.0, window="Sat 22:00-23:00"))) == (
        saturday,
        "outside the window 'Sat 22:00-23:00' until 2026-09-26 22:00:00Z",
        "agentctl update now telemetry",
    )
    assert begun(decided(offer(), settings=UpdateSettings(jitter=0.0, window="Mon 14:00-15:00"))) == "0.2.0"


def test_jitter_counts_from_when_it_was_first_seen_and_a_wrong_clock_makes_nobody_wait() -> None:
    settings = UpdateSettings(jitter=14400.0)
    mine = jitter(MACHINE, "telemetry", "0.2.0", 14400.0)
    until, why, lift = waits(decided(offer(seen_at=NOW), settings=settings))
    assert until == NOW + mine
    assert (why.endswith("(jitter)"), lift) == (True, "agentctl update now telemetry")
    assert begun(decided(offer(seen_at=NOW - mine), settings=settings)) == "0.2.0"
    for seen_at in (0.0, NOW + 1, 4.1e9):  # 1970, set back, 2099
        assert begun(decided(offer(seen_at=seen_at), settings=settings)) == "0.2.0"
    # The turn comes outside the window: the time told is the one at which it really may begin.
    narrow = UpdateSettings(jitter=14400.0, window="Mon 14:00-14:15; Sun 00:00-01:00")
    until, why, _ = waits(decided(offer(seen_at=NOW), settings=narrow))
    assert why.startswith("outside the window")
    assert until is not None
    assert until > NOW + mine


def test_one_trial_at_a_time() -> None:
    until, why, _ = waits(decided(offer(), here=found(others_on_trial="netagent")))
    assert (until, why) == (None, "a version of netagent is on trial")
    record = Record(component="telemetry", current=chosen("0.1.0"), trial=Trial(chosen("0.2.0"), 3))
    assert waits(decided(offer(), here=found(record=record)))[1] == "telemetry 0.2.0 is on trial"


def test_who_waits_for_a_time_finds_no_other_no_at_its_end() -> None:
    """A lasting reason is told before one that passes."""
    held = hold(NOTHING_SAID, "", NOW, NOW + 60)
    assert refused(decided(offer(), policy=held, here=found(record=bad("0.2.0"))))
    assert waits(decided(offer(ring=0), policy=held))[0] is None
    night = UpdateSettings(window="03:00-04:00", jitter=0.0)
    assert refused(decided(offer("1.0.0", disallow_major=True), settings=night))


def test_what_the_host_hears() -> None:
    held = decided(offer(wanted_by="host"), policy=hold(NOTHING_SAID, "", NOW, NOW + 60))
    runs = decided(offer("0.1.0", "host"))
    failed = decided(offer(wanted_by="host"), here=found(record=bad("0.2.0")))
    others = [decided(), decided(offer(ring=0)), decided(offer("0.3.0", "host"))]
    assert isinstance(held, Wait)
    assert answer_to_host([*others, runs]) == runs
    assert answer_to_host([runs, held, *others]) == held
    assert answer_to_host([held, failed, runs]) == failed
    assert answer_to_host(others) is None


def test_the_order_of_a_release() -> None:
    decisions: list[Decision] = [Begin(offer=offer(component=name)) for name in ("rdagent", "other", *ORDER[:-1])]
    assert [one.component for one in order(decisions)] == ["telemetry", "netagent", "guestagent", "rdagent", "other"]


# -- for every input ----------------------------------------------------------------------------------------------


def any_decision(
    here: Found, offers: Sequence[Offer], policy: Policy, settings: UpdateSettings, now: float = NOW
) -> Decision:
    return decide("telemetry", here, offers, policy, settings, now=now, machine=MACHINE)


@given(
    situations.founds,
    st.lists(situations.offers, max_size=5),
    situations.policies,
    situations.settings,
    st.sampled_from([0.0, NOW, 4.1e9]),
)
@effort(max_examples=600)
def test_what_is_begun_may_be_begun(
    here: Found, offers: list[Offer], policy: Policy, settings: UpdateSettings, now: float
) -> None:
    decision = any_decision(here, offers, policy, settings, now)
    assert decision.component == "telemetry"
    if isinstance(decision, Wait | Refuse):
        assert decision.why
        assert "\n" not in decision.why
    if isinstance(decision, Wait):
        assert decision.until is None or decision.until > now
    if not isinstance(decision, Begin):
        return
    one, record = decision.offer, here.record
    assert is_version(one.version)
    assert not here.others_on_trial
    assert record.trial is None
    assert same_version(policy.pins.get("telemetry", one.version), one.version)
    for key, entry in record.bad.items():
        if same_version(key.partition("+")[0], one.version):
            assert not entry.holds(now=now, environment=here.environment)
    running = here.running if is_version(here.running) else record.current.version if record.current else ""
    assert not same_version(one.version, running)
    for disk in here.whole:
        if running and same_version(disk.version, running):
            assert version_key(one.version) >= version_key(disk.floor)
    if one.wanted_by == "channel":
        assert version_key(one.version) > version_key(running)
    if one.wanted_by == "host" and version_key(one.version) < version_key(running):
        assert same_version(one.from_version, running)
    if one.wanted_by == "operator":
        assert same_version(one.version, policy.asked["telemetry"])
    for one_hold in (policy.holds.get(""), policy.holds.get("telemetry")):
        assert one_hold is None or one_hold.until is not None


@given(situations.founds, st.lists(situations.offers, max_size=5), situations.policies, situations.settings)
@effort(max_examples=300)
def test_who_waits_for_a_time_does_not_wait_at_that_time_for_the_same(
    here: Found, offers: list[Offer], policy: Policy, settings: UpdateSettings
) -> None:
    """Nothing is put off for ever: at most hold, then turn and window, one after the other."""
    now = NOW
    for _ in range(4):
        decision = any_decision(here, offers, policy, settings, now)
        if not isinstance(decision, Wait) or decision.until is None:
            return
        assert decision.until > now
        now = decision.until
    raise AssertionError(f"still waits: {decision}")


@given(situations.founds, st.lists(situations.offers, max_size=5), situations.policies, st.randoms())
@effort(max_examples=200)
def test_the_order_in_which_offers_come_counts_for_nothing(
    here: Found, offers: list[Offer], policy: Policy, dice: object
) -> None:
    policy = msgspec.structs.replace(policy, asked={})  # of what was asked for, the first who knows it is believed
    once = any_decision(here, offers, policy, AT_ONCE)
    dice.shuffle(turned := list(offers))  # type: ignore[attr-defined]
    again = any_decision(here, turned, policy, AT_ONCE)
    assert type(once) is type(again)
    if not isinstance(once, Settled) and not isinstance(again, Settled):
        assert same_version(once.offer.version, again.offer.version)
        assert once.offer.wanted_by == again.offer.wanted_by
