"""Every parser: what a host means is read; whatever else arrives is one typed error."""

import random
import re
from collections.abc import Callable
from types import ModuleType
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wire.certificates import decrypt, pair, parse_certificate_file
from wire.errors import DocumentError, NoRoleInstance
from wire.extensions import ExtensionsGoalState, newest
from wire.extensionsconfig import parse_extensions_config
from wire.goalstate import parse_goal_state
from wire.hostingenvironment import check_shared_config, parse_hosting_environment
from wire.manifest import AGENT_SIZE_LIMIT, AGENT_VERSIONS_LIMIT, choose, parse_agent_manifest, parse_manifest
from wire.profile import parse_on_hold
from wire.vmsettings import parse_vm_settings
from wire.xml import SIZE_LIMIT

PARSERS: dict[str, tuple[str, Callable[[bytes], Any]]] = {
    "goal state": ("GOAL_STATE", parse_goal_state),
    "extensions config": ("EXTENSIONS_CONFIG", lambda data: parse_extensions_config(data, "4")),
    "vmSettings": ("VM_SETTINGS", lambda data: parse_vm_settings(data, "tag")),
    "manifest": ("MANIFEST", parse_manifest),
    "agent manifest": ("MANIFEST", parse_agent_manifest),
    "hosting environment": ("HOSTING_ENVIRONMENT", parse_hosting_environment),
    "shared config": ("HOSTING_ENVIRONMENT", check_shared_config),
    "certificates": ("CERTIFICATES", parse_certificate_file),
    "profile": ("PROFILE", parse_on_hold),
}


def parse_or_document_error(parse: Callable[[bytes], Any], data: bytes) -> Any:
    try:
        return parse(data)
    except DocumentError as error:
        assert error.document
        return None


@pytest.mark.parametrize("name", PARSERS)
def test_mutated_documents_are_read_or_a_document_error(name: str, documents: ModuleType) -> None:
    sample, parse = PARSERS[name]
    original: bytes = getattr(documents, sample)
    dice = random.Random(name)
    pieces = [b"<", b">", b"&", b"\0", b"\xff", b'"', b"{", b"[", b"]]>", b"<![CDATA[", b"-1", b"9" * 40, b"null", b""]
    for _ in range(2500):
        data = bytearray(original)
        for _ in range(dice.randint(1, 4)):
            start = dice.randrange(len(data) + 1)
            data[start : start + dice.randint(0, 12)] = dice.choice([*pieces, bytes(dice.randbytes(3))])
        parse_or_document_error(parse, bytes(data))


@pytest.mark.parametrize("name", PARSERS)
@given(data=st.binary(max_size=120) | st.text(max_size=120).map(lambda text: text.encode("utf-8", "replace")))
def test_arbitrary_bytes_are_read_or_a_document_error(name: str, data: bytes) -> None:
    parse_or_document_error(PARSERS[name][1], data)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
        max_leaves=10,
    )
)
def test_vm_settings_of_any_json_shape_is_read_or_a_document_error(value: Any) -> None:
    for document in (
        value,
        {"extensionGoalStates": value},
        {"extensionGoalStates": [{"name": "a", "version": "1", "settings": value}]},
    ):
        try:
            data = msgspec.json.encode(document)
        except (ValueError, OverflowError):
            continue
        parse_or_document_error(lambda data: parse_vm_settings(data, "tag"), data)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "not well-formed"),
        (b"<GoalState>", "not well-formed"),
        (b'<!DOCTYPE a [<!ENTITY b "c">]><GoalState>&b;</GoalState>', "forbidden in XML"),
        (b"<GoalState>" + b"<a>" * 100 + b"</a>" * 100 + b"</GoalState>", "nests deeper than 64"),
        (b"<GoalState>" + b"<a/>" * 100_001 + b"</GoalState>", "more than 100000 elements"),
        (b" " * (SIZE_LIMIT + 1), "is larger than"),
        (b"<Other/>", "begins with <Other>"),
        (b"<GoalState><RoleInstance/></GoalState>", "has no Incarnation"),
        (b"<?xml version='1.0' encoding='klingon'?><GoalState/>", "not well-formed|encoding"),
    ],
)
def test_a_bad_goal_state_names_the_reason(data: bytes, complaint: str) -> None:
    with pytest.raises(DocumentError, match=complaint) as caught:
        parse_goal_state(data)
    assert str(caught.value).startswith("GoalState: ")


