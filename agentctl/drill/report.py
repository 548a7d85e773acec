"""What a drill found: as text for people, as JSON, JUnit XML and one HTML page for machines and for keeping."""

import html
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import msgspec
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from agentctl.errors import CommandError


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was tried."""

    name: str
    kind: str
    """What cases of the same sort have in common; the class name in JUnit."""
    ok: bool
    problem: str = ""
    """The first thing that was not as it has to be."""
    seconds: float = 0.0
    """How long all of it took."""
    measured: dict[str, float] = {}
    """Figures by name; the unit is part of the name."""
    evidence: list[str] = []
    """Lines of logs, for who has to find out why."""


class Grid(msgspec.Struct, frozen=True, kw_only=True):
    """A heat map: names of cases by row and column."""

    title: str
    corner: str
    """What the rows are, and the columns."""
    rows: list[str]
    columns: list[str]
    cells: list[list[str]]


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All of one drill."""

    drill: str
    began: float
    """UTC, seconds since the epoch."""
    seconds: float
    cases: list[Case]
    grids: list[Grid] = []
    facts: dict[str, str] = {}
    """What it was done with: versions, machine."""
    unfinished: str = ""
    """Why the drill did not come to its end: what is missing was not tried. Empty if it did."""

    @property
    def well(self) -> bool:
        """All of it was tried, and all of that is as it has to be."""
        return not self.failed and not self.unfinished

    @property
    def failed(self) -> list[Case]:
        return [case for case in self.cases if not case.ok]


def text(report: Report) -> RenderableType:
    """For a terminal. What processes said is never read as markup."""
    parts: list[RenderableType] = [Text(f"{name}  {value}", style="dim") for name, value in report.facts.items()]
    parts += [_grid(grid, {case.name: case for case in report.cases}) for grid in report.grids]
    if not report.grids:
        parts.append(_table(report.cases))
    for case in report.failed:
        parts.append(Text(f"\n{case.name}", style="bold red"))
        parts += [Text(f"  {line}") for line in (case.problem, *case.evidence)]
    parts.append(_sum(report))
    return Group(*parts)


def write_json(report: Report, path: Path) -> None:
    """Raises CommandError."""
    _write(path, msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")


def write_junit(report: Report, path: Path) -> None:
    """A test suite with a case for each, as CI systems read it. Raises CommandError."""
    suite = ET.Element(
        "testsuite",
        name=f"agentctl drill {report.drill}",
        tests=str(len(report.cases) + bool(report.unfinished)),
        failures=str(len(report.failed)),
        errors=str(int(bool(report.unfinished))),
        skipped="0",
        time=f"{report.seconds:.3f}",
        timestamp=time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(report.began)),
    )
    properties = ET.SubElement(suite, "properties")
    for name, value in report.facts.items():
        ET.SubElement(properties, "property", name=name, value=_printable(value))
    for case in report.cases:
        one = ET.SubElement(
            suite, "testcase", classname=f"{report.drill}.{case.kind}", name=case.name, time=f"{case.seconds:.3f}"
        )
        if not case.ok:
            failure = ET.SubElement(one, "failure", message=_printable(case.problem))
            failure.text = _printable("\n".join(case.evidence))
        if case.measured:
            figures = "\n".join(f"{name}: {value:g}" for name, value in case.measured.items())
            ET.SubElement(one, "system-out").text = figures
    if report.unfinished:
        # Nobody may take what there is for all of it.
        one = ET.SubElement(suite, "testcase", classname=f"{report.drill}.drill", name="comes to its end")
        ET.SubElement(one, "error", message=_printable(report.unfinished))
    _write(path, ET.tostring(suite, encoding="utf-8", xml_declaration=True) + b"\n")


def write_html(report: Report, path: Path) -> None:
    """One page that needs nothing else. Raises CommandError."""
    cases = {case.name: case for case in report.cases}
    facts = "".join(f"<dt>{_safe(name)}<dd>{_safe(value)}" for name, value in report.facts.items())
    grids = "".join(_html_grid(grid, cases) for grid in report.grids)
    rows = "".join(_html_row(case) for case in report.cases)
    body = f"<h1>agentctl drill {_safe(report.drill)}</h1><p class={_class(report.well)}>{_safe(_words(report))}"
    page = f"{body}<dl>{facts}</dl>{grids}<h2>All cases</h2><table>{rows}</table>"
    title = f"<title>agentctl drill {_safe(report.drill)}</title>"
    _write(path, f'<!doctype html><html lang="en"><meta charset="utf-8">{title}{_STYLE}{page}</html>\n'.encode())


