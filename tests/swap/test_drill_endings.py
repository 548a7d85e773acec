"""What ends a drill from outside, and what cannot be written: nothing stays behind, and what was found is told."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agentctl.drill.cli import Reporting, conclude
from agentctl.drill.group.stage import Stage
from agentctl.drill.report import Case, Report
from agentctl.errors import CommandError
from agentctl.holding import held
from agentctl.processes import command_line, end, process, wait_until, with_environment

DRILL = [sys.executable, "-P", "-m", "agentctl", "drill"]
REPORT = Report(drill="skew", began=0.0, seconds=1.0, cases=[Case(name="good", kind="combination", ok=True)])


@pytest.mark.timeout(200)
def test_a_terminal_that_is_gone_ends_it_and_takes_everything_away(root: Path, tmp_path: Path) -> None:
    junit, (ours, its) = tmp_path / "junit.xml", os.openpty()
    child = subprocess.Popen(
        ["/usr/bin/setsid", "--ctty", *DRILL, "rollback", "--only", "hangs", "--junit", str(junit)],
        env={**os.environ, "TMPDIR": str(root)},
        stdin=its,
        stdout=its,
        stderr=its,
    )
    os.close(its)
    try:
        assert wait_until(lambda: any(root.glob("azvmagent-drill.*/run/supervisord.pid")), 100.0)
        (stage,) = root.glob("azvmagent-drill.*")
        assert with_environment("AZVMAGENT_ROOT", str(stage))
        os.close(ours)
        assert child.wait(100) == 1
    finally:
        child.kill()
        child.wait()
        end({one for stage in root.iterdir() for one in with_environment("AZVMAGENT_ROOT", str(stage))}, 5.0)
    assert not with_environment("AZVMAGENT_ROOT", str(stage))
    assert list(root.iterdir()) == []
    assert "interrupted after 0 of 1 steps" in junit.read_text()


def test_an_ignored_sighup_stays_ignored(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By nohup."""
    monkeypatch.setenv("TMPDIR", str(root))
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with Stage(), held():
            signal.raise_signal(signal.SIGHUP)
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_stage_ends_by_a_signal_and_gives_handlers_back(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), Stage():
        signal.raise_signal(number)
    assert signal.getsignal(number) == before


def test_what_left_its_session_and_threw_its_environment_away_is_ended_with_the_stage() -> None:
    with Stage() as stage:
        child = subprocess.Popen(["/bin/sleep", "600"], cwd=stage.root, env={}, start_new_session=True)
        found = process(child.pid)
        assert wait_until(lambda: command_line(child.pid)[0] == "/bin/sleep", 10.0)
    assert found is not None
    assert not found.alive()
    assert child.wait(10) == -signal.SIGTERM


def test_who_looks_at_the_folder_from_a_terminal_is_left_alone() -> None:
    ours, its = os.openpty()
    with Stage() as stage:
        child = subprocess.Popen(["/usr/bin/setsid", "--ctty", "/bin/sleep", "600"], cwd=stage.root, env={}, stdin=its)
        assert wait_until(lambda: command_line(child.pid)[0] == "/bin/sleep", 10.0)
    try:
        assert child.poll() is None
    finally:
        child.kill()
        child.wait()
        os.close(ours)
        os.close(its)


@pytest.mark.parametrize("form", ["--junit", "--html"])
def test_a_report_that_could_not_be_written_is_noticed_before_the_drill(tmp_path: Path, form: str) -> None:
    command = [*DRILL, "skew", form, str(tmp_path / "none" / "report")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert f"could not be written: there is no folder {tmp_path / 'none'}" in done.stderr
    assert "The drill's settings" not in done.stdout


def test_two_reports_do_not_go_into_one_file(tmp_path: Path) -> None:
    command = [*DRILL, "skew", "--junit", str(tmp_path / "one"), "--html", str(tmp_path / "." / "one")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "give each report a file of its own" in done.stderr
    assert not (tmp_path / "one").exists()


def test_one_form_that_cannot_be_written_does_not_cost_the_others(tmp_path: Path) -> None:
    to = Reporting(as_json=False, junit=tmp_path / "none" / "x.xml", html=tmp_path / "ok.html", keep=False)
    with pytest.raises(CommandError, match=r"x\.xml cannot be written: No such file"):
        conclude(REPORT, to)
    assert "agentctl drill skew" in (tmp_path / "ok.html").read_text()
