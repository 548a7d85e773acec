"""A fight ends, a burst is slowed down, and both by a clock that is turned by hand."""

from hypothesis import given
from hypothesis import strategies as st

from netagent.restraint import BURST, BURST_WINDOW, FIRST_PAUSE, LONGEST_PAUSE, TIMES, WINDOW, Restraint

ROUTE = "add route 168.63.129.16/32"


def repaired(restraint: Restraint, now: float, what: str = ROUTE) -> bool:
    may = restraint.may(what, now)
    if may:
        restraint.made(what, now)
    return may


def test_a_fight_is_left_after_so_many_times_and_each_pause_is_longer() -> None:
    restraint, now = Restraint(), 1000.0
    for length in (FIRST_PAUSE, FIRST_PAUSE * 2, FIRST_PAUSE * 4, LONGEST_PAUSE, LONGEST_PAUSE):
        for _ in range(TIMES):
            assert repaired(restraint, now)
            now += 1.0
        assert not repaired(restraint, now)
        (pause,) = restraint.pauses(now).values()
        assert pause.until == now + length
        assert f"{TIMES} times in {TIMES} s" in pause.why
        assert restraint.next_end(now) == pause.until
        assert not repaired(restraint, pause.until - 0.1)
        now = pause.until
    assert restraint.pauses(now) == {}


def test_after_a_long_time_of_peace_the_pause_is_short_again() -> None:
    restraint, now = Restraint(), 0.0
    for _ in range(TIMES):
        repaired(restraint, now)
    assert not repaired(restraint, now)
    now += FIRST_PAUSE
    assert repaired(restraint, now)
    now += LONGEST_PAUSE + 1
    for _ in range(TIMES):
        assert repaired(restraint, now)
    assert not repaired(restraint, now)
    assert next(iter(restraint.pauses(now).values())).until == now + FIRST_PAUSE


def test_what_is_repaired_now_and_then_is_no_fight() -> None:
    restraint = Restraint()
    for number in range(1000):
        assert repaired(restraint, number * (WINDOW / TIMES + 0.1))


def test_one_fight_does_not_hold_up_the_rest_and_a_person_may_end_it() -> None:
    restraint = Restraint()
    for _ in range(TIMES + 1):
        repaired(restraint, 0.0)
    assert not repaired(restraint, 0.0)
    assert repaired(restraint, 0.0, "something else")
    restraint.forget()
    assert repaired(restraint, 0.0)


def test_what_went_with_its_link_was_undone_by_nobody() -> None:
    restraint = Restraint()
    mine, other = "add route default via 10.0.0.1 dev eth0", "add route default via 10.1.0.1 dev eth1"
    for _ in range(3 * TIMES):
        restraint.excuse("eth0")
        assert repaired(restraint, 0.0, mine)
    for _ in range(TIMES):
        restraint.excuse("eth0")
        assert repaired(restraint, 0.0, other)
    assert not repaired(restraint, 0.0, other)


def test_after_a_burst_it_is_known_when_it_goes_on() -> None:
    restraint = Restraint()
    for number in range(BURST):
        assert repaired(restraint, 5.0, str(number))
    assert restraint.next_end(5.0) is None
    assert not repaired(restraint, 6.0, "one more")
    assert restraint.next_end(6.0) == 5.0 + BURST_WINDOW
    assert restraint.rests(6.0) == BURST_WINDOW - 1.0
    assert repaired(restraint, 5.0 + BURST_WINDOW, "one more")
    assert restraint.rests(5.0 + BURST_WINDOW) == 0.0


@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.floats(0, 3)), max_size=400))
def test_never_more_than_a_burst_within_its_window(tries: list[tuple[str, float]]) -> None:
    restraint, now, made = Restraint(), 0.0, []
    for what, pause in tries:
        now += pause
        if repaired(restraint, now, what):
            made.append((now, what))
        assert len([at for at, _ in made if now - at < BURST_WINDOW]) <= BURST
        assert len([at for at, one in made if one == what and now - at < WINDOW]) <= TIMES
