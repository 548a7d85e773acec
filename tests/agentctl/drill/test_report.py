"""What a drill found, in the forms people and machines read; hostile words stay words."""

import io
from pathlib import Path

import msgspec
import pytest
from defusedxml.ElementTree import parse
from rich.console import Console

from agentctl.drill.report import Case, Grid, Report, text, write_html, write_json, write_junit
from agentctl.errors import CommandError

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