def test_goal_state(documents: ModuleType) -> None:
    found = parse_goal_state(b"\xef\xbb\xbf" + documents.GOAL_STATE)
    assert (found.incarnation, found.container_id, found.instance_id) == ("4", "0c1d", "1111._vm0")
    assert found.config_name == "1111.2.1111.3._vm0.1.xml"
    assert found.extensions_url == "http://h/machine/0c1d/vm0?comp=config&type=e"
    assert found.probe_ports == (17017,)
    with pytest.raises(NoRoleInstance):
        parse_goal_state(b"<GoalState><Incarnation>1</Incarnation></GoalState>")


@pytest.mark.parametrize("name", [b"Incarnation", b"ContainerId", b"InstanceId", b"ConfigName"])
@pytest.mark.parametrize("content", [b"", b" "])
def test_what_later_requests_cannot_do_without_is_missed_at_once(
    documents: ModuleType, name: bytes, content: bytes
) -> None:
    data = re.sub(rb"<%s>[^<]*</%s>" % (name, name), b"<%s>%s</%s>" % (name, content, name), documents.GOAL_STATE)
    assert data != documents.GOAL_STATE
    with pytest.raises(DocumentError, match=f"has no {name.decode()}"):
        parse_goal_state(data)


def test_extensions_config(documents: ModuleType) -> None:
    found = parse_extensions_config(documents.EXTENSIONS_CONFIG, "4")
    assert (found.id, found.created_on_ticks, found.in_svd_seq_no) == ("incarnation_4", 639100000000000000, "4")
    assert found.status_blob is not None
    assert found.status_blob.url == "https://emu/s/vm7.status?sv=1&sr=b&sig=zz"
    greeter, runner, plain = found.handlers
    assert greeter.locations == (
        "https://emu/m/greeter.xml",
        "https://emu2/m/greeter.xml",
        "https://emu3/m/greeter.xml",
    )
    (settings,) = greeter.settings
    assert (settings.sequence_number, settings.public, settings.thumbprint) == (5, {"who": "world"}, "0A1B")
    assert (settings.dependency_level, settings.depends_on) == (1, ("Contoso.Tools.Runner",))
    assert [(one.name, one.state, one.dependency_level) for one in runner.settings] == [
        ("jobA", "enabled", 0),
        ("jobB", "disabled", 2),
    ]
    assert (runner.multi_config, plain.settings, plain.state) == (True, (), "disabled")
    assert "MIIB" not in repr(found)


def test_vm_settings_says_the_same_as_extensions_config(documents: ModuleType) -> None:
    fast = parse_vm_settings(documents.VM_SETTINGS, "tag")
    assert fast.supported
    assert (fast.extensions.id, fast.source) == ("etag_tag", "FastTrack")
    slow = parse_extensions_config(documents.EXTENSIONS_CONFIG, "4")
    for one, other in zip(fast.extensions.handlers, slow.handlers, strict=False):
        assert (one.name, one.version, one.state) == (other.name, other.version, other.state)
        assert [(s.name, s.sequence_number, s.public) for s in one.settings] == [
            (s.name, s.sequence_number, s.public) for s in other.settings
        ]
    assert not parse_vm_settings(documents.VM_SETTINGS.replace(b"1.0.8.160", b"1.0.8.9"), "tag").supported


@pytest.mark.parametrize(
    ("old", "new", "handler", "complaint"),
    [
        (b'seqNo="5"', b'seqNo="five"', 0, "seqNo 'five' is not a number"),
        (
            b'{"runtimeSettings":[{"handlerSettings":{"publicSettings":{"who"',
            b'{{{"publicSettings":{"who"',
            0,
            "is not JSON",
        ),
        (b'GREETER" version="2.0.1"', b'GREETER" version="2.0.0"', 0, "settings for version '2.0.0', wanted '2.0.1'"),
        (b'state="enabled" encodedSignature', b'state="Enabled" encodedSignature', 0, "state 'Enabled' is not enabled"),
        (
            b"</PluginSettings>",
            b'<Plugin name="Contoso.Tools.Runner" version="1.3.0"/></PluginSettings>',
            1,
            "2 PluginSettings",
        ),
        (b'name="jobB" state', b'nome="jobB" state', 1, "without a name"),
    ],
)
def test_one_bad_handler_keeps_its_place_and_the_others_go_on(
    documents: ModuleType, old: bytes, new: bytes, handler: int, complaint: str
) -> None:
    assert old in documents.EXTENSIONS_CONFIG
    found = parse_extensions_config(documents.EXTENSIONS_CONFIG.replace(old, new), "4")
    assert [bool(one.error) for one in found.handlers] == [number == handler for number in range(3)]
    assert complaint in found.handlers[handler].error


