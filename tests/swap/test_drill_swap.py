"""`agentctl drill swap` with a few swaps, and what it makes of losses that did happen."""

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from agentctl.drill.leaks import Census, Holdings, growth
from agentctl.drill.load import Run
from agentctl.drill.report import Report
from agentctl.drill.swap import is_whole, what_is_wrong


def drill(*words: str) -> tuple[Report, subprocess.CompletedProcess[str]]:
    command = [sys.executable, "-P", "-m", "agentctl", "drill", "swap", "--json", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=190)
    return msgspec.json.decode(done.stdout, type=Report), done


@pytest.mark.timeout(200)
def test_swaps_under_load_lose_nothing() -> None:
    report, done = drill("--component", "telemetry", "--times", "10")
    assert [case.problem for case in report.cases if not case.ok] == []
    assert done.returncode == 0, done.stderr
    cases = {case.kind: case for case in report.cases}
    assert cases["swap"].name == "10 of 10 swaps of telemetry"
    assert cases["events"].measured["count"] > 20
    operations = [case.measured["count"] for case in report.cases if case.kind == "operations"]
    assert all(count >= 1 for count in operations)
    plain, whole = (case.measured for case in report.cases if case.kind == "silence")
    assert (plain["count"], whole["count"]) == (9, 1)
    assert 0 < plain["p50_ms"] <= plain["max_ms"]
    assert plain["asked"] > plain["lost"]


@pytest.mark.timeout(200)
def test_rdagent_becomes_another_version_by_exec() -> None:
    report, done = drill("--component", "rdagent", "--times", "2", "--no-load")
    assert [case.problem for case in report.cases if not case.ok] == []
    assert done.returncode == 0, done.stderr
    assert [case.measured["count"] for case in report.cases if case.kind == "silence"] == [2]


def test_every_tenth_goes_through_the_updater() -> None:
    assert [number for number in range(30) if is_whole(number)] == [9, 19, 29]


def test_what_is_wrong_with_a_run(tmp_path: Path) -> None:
    def run(name: str, times: int, **fields: object) -> Run:
        counted = tmp_path / name
        counted.write_text("once\n" * times)
        return msgspec.structs.replace(Run(name, counted), **fields)

    said = {"acknowledged": True, "outcome": "Succeeded", "output": "said run-1\n"}
    assert what_is_wrong(run("run-1", 1, **said)) == ""
    assert what_is_wrong(run("run-1", 2, **said)) == "run-1 ran 2 times"
    assert what_is_wrong(run("run-1", 0, **said)) == "run-1 was taken and did not run: Succeeded"
    assert "with output ''" in what_is_wrong(run("run-1", 1, **{**said, "output": ""}))
    assert what_is_wrong(run("run-1", 0, outcome="no answer")) == "", "nobody took it"
    assert what_is_wrong(run("run-1", 2, outcome="no answer")) == "run-1 ran 2 times"
    assert what_is_wrong(run("operation-1", 1, acknowledged=True, outcome="done")) == ""


def test_what_grows_is_seen() -> None:
    def census(descriptors: int, memory: float, zombies: int, files: int) -> Census:
        processes = {"rdagent": Holdings(1, descriptors, 4, memory)}
        return Census(processes=processes, zombies=zombies, files={"sockets and locks": files})

    before = census(20, 30.0, 0, 10)
    assert growth(before, census(21, 31.0, 0, 10)) == []
    assert growth(before, census(60, 90.0, 2, 99)) == [
        "2 zombies",
        "rdagent: from 20 to 60 descriptors",
        "rdagent: from 30 to 90 MiB",
        "from 10 to 99 sockets and locks",
    ]
