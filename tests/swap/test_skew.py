"""`agentctl drill skew`, whole; and one release that breaks the contract, noticed by it."""

import io
import itertools
import lzma
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest
from defusedxml.ElementTree import parse
from rich.console import Console

from agentctl import __version__
from agentctl.drill.group.contract import Expected, reads
from agentctl.drill.group.stage import Stage
from agentctl.drill.progress import steps
from agentctl.drill.report import Case, Report
from agentctl.drill.skew.drill import CELLS, CONFIGURATION, Releases, combinations, for_this_base, grids, plan
from agentctl.drill.skew.walk import Cell, Walk
from agentctl.drill.variants import (
    Change,
    Variant,
    appended,
    begun_with,
    changed,
    checkout,
    released,
    replaced,
    variant,
)
from agentctl.errors import CommandError
from agentctl.processes import process, wait_until, with_environment
from ipc.contract import REQUESTS
from ipc.contract.every import Describe, Health
from ipc.contract.guestagent import CancelRun, RetryExtension, RunScript
from ipc.contract.netagent import RepairNetwork, SwitchNetwork
from ipc.contract.rdagent import HoldUpdates, ImportBundle, PinVersion, RollBack, UnblockVersion, UpdateNow
from ipc.contract.telemetry import Record
from ipc.message import Request
from ipc.places import COMPONENTS

OUTLIVED = "ignore:subprocess .* is still running:ResourceWarning"
"""A group outlives who starts it."""
RELEASED = Path(__file__).parents[2] / "packaging" / "released"
# The suite asks these in its own way, or they change something.
OTHERS: set[type[Request[Any]]] = {
    Describe, Health, Record, RunScript, CancelRun, RetryExtension, RepairNetwork, SwitchNetwork, UpdateNow, PinVersion,
    HoldUpdates, UnblockVersion, RollBack, ImportBundle,
}  # fmt: skip


def named(name: str) -> Variant:
    return Variant(name=name, version="1.0", source=Path(), packages={})


RELEASES = Releases(
    older=named("old"), own=named("own"), newer=named("N+1"), newer_keys=named("N+1 keys"), foreign=named("foreign")
)


@pytest.mark.timeout(400)
def test_every_combination_is_well(tmp_path: Path) -> None:
    files = ["--junit", str(tmp_path / "junit.xml"), "--html", str(tmp_path / "map.html")]
    command = [sys.executable, "-P", "-m", "agentctl", "drill", "skew", "--json", *files]
    done = subprocess.run(command, capture_output=True, text=True, timeout=390)
    assert done.returncode == 0, done.stdout + done.stderr
    report = msgspec.json.decode(done.stdout, type=Report)
    assert [case.problem for case in report.cases] == [""] * 25
    assert {name for grid in report.grids for row in grid.cells for name in row} == {one.name for one in report.cases}
    suite = parse(tmp_path / "junit.xml").getroot()
    assert suite is not None
    assert (suite.get("tests"), suite.get("failures")) == ("25", "0")
    assert "class=bad" not in (tmp_path / "map.html").read_text()
    assert len(re.findall(r"(?m)^\[\d+/25\] .*: well$", done.stderr)) == 25, "each step is told of while it happens"


