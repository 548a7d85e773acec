"""The window, and each machine's own time."""

import datetime
import statistics

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rdagent.update.jitter import jitter
from rdagent.update.window import DAYS, WindowError, next_open, parse
from rdagent.update.words import moment, one_line


def at(text: str) -> float:
    return datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.UTC).timestamp()


def opens(window: str, now: str) -> str:
    return moment(next_open(parse(window), at(now)))


@pytest.mark.parametrize(
    ("window", "now", "expected"),
    [
        ("", "2026-11-25 13:00:01", "2026-11-25 13:00:01Z"),  # a Wednesday
        ("22:00-04:00", "2026-11-25 13:00", "2026-11-25 22:00:00Z"),
        ("22:00-04:00", "2026-11-25 22:00", "2026-11-25 22:00:00Z"),
        ("22:00-04:00", "2026-11-26 03:59:59", "2026-11-26 03:59:59Z"),
        ("22:00-04:00", "2026-11-26 04:00", "2026-11-26 22:00:00Z"),
        ("Sat,Sun 22:00-04:00", "2026-11-25 23:00", "2026-11-28 22:00:00Z"),
        ("Sat,Sun 22:00-04:00", "2026-11-30 03:00", "2026-11-30 03:00:00Z"),  # Monday, still Sunday's
        ("Sat,Sun 22:00-04:00", "2026-11-28 03:00", "2026-11-28 22:00:00Z"),  # Saturday, but Friday's is none
        ("Sun 22:00-04:00", "2026-11-30 04:00", "2026-12-06 22:00:00Z"),
        (" sat 10:00 - 11:00 ; WED 12:00-13:00", "2026-11-25 12:30", "2026-11-25 12:30:00Z"),
        ("Sat 10:00-11:00;Wed 12:00-13:00", "2026-11-25 13:00", "2026-11-28 10:00:00Z"),
        ("Wed 00:00-24:00", "2026-11-25 23:59:59", "2026-11-25 23:59:59Z"),
        ("Wed 00:00-24:00", "2026-11-26 00:00", "2026-12-02 00:00:00Z"),
        ("22:00-04:00", "1970-01-01 00:00", "1970-01-01 00:00:00Z"),
        ("Fri 22:00-23:00", "1970-01-01 00:00", "1970-01-02 22:00:00Z"),
    ],
)
def test_when_it_opens(window: str, now: str, expected: str) -> None:
    assert opens(window, now) == expected


@pytest.mark.parametrize(
    ("window", "complaint"),
    [
        ("always", "window: 'always' is not days and a span of time; write e.g. 'Sat,Sun 22:00-04:00' (UTC)"),
        ("22:00-04:00;", "window: '' is not days and a span"),
        ("Sat, Sun 22:00-04:00", "'Sat, Sun 22:00-04:00' is not days"),
        ("Sat,Caturday 22:00-04:00", "names no day by 'Caturday': known are Mon, Tue"),
        (",Sat 22:00-04:00", "names no day by ''"),
        ("25:00-04:00", "has 25:00, which is no time of day"),
        ("22:60-04:00", "has 22:60, which is no time of day"),
        ("22:00-24:01", "has 24:01, which is no time of day"),
        ("24:00-04:00", "begins at 24:00"),
        ("22:00-22:00", "ends where it begins"),
        ("\u0662\u0662:00-04:00", "is not days and a span"),
        ("Sat 22:00-04:00 UTC", "is not days and a span"),
    ],
)
def test_what_is_no_window_says_which_part_and_why(window: str, complaint: str) -> None:
    with pytest.raises(WindowError) as caught:
        parse(window)
    assert complaint in str(caught.value)


days = st.lists(st.sampled_from(DAYS), max_size=3).map(",".join)
clocks = st.tuples(st.integers(0, 23), st.integers(0, 59)).map(lambda one: f"{one[0]:02}:{one[1]:02}")
spans = st.tuples(days, clocks, clocks).filter(lambda one: one[1] != one[2])


def is_open(span: tuple[str, str, str], now: datetime.datetime) -> bool:
    """The same, said in another way: by the calendar."""
    names, begin, end = span
    clock, today = f"{now:%H:%M}", f"{now:%a}"
    yesterday = f"{now - datetime.timedelta(days=1):%a}"
    listed = names.split(",") if names else list(DAYS)
    if begin < end:
        return today in listed and begin <= clock < end
    return (today in listed and clock >= begin) or (yesterday in listed and clock < end)


@given(st.lists(spans, min_size=1, max_size=3), st.integers(-10, 4_100_000_000))
def test_it_opens_at_the_first_minute_at_which_it_is_open(found: list[tuple[str, str, str]], now: int) -> None:
    window = parse("; ".join(f"{names} {begin}-{end}".strip() for names, begin, end in found))
    then = next_open(window, float(now))
    assert now <= then < now + 7 * 86400
    assert next_open(window, then) == then
    moment = datetime.datetime.fromtimestamp(now, datetime.UTC)
    opening = datetime.datetime.fromtimestamp(then, datetime.UTC)
    assert any(is_open(span, opening) for span in found)
    while moment < opening:
        assert not any(is_open(span, moment) for span in found)
        moment = moment.replace(second=0) + datetime.timedelta(minutes=1)


@given(st.text(max_size=40) | st.text("0123456789:-; ,SatMon", max_size=30))
@example("99:99-99:99")
def test_any_text_is_a_window_or_a_window_error(text: str) -> None:
    try:
        window = parse(text)
    except WindowError as error:
        assert str(error).startswith("window: ")
    else:
        assert 0 <= next_open(window, 1e9) - 1e9 < 7 * 86400


@given(st.text(max_size=20), st.text(max_size=20), st.text(max_size=20), st.floats())
def test_jitter_is_below_its_limit_and_the_same_each_time(machine: str, name: str, version: str, limit: float) -> None:
    waits = jitter(machine, name, version, limit)
    assert waits == jitter(machine, name, version, limit)
    assert 0 <= waits <= limit or waits == 0


def test_jitter_spreads_a_fleet_and_no_machine_is_always_the_first() -> None:
    fleet = [jitter(f"vm{number}", "telemetry", "0.2.0", 100.0) for number in range(1000)]
    by_tenth = [sum(one // 10 == tenth for one in fleet) for tenth in range(10)]
    assert min(by_tenth) > 60
    own = [jitter("vm1", "telemetry", f"0.{number}.0", 100.0) for number in range(200)]
    assert 40 < statistics.mean(own) < 60
    assert jitter("a", "bc", "1", 100.0) != jitter("ab", "c", "1", 100.0)


@given(st.text(max_size=500), st.integers(4, 300))
def test_what_others_wrote_fits_into_a_line(text: str, limit: int) -> None:
    line = one_line(text, limit)
    assert len(line) <= limit
    assert line.isprintable()
    assert one_line(line, limit) == line


def test_words_of_others_are_kept_where_they_fit() -> None:
    assert one_line("cannot write:\n\tdisk\0full ") == "cannot write: disk full"
    assert one_line("x" * 400) == "x" * 297 + "..."


def test_a_number_that_is_no_date() -> None:
    assert moment(1e20) == "1e+20"
    assert moment(float("nan")) == "nan"
