"""What the operator said, and what a clock that jumps makes of it."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdagent.update.policy import (
    Hold,
    Policy,
    abort_rest,
    ask,
    expire,
    forget,
    go_on,
    held,
    hold,
    pin,
    release,
    stopped_by,
    unpin,
)
from tests.rdagent.update import situations
from tests.rdagent.update.situations import NOW, offer

EMPTY = Policy()


def test_each_word_can_be_taken_back() -> None:
    assert pin(EMPTY, "telemetry", "0.2.0").pins == {"telemetry": "0.2.0"}
    assert unpin(pin(EMPTY, "telemetry", "0.2.0"), "telemetry") == EMPTY
    assert release(hold(EMPTY, "", NOW), "") == EMPTY
    assert forget(ask(EMPTY, "telemetry"), "telemetry") == EMPTY
    assert unpin(release(forget(EMPTY, "telemetry"), "netagent"), "rdagent") == EMPTY


@pytest.mark.parametrize("junk", ["", "1", "latest", "1.0-rc1", "1.0.0.0.0"])
def test_a_pin_names_a_version(junk: str) -> None:
    with pytest.raises(ValueError, match="is no version: write two to four numbers"):
        pin(EMPTY, "telemetry", junk)
    if junk:
        with pytest.raises(ValueError, match="is no version"):
            ask(EMPTY, "telemetry", junk)


def test_the_hold_on_all_and_that_on_one_are_apart() -> None:
    both = hold(hold(EMPTY, "", NOW, NOW + 60), "telemetry", NOW)
    assert held(both, "telemetry", NOW) == Hold(NOW)
    assert held(both, "netagent", NOW) == Hold(NOW, NOW + 60)
    assert held(release(both, "telemetry"), "telemetry", NOW) == Hold(NOW, NOW + 60)
    assert held(release(both, ""), "netagent", NOW) is None


def test_a_hold_ends_by_itself() -> None:
    policy = hold(EMPTY, "telemetry", NOW, NOW + 60)
    assert expire(policy, NOW + 59.9) is policy
    assert expire(policy, NOW + 60) == EMPTY
    assert held(policy, "telemetry", NOW + 60) is None
    assert expire(hold(EMPTY, "", NOW), 4.1e9) == hold(EMPTY, "", NOW)


def test_a_clock_set_forward_ends_a_hold() -> None:
    """And when it comes back, what is over is over."""
    policy = hold(EMPTY, "", NOW, NOW + 60)
    assert expire(expire(policy, 4.1e9), NOW) == EMPTY


def test_a_clock_set_back_does_not_make_a_hold_longer() -> None:
    """Made for an hour in 2099; then the clock is put right."""
    policy = hold(EMPTY, "", 4.1e9, 4.1e9 + 3600)
    right = expire(policy, NOW)
    assert right.holds == {"": Hold(NOW, NOW + 3600)}
    assert expire(right, NOW + 3600) == EMPTY


def test_what_was_to_end_before_it_began_is_over() -> None:
    """`--until` in the past, or a record of a clock at 1970."""
    assert expire(hold(EMPTY, "", NOW, 60.0), NOW) == EMPTY
    assert expire(hold(EMPTY, "", 4.1e9, 60.0), NOW) == EMPTY


@given(situations.policies, st.lists(situations.times, max_size=4))
def test_a_policy_survives_being_written_and_what_expires_stays_so(policy: Policy, clock: list[float]) -> None:
    assert msgspec.json.decode(msgspec.json.encode(policy), type=Policy) == policy
    for now in clock:
        policy = expire(policy, now)
        assert expire(policy, now) is policy
        for one in policy.holds.values():
            assert one.until is None or one.since <= now < one.until


@given(situations.holds, st.floats(0, 4e9), st.floats(0, 4e9))
def test_no_clock_makes_a_hold_last_longer_than_it_was_meant(one: Hold, first: float, second: float) -> None:
    before = Policy(holds={"": one})
    right = expire(expire(before, first), second).holds.get("")
    if one.until is not None and right is not None and right.until is not None:
        assert right.until - right.since <= (one.until - one.since) * (1 + 1e-9) + 1e-6
        assert right.until - second <= one.until - one.since + 1e-6


def test_a_stopped_release() -> None:
    release_of_two = [offer("0.2.0"), offer("0.2.0", component="netagent"), offer("0.3.0", "host"), offer("junk")]
    policy = abort_rest(EMPTY, release_of_two[0], "hangs", release_of_two)
    assert policy.stopped is not None
    assert policy.stopped.rest == {"telemetry": "0.2.0", "netagent": "0.2.0"}
    assert stopped_by(policy, offer("0.2.0", component="netagent"), release_of_two) == policy.stopped
    assert stopped_by(policy, offer("0.1.9"), release_of_two) == policy.stopped
    assert stopped_by(policy, offer("0.2"), release_of_two) == policy.stopped
    assert stopped_by(policy, offer("0.2.1"), release_of_two) is None
    assert stopped_by(policy, offer("0.2.0", component="guestagent"), release_of_two) is None
    assert stopped_by(policy, offer("0.2.0", "host"), release_of_two) is None
    another = [*release_of_two, offer("0.4.0", component="netagent"), offer("0.4.0", "host"), offer("0.2.0.0")]
    assert stopped_by(policy, offer("0.2.0", component="netagent"), another) == policy.stopped
    mended = [*release_of_two, offer("0.2.1")]
    assert stopped_by(policy, offer("0.2.0", component="netagent"), mended) is None
    assert stopped_by(go_on(policy), offer("0.2.0"), release_of_two) is None
