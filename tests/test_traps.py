"""docs/traps.md is true: no number is missing, and every test it names exists."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "traps.md").read_text(encoding="utf-8")
FOLDERS = {"L/": "tests/guestagent/life/", "G/": "tests/guestagent/", "W/": "tests/wire/", "F/": "tests/fabric/"}
NAMED = sorted(set(re.findall(r"`([\w/]+\.py)::(\w+)`", TEXT)))


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_each_test_that_is_named_exists(file: str, name: str) -> None:
    for short, folder in FOLDERS.items():
        if file.startswith(short):
            file = folder + file.removeprefix(short)
    assert f"def {name}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file}::{name}"


def test_no_number_is_missing() -> None:
    assert re.findall(r"^\| (T\d+) \|", TEXT, re.MULTILINE) == [f"T{number}" for number in range(1, 55)]
    survived = (ROOT / "tests/guestagent/life/test_survive.py").read_text(encoding="utf-8")
    found = {
        int(number) for name in re.findall(r"def test((?:_\d\d)+)_", survived) for number in re.findall(r"\d\d", name)
    }
    assert found == set(range(1, 32))
    stand_ins = {int(one.name[:2]) for one in (ROOT / "tests/extensions").glob("[0-9][0-9]-*")}
    assert stand_ins == set(range(1, 32))
