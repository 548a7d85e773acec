"""docs/traps.md: a line for each trap, and each line names tests that exist, or says why there is none."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "traps.md"
ROW = re.compile(r"\| ([TBF]\d+) \| ([^|]+) \| ([^|]+) \|")
TEST = re.compile(r"`([^`]+)::([^`]+)`")
ALL = {"T": 54, "B": 31, "F": 12}


def rows() -> list[tuple[str, str]]:
    """Number, and what stands in the last column."""
    found = []
    for line in PAGE.read_text().splitlines():
        if line.startswith("|") and not line.startswith(("| |", "|---")):
            match = ROW.fullmatch(line)
            assert match, line
            found.append((match[1], match[3]))
    return found


def test_no_trap_is_missing() -> None:
    assert [number for number, _ in rows()] == [f"{kind}{n + 1}" for kind, count in ALL.items() for n in range(count)]


def test_each_has_a_test_that_exists_or_a_reason() -> None:
    for number, told in rows():
        tests = TEST.findall(told)
        assert tests or re.match(r"none: \w.{10,}", told), f"{number} has neither a test nor a reason"
        for path, name in tests:
            there = re.search(rf"^(async )?def {name}\(", (ROOT / path).read_text(), re.MULTILINE)
            assert there, f"{number}: {path} has no {name}"


def test_each_stand_in_is_used() -> None:
    numbers = {int(path.name[:2]) for path in (ROOT / "tests" / "extensions").iterdir() if path.is_dir()}
    assert numbers >= set(range(1, ALL["B"] + 1))


def test_who_writes_tests_is_sent_to_the_page() -> None:
    assert "(traps.md)" in (ROOT / "docs" / "contributing.md").read_text()
