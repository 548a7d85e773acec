"""docs/catalogue.md: a line for each drill, and each line names tests that exist, or says why there is none."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "catalogue.md"
ROW = re.compile(r"\| (\d+) \| ([^|]+) \| ([^|]+) \|")
TEST = re.compile(r"`([^`]+)::([^`]+)`")
TESTED = {12, 17, 30, 34, 36, 40, *range(49, 63)}
"""Where every other agent fails: a reason will not do."""


def rows() -> dict[int, str]:
    """What stands in the last column, by number."""
    lines = [line for line in PAGE.read_text().splitlines() if re.match(r"\| \d", line)]
    found = {}
    for line in lines:
        match = ROW.fullmatch(line)
        assert match, line
        found[int(match[1])] = match[3]
    assert len(found) == len(lines)
    return found


def test_no_drill_is_missing() -> None:
    assert sorted(rows()) == list(range(1, 71))


def test_each_has_a_test_that_exists_or_a_reason() -> None:
    for number, told in rows().items():
        tests = TEST.findall(told)
        assert tests or (number not in TESTED and re.match(r"none: \w.{10,}", told)), number
        for path, name in tests:
            there = re.search(rf"^(async )?def {name}\(", (ROOT / path).read_text(), re.MULTILINE)
            assert there, f"{number}: {path} has no {name}"
