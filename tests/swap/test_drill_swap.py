"""`agentctl drill swap` with a few swaps, and what it makes of losses that did happen."""

import io
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
from defusedxml.ElementTree import parse
from rich.console import Console

from agentctl.drill.findings import Findings
from agentctl.drill.group.belonging import of_root
from agentctl.drill.group.stage import Stage
from agentctl.drill.progress import steps
from agentctl.drill.report import Case, Report
from agentctl.drill.swap import drill as the_drill
from agentctl.drill.swap.drill import CONFIGURATION, build, is_whole, run
from agentctl.drill.swap.leaks import Census, Holdings, growth, in_folders
from agentctl.drill.swap.operations import Run, what_is_wrong
from agentctl.drill.variants import Change, begun_with, checkout, package, replaced
from agentctl.holding import held

COMMAND = [sys.executable, "-P", "-m", "agentctl", "drill", "swap", "--json"]
OUTLIVED = "ignore:subprocess .* is still running:ResourceWarning"
"""A group outlives who starts it."""


def drill(*words: str) -> tuple[Report, subprocess.CompletedProcess[str]]:
    done = subprocess.run([*COMMAND, *words], capture_output=True, text=True, timeout=290)
    return msgspec.json.decode(done.stdout, type=Report), done


@pytest.mark.timeout(300)
def test_swaps_under_load_lose_nothing() -> None:
    report, done = drill("--component", "telemetry", "--times", "10")
    assert [case.problem for case in report.cases if not case.ok] == []
    assert done.returncode == 0, done.stderr
    cases = {case.kind: case for case in report.cases}
    assert cases["swap"].name == "10 of 10 swaps of telemetry"
    assert cases["events"].measured["count"] > 20
    operations = {case.name: case.measured for case in report.cases if case.kind == "operations"}
    assert operations["an operation runs across every swap"] == {"overlapped": 10, "of_swaps": 10}
    assert all(operations[f"every {one} once"]["count"] >= 1 for one in ("run command", "operation of the host"))
    plain, whole = (case.measured for case in report.cases if case.kind == "silence")
    assert (plain["count"], whole["count"]) == (9, 1)
    assert 0 < plain["p50_ms"] <= plain["max_ms"]
    assert plain["asked"] > plain["lost"]


@pytest.mark.timeout(300)
def test_rdagent_becomes_another_version_by_exec() -> None:
    report, done = drill("--component", "rdagent", "--times", "2", "--no-load")
    assert [case.problem for case in report.cases if not case.ok] == []
    assert done.returncode == 0, done.stderr
    assert [case.measured["count"] for case in report.cases if case.kind == "silence"] == [2]


def test_every_tenth_goes_through_the_updater() -> None:
    assert [number for number in range(30) if is_whole(number)] == [9, 19, 29]


def test_what_is_wrong_with_a_run(tmp_path: Path) -> None:
    whole = Run("run-1", tmp_path, 12, asked=1.0, taken=2.0, outcome="Succeeded")
    whole = msgspec.structs.replace(whole, output=whole.text, shown=whole.text[-4096:])
    marks = [tmp_path / f"run-1.{mark}" for mark in ("begun", "ended")]

    def wrong(begun: int, ended: int, **fields: Any) -> str:
        for path, times in zip(marks, (begun, ended), strict=True):
            path.write_text("x\n" * times)
        return what_is_wrong(msgspec.structs.replace(whole, **fields))

    assert len(whole.text) > 4096
    assert wrong(1, 1) == ""
    assert wrong(2, 1) == "run-1 was begun 2 times"
    assert wrong(1, 2) == "run-1 was ended 2 times"
    assert wrong(1, 1, taken=None, outcome="no answer") == "run-1 was not taken: no answer"
    assert wrong(0, 0, outcome="") == "run-1 was taken and did not run: "
    assert wrong(1, 0, outcome="Failed") == "run-1 was begun and did not end: Failed"
    assert wrong(1, 1, outcome="Failed") == "run-1 ran, and is told of as 'Failed'"
    assert "were kept" in wrong(1, 1, output=whole.text[:-1])
    assert "another output" in wrong(1, 1, shown=whole.text[:4096])


