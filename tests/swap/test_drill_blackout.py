"""`agentctl drill blackout` with two outages, and with one that is none: the drill has to say so."""

import io
import re
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from agentctl.drill.blackout.drill import LOOKS, choose, run
from agentctl.drill.blackout.outages import OUTAGES, Outage
from agentctl.drill.blackout.unchanged import Sight, what_changed
from agentctl.drill.findings import Findings
from agentctl.drill.group.stage import Stage
from agentctl.drill.group.updates import CONFIGURATION
from agentctl.drill.progress import steps
from agentctl.drill.report import Report
from agentctl.drill.variants import replaced
from agentctl.errors import WrongUse
from release.record import Chosen, Record

OUTLIVED = "ignore:subprocess .* is still running:ResourceWarning"
"""A group outlives who starts it."""


@pytest.mark.timeout(500)
def test_nothing_changes_and_the_wanted_version_arrives_later() -> None:
    names = ("host-gone", "captive-portal")
    only = [word for name in names for word in ("--only", name)]
    command = [sys.executable, "-P", "-m", "agentctl", "drill", "blackout", "--json", *only]
    done = subprocess.run(command, capture_output=True, text=True, timeout=490)
    report = msgspec.json.decode(done.stdout, type=Report)
    assert [case.problem for case in report.cases] == ["", ""]
    assert done.returncode == 0, done.stderr
    assert all(set(case.measured) == {"back_s", "arrives_s", "looks"} for case in report.cases)
    assert all(case.measured["looks"] >= 2 * LOOKS for case in report.cases), "in each of two lives"
    assert "no clock was moved" in report.facts["a week"]


@pytest.mark.timeout(200)
@pytest.mark.filterwarnings(OUTLIVED)
def test_an_outage_that_is_none_makes_it_red() -> None:
    found, (away,) = Findings("blackout"), choose(["host-gone"])
    none = Outage(name="none", what="everything is there", drill="0", rounds=((),), patience=6.0)
    with Stage(CONFIGURATION) as stage, steps(Console(file=io.StringIO()), 2) as progress:
        run(stage, [none, away], progress, found)
    assert [case.problem for case in found.cases] == ["update status says nothing of the repository, after 6 s", ""]


AT_A_LOOK = """        except SourceError as error:
            import os, signal
            from ipc.places import Places
            from ipc.supervisord import Supervisord
            self.failed = getattr(self, "failed", 0) + 1
            if self.failed == {times}:
                {act}
"""
KILL_NETAGENT = (
    "[os.kill(one.pid, signal.SIGKILL) for one in Supervisord(Places.from_environment(os.environ)).programs() "
    "if one.name == 'netagent']"
)


@pytest.mark.timeout(300)
@pytest.mark.filterwarnings(OUTLIVED)
@pytest.mark.parametrize(
    ("times", "act", "said"),
    [(3, "os._exit(1)", "rdagent was restarted"), (2, KILL_NETAGENT, "netagent was restarted")],
    ids=["ends at its third look", "has another one end at its second look"],
)
def test_looks_that_cost_a_restart_make_it_red(times: int, act: str, said: str) -> None:
    found = Findings("blackout")
    mutation = AT_A_LOOK.format(times=times, act=act).rstrip()
    changes = {"rdagent/update/wishes.py": replaced(r"^        except SourceError as error:$", mutation)}
    with Stage(CONFIGURATION) as stage, steps(Console(file=io.StringIO()), 1) as progress:
        run(stage, choose(["reset"]), progress, found, changes)
    assert [case.problem[: len(said)] for case in found.cases] == [said]


def test_what_changed_is_said_in_words() -> None:
    good, bad = Chosen("1.0.1", "a" * 64), Chosen("1.0.2", "b" * 64)
    before = Sight(pid=12, running="1.0.1", current="1.0.1", previous="", record=Record(component="x", current=good))
    assert what_changed("x", before, before) == ""
    after = msgspec.structs.replace(before, pid=34, running="1.0.2", record=Record(component="x", current=bad))
    assert what_changed("x", before, after) == (
        "x was restarted: pid 12, then 34; x: `running` was 1.0.1, is 1.0.2; "
        "the record of x: `current` was 1.0.1, is 1.0.2"
    )


@pytest.mark.parametrize("words", [("blackout", "--only", "drip"), ("rollback", "--only", "wrong-key")], ids=" ".join)
def test_interrupted_at_once_it_says_so(words: tuple[str, ...]) -> None:
    command = [sys.executable, "-P", "-m", "agentctl", "drill", *words]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert child.stdout is not None
        assert child.stdout.readline().startswith("The drill's settings:")
        child.send_signal(signal.SIGINT)
        out, _ = child.communicate(timeout=100)
    finally:
        child.kill()
        child.communicate()
    assert child.returncode == 1
    assert "0 of 0 well" in out
    assert "Not to its end: interrupted after 0 of 1 steps" in out
    assert "Traceback" not in out


def test_what_is_chosen() -> None:
    assert choose([]) == list(OUTAGES)
    assert [one.name for one in choose(["drip"])] == ["drip"]
    with pytest.raises(WrongUse, match="there is no outage 'nonsense'"):
        choose(["nonsense"])


def test_every_drill_of_the_first_part_has_an_outage_or_a_word_in_the_docs() -> None:
    """Numbers 1 to 14 of the catalogue, see docs/drills.md."""
    page = (Path(__file__).parents[2] / "docs" / "drills.md").read_text()
    rows = re.findall(r"(?m)^\| ([\d, ]+) \|(.*)$", page.partition("## blackout")[2])
    told = {number: row for numbers, row in rows for number in numbers.split(", ")}
    for number in map(str, range(1, 15)):
        names = [one.name for one in OUTAGES if one.drill == number]
        assert number in told, number
        assert all(f"`{name}`" in told[number] for name in names), number
        assert names or "test" in told[number], number
