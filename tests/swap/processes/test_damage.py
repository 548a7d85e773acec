"""The version in force is damaged on the disk: another runs, `agentctl update status` says so, and `now` mends it."""

import subprocess

import pytest

from ipc.contract.rdagent import PinVersion
from tests.swap.processes.conftest import Shop
from tests.swap.processes.product import BASE, Root

pytestmark = pytest.mark.timeout(300)


def status(root: Root) -> tuple[int, str]:
    """How it ends, and all it says in one line."""
    command = root.command("agentctl", "update", "status")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, " ".join(done.stdout.split())


def test_who_runs_instead_of_a_damaged_version_is_told_and_mended(root: Root, shop: Shop) -> None:
    root.publish(shop("telemetry", "0.96.0"))
    root.update("telemetry", "0.96.0")
    pid = root.kill("telemetry")
    root.until(lambda: root.pids()["telemetry"] not in {0, pid}, "another telemetry")
    root.until_runs("telemetry", "0.96.0")
    assert status(root)[0] == 0
    module = root.versions("telemetry") / "versions" / "0.96.0" / "telemetry" / "__init__.py"
    with module.open("ab") as file:
        file.write(b"#")
    assert status(root)[0] == 0  # what runs is not touched by that
    root.kill("telemetry")
    root.until(lambda: root.version("telemetry") == BASE, "the base install to run")
    why = f"telemetry 0.96.0 is in force and {BASE} runs instead, because of damage: "
    view = root.until(lambda: (one := root.view("telemetry")) and one.why and one, "status to say why")
    assert view.why.startswith(why)
    assert "telemetry/__init__.py has" in view.why
    assert (view.state, view.lift) == ("settled", "agentctl update now telemetry 0.96.0")
    code, text = status(root)
    assert code == 1
    assert "in trouble" in text
    assert text.count("because of damage") == 1
    assert "agentctl update now telemetry 0.96.0" in text
    # Whatever else is wanted, and whoever stands in the way of it.
    root.publish(shop("telemetry", "0.97.0"))
    root.ask(PinVersion(component="telemetry", version="0.96.0"))
    root.host.post("/api/components", {"component": "telemetry", "version": "0.97.0", "from_version": ""})
    root.until(lambda: (one := root.view("telemetry")) and one.state == "refused", "the host's word to be refused")
    code, text = status(root)
    assert (code, text.count("because of damage")) == (1, 1)
    assert "telemetry in trouble" in text
    assert f"! telemetry: {why}" in text
    assert f"Next: agentctl update now telemetry 0.96.0 --root {root.folder}" in text
    root.host.delete("/api/components/telemetry")
    root.now("telemetry", "0.96.0")
    root.until_runs("telemetry", "0.96.0")
    root.until(lambda: (one := root.view("telemetry")) and one.running == "0.96.0", "rdagent to see it")
    code, text = status(root)
    assert (code, "because of damage" in text) == (0, False)
    assert not root.bad("telemetry")