def test_interrupted_it_takes_everything_away_and_tells_what_it_found(root: Path, tmp_path: Path) -> None:
    files = [f"--junit={tmp_path / 'junit.xml'}", f"--html={tmp_path / 'map.html'}"]
    command = [sys.executable, "-P", "-m", "agentctl", "drill", "skew", "--json", *files]
    child = subprocess.Popen(
        command,
        env={**os.environ, "TMPDIR": str(root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert child.stderr is not None
        while (line := child.stderr.readline()) and not line.startswith("[1/25]"):
            pass
        (stage,) = root.glob("azvmagent-drill.*")
        supervisord = process(int((stage / "run" / "supervisord.pid").read_text()))
        assert supervisord is not None
        child.terminate()
        # It has begun to take things away: who is impatient now must not make it leave the rest.
        assert wait_until(lambda: not supervisord.alive(), 60.0)
        child.terminate()
        out, _ = child.communicate(timeout=60)
        assert child.returncode == 1
    finally:
        child.kill()
        child.communicate()
    assert not with_environment("AZVMAGENT_ROOT", str(stage))
    assert list(root.iterdir()) == []
    report = msgspec.json.decode(out, type=Report)
    assert re.match(r"interrupted after \d of 25 steps", report.unfinished)
    assert [case.problem for case in report.cases] == [""] * len(report.cases)
    assert report.cases
    suite = parse(tmp_path / "junit.xml").getroot()
    assert suite is not None
    assert (suite.get("tests"), suite.get("errors")) == (str(len(report.cases) + 1), "1")
    assert "Not to its end: interrupted" in (tmp_path / "map.html").read_text()


def test_a_folder_too_deep_for_sockets_is_refused_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = tmp_path / ("d" * 90)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with pytest.raises(CommandError, match="set TMPDIR to a shorter path"):
        Stage()
    assert list(deep.iterdir()) == []


@pytest.mark.timeout(300)
@pytest.mark.filterwarnings(OUTLIVED)
def test_a_release_that_breaks_the_contract_is_noticed() -> None:
    """Its telemetry asks for more than the others say; the combination after that is well again."""
    mutation = {
        "ipc/contract/telemetry.py": replaced(
            r"^(class Record\((?s:.*?)    entries: list.*\n)", r"\1    reason: str\n"
        ),
        "ipc/record.py": replaced(r"Record\(entries=batch\)", 'Record(entries=batch, reason="any")'),
    }
    with Stage(CONFIGURATION) as stage:
        out = stage.root / "packages"
        version, source = released(stage.root / "older")
        older = variant(version, for_this_base(source), version, out, stage.key)
        mutated = checkout(stage.root / "mutated", mutation)
        mutant = variant("mutant", mutated, __version__, out, stage.key, ["telemetry"])
        sound = dict.fromkeys(COMPONENTS, older)
        cells = [Cell(kind="combination", chosen=chosen) for chosen in (sound, {**sound, "telemetry": mutant}, sound)]
        before, broken, after = walk(stage, cells)
    assert (before.problem, after.problem) == ("", "")
    assert broken.problem.startswith("telemetry: "), broken
    assert "bad frame from" in broken.problem
    assert any("bad frame from" in line and "required field `reason`" in line for line in broken.evidence), broken


@pytest.mark.timeout(300)
@pytest.mark.filterwarnings(OUTLIVED)
def test_an_event_that_the_last_release_cannot_read_is_noticed_in_each_combination() -> None:
    """It is said only when a goal state arrives: one has to arrive in each."""
    said = replaced(r"GoalStateArrived\(goal_state=.*\)\)$", "GoalStateArrived(goal_state=1))")
    with Stage(CONFIGURATION) as stage:
        out = stage.root / "packages"
        version, source = released(stage.root / "older")
        older = variant("older", for_this_base(source), version, out, stage.key)
        sound = own(stage, "sound", "1.0.0", ["telemetry"])
        mutated = checkout(stage.root / "mutated", {"guestagent/__main__.py": said})
        mutant = variant("mutant", mutated, __version__, out, stage.key, ["guestagent"])
        everybody = dict.fromkeys(COMPONENTS, older)
        with_mutant = {**everybody, "guestagent": mutant}
        rows = [everybody, with_mutant, {**with_mutant, "telemetry": sound}, everybody]
        found = walk(stage, [Cell(kind="combination", chosen=one) for one in rows])
    assert [case.ok for case in found] == [True, False, False, True], found
    for case in found[1:3]:
        assert re.match(r"(rdagent|netagent): .*bad frame from", case.problem), case


LAST_WORDS = """
from ipc import ending

end = ending.end_process
ending.end_process = lambda status: print({words!r}, flush=True) or end(status)
"""


@pytest.mark.timeout(300)
@pytest.mark.filterwarnings(OUTLIVED)
def test_last_words_are_those_of_the_combination_they_were_said_in() -> None:
    """A telemetry that ends with a complaint makes its own combination red, also the last of all; one that says
    farewell none.
    """
    with Stage(CONFIGURATION) as stage:
        sound = own(stage, "sound", "1.0.0", COMPONENTS)
        friendly = own(stage, "friendly", "1.0.1", ["telemetry"], begun_with(LAST_WORDS.format(words="farewell")))
        angry = own(stage, "angry", "1.0.2", ["telemetry"], begun_with(LAST_WORDS.format(words="CRITICAL all is lost")))
        chosen = dict.fromkeys(COMPONENTS, sound)
        badly = {**chosen, "telemetry": angry}
        rows = [chosen, {**chosen, "telemetry": friendly}, badly, chosen, badly]
        found = walk(stage, [Cell(kind="combination", chosen=one) for one in rows])
    complaint = "telemetry: CRITICAL all is lost"
    assert [case.problem for case in found] == ["", "", complaint, "", complaint]
    assert complaint in found[2].evidence
    assert complaint in found[4].evidence


def walk(stage: Stage, cells: list[Cell]) -> list[Case]:
    cases: list[Case] = []
    with steps(Console(file=io.StringIO()), len(cells)) as progress:
        Walk(stage, cases, progress).through(cells)
    return cases


def own(stage: Stage, name: str, version: str, components: Iterable[str], change: Change | None = None) -> Variant:
    """This checkout, its telemetry changed."""
    source = checkout(stage.root / name, {"telemetry/__main__.py": change} if change else {})
    return variant(name, source, version, stage.root / "packages", stage.key, components)


def test_each_combination_is_one_swap_away_from_the_one_before() -> None:
    cells = combinations(RELEASES.own, RELEASES.older)
    assert len({cell.name for cell in cells}) == 16
    assert {one.name for one in cells[0].chosen.values()} == {"own"}
    for cell, after in itertools.pairwise(cells):
        assert sum(cell.chosen[name] != after.chosen[name] for name in COMPONENTS) == 1


def test_the_heat_maps_show_every_cell_once_at_its_place() -> None:
    cells = plan(RELEASES)
    assert len(cells) == CELLS
    shown = grids(RELEASES, cells)
    names = [name for grid in shown for row in grid.cells for name in row]
    assert sorted(names) == sorted(cell.name for cell in cells)
    sixteen = shown[0]
    at = sixteen.cells[sixteen.rows.index("rdagent own\nguestagent old")]
    assert (
        at[sixteen.columns.index("netagent old\ntelemetry own")]
        == "rdagent=own guestagent=old netagent=old telemetry=own"
    )


def test_the_suite_asks_all_that_the_contract_knows() -> None:
    asked = {type(request) for request in reads(Expected(versions={}, extension="x", mark="y", folder=Path()))}
    assert asked | OTHERS == set(REQUESTS.values())
    assert not asked & OTHERS


def test_released_sources_are_what_their_page_says() -> None:
    page = (RELEASED / "README.md").read_text()
    archives = sorted(RELEASED.glob("*.tar.xz"))
    assert archives
    for path in archives:
        packed = path.read_bytes()
        line = next(line for line in page.splitlines() if f"`{path.name}`" in line)
        assert sha256(packed).hexdigest() in line
        assert sha256(lzma.decompress(packed)).hexdigest() in line


def test_a_change_that_no_longer_fits_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="ipc/frame.py is no longer as the drill expects it"):
        checkout(tmp_path / "one", {"ipc/frame.py": replaced("no such line", "")})
    tree = changed(released(tmp_path / "two")[1], {"ipc/new.py": appended("WORD = 1")})
    assert (tree / "ipc" / "new.py").read_text().strip() == "WORD = 1"
