"""Back by hand, but not to a version that cannot read what the current one wrote."""

from pathlib import Path

import pytest

from release.errors import Unfit
from release.floor import check_step_back
from release.record import Bad, Chosen, Record
from tests.release.product import NAME, Installed, checkout, chosen, probe


@pytest.fixture
def installed(tmp_path: Path) -> Installed:
    return Installed(tmp_path / "root")


def in_force(installed: Installed, folder: Path, floor: str) -> Chosen:
    built = probe(folder, "1.0.0", floor=floor)
    installed.put(built)
    return chosen(built)


def test_not_below_the_floor(installed: Installed, tmp_path: Path) -> None:
    current = in_force(installed, tmp_path, "1.0.0")
    before = Chosen("0.9.9", "9" * 64)
    with pytest.raises(Unfit, match=f"{NAME} 0.9.9 is below 1.0.0, the floor of {NAME} 1.0.0"):
        check_step_back(installed.root, None, Record(component=NAME, current=current, previous=before))
    for free in (Chosen("1.0", "9" * 64), Chosen("1.0.1", "9" * 64)):
        check_step_back(installed.root, None, Record(component=NAME, current=current, previous=free))


@pytest.mark.parametrize("why", ["none before", "the one before is bad"])
def test_the_base_install_is_a_version_too(installed: Installed, tmp_path: Path, why: str) -> None:
    current, before = in_force(installed, tmp_path, "0.9.0"), Chosen("0.9.9", "9" * 64)
    record = Record(component=NAME, current=current)
    if why == "the one before is bad":
        record = Record(component=NAME, current=current, previous=before, bad={before.key: Bad("hangs")})
    base = checkout(tmp_path / "base", "0.2.0")
    with pytest.raises(Unfit, match=f"{NAME} 0.2.0, the base install, is below 0.9.0"):
        check_step_back(installed.root, base, record)
    check_step_back(installed.root, checkout(tmp_path / "newer", "0.9.0"), record)
    check_step_back(installed.root, None, record)


def test_a_version_that_cannot_be_read_is_left(installed: Installed, tmp_path: Path) -> None:
    current = in_force(installed, tmp_path, "1.0.0")
    (installed.tree("1.0.0") / ".manifest").write_text("junk")
    record = Record(component=NAME, current=current, previous=Chosen("0.9.9", "9" * 64))
    check_step_back(installed.root, checkout(tmp_path / "base", "0.2.0"), record)
