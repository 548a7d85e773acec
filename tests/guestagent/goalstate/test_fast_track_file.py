"""fast_track.json, which other agents write and read too."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestagent import fasttrack


@given(st.integers(0, 3_155_378_975_999_999_999))
def test_a_creation_time_comes_back_to_the_microsecond(tmp_path_factory: pytest.TempPathFactory, ticks: int) -> None:
    lib = tmp_path_factory.mktemp("lib")
    fasttrack.remember(lib, ticks)
    found = fasttrack.remembered(lib)
    assert found == ticks // 10 * 10
    assert not fasttrack.is_older(ticks, found)
    assert fasttrack.is_older(ticks, found + 10)


@pytest.mark.parametrize(
    ("text", "ticks"),
    [
        ('{"timestamp": "2026-01-01T00:00:00Z"}', 639_028_224_000_000_000),
        ('{"timestamp": "2026-01-01T01:00:00+01:00"}', 639_028_224_000_000_000),
        ('{"timestamp": "2026-01-01T00:00:00.000001"}', 639_028_224_000_000_010),
        ("{", 0),
        ("[]", 0),
        ('{"timestamp": 7}', 0),
        ('{"timestamp": "yesterday"}', 0),
        ("{}", 0),
    ],
)
def test_what_others_wrote_is_read_and_what_nobody_can_read_still_says_that_there_was_support(
    tmp_path: Path, text: str, ticks: int
) -> None:
    assert fasttrack.remembered(tmp_path) is None
    (tmp_path / "fast_track.json").write_text(text)
    assert fasttrack.remembered(tmp_path) == ticks
    fasttrack.forget(tmp_path)
    assert fasttrack.remembered(tmp_path) is None
