"""The proof that our host is a host: Debian's unmodified agent provisions, installs and reports against it."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fabric.lab.control import Lab
from tests.lab.conftest import TestedLab

pytestmark = pytest.mark.timeout(300)

HERE = Path(__file__).parent
CACHE = HERE.parent.parent / ".cache" / "waagent"
PATIENCE = 90.0


class Vm:
    """A VM of the lab, and the host's commands."""

    def __init__(self, lab: TestedLab, log: Path) -> None:
        self.lab = lab
        self._log = log

    def azfabric(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-P", "-m", "fabric", *arguments, "--root", str(self.lab.lab.folder)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, cwd="/")

    def told(self) -> dict[str, Any]:
        done = self.azfabric("told", "--json")
        return json.loads(done.stdout) if done.returncode == 0 else {}

    def until(self, condition: Callable[[dict[str, Any]], Any], what: str) -> dict[str, Any]:
        until = time.monotonic() + PATIENCE
        while time.monotonic() < until:
            told = self.told()
            if told and condition(told):
                return told
        pytest.fail(f"waited {PATIENCE:g} s for {what}\n{self.logs()}")

    def logs(self) -> str:
        return "\n".join(
            line
            for path in (self.lab.lab.folder / "host.log", self._log)
            if path.exists()
            for line in path.read_text(errors="replace").splitlines()[-40:]
        )


@pytest.fixture(scope="module")
def vm(folder: Path) -> Iterator[Vm]:
    subprocess.run([HERE / "fetch_waagent.sh", CACHE], check=True, timeout=120)
    lab = TestedLab(Lab(folder, "waagent"))
    log = folder / "waagent.log"
    lab.up("vm1", static=False, host=True)
    words, environment = lab.lab.command("vm1", ("sh", str(HERE / "waagent_vm.sh"), str(CACHE)))
    with log.open("wb") as output:
        agent = subprocess.Popen(words, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    yield Vm(lab, log)
    lab.lab.down()
    agent.wait()


def handler(told: dict[str, Any]) -> dict[str, Any]:
    status = told["status"] if isinstance(told["status"], dict) else {}
    handlers = status.get("aggregateStatus", {}).get("handlerAggregateStatus", [])
    return handlers[0] if handlers else {}


def test_it_provisions_and_reports_ready(vm: Vm) -> None:
    told = vm.until(lambda told: told["ready"], "the health report Ready")
    assert told["health"]["state"] == "Ready"
    told = vm.until(lambda told: told["status"], "a status blob")
    agent = told["status"]["aggregateStatus"]["guestAgentStatus"]
    assert (agent["status"], agent["version"]) == ("Ready", "2.7.3.0")


def test_it_installs_and_enables_an_extension(vm: Vm) -> None:
    done = vm.azfabric("ext", "add", "--sample", "--wait", str(PATIENCE))
    assert done.returncode == 0, f"{done.stdout}{done.stderr}\n{vm.logs()}"
    told = vm.told()
    assert handler(told)["status"] == "Ready"
    status = handler(told)["runtimeSettingsStatus"]["settingsStatus"]["status"]
    assert (status["status"], status["formattedMessage"]["message"]) == ("success", "Hello, world!")
    assert told["requests"]["certificates"] >= 1


def test_it_opens_our_certificates_and_protected_settings(vm: Vm, tmp_path: Path) -> None:
    protected = tmp_path / "protected.json"
    protected.write_text('{"word": "open sesame"}')
    done = vm.azfabric("ext", "add", "--sample", "--protected", str(protected), "--wait", str(PATIENCE))
    assert done.returncode == 0, f"{done.stdout}{done.stderr}\n{vm.logs()}"
    # Seen from inside, as the extension sees it.
    script = (
        "cd /var/lib/waagent; s=$(ls -t Azvmagent.Samples.Hello-1.0.0/config/*.settings | head -n 1);"
        't=$(sed -n \'s/.*protectedSettingsCertThumbprint": *"\\([0-9A-F]*\\)".*/\\1/p\' $s);'
        'sed -n \'s/.*protectedSettings": *"\\([^"]*\\)".*/\\1/p\' $s | base64 -d'
        " | openssl cms -decrypt -inform DER -recip $t.crt -inkey $t.prv"
    )
    opened = vm.lab.run("vm1", "sh", "-c", script)
    assert json.loads(opened.stdout) == {"word": "open sesame"}, opened.stderr


def test_it_uninstalls(vm: Vm) -> None:
    assert vm.azfabric("ext", "remove", "Azvmagent.Samples.Hello").returncode == 0
    vm.until(lambda told: told["status"] and not handler(told), "the handler to be gone from the status")
    assert json.loads(vm.azfabric("ext", "list", "--json").stdout) == []


def test_its_telemetry_and_observations_arrive(vm: Vm) -> None:
    told = vm.until(lambda told: told["events"], "telemetry")
    assert any(event.get("Name") == "WALinuxAgent" for event in told["events"])
    vm.until(lambda told: told["observations"], "HealthService observations")
