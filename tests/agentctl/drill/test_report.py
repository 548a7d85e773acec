"""What a drill found, in the forms people and machines read; hostile words stay words."""

import io
from pathlib import Path

import msgspec
import pytest
from defusedxml.ElementTree import parse
from rich.console import Console

from agentctl.drill.findings import Findings
from agentctl.drill.progress import Steps, steps
from agentctl.drill.report import Case, Grid, Report, text, write_html, write_json, write_junit
from agentctl.errors import CommandError
from ipc.supervisord import SupervisordError

EVIL = "<script>alert(1)</script> [bold]]]> \x00\x1b[31m \udcff & 'x'"
REPORT = Report(
    drill="skew",
    began=1790000000.0,
    seconds=12.0,
    cases=[
        Case(name="good", kind="combination", ok=True, seconds=1.5, measured={"gap s": 0.12}),
        Case(name="bad", kind="combination", ok=False, problem=EVIL, seconds=2.5, evidence=[EVIL, "second line"]),
    ],
    grids=[Grid(title="map", corner="row, column", rows=["r"], columns=["c", "d", "e"], cells=[["good", "bad", "no"]])],
    facts={"versions": EVIL},
)


def printed(report: Report) -> str:
    console = Console(width=200, file=io.StringIO(), record=True)
    console.print(text(report))
    return console.export_text()


def test_text_names_what_is_wrong_and_what_was_not_run() -> None:
    shown = printed(REPORT)
    assert "1 of 2 well" in shown
    assert "not run" in shown
    assert "second line" in shown
    assert "[bold]" in shown


def test_without_a_heat_map_the_figures_are_a_table() -> None:
    shown = printed(msgspec.structs.replace(REPORT, grids=[]))
    assert "GAP S" in shown
    assert "0.12" in shown


def test_junit_is_xml_with_a_failure(tmp_path: Path) -> None:
    write_junit(REPORT, tmp_path / "junit.xml")
    suite = parse(tmp_path / "junit.xml").getroot()
    assert suite is not None
    assert (suite.get("tests"), suite.get("failures"), suite.get("timestamp")) == ("2", "1", "2026-09-21T14:13:20")
    failures = [failure.get("message", "") for failure in suite.iter("failure")]
    assert len(failures) == 1
    assert failures[0].startswith("<script>")


def test_html_holds_every_case_and_no_foreign_tag(tmp_path: Path) -> None:
    write_html(REPORT, tmp_path / "map.html")
    page = (tmp_path / "map.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert page.count("\u2713") == 1
    assert "http" not in page


def test_json_comes_back(tmp_path: Path) -> None:
    report = msgspec.structs.replace(REPORT, cases=REPORT.cases[:1], facts={})
    write_json(report, tmp_path / "report.json")
    assert msgspec.json.decode((tmp_path / "report.json").read_bytes(), type=Report) == report


def test_a_report_that_cannot_be_written_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="cannot be written: No such file"):
        write_json(msgspec.structs.replace(REPORT, cases=[], facts={}), tmp_path / "none" / "report.json")


def test_what_did_not_come_to_its_end_is_not_taken_for_all_of_it(tmp_path: Path) -> None:
    report = msgspec.structs.replace(REPORT, cases=REPORT.cases[:1], unfinished=f"interrupted {EVIL}")
    assert (report.failed, report.well) == ([], False)
    assert "1 of 1 well, in 12 s. Not to its end: interrupted" in printed(report)
    write_html(report, tmp_path / "report.html")
    assert "<p class=bad>1 of 1 well" in (tmp_path / "report.html").read_text()
    write_junit(report, tmp_path / "report.xml")
    suite = parse(tmp_path / "report.xml").getroot()
    assert suite is not None
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("2", "0", "1")
    error = suite.find("testcase/error")
    assert error is not None
    assert error.get("message", "").startswith("interrupted")


@pytest.mark.parametrize(
    ("end", "raised", "said"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt, "interrupted after 1 of 3 steps, in the second"),
        (SupervisordError("not there"), CommandError, "supervisord: not there, after 1 of 3 steps, in the second"),
        (CommandError("no host"), CommandError, "no host, after 1 of 3 steps, in the second"),
        (ZeroDivisionError(), ZeroDivisionError, "a bug"),
    ],
)
def test_whatever_ends_a_drill_what_was_found_is_there(
    end: BaseException, raised: type[BaseException], said: str
) -> None:
    found = Findings("skew")
    assert not found.begun
    with (
        pytest.raises(raised),
        steps(Console(file=io.StringIO()), 3) as progress,
        found.through(progress),
    ):
        _two_steps(progress, found, end)
    assert found.begun
    assert (found.report().unfinished, found.report().cases) == (said, REPORT.cases[:1])


def test_a_drill_that_came_to_its_end_says_nothing_of_it() -> None:
    found = Findings("skew")
    with steps(Console(file=io.StringIO()), 1) as progress, found.through(progress):
        progress.begin("all")
    assert found.report().unfinished == ""
    assert found.report().well


def _two_steps(progress: Steps, found: Findings, end: BaseException) -> None:
    progress.begin("the first")
    found.cases.append(REPORT.cases[0])
    progress.end("well")
    progress.begin("the second")
    raise end