def test_a_run_does_what_it_is_expected_to_do(tmp_path: Path) -> None:
    run = Run("run-7", tmp_path, 3, asked=1.0)
    done = subprocess.run(["/bin/sh", "-c", run.script], capture_output=True, text=True, check=True, timeout=60)
    assert (run.begun, run.ended, done.stdout) == (1, 1, run.text)


@pytest.mark.parametrize(("taken", "within"), [(None, True), (1.5, False), (2.0, True), (9.0, True)])
def test_whether_it_was_asked_within_a_swap(tmp_path: Path, taken: float | None, within: bool) -> None:
    run = Run("run-1", tmp_path, 1, asked=1.0, taken=taken)
    assert run.asked_within(2.0, 3.0) is within
    assert not run.asked_within(0.0, 0.5)


@pytest.mark.timeout(300)
def test_operations_go_on_across_swaps_of_guestagent() -> None:
    report, done = drill("--component", "guestagent", "--times", "3")
    assert [case.problem for case in report.cases if not case.ok] == []
    assert done.returncode == 0, done.stderr
    cases = {case.name: case.measured for case in report.cases}
    across = cases["an operation runs across every swap"]
    assert (across["overlapped"], across["of_swaps"]) == (3, 3)
    assert (
        cases["every run command once"]["overlapped"] + cases["every operation of the host once"]["overlapped"] >= 1
    ), "one may last across all three"


@pytest.mark.timeout(300)
@pytest.mark.filterwarnings(OUTLIVED)
def test_a_guestagent_that_forgets_what_it_began_makes_it_red() -> None:
    """Its first answer comes late, and it begins once more what it is asked again."""
    forgets = replaced(r", request\.token\)", ', "")')
    answer = "        return _started(place)"
    late = replaced(rf"^{re.escape(answer)}$", f"        time.sleep(0 if place.sequence_number else 3)\n{answer}")
    changes = {"guestagent/localrun.py": lambda text: late(forgets(text))}
    found = found_out("guestagent", 1, changes, full=True)
    (case,) = (case for case in found if case.name == "every run command once")
    assert re.match(r"run-\d was begun [2-9] times", case.problem), case


@pytest.mark.timeout(300)
@pytest.mark.filterwarnings(OUTLIVED)
def test_what_stays_after_each_swap_makes_it_red() -> None:
    """A process, and files where nobody looked before."""
    leaves = (
        "import os, subprocess, sys, tempfile\n"
        "if '--check-settings' not in sys.argv:\n"
        "    _root, _null = os.environ['AZVMAGENT_ROOT'], subprocess.DEVNULL\n"
        "    subprocess.Popen(['/bin/sleep', '600'], cwd=_root, env={}, stdin=_null, stdout=_null, stderr=_null)\n"
        "    for _ in range(9):\n"
        "        tempfile.mkstemp(dir=_root + '/log/azure')\n"
    )
    found = {case.name: case for case in found_out("telemetry", 2, {"telemetry/__main__.py": begun_with(leaves)})}
    assert re.match(r"left over: \d+: /bin/sleep 600, and \d more", found["no process is left over"].problem)
    assert found["nothing grows"].problem.endswith("files in log/azure"), found["nothing grows"]


def found_out(component: str, times: int, changes: dict[str, Change], *, full: bool = False) -> list[Case]:
    """By swaps of a changed build."""
    found = Findings("swap")
    with Stage(CONFIGURATION) as stage, steps(Console(file=io.StringIO()), times) as progress:
        run(stage, component, build(stage, component, changes), times, progress, found, full=full)
        assert found.cases[0].problem == ""
        left = of_root(stage.root)
    assert not any(one.alive() for one in left), "also those that threw their environment away are ended"
    return found.cases


