"""HostGAPlugin: versions, vmSettings, artifacts, status, logs, health."""

import json
import re

import pytest
import requests

from tests.fabric.conftest import (
    NAME,
    RunningHost,
    Vm,
    connected,
    handler_status,
    package,
    status_blob,
    vm_of,
)


def test_versions_need_the_container_only(host: RunningHost, vm: Vm) -> None:
    answer = host.call("hostgaplugin", "GET", "/versions", headers={"x-ms-containerid": vm.container_id})
    assert answer.status_code == 200
    assert "2015-09-01" in answer.json()


def test_health_needs_nothing(host: RunningHost) -> None:
    assert host.call("hostgaplugin", "GET", "/health").status_code == 200


def test_the_log_is_taken(host: RunningHost, vm: Vm) -> None:
    headers = {"x-ms-version": "2015-09-01", "x-ms-containerid": vm.container_id, "x-ms-client-name": "WALinuxAgent"}
    before = host.told()["agent_logs"]
    assert host.call("hostgaplugin", "PUT", "/vmAgentLog", data=package(), headers=headers).status_code == 200
    assert host.told()["agent_logs"] == before + 1


CALLS = [("GET", "/vmSettings"), ("GET", "/extensionArtifact"), ("PUT", "/status")]


@pytest.mark.parametrize(("method", "path"), CALLS)
@pytest.mark.parametrize(
    ("header", "value", "status"),
    [
        ("x-ms-containerid", "00000000-0000-0000-0000-000000000000", 410),
        ("x-ms-containerid", None, 410),
        ("x-ms-host-config-name", "another.xml", 410),
        ("x-ms-host-config-name", None, 410),
        ("x-ms-version", "2012-11-30", 400),
        ("x-ms-version", None, 400),
    ],
)
def test_stale_ids_are_gone_and_the_version_is_required(
    host: RunningHost, vm: Vm, method: str, path: str, header: str, value: str | None, status: int
) -> None:
    headers = {name: kept for name, kept in vm.plugin.items() if name != header}
    if value is not None:
        headers[header] = value
    answer = host.call("hostgaplugin", method, path, headers=headers)
    assert answer.status_code == status
    assert answer.text


def test_versions_and_log_of_a_stale_container_are_gone(host: RunningHost) -> None:
    headers = {"x-ms-containerid": "elsewhere", "x-ms-version": "2015-09-01"}
    assert host.call("hostgaplugin", "GET", "/versions", headers=headers).status_code == 410
    assert host.call("hostgaplugin", "PUT", "/vmAgentLog", data=b"zip", headers=headers).status_code == 410


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/vmsettings"),
        ("GET", "/vmSettings/"),
        ("POST", "/vmSettings"),
        ("POST", "/status"),
        ("GET", "/status"),
        ("PUT", "/status/"),
        ("POST", "/extensionArtifact"),
        ("PUT", "/health"),
        ("GET", "/"),
        ("GET", "/vm%0ASettings"),
    ],
)
def test_paths_and_methods_are_exact(host: RunningHost, vm: Vm, method: str, path: str) -> None:
    answer = host.call("hostgaplugin", method, path, headers=vm.plugin)
    assert (answer.status_code, answer.text) == (404, "there is no such endpoint here")


# -- vmSettings ----------------------------------------------------------------------------------------------------


def asked(vm: Vm, **headers: str) -> requests.Response:
    return vm.host.call("hostgaplugin", "GET", "/vmSettings", headers={**vm.plugin, **headers})


def test_without_fast_track_it_repeats_the_fabric_goal_state(host: RunningHost) -> None:
    host.add(settings={"who": "world"})
    vm = vm_of(host)
    settings = vm.vm_settings()
    assert settings["extensionGoalStatesSource"] == "Fabric"
    assert str(settings["inSvdSeqNo"]) == vm.incarnation
    meta = vm.config().find("InVMGoalStateMetaData")
    assert meta is not None
    assert str(settings["extensionsLastModifiedTickCount"]) == meta.get("createdOnTicks")