@pytest.mark.parametrize(
    ("old", "new", "handler", "complaint"),
    [
        (b'name="Contoso.Tools.Runner" version="1.3.0" location', b'version="1.3.0" location', 1, "has no name"),
        (b'name="Contoso.Tools.Plain" version="1.0"', b'name="Contoso.Tools.Plain"', 2, "has no version"),
        (b'state="disabled"/>', b'state=""/>', 2, "state '' is not enabled"),
        (b'dependencyLevel="2" name="jobB"', b'dependencyLevel="2"', 1, "DependsOn without a name"),
        (b'name="jobB" state="disabled"', b'name="jobA" state="disabled"', 1, "two ExtensionRuntimeSettings of one"),
        (b'state="disabled">{', b'state="Gone">{', 1, "state 'gone' of an extension"),
        (
            b'"runtimeSettings":[{"handlerSettings":{"publicSettings":{"who"',
            b'"runtimeSettings":[{},{"handlerSettings":{"publicSettings":{"who"',
            0,
            "has 2 items instead of one",
        ),
        (b'"protectedSettings":"MIIB"', b'"protectedSettings":{}', 0, "is not a string"),
    ],
)
def test_more_mistakes_of_one_handler_in_extensions_config(
    documents: ModuleType, old: bytes, new: bytes, handler: int, complaint: str
) -> None:
    test_one_bad_handler_keeps_its_place_and_the_others_go_on(documents, old, new, handler, complaint)


@pytest.mark.parametrize(
    ("old", "new", "handler", "complaint"),
    [
        (b'"state":"enabled","settingsSeqNo"', b'"state":"Enabled","settingsSeqNo"', 0, "'Enabled' is not enabled"),
        (b'"settingsSeqNo":5', b'"settingsSeqNo":-5', 0, "-5 is no sequence number"),
        (b'"settingsSeqNo":5', b'"settingsSeqNo":10000000000', 0, "is no sequence number"),
        (b'"settingsSeqNo":5,', b"", 0, "settingsSeqNo is missing"),
        (rb"{\"who\":\"world\"}", b"{", 0, "is not JSON"),
        (b'"name":"Contoso.Tools.Runner","version"', b'"version"', 1, "extensionGoalStates[1].name is missing"),
        (b'"version":"1.3.0",', b"", 1, "version is missing"),
        (b'"isMultiConfig":true', b'"isMultiConfig":"perhaps"', 1, "is not true or false"),
        (b'"location":"https://emu/m/runner.xml"', b'"location":{}', 1, "location is not a string"),
        (b'"extensionName":"jobB"', b'"extensionName":"jobA"', 1, "without an extensionName of its own"),
        (b'"extensionState":"disabled"', b'"extensionState":"gone"', 1, "'gone' is not enabled or disabled"),
        (b'{"name":"Contoso.Tools.Runner"', b'17,{"name":"Contoso.Tools.Runner"', 2, "is not an object"),
    ],
)
def test_one_bad_item_of_vm_settings_costs_the_others_nothing(
    documents: ModuleType, old: bytes, new: bytes, handler: int, complaint: str
) -> None:
    assert old in documents.VM_SETTINGS
    found = parse_vm_settings(documents.VM_SETTINGS.replace(old, new), "tag").extensions
    wrong = [one for one in found.handlers if one.error]
    assert len(wrong) == 1
    assert complaint in wrong[0].error
    assert len(found.handlers) == (3 if handler == 2 else 2)
    assert found.names_all == bool(wrong[0].name)


def test_what_vm_settings_only_mention_is_no_reason_to_refuse_them(documents: ModuleType) -> None:
    data = documents.VM_SETTINGS
    for old, new in (
        (b'"activityId":"act-01"', b'"activityId":{}'),
        (b'"inSvdSeqNo":3', b'"inSvdSeqNo":[3]'),
        (b'"onHold":false', b'"onHold":"TRUE"'),
        (b'{"name":"Prod"', b'{"uris":[]},{"name":"Prod"'),
        (b'"dependencyLevel":1', b'"dependencyLevel":"first"'),
    ):
        assert old in data
        data = data.replace(old, new)
    found = parse_vm_settings(data, "tag").extensions
    assert not [one.error for one in found.handlers if one.error]
    assert (found.activity_id, found.in_svd_seq_no, found.on_hold) == ("", "", True)
    assert [one.name for one in found.families] == ["Prod"]
    assert found.problems == ("vmSettings: gaFamilies[0].name is missing",)
    assert found.handlers[0].settings[0].dependency_level == 0