@pytest.mark.timeout(300)
@pytest.mark.filterwarnings(OUTLIVED)
def test_a_swap_that_fails_leaves_an_account_of_what_went_on_until_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second version never answers."""
    monkeypatch.setattr(the_drill, "_PATIENCE", 12.0)
    found = Findings("swap")
    with Stage(CONFIGURATION) as stage, steps(Console(file=io.StringIO()), 5) as progress:
        _, other = build(stage, "telemetry")
        source = checkout(stage.root / "deaf", {"telemetry/__main__.py": begun_with("import time\ntime.sleep(999)")})
        deaf = package(source, "telemetry", "1.0.3", stage.root / "packages", stage.key)
        run(stage, "telemetry", [deaf, other], 5, progress, found, full=True)
    (swaps, *others) = found.cases
    assert swaps.name == "0 of 5 swaps of telemetry"
    assert swaps.problem == "telemetry does not answer, after 12 s"
    assert {case.kind for case in others} >= {"events", "operations", "others", "heartbeat", "leaks"}
    (events,) = (case for case in others if case.kind == "events")
    assert events.measured["count"] > 20
    assert events.problem == "", "what was spooled meanwhile arrives at the version before"


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "signals", [(signal.SIGINT,), (signal.SIGINT, signal.SIGTERM)], ids=["once", "again in the swap"]
)
def test_interrupted_it_tells_of_the_swaps_that_were_done(tmp_path: Path, signals: tuple[signal.Signals, ...]) -> None:
    junit = tmp_path / "junit.xml"
    command = [*COMMAND, "--component", "telemetry", "--times", "500", "--junit", str(junit)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert child.stderr is not None
        while (line := child.stderr.readline()) and not line.startswith("[2/500]"):
            pass
        for one in signals:
            child.send_signal(one)
        out, _ = child.communicate(timeout=250)
    finally:
        child.kill()
        child.communicate()
    report = msgspec.json.decode(out, type=Report)
    assert child.returncode == 1
    assert re.match(r"interrupted after \d of 500 steps", report.unfinished)
    assert re.match(r"\d of 500 swaps of telemetry", report.cases[0].name)
    assert {case.kind for case in report.cases} >= {"events", "operations", "leaks", "silence"}
    assert [case.problem for case in report.cases if not case.ok] == []
    suite = parse(junit).getroot()
    assert suite is not None
    assert suite.get("errors") == "1"


def test_a_signal_waits_for_the_end_of_the_block() -> None:
    done = []

    def twice() -> None:
        with held():
            signal.raise_signal(signal.SIGTERM)
            done.append("all of it")
            signal.raise_signal(signal.SIGINT)
            done.append("not this")

    with pytest.raises(KeyboardInterrupt):
        twice()
    assert done == ["all of it"]


def test_what_grows_is_seen() -> None:
    def census(descriptors: int, memory: float, zombies: int, files: int, kib: float) -> Census:
        processes = {"rdagent": Holdings(1, descriptors, 4, memory)}
        return Census(processes=processes, zombies=zombies, files={"run": files}, kib={"log/azure": kib})

    before = census(20, 30.0, 0, 10, 10.0)
    assert growth(before, census(21, 31.0, 0, 10, 5000.0), 2) == []
    assert growth(before, census(60, 90.0, 2, 99, 9000.0), 2) == [
        "2 zombies",
        "rdagent: from 20 to 60 descriptors",
        "rdagent: from 30 to 90 MiB",
        "from 10 to 99 files in run",
        "8990 KiB more in log/azure, in 2 swaps",
    ]


def test_files_are_counted_by_folder_without_those_of_our_operations(tmp_path: Path) -> None:
    paths = (
        "run/a.requests", "state/rdagent/updates.json", "state/rdagent/deep/er/x", "log/azure/RdAgent.log",
        "packages/p.zip", "lib/waagent/history/1.zip", "lib/waagent/config/run-3.0.settings",
        "lib/waagent/x/load.mrseq",
    )  # fmt: skip
    for path in paths:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(b"x" * 512)
    files, kib = in_folders(tmp_path)
    expected = {"run": 1, "state/rdagent": 2, "log/azure": 1, "lib/waagent/history": 1}
    assert files == expected
    assert kib == {place: count / 2 for place, count in expected.items()}