def test_a_fast_track_change_is_a_new_etag_and_later_ticks_and_no_new_incarnation(host: RunningHost) -> None:
    vm = vm_of(host)
    first = asked(vm)
    public = {"who": "w\u00f6rld", "n": [1, None]}
    host.add("Contoso.Tools.Quick", settings=public, fast_track=True)
    second = asked(vm)
    settings = second.json()
    assert second.headers["ETag"] != first.headers["ETag"]
    assert re.fullmatch(r'"[^"]+"', second.headers["ETag"])
    assert settings["extensionsLastModifiedTickCount"] > first.json()["extensionsLastModifiedTickCount"]
    assert settings["extensionGoalStatesSource"] == "FastTrack"
    assert tuple(map(int, settings["hostGAPluginVersion"].split("."))) >= (1, 0, 8, 133)
    assert settings["onHold"] is False
    assert set(settings["statusUploadBlob"]) == {"statusBlobType", "value"}
    assert [one["name"] for one in settings["gaFamilies"]] == ["Prod"]
    assert settings["requiredFeatures"] == []
    (entry,) = [one for one in settings["extensionGoalStates"] if one["name"] == "Contoso.Tools.Quick"]
    assert (entry["version"], entry["state"]) == ("1.0.0", "enabled")
    assert (entry["settingsSeqNo"], entry["isMultiConfig"]) == (0, False)
    # JSON text inside a string here, a value in ExtensionsConfig.
    assert json.loads(entry["settings"][0]["publicSettings"]) == public
    assert vm_of(host).incarnation == vm.incarnation
    assert vm.config().findall("Plugins/Plugin[@name='Contoso.Tools.Quick']") == []


def test_the_channel_that_spoke_last_has_the_later_ticks_and_both_lists(host: RunningHost) -> None:
    host.add()
    last = 0
    wanted = [one["name"] for one in vm_of(host).vm_settings()["extensionGoalStates"]]
    for number, fast in enumerate((False, True, True, False, True)):
        name = f"Contoso.Tools.T{number}"
        host.add(name, settings={}, fast_track=fast)
        wanted.append(name)
        vm = vm_of(host)
        settings = vm.vm_settings()
        assert settings["extensionGoalStatesSource"] == ("FastTrack" if fast else "Fabric")
        assert settings["extensionsLastModifiedTickCount"] > last
        last = settings["extensionsLastModifiedTickCount"]
        assert [one["name"] for one in settings["extensionGoalStates"]] == wanted
        if not fast:
            assert [one.get("name") for one in vm.config().findall("Plugins/Plugin")] == wanted


def test_fast_track_uninstall(host: RunningHost) -> None:
    host.add(settings={}, fast_track=True)
    host.api("DELETE", f"/api/extensions/{NAME}", params={"fast_track": "true"})
    (entry,) = [one for one in vm_of(host).vm_settings()["extensionGoalStates"] if one["name"] == NAME]
    assert entry["state"] == "uninstall"
    assert "settings" not in entry


def test_dependencies_are_told_only_where_there_are_any(host: RunningHost) -> None:
    # Of an empty array the reference agent complains.
    handlers: list[dict[str, object]] = [
        {"name": NAME, "version": "1.0.0", "settings": {}},
        {"name": "Contoso.Tools.Late", "version": "1.0.0", "settings": {}, "depends_on": [NAME], "dependency_level": 1},
        {"name": "Contoso.Tools.Many", "version": "1.0.0", "instances": [{"name": "a", "settings": {}}]},
    ]
    for one in handlers:
        host.api("PUT", "/api/packages", data=package(str(one["name"])))
    host.api("PUT", "/api/goal", json={"handlers": handlers})
    alone, late, many = vm_of(host).vm_settings()["extensionGoalStates"]
    assert "dependsOn" not in alone
    assert late["dependsOn"] == [{"dependsOnExtension": [{"handler": NAME}], "dependencyLevel": 1}]
    assert "dependsOn" not in many


def test_what_is_known_is_304(host: RunningHost, vm: Vm) -> None:
    tag = asked(vm).headers["ETag"]
    answer = asked(vm, **{"if-none-match": tag})
    assert (answer.status_code, answer.content) == (304, b"")
    assert answer.headers["ETag"] == tag
    assert asked(vm, **{"if-none-match": '"other"'}).status_code == 200
    for fast in (True, False):
        host.add("Contoso.Tools.Tagged", settings={}, fast_track=fast)
        answer = asked(vm, **{"if-none-match": tag})
        assert answer.status_code == 200
        tag = answer.headers["ETag"]


@pytest.mark.parametrize("fast", [True, False])
def test_prefer_wait_holds_the_question_until_either_channel_changes(host: RunningHost, vm: Vm, fast: bool) -> None:
    tag = asked(vm).headers["ETag"]
    with connected(host, "hostgaplugin") as connection:
        connection.request("GET", "/vmSettings", headers={**vm.plugin, "if-none-match": tag, "Prefer": "wait=50"})
        host.add("Contoso.Tools.Waited", settings={}, fast_track=fast)
        answer = connection.getresponse()
        assert answer.status == 200
        assert answer.headers["Preference-Applied"] == "wait=50"
        assert answer.headers["ETag"] != tag
        assert "Contoso.Tools.Waited" in answer.read().decode()


def test_prefer_wait_ends_in_304_with_the_time(host: RunningHost, vm: Vm) -> None:
    tag = asked(vm).headers["ETag"]
    assert asked(vm, **{"if-none-match": tag, "Prefer": "wait=1"}).status_code == 304