WRITERS: dict[str, Callable[[Report, Path], None]] = {"json": write_json, "junit": write_junit, "html": write_html}

_STYLE = """<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75em; margin: 2em auto; padding: 0 1em;
  color: #1b1b1b; background: #fff }
table { border-collapse: collapse; margin: 1em 0 }
th, td { border: 1px solid #888; padding: .4em .7em; text-align: left;
  vertical-align: top } th { font-weight: 600 } dt { float: left; clear: left; width: 11em; color: #555 }
.good { background: #d7f0d7 } .bad { background: #ffd5cf; font-weight: 600 } pre { white-space: pre-wrap; margin: 0 }
@media (prefers-color-scheme: dark) { body { color: #e8e8e8; background: #161616 } dt { color: #aaa }
  .good { background: #14401a } .bad { background: #611c14 } }
</style>"""


def _grid(grid: Grid, cases: dict[str, Case]) -> Table:
    table = Table(title=Text(grid.title, style="bold"), title_justify="left", show_lines=True)
    table.add_column(Text(grid.corner, style="dim"))
    for column in grid.columns:
        table.add_column(Text(column))
    for row, names in zip(grid.rows, grid.cells, strict=True):
        table.add_row(Text(row), *(_mark(cases.get(name)) for name in names))
    return table


def _mark(case: Case | None) -> Text:
    if case is None:
        return Text("not run", style="dim")
    if case.ok:
        return Text(f"\u2713 {case.seconds:.1f} s", style="green")
    return Text(f"\u2717 {_cut(case.problem, 60)}", style="bold red")


def _table(cases: list[Case]) -> Table:
    figures = list(dict.fromkeys(name for case in cases for name in case.measured))
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("", "CASE", *(name.upper() for name in figures), "PROBLEM"):
        table.add_column(name, overflow="fold")
    for case in cases:
        mark = Text("\u2713", style="green") if case.ok else Text("\u2717", style="bold red")
        values = [f"{case.measured[name]:g}" if name in case.measured else "" for name in figures]
        table.add_row(mark, Text(case.name), *values, Text(_cut(case.problem, 100)))
    return table


def _sum(report: Report) -> Text:
    return Text(f"\n{_words(report)}", style="bold green" if report.well else "bold red")


def _words(report: Report) -> str:
    good = len(report.cases) - len(report.failed)
    words = f"{good} of {len(report.cases)} well, in {report.seconds:.0f} s"
    return f"{words}. Not to its end: {report.unfinished}" if report.unfinished else words


def _html_grid(grid: Grid, cases: dict[str, Case]) -> str:
    head = "".join(f"<th scope=col>{_safe(column)}" for column in grid.columns)
    rows = ""
    for row, names in zip(grid.rows, grid.cells, strict=True):
        rows += f"<tr><th scope=row>{_safe(row)}" + "".join(_html_cell(cases.get(name)) for name in names)
    return f"<h2>{_safe(grid.title)}</h2><table><tr><th>{_safe(grid.corner)}{head}{rows}</table>"


def _html_cell(case: Case | None) -> str:
    if case is None:
        return "<td>not run"
    words = f"\u2713 {case.seconds:.1f} s" if case.ok else f"\u2717 {case.problem}"
    return f'<td class={_class(case.ok)} title="{_safe(case.name)}">{_safe(words)}'


def _html_row(case: Case) -> str:
    figures = ", ".join(f"{name} {value:g}" for name, value in case.measured.items())
    evidence = f"<pre>{_safe(chr(10).join(case.evidence))}</pre>" if case.evidence else ""
    said = "well" if case.ok else _safe(case.problem) + evidence
    return f"<tr class={_class(case.ok)}><th scope=row>{_safe(case.name)}<td>{said}<td>{_safe(figures)}"


def _class(ok: bool) -> str:
    return "good" if ok else "bad"


def _safe(words: str) -> str:
    return html.escape(_printable(words))


def _printable(words: str) -> str:
    """Without what XML cannot hold: a process may have printed anything."""
    return "".join(sign if sign.isprintable() or sign in "\n\t" else "\ufffd" for sign in words)


def _cut(words: str, length: int) -> str:
    return words if len(words) <= length else f"{words[: length - 1]}\u2026"


def _write(path: Path, data: bytes) -> None:
    try:
        path.write_bytes(data)
    except OSError as error:
        raise CommandError(f"the report {path} cannot be written: {error.strerror}") from error
