"""The proof that our host is a host: Debian's unmodified agent provisions, installs and reports against it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.reference import PATIENCE, Vm, reference_agent

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def vm(folder: Path) -> Iterator[Vm]:
    with reference_agent(folder) as one:
        yield one


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
