"""What a VM lives through, with Debian's unmodified agent as the judge: our host must fool it at every step."""

import io
import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.reference import PATIENCE, Vm, reference_agent

pytestmark = pytest.mark.timeout(300)

COMMAND = """\
#!/bin/sh
# Writes down what it is told to do; for enable also what it can read.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
sequence=${ConfigSequenceNumber:-0}
settings=$here/config/$sequence.settings
field() { sed -n "s/.*\\"$1\\": *\\"\\([^\\"]*\\)\\".*/\\1/p" "$settings" | head -n 1; }
if [ "$1" = enable ]; then
    opened=
    thumbprint=$(field protectedSettingsCertThumbprint)
    [ -z "$thumbprint" ] || opened=$(field protectedSettings | base64 -d | openssl cms -decrypt -inform DER \\
        -recip "/var/lib/waagent/$thumbprint.crt" -inkey "/var/lib/waagent/$thumbprint.prv")
    echo "VERSION enable $sequence $opened" >>"TRACE"
    cat >"$here/status/$sequence.status.tmp" <<END
[{"version": "1.0", "timestampUTC": "$(date -u +%Y-%m-%dT%H:%M:%SZ)",
  "status": {"name": "Tour", "operation": "Enable", "status": "success", "code": 0,
             "formattedMessage": {"lang": "en-US", "message": "VERSION enabled"}}}]
END
    mv "$here/status/$sequence.status.tmp" "$here/status/$sequence.status"
else
    echo "VERSION $1" >>"TRACE"
fi
"""


class Extension:
    """A stand-in that leaves a trace of each command, and the orders about it."""

    def __init__(self, vm: Vm, folder: Path, kind: str) -> None:
        self.name = f"Contoso.Tour.{kind}"
        self._vm = vm
        self._folder = folder
        self._trace = folder / "trace"

    def package(self, version: str) -> Path:
        publisher, _, kind = self.name.rpartition(".")
        words = ("install", "enable", "disable", "update", "uninstall")
        manifest = {
            "version": 1.0,
            "signingInfo": {"publisher": publisher, "type": kind, "version": version},
            "handlerManifest": {
                **{f"{word}Command": f"command.sh {word}" for word in words},
                "rebootAfterInstall": False,
                "reportHeartbeat": False,
                "updateMode": "UpdateWithoutInstall",
            },
        }
        path = self._folder / f"{version}.zip"
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("HandlerManifest.json", json.dumps([manifest]))
            script = COMMAND.replace("VERSION", version).replace("TRACE", str(self._trace))
            archive.writestr("command.sh", script)
        path.write_bytes(buffer.getvalue())
        return path

    def want(self, version: str = "1.0.0", protected: dict[str, Any] | None = None, *options: str) -> None:
        """Put it into the goal state; does not wait."""
        words = [str(self.package(version)), *options]
        if protected is not None:
            file = self._folder / "protected.json"
            file.write_text(json.dumps(protected))
            words += ["--protected", str(file)]
        else:
            file = self._folder / "settings.json"
            file.write_text("{}")
            words += ["--settings", str(file)]
        self._vm.ordered("ext", "add", *words)

    def enabled(self, version: str = "1.0.0", protected: dict[str, Any] | None = None, *options: str) -> None:
        """Wanted, and reported with success."""
        self.want(version, protected, "--wait", str(PATIENCE), *options)

    def remove(self, *options: str) -> None:
        """Asked to be uninstalled, and no longer reported."""
        self._vm.ordered("ext", "remove", self.name, *options)
        self._vm.until(lambda told: told["status"] and self.name not in handlers(told), f"{self.name} to be gone")

    def trace(self) -> list[str]:
        return self._trace.read_text().splitlines() if self._trace.exists() else []


@pytest.fixture(scope="module")
def vm(folder: Path) -> Iterator[Vm]:
    with reference_agent(folder) as one:
        yield one


@pytest.fixture
def extension(vm: Vm, tmp_path: Path) -> Callable[[str], Extension]:
    vm.ordered("fault", "clear")
    return lambda kind: Extension(vm, tmp_path, kind)


def handlers(told: dict[str, Any]) -> dict[str, dict[str, Any]]:
    status = told["status"] if isinstance(told["status"], dict) else {}
    found = status.get("aggregateStatus", {}).get("handlerAggregateStatus", [])
    return {one["handlerName"]: one for one in found}


def asked(vm: Vm, endpoint: str) -> int:
    return int(vm.told()["requests"].get(endpoint, 0))


def incarnation(vm: Vm) -> int:
    return int(json.loads(vm.ordered("vm", "list", "--json"))[0]["incarnation"])


def test_it_provisions(vm: Vm) -> None:
    told = vm.until(lambda told: told["ready"], "the health report Ready")
    assert told["health"]["state"] == "Ready"


