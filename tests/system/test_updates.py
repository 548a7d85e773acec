"""Versions as an operator and the host see them: the real commands against the real group, repository away."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import agentctl
from tests.system.conftest import Group

BASE = agentctl.__version__
"""Of the base install."""
SOURCE = Path(__file__).resolve().parent.parent.parent
CONFIGURATION = "[update]\ntrial_seconds = 1.5\ntrial_answers = 2\ntrial_limit = 20.0\n"


class Shop:
    """Where packages are made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.agentctl("package", "keygen", "key")
        self.good = self.build("0.9.0", SOURCE)
        self.bad = self.build("0.9.9", self.broken())

    def agentctl(self, *words: str) -> None:
        command = [sys.executable, "-m", "agentctl", *words]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr

    def build(self, version: str, source: Path) -> Path:
        self.agentctl("package", "build", "telemetry", "--key", "key", "--source", str(source), "--as-version", version)
        return self.folder / "dist" / f"telemetry-{version}.zip"

    def broken(self) -> Path:
        """A checkout whose telemetry says it is another version than it is."""
        source = self.folder / "broken"
        for name in ("telemetry", "ipc", "wire"):
            shutil.copytree(SOURCE / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(SOURCE / "pyproject.toml", source)
        main = source / "telemetry" / "__main__.py"
        honest = main.read_text()
        lying = honest.replace("Component(NAME, __version__, ", 'Component(NAME, "0.0.1", ')
        assert lying != honest
        main.write_text(lying)
        return source


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, group: Group) -> Shop:
    shop = Shop(tmp_path_factory.mktemp("shop"))
    group.agentctl("package", "trust", str(shop.folder / "key.pub"))
    return shop


def versions(group: Group) -> dict[str, Any]:
    found = json.loads(group.agentctl("update", "status", "--json", check=False).stdout)
    return {**next(one for one in found["components"] if one["component"] == "telemetry"), "of": found}


def looked(group: Group) -> str:
    """How it stands with telemetry after another look at host and repository."""
    found = group.agentctl("update", "now", "telemetry", "--json", check=False).stdout
    return str(json.loads(found)[0]["state"])


def asked(group: Group) -> dict[str, Any]:
    found = json.loads(group.azfabric("want", "--list", "--json").stdout)
    return next((one for one in found if one["component"] == "telemetry"), {})


def test_1_a_version_the_host_asks_for_that_comes_back(group: Group, shop: Shop) -> None:
    pids = {name: group.pid(name) for name in ("rdagent", "guestagent", "netagent")}
    group.azfabric("publish", str(shop.bad), "--ring", "0")
    group.azfabric("want", "telemetry", "0.9.9")
    told = group.until(lambda: (one := asked(group)).get("state") == "refused" and one, "the host to hear of it")
    assert told["reason"].startswith("telemetry 0.9.9")
    assert told["reported"] == BASE
    status = group.agentctl("update", "status", check=False)
    assert status.returncode == 1
    assert "rolled back" in status.stdout
    assert f"Next: agentctl update unblock telemetry 0.9.9 --root {group.root}" in status.stdout
    assert "0.9.9" in group.agentctl("update", "history", "telemetry").stdout
    # Everybody hears of it who asks how things are.
    shown = group.agentctl("status", check=False).stdout
    assert "See: agentctl update status" in shown
    group.until(lambda: "was rolled back" in group.component("telemetry").get("why", ""), "rdagent to say so")
    assert group.component("telemetry")["state"] == "ok"
    observed = group.until(
        lambda: (
            (one := group.told()["observations"].get("azvmagent.telemetry", {}))
            and "rolled back" in one["Description"]
            and one
        ),
        "the host to see it",
    )
    assert observed["Value"] == BASE
    assert {name: group.pid(name) for name in pids} == pids
    again = group.agentctl("update", "now", "telemetry", "0.9.9", check=False)
    assert again.returncode == 1
    assert "bad list" in again.stdout
    # Nothing of it is told once the host asks no more.
    group.azfabric("want", "--clear", "telemetry")
    group.until(lambda: "updateStatus" not in json.dumps(group.told()["status"]), "the status to be without it")


