"""WireServer: right answers, and what a wrong client gets."""

import http.client
import json
import xml.etree.ElementTree as ET
from typing import Any

import pytest

from tests.fabric.conftest import NAME, RunningHost, Vm, connected, parsed, vm_of


def test_versions_need_no_header_and_name_the_one_agents_speak(host: RunningHost) -> None:
    answer = host.call("wireserver", "GET", "/?comp=versions")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/xml")
    root = parsed(answer.content)
    assert root.tag == "Versions"
    assert root.findtext("Preferred/Version")
    assert "2012-11-30" in [one.text for one in root.findall("Supported/Version")]


def test_the_goal_state_names_everything_an_agent_reads(host: RunningHost, vm: Vm) -> None:
    answer = host.call("wireserver", "GET", "/machine/?comp=goalstate", headers=Vm.WIRE)
    root = parsed(answer.content)
    assert root.tag == "GoalState"
    assert root.findtext("Version") == "2012-11-30"
    assert root.findtext("Machine/ExpectedState") == "Started"
    assert root.find("Machine/LBProbePorts") is not None
    assert root.findtext("Container/RoleInstanceList/RoleInstance/State") == "Started"
    assert vm.incarnation.isdigit()
    assert vm.instance_id.partition(".")[0] == vm.config_name.partition(".")[0]
    for name in ("HostingEnvironmentConfig", "SharedConfig", "ExtensionsConfig", "Certificates"):
        url = vm.urls[name]
        assert url.startswith(f"{host.endpoints['wireserver']}/machine/{vm.container_id}/")
        assert url.endswith(f"&incarnation={vm.incarnation}")
        # The client takes the text untrimmed.
        assert url == url.strip()


def test_hosting_environment_names_deployment_instance_and_role(host: RunningHost, vm: Vm) -> None:
    answer = host.call("wireserver", "GET", vm.urls["HostingEnvironmentConfig"], headers=Vm.WIRE)
    root = parsed(answer.content)
    assert root.tag == "HostingEnvironmentConfig"
    found = [root.find(name) for name in ("Deployment", "Incarnation", "Role")]
    values = [one.get(key) for one, key in zip(found, ("name", "instance", "name"), strict=True) if one is not None]
    assert values == [vm.config_name.partition(".")[0], "_vm1", "_vm1"]


def test_shared_config(host: RunningHost, vm: Vm) -> None:
    answer = host.call("wireserver", "GET", vm.urls["SharedConfig"], headers=Vm.WIRE)
    assert parsed(answer.content).tag == "SharedConfig"


def test_an_extension_is_in_the_extensions_config(host: RunningHost) -> None:
    before = vm_of(host)
    ticks = int((before.config().find("InVMGoalStateMetaData") or ET.Element("")).get("createdOnTicks", "0"))
    awkward = {"who": "world", "text": "<&>\"' \u00e4 \U0001f600 ]]> \ufffe \u0001", "list": [1, 2.5, None, True]}
    added = host.add(settings=awkward, protected={"secret": "s"})
    vm = vm_of(host)
    assert int(vm.incarnation) == int(before.incarnation) + 1
    answer = host.call("wireserver", "GET", vm.urls["ExtensionsConfig"], headers=Vm.WIRE)
    # The client reads only the first text child, and CDATA is none.
    assert "<![CDATA[" not in answer.text
    root = parsed(answer.content)
    (plugin,) = root.findall(f"Plugins/Plugin[@name='{NAME}']")
    assert {name: plugin.get(name) for name in ("name", "version", "state", "isJson", "encodedSignature")} == {
        "name": NAME,
        "version": "1.0.0",
        "state": "enabled",
        "isJson": "true",
        "encodedSignature": "",
    }
    (settings,) = root.findall(f"PluginSettings/Plugin[@name='{NAME}']")
    assert (settings.get("name"), settings.get("version")) == (NAME, "1.0.0")
    (runtime,) = settings
    assert (runtime.tag, runtime.get("seqNo")) == ("RuntimeSettings", str(added["sequence_number"]))
    (one,) = json.loads(runtime.text or "")["runtimeSettings"]
    assert one["handlerSettings"]["publicSettings"] == awkward
    assert set(one["handlerSettings"]) == {"publicSettings", "protectedSettings", "protectedSettingsCertThumbprint"}
    assert root.find("StatusUploadBlob") is not None
    meta = root.find("InVMGoalStateMetaData")
    assert meta is not None
    assert int(meta.get("createdOnTicks", "0")) > ticks
    assert meta.get("inSvdSeqNo") == vm.incarnation
    (family,) = root.findall("GuestAgentExtension/GAFamilies/GAFamily")
    assert (family.findtext("Name"), bool(family.findtext("Uris/Uri"))) == ("Prod", True)