@pytest.mark.parametrize("ticks", [b"null", b'"soon"', b"1.5", b"true", b"-4", b"9" * 19, b"9" * 40])
def test_a_creation_time_that_is_none_is_older_than_anything(documents: ModuleType, ticks: bytes) -> None:
    fast = parse_vm_settings(documents.VM_SETTINGS.replace(b"639100000000000000", ticks), "tag").extensions
    slow = parse_extensions_config(documents.EXTENSIONS_CONFIG.replace(b"639100000000000000", ticks.strip(b'"')), "4")
    assert (fast.created_on_ticks, slow.created_on_ticks) == (0, 0)


def test_an_old_plugin_is_unsupported_whatever_else_it_says() -> None:
    assert not parse_vm_settings(b'{"hostGAPluginVersion":"1.0.8.9","extensionGoalStates":17}', "tag").supported
    with pytest.raises(DocumentError, match="extensionGoalStates is not an array"):
        parse_vm_settings(b'{"hostGAPluginVersion":"1.0.8.160","extensionGoalStates":17}', "tag")


def test_cdata_and_prefixes_are_understood(documents: ModuleType) -> None:
    data = documents.EXTENSIONS_CONFIG.replace(b'seqNo="5">', b'seqNo="5"><![CDATA[').replace(
        b"}]}</RuntimeSettings>", b"}]}]]></RuntimeSettings>"
    )
    for name, attribute in ((b"Extensions", b' xmlns:a="urn:a"'), (b"Plugins", b"")):
        data = data.replace(b"<" + name, b"<a:" + name + attribute).replace(b"</" + name, b"</a:" + name)
    found, plain = (parse_extensions_config(one, "4") for one in (data, documents.EXTENSIONS_CONFIG))
    assert b"CDATA" in data
    assert found == plain


def test_a_handler_named_twice_is_told_once(documents: ModuleType) -> None:
    plain = b'<Plugin name="Contoso.Tools.Plain" version="1.0" location="https://emu/m/plain.xml" state="disabled"/>'
    again = parse_extensions_config(documents.EXTENSIONS_CONFIG.replace(plain, plain + plain), "4")
    assert again == parse_extensions_config(documents.EXTENSIONS_CONFIG, "4")
    other = plain.replace(b"1.0", b"2.0")
    found = parse_extensions_config(documents.EXTENSIONS_CONFIG.replace(plain, plain + other), "4")
    assert [bool(one.error) for one in found.handlers] == [False, False, True]
    assert found.handlers[2].version == "1.0"
    assert found.handlers[2].error == "Contoso.Tools.Plain is named more than once"


def test_an_empty_array_of_settings_is_a_handler_without_settings(documents: ModuleType) -> None:
    data = documents.EXTENSIONS_CONFIG.replace(b'"runtimeSettings":[', b'"runtimeSettings":[],"x":[', 1)
    found = parse_extensions_config(data, "4").handlers[0]
    assert (found.error, found.settings) == ("", ())


def test_protected_settings_without_a_thumbprint_are_one_handler_s_error(documents: ModuleType) -> None:
    data = documents.VM_SETTINGS.replace(rb'"publicSettings":"{\"who\":\"world\"}"', b'"protectedSettings":"MIIB"')
    found = parse_vm_settings(data, "tag").extensions
    assert "has no protectedSettingsCertThumbprint" in found.handlers[0].error
    assert not found.handlers[1].error


def test_a_thumbprint_is_written_as_the_file_is_called(documents: ModuleType) -> None:
    assert b'"0a1b"' in documents.EXTENSIONS_CONFIG
    slow = parse_extensions_config(documents.EXTENSIONS_CONFIG, "4")
    data = documents.VM_SETTINGS.replace(
        rb'"publicSettings":"{\"who\":\"world\"}"',
        rb'"publicSettings":"{}","protectedSettings":"MIIB","protectedSettingsCertThumbprint":"0a1b"',
    )
    for found in (slow, parse_vm_settings(data, "tag").extensions):
        assert found.handlers[0].settings[0].thumbprint == "0A1B"


