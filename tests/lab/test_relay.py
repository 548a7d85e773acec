"""Which packets are lost, doubled, late: by the seed, each way by itself."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric.lab.plan import Fault
from fabric.lab.relay import chances, outcome

SHARES = st.floats(0, 1)
FAULTS = st.builds(
    Fault, delay=st.floats(0, 10), jitter=st.floats(0, 10), loss=SHARES, duplicate=SHARES, seed=st.integers()
)


def fates(fault: Fault, way: str, count: int = 200) -> list[list[float]]:
    chance = chances(fault)[way]
    assert chance is not None
    return [outcome(fault, chance) for _ in range(count)]


@given(FAULTS)
def test_the_same_seed_has_the_same_outcome(fault: Fault) -> None:
    assert fates(fault, "in") == fates(fault, "in")


@given(FAULTS)
def test_no_copy_comes_outside_the_times_asked_for(fault: Fault) -> None:
    for copies in fates(fault, "out"):
        assert len(copies) <= 2
        for late in copies:
            assert max(0.0, fault.delay - fault.jitter) <= late <= fault.delay + fault.jitter


def test_all_or_nothing() -> None:
    assert fates(Fault(loss=1.0), "in") == [[]] * 200
    assert fates(Fault(duplicate=1.0), "in") == [[0.0, 0.0]] * 200
    assert fates(Fault(delay=0.5), "in") == [[0.5]] * 200


def test_the_share_asked_for_is_lost() -> None:
    lost = sum(not copies for copies in fates(Fault(loss=0.2), "in", 10000))
    assert lost == pytest.approx(2000, abs=200)


def test_ways_and_seeds_differ() -> None:
    fault = Fault(loss=0.5)
    assert fates(fault, "in") != fates(fault, "out")
    assert fates(fault, "in") != fates(Fault(loss=0.5, seed=1), "in")


def test_losing_changes_nothing_for_what_is_left() -> None:
    """One more fault must not shuffle the others: each packet has the same draws."""
    late = fates(Fault(delay=1, jitter=1), "in")
    assert all(
        copies in ([], expected)
        for copies, expected in zip(fates(Fault(delay=1, jitter=1, loss=0.5), "in"), late, strict=True)
    )


@pytest.mark.parametrize(("direction", "ways"), [("in", {"in"}), ("out", {"out"}), ("both", {"in", "out"})])
def test_one_way_leaves_the_other(direction: str, ways: set[str]) -> None:
    made = chances(Fault(loss=1, direction=direction))  # type: ignore[arg-type]
    assert {way for way, chance in made.items() if isinstance(chance, random.Random)} == ways