def test_a_handler_without_settings_has_no_settings_node(host: RunningHost) -> None:
    host.add("Contoso.Tools.Bare")
    root = vm_of(host).config()
    assert "Contoso.Tools.Bare" in [one.get("name") for one in root.findall("Plugins/Plugin")]
    assert "Contoso.Tools.Bare" not in [one.get("name") for one in root.findall("PluginSettings/Plugin")]


def test_public_settings_alone_name_no_certificate(host: RunningHost) -> None:
    host.add("Contoso.Tools.Public", settings={})
    (plugin,) = vm_of(host).config().findall("PluginSettings/Plugin[@name='Contoso.Tools.Public']")
    (one,) = json.loads(plugin.findtext("RuntimeSettings") or "")["runtimeSettings"]
    assert one == {"handlerSettings": {"publicSettings": {}}}


def test_the_sequence_number_rises_with_each_order(host: RunningHost) -> None:
    first = host.add("Contoso.Tools.Twice", settings={})["sequence_number"]
    assert host.add("Contoso.Tools.Twice", settings={})["sequence_number"] == first + 1


def test_uninstall_is_asked_for_and_forgotten_when_the_vm_no_longer_reports_it(host: RunningHost) -> None:
    host.add(settings={})
    vm = vm_of(host)
    host.api("DELETE", f"/api/extensions/{NAME}")
    assert int(vm_of(host).incarnation) == int(vm.incarnation) + 1
    root = vm_of(host).config()
    assert [one.get("state") for one in root.findall(f"Plugins/Plugin[@name='{NAME}']")] == ["uninstall"]
    assert root.findall(f"PluginSettings/Plugin[@name='{NAME}']") == []
    reported = {"handlerName": NAME, "handlerVersion": "1.0.0", "status": "Ready"}
    for handlers, left in (([reported], 1), ([], 0)):
        blob = json.dumps({"aggregateStatus": {"handlerAggregateStatus": handlers}}).encode()
        assert vm.report(blob).status_code == 200
        assert [one["name"] for one in host.api("GET", "/api/extensions")].count(NAME) == left


def test_a_handler_can_vanish_without_a_word(host: RunningHost) -> None:
    host.add()
    host.api("DELETE", f"/api/extensions/{NAME}", params={"now": "true"})
    assert vm_of(host).config().findall(f"Plugins/Plugin[@name='{NAME}']") == []


DOCUMENTS = ["HostingEnvironmentConfig", "SharedConfig", "ExtensionsConfig", "Certificates", "goalstate"]


@pytest.mark.parametrize("without", ["x-ms-agent-name", "x-ms-version"])
@pytest.mark.parametrize("document", DOCUMENTS)
def test_each_document_needs_both_headers(host: RunningHost, vm: Vm, document: str, without: str) -> None:
    url = vm.urls.get(document, "/machine/?comp=goalstate")
    headers = {name: value for name, value in Vm.WIRE.items() if name != without}
    answer = host.call("wireserver", "GET", url, headers=headers)
    assert answer.status_code == 400
    assert "x-ms-version" in answer.text


def test_another_protocol_version_is_refused(host: RunningHost) -> None:
    headers = {**Vm.WIRE, "x-ms-version": "2015-04-05"}
    assert host.call("wireserver", "GET", "/machine/?comp=goalstate", headers=headers).status_code == 400


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/machine?comp=goalstate"),
        ("GET", "/machine//?comp=goalstate"),
        ("GET", "/Machine/?comp=goalstate"),
        ("GET", "/mach%0Aine/?comp=goalstate"),
        ("GET", "/machine/"),
        ("GET", "/machine/?comp=GoalState"),
        ("POST", "/machine/?comp=goalstate"),
        ("POST", "/machine/?comp=health"),
        ("POST", "/machine/?comp=telemetrydata"),
        ("POST", "/machine/?comp=roleProperties"),
        ("GET", "/machine?comp=health"),
        ("PUT", "/machine?comp=health"),
        ("POST", "/HealthService/"),
        ("GET", "/HealthService"),
        ("GET", "/"),
        ("GET", "/versions"),
        ("POST", "/?comp=versions"),
    ],
)
def test_the_slash_and_the_method_matter(host: RunningHost, method: str, path: str) -> None:
    answer = host.call("wireserver", method, path, headers=Vm.WIRE)
    assert (answer.status_code, answer.text) == (404, "there is no such endpoint here")


