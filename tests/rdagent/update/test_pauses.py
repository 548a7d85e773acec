"""How often a source is asked that does not answer."""

import asyncio
import itertools

from hypothesis import given
from hypothesis import strategies as st

from rdagent.update.pauses import Clock, Pauses

WEEK = 7 * 86400.0


@given(st.floats(0.1, 86400.0), st.lists(st.floats(0, 1, exclude_max=True), min_size=1, max_size=60))
def test_pauses_grow_to_the_longest_and_are_shortened_by_a_quarter_at_most(longest: float, shares: list[float]) -> None:
    drawn = iter(shares)
    pauses = Pauses(longest, share=lambda: next(drawn))
    whole = min(5.0, longest)
    for _ in shares:
        assert 0.75 * whole <= pauses.next() <= whole
        whole = min(2 * whole, longest)


def test_two_machines_do_not_stay_in_step() -> None:
    one, other = Pauses(3600.0), Pauses(3600.0)
    assert abs(sum(one.next() for _ in range(20)) - sum(other.next() for _ in range(20))) > 0.01


def test_a_week_of_silence_is_asked_about_once_an_hour() -> None:
    pauses = Pauses(3600.0)
    asked = list(itertools.takewhile(lambda at: at < WEEK, itertools.accumulate(pauses.next() for _ in range(1000))))
    assert 168 <= len(asked) <= 240


def test_who_answered_is_asked_again_soon_after_the_next_failure() -> None:
    pauses = Pauses(3600.0)
    for _ in range(20):
        pauses.next()
    pauses.reset()
    assert pauses.next() <= 5.0


def test_a_wait_ends_by_its_time_or_when_it_is_woken() -> None:
    async def story() -> None:
        clock, wake = Clock(), asyncio.Event()
        began = clock.monotonic()
        await clock.wait(wake, 0.05)
        assert clock.monotonic() - began >= 0.05
        asyncio.get_running_loop().call_later(0.05, wake.set)
        async with asyncio.timeout(30):
            await clock.wait(wake, 3600.0)

    asyncio.run(story())
