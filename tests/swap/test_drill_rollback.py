"""`agentctl drill rollback` with four bad builds, and with one that is good: the drill has to say so."""

import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import msgspec
import pytest
from defusedxml.ElementTree import parse
from rich.console import Console

from agentctl.drill.findings import Findings
from agentctl.drill.group.stage import Stage
from agentctl.drill.group.updates import CONFIGURATION
from agentctl.drill.progress import steps
from agentctl.drill.report import Report
from agentctl.drill.rollback.badbuilds import BUILDS, BadBuild
from agentctl.drill.rollback.drill import Choice, bad_package, choose, run
from agentctl.errors import WrongUse
from ipc.places import COMPONENTS
from release.errors import ReleaseError
from release.signing import Trust
from release.unpack import verify_package

OUTLIVED = "ignore:subprocess .* is still running:ResourceWarning"
"""A group outlives who starts it."""


@pytest.mark.timeout(420)
def test_bad_builds_are_found_out_and_taken_back(tmp_path: Path) -> None:
    names = ("lies-about-its-version", "stops-answering", "prints-without-end", "wrong-key")
    only = [word for name in names for word in ("--only", name)]
    junit = tmp_path / "junit.xml"
    command = [sys.executable, "-P", "-m", "agentctl", "drill", "rollback", "guestagent", *only, "--json"]
    done = subprocess.run([*command, "--junit", str(junit)], capture_output=True, text=True, timeout=410)
    report = msgspec.json.decode(done.stdout, type=Report)
    assert [case.problem for case in report.cases] == [""] * 4
    assert done.returncode == 0, done.stderr
    assert {case.name for case in report.cases} == {f"guestagent {name}" for name in names}
    for case in report.cases:
        tried = not case.name.endswith("wrong-key")
        assert set(case.measured) == ({"detect_s", "restore_s"} if tried else {"detect_s"})
    suite = parse(junit).getroot()
    assert suite is not None
    assert (suite.get("tests"), suite.get("failures")) == ("4", "0")
    assert "trial_seconds = 2.0" in done.stderr, "what is scaled down is said"


@pytest.mark.timeout(200)
@pytest.mark.filterwarnings(OUTLIVED)
def test_a_bad_build_that_is_good_makes_it_red() -> None:
    """So does one with another reason than the one it is there for; the next one begins as if there had been none."""
    good = BadBuild(name="good", what="nothing is wrong with it")
    lying, found = _named("lies-about-its-version"), Findings("rollback")
    other = msgspec.structs.replace(lying, reason="leaks")
    with Stage(CONFIGURATION) as stage, steps(Console(file=io.StringIO()), 3) as progress:
        run(stage, [Choice("telemetry", other), Choice("telemetry", good), Choice("telemetry", lying)], progress, found)
    assert [case.ok for case in found.cases] == [False, False, True], found.cases
    assert "without 'leaks'" in found.cases[0].problem
    assert found.cases[1].problem == "it passed its trial, and is in force"
    assert any("telemetry 1.1.2 runs" in line for line in found.cases[1].evidence)


@pytest.mark.parametrize("choice", [Choice(one.of[0], one) for one in BUILDS], ids=lambda choice: choice.name)
def test_every_bad_build_can_be_built(choice: Choice) -> None:
    """A change of its sources that no longer fits them would be found out here, and one that does not compile."""
    with Stage() as stage:
        built = bad_package(stage, choice, "1.1.1")
        with zipfile.ZipFile(built.path) as archive:
            names = set(archive.namelist())
        assert f"{choice.component}/__main__.py" in names
        if choice.build.end == "package":
            with pytest.raises(ReleaseError):
                verify_package(built.path, Trust((stage.key.public(),)))
        else:
            assert verify_package(built.path, Trust((stage.key.public(),))).digest == built.digest


def test_what_is_chosen() -> None:
    quick, everything = choose("", [], everything=False), choose("", [], everything=True)
    assert {one.component for one in quick} == {"telemetry"}
    assert set(quick) < set(everything)
    assert {one.build.name for one in everything} == {one.name for one in BUILDS}
    assert {one.component for one in everything} == set(COMPONENTS)
    assert everything[-1].component == "rdagent", "the judge comes last"
    assert {one.component for one in choose("netagent", [], everything=False)} == {"netagent"}
    assert [one.name for one in choose("rdagent", ["hangs"], everything=False)] == ["rdagent hangs"]
    with pytest.raises(WrongUse, match="there is no bad build 'nonsense'"):
        choose("", ["nonsense"], everything=False)
    with pytest.raises(WrongUse, match="--all and --only do not go together"):
        choose("", ["hangs"], everything=True)


def test_the_list_needs_no_group() -> None:
    command = [sys.executable, "-P", "-m", "agentctl", "drill", "rollback", "--list"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=30)
    assert len(done.stdout.splitlines()) == len(BUILDS)
    assert all(json.dumps(one.name)[1:-1] in done.stdout for one in BUILDS)


def _named(name: str) -> BadBuild:
    return next(one for one in BUILDS if one.name == name)
