"""Orders about the VM itself, by the command, and what the VM then finds."""

import subprocess

from tests.fabric.conftest import NAME, RunningHost, Transport, run_azfabric, vm_of
from tests.fabric.test_certificates import asked, envelope


def printed(host: RunningHost, transport: Transport) -> bytes:
    """What is in the PFX, by openssl."""
    pfx = transport.opens(envelope(asked(host, transport.header, "AES128_CBC")))
    command = ["openssl", "pkcs12", "-nodes", "-nomacver", "-passin", "pass:"]
    return subprocess.run(command, input=pfx, capture_output=True, check=True).stdout


def test_certificates_are_rotated_and_added(own_host: RunningHost, transport: Transport) -> None:
    first = printed(own_host, transport)
    run_azfabric(own_host.root, "certificate", "rotate")
    assert vm_of(own_host).incarnation == "1"
    second = printed(own_host, transport)
    assert [one.count(b"BEGIN CERTIFICATE") for one in (first, second)] == [1, 1]
    assert first != second
    run_azfabric(own_host.root, "certificate", "rotate", "--ec")
    run_azfabric(own_host.root, "certificate", "add")
    shown = run_azfabric(own_host.root, "certificate", "add", "--ec").stdout
    assert vm_of(own_host).incarnation == "3"
    third = printed(own_host, transport)
    assert (third.count(b"BEGIN CERTIFICATE"), third.count(b"PRIVATE KEY-----\n")) == (3, 6)
    assert len(shown.split()[0]) == 40


def test_settings_are_protected_for_the_certificate_of_their_time(
    own_host: RunningHost,
) -> None:
    own_host.add(protected={"secret": "one"})
    run_azfabric(own_host.root, "certificate", "rotate", "--ec")
    own_host.add("Contoso.Tools.Runner", protected={"secret": "two"})
    items = vm_of(own_host).vm_settings()["extensionGoalStates"]
    named = [one["settings"][0]["protectedSettingsCertThumbprint"] for one in items]
    assert len(set(named)) == 2


def test_hold_features_fast_track_and_another_container(own_host: RunningHost) -> None:
    host = own_host
    host.add()
    assert vm_of(host).config().find("InVMArtifactsProfileBlob") is None
    run_azfabric(host.root, "hold", "on")
    run_azfabric(host.root, "require", "Levitation")
    vm = vm_of(host)
    url = vm.config().findtext("InVMArtifactsProfileBlob") or ""
    assert host.call("blob", "GET", url).json()["onHold"] is True
    assert vm.config().findtext("RequiredFeatures/RequiredFeature/Name") == "Levitation"
    assert (vm.vm_settings()["onHold"], vm.vm_settings()["requiredFeatures"]) == (True, [{"name": "Levitation"}])
    run_azfabric(host.root, "hold", "off")
    assert host.call("blob", "GET", url).json()["onHold"] is False
    run_azfabric(host.root, "fast-track", "off")
    assert host.call("hostgaplugin", "GET", "/vmSettings", headers=vm.plugin).status_code == 404
    refused = host.call(
        "portal", "POST", "/api/extensions", json={"name": NAME, "version": "1.0.0", "fast_track": True}
    )
    assert (refused.status_code, "FastTrack is off" in refused.json()["reason"]) == (400, True)
    run_azfabric(host.root, "fast-track", "on")
    assert host.call("hostgaplugin", "GET", "/vmSettings", headers=vm.plugin).status_code == 200
    run_azfabric(host.root, "vm", "move")
    assert host.call("hostgaplugin", "GET", "/vmSettings", headers=vm.plugin).status_code == 410
    moved = vm_of(host)
    assert (moved.container_id != vm.container_id, moved.incarnation) == (True, vm.incarnation)