# -- artifacts -----------------------------------------------------------------------------------------------------


def fetched(vm: Vm, location: str) -> requests.Response:
    headers = {**vm.plugin, "x-ms-artifact-location": location, "x-ms-verify-from-artifacts-blob": "true"}
    return vm.host.call("hostgaplugin", "GET", "/extensionArtifact", headers=headers)


def test_manifest_and_package_are_the_same_bytes_as_directly(host: RunningHost) -> None:
    data = package(version="3.2.1", files={"bin/x": bytes(range(256)) * 300})
    host.api("PUT", "/api/packages", data=data)
    host.api("POST", "/api/extensions", json={"name": NAME, "version": "3.2.1"})
    vm = vm_of(host)
    (plugin,) = vm.config().findall(f"Plugins/Plugin[@name='{NAME}']")
    location = plugin.get("location", "")
    manifest = fetched(vm, location)
    assert manifest.status_code == 200
    assert manifest.content == host.call("blob", "GET", location).content
    (url,) = re.findall(r"<Version>3\.2\.1</Version><Uris><Uri>([^<]+)</Uri>", manifest.text)
    assert fetched(vm, url.replace("&amp;", "&")).content == data


def test_an_artifact_that_is_not_there_or_not_ours(host: RunningHost, vm: Vm) -> None:
    host.add(settings={})
    (plugin, *_) = vm_of(host).config().findall("Plugins/Plugin")
    location = plugin.get("location", "")
    signature = re.sub(r"sig=\w+", "sig=0", location)
    for wrong in (signature, location.partition("?")[0], "http://example.invalid/packages/a.zip?sig=1", "", "[", "::"):
        answer = fetched(vm, wrong)
        assert answer.status_code == 502, wrong
        assert answer.text


# -- status --------------------------------------------------------------------------------------------------------


def test_a_status_blob_arrives_parsed(host: RunningHost) -> None:
    vm = vm_of(host)
    blob = status_blob(handler_status())
    before = host.told()["status_count"]
    assert vm.report(blob).status_code == 200
    told = host.told()
    assert told["status"] == json.loads(blob)
    assert (told["status_count"], told["status_by"]) == (before + 1, "hostgaplugin")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b'{"requestUri": "x"}',
        b'{"requestUri": 1, "headers": []}',
        b'{"requestUri": "x", "headers": [], "content": "%%%"}',
        b'{"requestUri": "x", "headers": [], "content": "\xff"}',
        b'{"requestUri": "x", "headers": [], "content": "\\u00e4"}',
        b'{"requestUri": "x", "headers": {"a": "b"}}',
        b'{"requestUri": "x", "headers": [{"headerName": "a"}]}',
        b"[" * 100_000,
        b'{"x":' * 5000,
    ],
)
def test_an_order_that_cannot_be_read_is_400(host: RunningHost, vm: Vm, body: bytes) -> None:
    answer = host.call("hostgaplugin", "PUT", "/status", data=body, headers=vm.plugin)
    assert answer.status_code == 400
    assert answer.text.startswith("the status order cannot be read")


def test_an_order_for_elsewhere_or_with_a_wrong_signature_is_502(host: RunningHost, vm: Vm) -> None:
    url = vm.status_url()
    other = url.replace("/status/vm1.status", "/status/vm2.status")
    base = host.endpoints["blob"]
    elsewhere = [url.replace(base, f"{base}1"), url.replace(base, f"{base}@example.invalid"), f"x{url}", base]
    for wrong in (
        *elsewhere,
        "http://example.invalid/x?sig=1",
        "",
        "http://[",
        re.sub("sig=\\w+", "sig=0", url),
        other,
    ):
        answer = vm.order(wrong, {"x-ms-blob-type": "BlockBlob"}, b"{}")
        assert answer.status_code == 502, wrong
        assert answer.text
    assert vm.order(url, {"x-ms-blob-type": "Nonsense"}, b"{}").status_code == 502
    assert vm.order(url, {}, b"{}").status_code == 502


def test_a_page_blob_padded_with_blanks_arrives(host: RunningHost) -> None:
    vm = vm_of(host)
    url = vm.status_url()
    blob = status_blob(handler_status())
    padded = blob.ljust(-len(blob) % 512 + len(blob), b" ")
    create = {"Content-Length": "0", "x-ms-blob-content-length": str(len(padded)), "x-ms-blob-type": "PageBlob"}
    before = host.told()["status_count"]
    assert vm.order(url, create).status_code == 200
    assert host.told()["status_count"] == before
    pages = {"x-ms-range": f"bytes=0-{len(padded) - 1}", "x-ms-page-write": "update"}
    assert vm.order(f"{url}&comp=page", pages, padded).status_code == 200
    assert host.told()["status"] == json.loads(blob)