@pytest.mark.parametrize("host_header", ["a/machine/x", "[", "x?comp=goalstate", "\u00e9", "a b", "168.63.129.16"])
def test_the_host_header_is_nobodys_path(host: RunningHost, host_header: str) -> None:
    head = f"GET /machine/?comp=goalstate HTTP/1.1\r\nHost: {host_header}\r\nx-ms-agent-name: a\r\n"
    data = f"{head}x-ms-version: 2012-11-30\r\nConnection: close\r\n\r\n".encode("latin-1")
    answer = host.raw("wireserver", data)
    assert b"<GoalState>" in answer, answer


def test_a_stale_container_is_gone(host: RunningHost, vm: Vm) -> None:
    for name in DOCUMENTS[:4]:
        url = vm.urls[name].replace(vm.container_id, "00000000-0000-0000-0000-000000000000")
        answer = host.call("wireserver", "GET", url, headers=Vm.WIRE)
        assert answer.status_code == 410, name
        assert answer.text


def test_an_unknown_kind_of_configuration_is_nowhere(host: RunningHost, vm: Vm) -> None:
    url = vm.urls["SharedConfig"].replace("sharedConfig", "fullConfig")
    assert host.call("wireserver", "GET", url, headers=Vm.WIRE).status_code == 404


def test_health_is_heard(host: RunningHost, vm: Vm) -> None:
    before = host.told()["heartbeats"]
    details = "<Details><SubStatus>Provisioning</SubStatus><Description>a &lt;b&gt; c</Description></Details>"
    assert vm.health("NotReady", details).status_code == 200
    told = host.told()
    assert (told["ready"], told["heartbeats"]) == (False, before + 1)
    assert told["health"]["substatus"] == "Provisioning"
    assert told["health"]["description"] == "a <b> c"
    assert vm.health().status_code == 200
    told = host.told()
    assert (told["ready"], told["heartbeats"], told["health"]["description"]) == (True, before + 2, "")
    assert told["health"]["incarnation"] == vm.incarnation


def test_health_of_another_container_or_instance_is_not_heard(host: RunningHost, vm: Vm) -> None:
    before = host.told()["heartbeats"]
    known, vm.container_id = vm.container_id, "elsewhere"
    assert vm.health().status_code == 410
    vm.container_id, vm.instance_id = known, "another"
    assert vm.health().status_code == 400
    assert vm_of(host).health("Sleepy").status_code == 400
    assert host.told()["heartbeats"] == before


def test_role_properties_are_answered_202(host: RunningHost) -> None:
    answer = host.call("wireserver", "POST", "/machine?comp=roleProperties", data=b"<RoleProperties/>", headers=Vm.WIRE)
    assert answer.status_code == 202


PROVIDER = "69B669B9-4AF8-4C50-BDC4-6006FA76E975"


def telemetry(host: RunningHost, inner: str, **what: Any) -> int:
    body = (
        f'<?xml version="1.0"?><TelemetryData version="1.0"><Provider id="{PROVIDER}">{inner}</Provider>'
        "</TelemetryData>"
    )
    headers = {**Vm.WIRE, "Content-Type": "text/xml;charset=utf-8"}
    path = "/machine?comp=telemetrydata"
    return host.call("wireserver", "POST", path, data=body.encode(), headers=headers, **what).status_code


def test_telemetry_is_heard_as_it_was_meant(host: RunningHost) -> None:
    params = (
        '<Param Name="Name" Value="WALinuxAgent" T="mt:wstr" />'
        '<Param Name="OperationSuccess" Value="True" T="mt:bool" />'
        # What an agent sends for the text  he said "&lt;" & left
        '<Param Name="Message" Value=\'he said "&amp;lt;" &amp; left\' T="mt:wstr" />'
        '<Param Name="Duration" Value="5" T="mt:uint64" />'
    )
    assert telemetry(host, f'<Event id="1"><![CDATA[{params}]]></Event>' * 2) == 200
    first, second = host.told()["events"][-2:]
    assert first == second
    assert first == {
        "provider": PROVIDER,
        "event_id": "1",
        "Name": "WALinuxAgent",
        "OperationSuccess": "True",
        "Message": 'he said "&lt;" & left',
        "Duration": "5",
    }