def test_manifest_and_the_version_it_gives(documents: ModuleType) -> None:
    packages = parse_manifest(documents.MANIFEST)
    assert [one.version for one in packages] == ["1.0.0", "1.4.2", "2.0.0-rc1"]
    assert choose(packages, "1").version == "1.4.2"
    assert choose(packages, "1.0.0").version == "1.0.0"
    with pytest.raises(DocumentError, match="has no version 3; there is 1.0.0, 1.4.2, 2.0.0-rc1"):
        choose(packages, "3")


def test_an_agent_manifest_gives_public_versions_with_mirrors_once_each(documents: ModuleType) -> None:
    assert [one.version for one in parse_agent_manifest(documents.MANIFEST)] == ["1.0.0", "1.4.2"]
    (package,) = parse_agent_manifest(
        b"<PluginVersionManifest><Plugins>"
        b"<Plugin><Version> 2.0 </Version><Uris><Uri>file:///etc/shadow</Uri><Uri> http://a/2.zip </Uri><Uri>//b</Uri>"
        b"<Uri>http://[1</Uri><Uri>https://</Uri></Uris>"
        b"<DisallowMajorVersionUpgrade>TRUE</DisallowMajorVersionUpgrade></Plugin>"
        b"<Plugin><Version>2.0.0</Version><Uris><Uri>http://other/2.zip</Uri></Uris></Plugin>"
        b"<Plugin><Version>3.0</Version><Uris><Uri>ftp://a/3.zip</Uri></Uris></Plugin>"
        b"</Plugins></PluginVersionManifest>"
    )
    assert (package.version, package.uris, package.disallow_major) == ("2.0", ("http://a/2.zip",), True)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"<Other/>", "begins with <Other>"),
        (b" " * (AGENT_SIZE_LIMIT + 1), f"larger than {AGENT_SIZE_LIMIT}"),
        (
            b"<PluginVersionManifest><Plugins>%s</Plugins></PluginVersionManifest>"
            % (b"<Plugin/>" * (AGENT_VERSIONS_LIMIT + 1)),
            "has 1001 versions, limit 1000",
        ),
    ],
)
def test_an_agent_manifest_out_of_bounds_says_what_is(data: bytes, complaint: str) -> None:
    with pytest.raises(DocumentError, match=complaint):
        parse_agent_manifest(data)


def test_certificates_without_data_or_of_another_format_are_none(documents: ModuleType) -> None:
    assert parse_certificate_file(documents.CERTIFICATES) == b"MIIJ"
    assert parse_certificate_file(documents.CERTIFICATES.replace(b"Pkcs7BlobWithPfxContents", b"Other")) is None
    assert parse_certificate_file(b"<CertificateFile/>") is None


def test_the_profile_holds_only_by_saying_so(documents: ModuleType) -> None:
    assert parse_on_hold(documents.PROFILE) is True
    assert parse_on_hold(b"{}") is False
    assert parse_on_hold(b'{"onHold": false}') is False


def test_hosting_environment(documents: ModuleType) -> None:
    found = parse_hosting_environment(documents.HOSTING_ENVIRONMENT)
    assert (found.vm_name, found.role_name, found.tenant_name) == ("_vm0", "_vm0", "dep-77")


def goal(ticks: int, source: Any) -> ExtensionsGoalState:
    return ExtensionsGoalState(id=f"{source}{ticks}", source=source, created_on_ticks=ticks)


def test_the_newer_channel_wins_and_nothing_goes_back() -> None:
    assert newest(None, goal(5, "Fabric"), None) == goal(5, "Fabric")
    assert newest(None, goal(5, "Fabric"), goal(5, "FastTrack")) == goal(5, "Fabric")
    assert newest(None, goal(5, "Fabric"), goal(6, "FastTrack")) == goal(6, "FastTrack")
    assert newest(goal(7, "Fabric"), goal(5, "Fabric"), goal(6, "FastTrack")) == goal(7, "Fabric")
    assert newest(goal(7, "Fabric"), None, None) == goal(7, "Fabric")


# Each opening checks the transport key anew.
@settings(max_examples=25, deadline=None)
@given(st.binary(max_size=300))
def test_arbitrary_envelopes_are_a_document_error_and_arbitrary_pem_holds_nothing(data: bytes) -> None:
    with pytest.raises(DocumentError):
        decrypt(data, TRANSPORT_KEY)
    assert not pair(data).certificates


def make_key() -> bytes:
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    return rsa.generate_private_key(65537, 2048).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


TRANSPORT_KEY = make_key()
