"""`agentctl update` where rdagent is away, or too old."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from agentctl import goingback
from agentctl.deployment import choose
from agentctl.errors import CommandError, NothingThere
from agentctl.records import step_back, to_give_up, why_another_runs
from ipc.component import Component
from ipc.contract.rdagent import RollBack, Updates
from ipc.places import Places
from release import record as records
from release.build import build
from release.record import Bad, Chosen, Record, Trial
from release.unpack import component_folder
from tests.conftest import living
from tests.release.product import CHECKOUT, KEY, Installed

ONE, TWO = Chosen("0.1.0", "1" * 64), Chosen("0.2.0", "2" * 64)


def agentctl(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "agentctl", *words, "--root", str(root)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def recorded(root: Path, record: Record) -> None:
    folder = component_folder(Places.under(root).installed, "telemetry")
    folder.mkdir(parents=True)
    Places.under(root).state.mkdir()
    records.write(folder, record)


def now(root: Path) -> Record:
    found = records.read(component_folder(Places.under(root).installed, "telemetry"))
    assert found is not None
    return found


@pytest.fixture
def root(tmp_path: Path) -> Path:
    recorded(
        tmp_path, Record(component="telemetry", current=TWO, previous=ONE, bad={"0.3.0+" + "3" * 64: Bad("hangs")})
    )
    return tmp_path


def test_status_is_what_the_records_say(root: Path) -> None:
    found = agentctl(root, "update", "status")
    assert found.returncode == 3
    assert "0.2.0" in found.stdout
    assert "bad list: telemetry 0.3.0 (333333333333) for good: hangs" in found.stdout
    assert "Shown is what the records on disk say" in found.stderr
    shape = json.loads(agentctl(root, "update", "status", "--json").stdout)
    assert shape["source"] == "records"
    assert [one["current"] for one in shape["components"] if one["component"] == "telemetry"] == ["0.2.0"]


def test_status_is_without_what_is_on_the_bad_list_no_more(tmp_path: Path) -> None:
    recorded(tmp_path, Record(component="telemetry", bad={"0.3.0+" + "3" * 64: Bad("hangs", expires=1.0)}))
    found = agentctl(tmp_path, "update", "status")
    assert (found.returncode, "0.3.0" in found.stdout) == (3, False)
    assert "0.3.0" not in agentctl(tmp_path, "update", "status", "--json").stdout


def test_where_nothing_ever_was(tmp_path: Path) -> None:
    found = agentctl(tmp_path, "update", "status")
    assert (found.returncode, found.stdout) == (3, "")
    for word in ("rollback", "unblock"):
        refused = agentctl(tmp_path, "update", word, "telemetry")
        assert (refused.returncode, "base install" in refused.stderr) == (1, True)
    for words in ("plan", "now", "hold", "history", "pin telemetry 1.0"):
        refused = agentctl(tmp_path, "update", *words.split())
        assert (refused.returncode, "start the group with" in refused.stderr) == (3, True)


def test_back_to_the_version_before(root: Path) -> None:
    found = agentctl(root, "update", "rollback", "telemetry", "--reason", "smells")
    assert found.returncode == 0, found.stderr
    assert "the version before starts with the group: agentctl up" in found.stdout
    record = now(root)
    assert (record.current, record.previous, record.bad[TWO.key].reason) == (ONE, None, "smells")
    assert (component_folder(Places.under(root).installed, "telemetry") / "current").readlink() == Path(
        "versions/0.1.0"
    )
    agentctl(root, "update", "rollback", "telemetry")
    assert now(root).current is None
    again = agentctl(root, "update", "rollback", "telemetry")
    assert (again.returncode, "nothing to go back to" in again.stderr) == (1, True)


def test_what_was_seen_in_force_is_given_up_and_nothing_else(root: Path) -> None:
    """Two at once read the same record; the later one is told that the other was faster."""
    deployment = choose(root)
    seen = to_give_up(deployment, "telemetry")
    step_back(deployment, "telemetry", seen, "smells")
    with pytest.raises(CommandError, match="0.2.0 is not in force any more, 0.1.0 is; nothing was changed"):
        step_back(deployment, "telemetry", seen, "smells")
    assert (now(root).current, ONE.key in now(root).bad) == (ONE, False)


@pytest.mark.parametrize("went_through", [True, False])
def test_a_rdagent_that_ends_before_it_answers(
    root: Path, monkeypatch: pytest.MonkeyPatch, *, went_through: bool
) -> None:
    """Whether it changed the record before that is seen there."""
    monkeypatch.setattr(goingback, "_ACT_WITHIN", 1.0)
    deployment, places, heard = choose(root), Places.under(root), list[RollBack]()

    async def mute(request: RollBack) -> Updates:
        heard.append(request)
        if went_through:
            step_back(deployment, "telemetry", request.version, request.reason)
        await asyncio.Event().wait()
        raise AssertionError

    async def run() -> str:
        rdagent = Component("rdagent", "1", places)
        rdagent.answer(RollBack, mute)
        async with living(rdagent), living(Component("telemetry", "0.1.0", places)):
            return await asyncio.to_thread(goingback.gone_back, deployment, "telemetry", "0.2.0", None, "smells")

    if went_through:
        assert asyncio.run(run()) == "0.1.0"
    else:
        with pytest.raises(NothingThere, match="rdagent did not answer"):
            asyncio.run(run())
    assert [one.version for one in heard] == ["0.2.0"]


def test_a_version_on_trial_is_given_up_first(tmp_path: Path) -> None:
    recorded(tmp_path, Record(component="telemetry", current=ONE, trial=Trial(TWO, 2)))
    found = agentctl(tmp_path, "update", "rollback", "telemetry")
    assert (found.returncode, "telemetry 0.2.0 is given up" in found.stderr) == (0, True)
    record = now(tmp_path)
    assert (record.current, record.trial, list(record.bad)) == (ONE, None, [TWO.key])


def test_off_the_bad_list(root: Path) -> None:
    refused = agentctl(root, "update", "unblock", "telemetry", "0.9")
    assert (refused.returncode, "not on the bad list" in refused.stderr) == (1, True)
    freed = agentctl(root, "update", "unblock", "telemetry", "0.3")  # 0.3 and 0.3.0 are one version
    assert freed.returncode == 0
    assert freed.stdout.splitlines()[1].startswith("rdagent does not answer; once it runs again, it tries at once")
    assert not now(root).bad


def test_a_rdagent_that_does_not_know_of_versions(root: Path) -> None:
    async def run() -> list[subprocess.CompletedProcess[str]]:
        async with Component("rdagent", "0.0.9", Places.under(root)):
            words = (("update", "status"), ("update", "rollback", "telemetry"), ("bundle", "import", "x.zip"))
            return [await asyncio.to_thread(agentctl, root, *each) for each in words]

    for found in asyncio.run(run()):
        assert found.returncode == 1
        assert "rdagent 0.0.9 does not answer" in found.stderr
        assert "older than this agentctl" in found.stderr
    assert now(root).current == TWO


def test_not_below_the_floor(tmp_path: Path) -> None:
    installed = Installed(Places.under(tmp_path).installed, "telemetry")
    built = build(CHECKOUT, "telemetry", tmp_path / "dist", [KEY], version="9.0.0", floor="9.0.0")
    installed.put(built)
    current = Chosen("9.0.0", built.digest)
    before = installed.set(current=current, previous=ONE)
    refused = agentctl(tmp_path, "update", "rollback", "telemetry")
    assert refused.returncode == 1
    assert "telemetry 0.1.0 is below 9.0.0, the floor of telemetry 9.0.0" in refused.stderr
    assert now(tmp_path) == before


def test_a_refusal_for_a_program(root: Path) -> None:
    for words in ("unblock telemetry 7.0", "rollback netagent"):
        refused = agentctl(root, "update", *words.split(), "--json")
        answer = json.loads(refused.stdout)
        assert (refused.returncode, answer["ok"], bool(answer["why"])) == (1, False, True)
        assert answer["why"] in refused.stderr
    absent = agentctl(root, "bundle", "import", "x.zip", "--json")
    assert (absent.returncode, json.loads(absent.stdout)["ok"]) == (3, False)


def test_why_another_version_runs_than_is_in_force(tmp_path: Path) -> None:
    installed = Installed(Places.under(tmp_path).installed, "telemetry")
    built = build(CHECKOUT, "telemetry", tmp_path / "dist", [KEY], version="9.0.0")
    installed.put(built)
    installed.set(current=Chosen("9.0.0", built.digest))
    deployment = choose(tmp_path)
    assert why_another_runs(deployment, "telemetry", "9.0") == ""
    assert "was not started; its log lies under" in why_another_runs(deployment, "telemetry", "0.2.0")
    (installed.tree("9.0.0") / "telemetry" / "__init__.py").write_text("rotten")
    why = why_another_runs(deployment, "telemetry", "0.2.0")
    assert why.startswith("9.0.0 is in force and cannot be started, it is damaged on the disk")
    assert "telemetry/__init__.py" in why
    assert why_another_runs(deployment, "netagent", "0.2.0") == ""