def test_an_extension_lives_from_install_to_uninstall(vm: Vm, extension: Callable[[str], Extension]) -> None:
    one = extension("Life")
    one.enabled("1.0.0", {"word": "first"})
    assert one.trace() == ["1.0.0 install", '1.0.0 enable 0 {"word":"first"}']
    one.enabled("1.1.0", {"word": "second"})
    updated = ["1.0.0 disable", "1.1.0 update", "1.0.0 uninstall", '1.1.0 enable 1 {"word":"second"}']
    assert one.trace()[2:] == updated
    assert handlers(vm.told())[one.name]["handlerVersion"] == "1.1.0"
    one.remove()
    assert one.trace()[6:] == ["1.1.0 disable", "1.1.0 uninstall"]
    assert json.loads(vm.ordered("ext", "list", "--json")) == []


@pytest.mark.parametrize("order", ["rotate", "add"])
def test_a_new_certificate_opens_new_settings(vm: Vm, extension: Callable[[str], Extension], order: str) -> None:
    one = extension(f"Certificate{order.title()}")
    one.enabled("1.0.0", {"word": "old"})
    before = asked(vm, "certificates")
    said = vm.ordered("certificate", order)
    one.enabled("1.0.0", {"word": "new"})
    assert one.trace()[-1] == '1.0.0 enable 1 {"word":"new"}'
    assert asked(vm, "certificates") > before
    # What it has on its disk is what was made.
    thumbprint = next(word for word in said.split() if len(word) == 40)
    assert vm.lab.said("vm1", "ls", f"/var/lib/waagent/{thumbprint}.prv")
    one.remove()


def test_fast_track_delivers_without_a_new_incarnation(vm: Vm, extension: Callable[[str], Extension]) -> None:
    one = extension("Fast")
    told = vm.until(lambda told: told["status"], "a status blob")
    features = {feature["Key"] for feature in told["status"]["supportedFeatures"]}
    before = incarnation(vm)
    polls = asked(vm, "vmsettings")
    if "FastTrack" in features:
        one.enabled("1.0.0", {"word": "fast"}, "--fast-track")
        # A certificate that is not on the VM yet, and no new incarnation that says so.
        vm.ordered("certificate", "rotate")
        one.enabled("1.1.0", {"word": "faster"}, "--fast-track")
        assert one.trace()[-1] == '1.1.0 enable 1 {"word":"faster"}'
        one.remove("--fast-track")
        assert one.trace()[-2:] == ["1.1.0 disable", "1.1.0 uninstall"]
        assert incarnation(vm) == before
    else:
        # Debian's reads vmSettings and leaves FastTrack to those after it: only what Fabric delivers is carried out.
        one.want("1.0.0", {"word": "fast"}, "--fast-track")
        vm.until(
            lambda _: 'New eTag: "' + f'{before}-1"' in vm.agent_log(), "the agent to have read FastTrack's change"
        )
        assert one.trace() == []
        one.enabled("1.1.0", {"word": "slow"})
        assert one.trace() == ["1.1.0 install", '1.1.0 enable 1 {"word":"slow"}']
        assert incarnation(vm) == before + 1
        one.remove()
    assert asked(vm, "vmsettings") > polls


def test_packages_come_by_the_other_channel_when_one_fails(vm: Vm, extension: Callable[[str], Extension]) -> None:
    one = extension("Channels")
    before = asked(vm, "artifact")
    vm.ordered("fault", "add", "package", "status", "--value", "404")
    one.enabled("1.0.0")
    assert asked(vm, "artifact") > before
    # It stays with what worked; when that fails it goes back.
    vm.ordered("fault", "clear")
    vm.ordered("fault", "add", "artifact", "status", "--value", "404")
    before = asked(vm, "package")
    one.enabled("1.1.0")
    assert asked(vm, "package") > before
    assert one.trace()[-1].startswith("1.1.0 enable 1")
    vm.ordered("fault", "clear")
    one.remove()


def test_status_comes_by_both_channels(vm: Vm) -> None:
    vm.ordered("fault", "clear")
    vm.until(lambda told: told["status_by"] == "hostgaplugin", "a status by HostGAPlugin")
    vm.ordered("fault", "add", "status", "status", "--value", "400")
    told = vm.until(lambda told: told["status_by"] == "direct", "a status written directly")
    assert told["status"]["aggregateStatus"]["guestAgentStatus"]["status"] == "Ready"
    vm.ordered("fault", "clear")
    vm.until(lambda told: told["status_by"] == "hostgaplugin", "HostGAPlugin to be used again")


def test_extensions_on_hold_wait(vm: Vm, extension: Callable[[str], Extension]) -> None:
    one = extension("Held")
    said = "Extension handling is on hold"
    before = vm.agent_log().count(said)
    vm.ordered("hold", "on")
    one.want()
    vm.until(lambda _: vm.agent_log().count(said) > before, "the agent to say that it holds")
    assert one.trace() == []
    vm.ordered("hold", "off")
    one.enabled()
    assert one.trace() == ["1.0.0 install", "1.0.0 enable 1 "]
    one.remove()


def test_it_follows_to_another_container(vm: Vm, extension: Callable[[str], Extension]) -> None:
    vm.ordered("vm", "move")
    before = vm.told()["status_count"]
    told = vm.until(
        lambda told: told["status_count"] > before and told["status_by"] == "hostgaplugin",
        "a status through HostGAPlugin, which knows the new container only",
    )
    assert told["ready"]
    one = extension("Moved")
    one.enabled()
    one.remove()