def test_2_the_operators_word(group: Group, shop: Shop) -> None:
    group.azfabric("publish", "--withdraw", "telemetry", "0.9.9")
    group.until(lambda: looked(group) == "runs", "nobody to want it any more")
    group.agentctl("update", "unblock", "telemetry", "0.9.9")
    assert not versions(group)["bad"]
    assert group.agentctl("update", "unblock", "telemetry", check=False).returncode == 1
    assert "held until" in group.agentctl("update", "hold", "--for", "2h").stdout
    assert versions(group)["of"]["held"]
    group.agentctl("update", "hold", "--off")
    group.agentctl("update", "pin", "telemetry", BASE)
    pinned = group.agentctl("update", "status", check=False)
    assert (pinned.returncode, f"pinned to {BASE}" in pinned.stdout) == (0, True)
    group.agentctl("update", "pin", "telemetry", "--off")
    assert group.agentctl("update", "pin", "telemetry", check=False).returncode == 2
    assert group.agentctl("update", "hold", "--until", "yesterday", check=False).returncode == 2
    nothing = group.agentctl("update", "rollback", "netagent", check=False)
    assert (nothing.returncode, "nothing to go back to" in nothing.stderr) == (1, True)
    assert "telemetry" in group.agentctl("update", "plan").stdout
    nobodys = group.agentctl("update", "now", "telemetry", "0.0.1", "--no-wait", check=False)
    assert (nobodys.returncode, "nobody says where telemetry 0.0.1 is to be had" in nobodys.stdout) == (1, True)
    # One that nobody has is not wanted for ever.
    group.until(lambda: looked(group) == "runs", "the order to be forgotten")


def test_3_a_bundle_out_of_the_repository(group: Group, shop: Shop) -> None:
    group.agentctl("update", "hold")
    group.azfabric("publish", str(shop.good), "--channel", "beta")
    out, mine = shop.folder / "all.zip", shop.folder / "mine.zip"
    none = group.agentctl("bundle", "export", "--out", str(out), check=False)
    assert (none.returncode, "nothing on the channel stable" in none.stderr) == (1, True)
    group.agentctl("bundle", "export", "--out", str(out), "telemetry", "0.9.0")
    shop.agentctl("bundle", "export", "--out", str(mine), "--package", str(shop.good))
    assert out.read_bytes() == mine.read_bytes()
    over = group.agentctl("bundle", "export", "--out", str(out), "--channel", "beta", check=False)
    assert (over.returncode, "is there already" in over.stderr) == (1, True)
    group.azfabric("publish", "--withdraw", "telemetry", "0.9.0")
    group.until(lambda: looked(group) == "runs", "nobody to want it any more")
    group.agentctl("update", "hold", "--off")


def test_4_air_gapped(group: Group, shop: Shop) -> None:
    host = json.loads((group.root / "fabric" / "endpoints.json").read_text())["pid"]
    os.kill(host, signal.SIGTERM)
    keys = group.root / "trust"
    shutil.move(keys, keys.with_name("trusted"))
    refused = group.agentctl("bundle", "import", str(shop.folder / "mine.zip"), check=False)
    assert refused.returncode == 1
    assert "refused: telemetry 0.9.0: no package can be checked" in refused.stdout
    assert "0.9.0" not in versions(group)["staged"]
    shutil.move(keys.with_name("trusted"), keys)
    assert "lies on the disk" in group.agentctl("bundle", "import", str(shop.folder / "mine.zip")).stdout
    assert "0.9.0" in versions(group)["staged"]
    # It is there, and nobody asked for it.
    assert (versions(group)["running"], versions(group)["wanted"]) == (BASE, "")
    took = group.agentctl("update", "now", "telemetry", "0.9.0")
    assert "0.9.0 runs and is in force" in took.stdout
    assert "on trial" in took.stderr
    found = versions(group)
    assert (found["running"], found["current"], found["previous"]) == ("0.9.0", "0.9.0", "")
    assert found["of"]["repository"]["problem"]
    status = group.agentctl("update", "status")
    assert "what runs goes on running" in " ".join(status.stdout.split())
    back = group.agentctl("update", "rollback", "telemetry", "--reason", "a test")
    assert back.stdout == f"telemetry {BASE} runs again, instead of 0.9.0.\n"
    assert versions(group)["running"] == BASE
    assert [one["reason"] for one in versions(group)["bad"]] == ["a test"]


def test_5_without_rdagent(group: Group, shop: Shop) -> None:
    group.agentctl("update", "unblock", "telemetry")
    group.agentctl("update", "now", "telemetry", "0.9.0")
    os.kill(pid := group.pid("rdagent"), signal.SIGSTOP)
    try:
        status = group.agentctl("update", "status", check=False)
        assert status.returncode == 3
        assert "Shown is what the records on disk say" in status.stderr
        assert "0.9.0" in status.stdout
        back = group.agentctl("update", "rollback", "telemetry")
        assert f"telemetry {BASE} runs again" in back.stdout
        group.agentctl("update", "unblock", "telemetry", "0.9.0")
    finally:
        os.kill(pid, signal.SIGCONT)
    assert group.until(lambda: versions(group)["running"] == BASE and versions(group), "rdagent")["bad"] == []
