"""Times that an operator writes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentctl.moments import moment, shown, span


def test_lengths() -> None:
    assert [span(text) for text in ("90s", "30m", "2h", "1d12h")] == [90, 1800, 7200, 129600]
    for text in ("", "2", "h", "-2h", "2 h", "2w", "0s", "1.5h", "999999999d", "٢h"):
        with pytest.raises(ValueError, match="30m|possible"):
            span(text)


def test_moments() -> None:
    assert moment("2026-11-30 22:00") == moment("2026-11-30T22:00:00Z") == moment("2026-11-30 23:00+01:00")
    assert shown(moment("2026-11-30 22:00")) == "2026-11-30 22:00:00Z"
    for text in ("", "tomorrow", "22:00", "2026-13-01", "9999999999"):
        with pytest.raises(ValueError, match="is no time"):
            moment(text)


@given(st.text(max_size=30))
def test_any_text_is_a_time_or_refused(text: str) -> None:
    for read in (span, moment):
        try:
            assert shown(read(text))
        except ValueError as error:
            assert "\n" not in str(error)


@given(st.floats())
def test_any_number_can_be_shown(at: float) -> None:
    assert shown(at)