def test_telemetry_that_is_no_xml_inside_is_refused_whole(host: RunningHost) -> None:
    good = '<Event id="1"><![CDATA[<Param Name="a" Value="1" T="mt:wstr" />]]></Event>'
    before = host.told()["events"]
    assert telemetry(host, good + '<Event id="1"><![CDATA[<Param Name="a"]]></Event>') == 400
    assert host.told()["events"] == before


def test_observations_are_heard_the_last_of_each_name(host: RunningHost) -> None:
    for healthy in (True, False):
        one = {"ObservationName": "GuestAgentPluginHeartbeat", "IsHealthy": healthy, "Description": "d", "Value": "v"}
        body = {"Api": "reporttargethealth", "Version": "1.0", "Source": "WALinuxAgent", "Observations": [one]}
        assert host.call("wireserver", "POST", "/HealthService", json=body).status_code == 200
        heard = host.told()["observations"]["GuestAgentPluginHeartbeat"]
        assert {name: heard[name] for name in one} == one


def asked_to_wait(connection: http.client.HTTPConnection, known: str, wait: str) -> None:
    headers = {**Vm.WIRE, "If-None-Match": f'"{known}"', "Prefer": wait}
    connection.request("GET", "/machine/?comp=goalstate", headers=headers)


@pytest.mark.parametrize("wait", ["wait=50", "respond-async, wait=50", "Wait=50", "wait=50; x=1"])
def test_prefer_wait_is_answered_the_moment_something_changes(host: RunningHost, wait: str) -> None:
    known = vm_of(host).incarnation
    with connected(host, "wireserver") as connection:
        asked_to_wait(connection, known, wait)
        # Others are served meanwhile, and a change of the other channel is no reason to answer.
        host.add("Contoso.Tools.Fast", fast_track=True)
        host.add("Contoso.Tools.Slow")
        answer = connection.getresponse()
        assert answer.headers["Preference-Applied"] == "wait=50"
        assert parsed(answer.read()).findtext("Incarnation") == str(int(known) + 1)
        assert answer.headers["ETag"] == f'"{int(known) + 1}"'


def test_prefer_wait_ends_with_the_time(host: RunningHost) -> None:
    known = vm_of(host).incarnation
    with connected(host, "wireserver") as connection:
        asked_to_wait(connection, known, "wait=1")
        answer = connection.getresponse()
        assert answer.status == 200
        assert parsed(answer.read()).findtext("Incarnation") == known


@pytest.mark.parametrize("headers", [{"Prefer": "wait=50"}, {"If-None-Match": '"0"', "Prefer": "wait=50"}])
def test_who_knows_nothing_or_something_old_does_not_wait(host: RunningHost, headers: dict[str, str]) -> None:
    answer = host.call("wireserver", "GET", "/machine/?comp=goalstate", headers={**Vm.WIRE, **headers})
    # Else the client's patience would have ended first.
    assert answer.status_code == 200


def test_every_request_is_counted_and_in_the_transcript(host: RunningHost) -> None:
    before = host.told()["requests"]
    vm_of(host)
    host.call("wireserver", "GET", "/nowhere?sig=secret")
    after = host.told()["requests"]
    assert after["goalstate"] == before["goalstate"] + 1
    assert after["unknown"] == before.get("unknown", 0) + 1
    newest = host.api("GET", "/api/transcript")[-1]
    assert {name: newest[name] for name in ("endpoint", "method", "path", "status")} == {
        "endpoint": "unknown",
        "method": "GET",
        "path": "/nowhere",
        "status": 404,
    }


@pytest.mark.parametrize("body", [b"", b"<a", b"\xff\xfe", b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>'])
def test_role_properties_that_cannot_be_read_are_refused(host: RunningHost, body: bytes) -> None:
    answer = host.call("wireserver", "POST", "/machine?comp=roleProperties", data=body, headers=Vm.WIRE)
    assert answer.status_code == 400
    assert "cannot be read" in answer.text
