"""Drills 15 to 18 and 23: what a host may say of versions, and what comes of it. Numbers as in docs/catalogue.md."""

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdagent.update.decision import Decision, Settled
from rdagent.update.offers import collect
from rdagent.update.policy import Policy, ask
from release.record import Record
from tests.rdagent.update.situations import begun, chosen, decided, found, on_disk, refused, settled
from wire.errors import DocumentError
from wire.extensions import AgentFamily
from wire.manifest import parse_agent_manifest

ENTRY = "<Plugin><Version>{0}</Version><Uris><Uri>http://h/{0}.zip</Uri></Uris></Plugin>"


def manifest(*versions: str, more: str = "") -> bytes:
    plugins = "".join(ENTRY.format(version) for version in versions)
    document = f"<PluginVersionManifest><Plugins>{plugins}</Plugins>{more}</PluginVersionManifest>"
    return document.encode()


def instructed(
    data: bytes | None,
    *,
    running: str = "0.1.0",
    floor: str = "0.0.0",
    name: str = "telemetry",
    uris: tuple[str, ...] = ("http://h/manifest",),
    **family: Any,
) -> tuple[Decision, list[str]]:
    """What telemetry does about a family, and what is wrong with the instruction."""
    wanted = AgentFamily(name=name, uris=uris, **family)
    manifests = {} if data is None else {name: parse_agent_manifest(data)}
    offers, problems = collect(("telemetry",), families=[wanted], manifests=manifests, running={"telemetry": running})
    here = found(
        running,
        record=Record(component="telemetry", current=chosen(running)),
        whole=(on_disk(running, floor=floor),),
    )
    return decided(*offers, here=here), problems


def requested(data: bytes | None, version: str, running: str = "0.3.0", **more: Any) -> tuple[Decision, list[str]]:
    more = {"is_vm_enabled_for_rsm_upgrades": True, "is_version_from_rsm": True, **more}
    return instructed(data, version=version, running=running, **more)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 100,
        manifest("0.2.0")[:-1],
        manifest("0.2.0")[: len(manifest("0.2.0")) // 2],
        b"<PluginVersionManifest><Plugins></PluginVersionManifest>",
        b"<html><body>Sign in to the network</body></html>",
        b'{"plugins": []}',
        manifest("0.2.0").replace(b"0.2.0", b"\xff\xfe"),
    ],
)
def test_drill_15_empty_truncated_malformed_xml(data: bytes) -> None:
    with pytest.raises(DocumentError, match="PluginVersionManifest: "):
        parse_agent_manifest(data)
    # Its reader goes on without it: the version in force is neither left nor taken for unwanted.
    decision, problems = instructed(None)
    assert (settled(decision), problems) == (True, [])


@pytest.mark.parametrize(
    "doctype",
    [
        f"<!DOCTYPE a [<!ENTITY a '{'a' * 1000}'><!ENTITY b '{'&a;' * 1000}'><!ENTITY c '{'&b;' * 1000}'>]>",
        '<!DOCTYPE a [<!ENTITY a SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE a [<!ENTITY % a SYSTEM "http://127.0.0.1:9/a.dtd"> %a;]>',
        '<!DOCTYPE a SYSTEM "http://127.0.0.1:9/a.dtd">',
        "<!DOCTYPE PluginVersionManifest>",
    ],
)
def test_drill_16_entity_bomb_external_entity(doctype: str) -> None:
    for version in ("0.2.0", "&a;", "&c;"):
        with pytest.raises(DocumentError, match="forbidden in XML"):
            parse_agent_manifest(doctype.encode() + manifest(version))


def test_drill_17_five_thousand_entries() -> None:
    many = manifest(*(f"0.2.{number}" for number in range(5000)))
    with pytest.raises(DocumentError, match="has 5000 versions, limit 1000"):
        parse_agent_manifest(many)
    began = time.monotonic()
    with pytest.raises(DocumentError, match="is larger than"):
        parse_agent_manifest(manifest(*["0.2.0"] * 200_000))
    deep = b"<PluginVersionManifest>" + b"<Plugins>" * 5000
    with pytest.raises(DocumentError, match="nests deeper"):
        parse_agent_manifest(deep)
    assert time.monotonic() - began < 5
    full = [f"0.2.{number}" for number in range(1000)]
    decision, _ = instructed(manifest(*full))
    assert begun(decision) == "0.2.999"
    assert time.monotonic() - began < 10


def test_drill_17_junk_versions_and_pre_releases_are_passed_over() -> None:
    junk = ("", "junk", "-1.0", "9" * 40, "1.0.0-rc1", "1.0.0beta2", "1.0.0.0.0", "1.0/../../x", "\u0661.\u0662", "1e9")
    decision, problems = instructed(manifest(*junk, "0.2.0", *junk))
    assert (begun(decision), problems) == ("0.2.0", [])
    decision, _ = instructed(manifest(*junk))
    assert settled(decision)


def test_drill_17_only_mirrors_by_http() -> None:
    bad = ("file:///etc/shadow", "ftp://h/x.zip", "/x.zip", "//h/x.zip", "http:///x.zip", "javascript:x", "http://[")
    uris = "".join(f"<Uri>{uri}</Uri>" for uri in bad)
    only_bad = manifest("0.2.0").replace(b"<Uri>http://h/0.2.0.zip</Uri>", uris.encode())
    decision, _ = instructed(only_bad)
    assert settled(decision)
    mixed = manifest("0.2.0").replace(b"<Uri>http", f"{uris}<Uri>http".encode())
    assert [one.uris for one in parse_agent_manifest(mixed)] == [("http://h/0.2.0.zip",)]


def test_drill_17_internal_packages_are_not_for_us() -> None:
    more = f"<InternalPlugins>{ENTRY.format('0.9.0')}</InternalPlugins>"
    decision, _ = instructed(manifest("0.2.0", more=more))
    assert begun(decision) == "0.2.0"


def test_drill_18_family_missing() -> None:
    for name in ("Prod", "Test", "Telemetry", "", "fabric"):
        decision, problems = instructed(manifest("0.2.0"), name=name)
        assert (settled(decision), problems) == (True, [])


def test_drill_18_no_uris() -> None:
    decision, problems = instructed(None, uris=())
    assert settled(decision)
    assert problems == ["family telemetry: the goal state names no manifest of it"]
    decision, problems = requested(None, "0.4.0", uris=())
    assert "nobody says where telemetry 0.4.0 is to be had" in refused(decision)[0]
    assert problems == ["family telemetry: the goal state names no manifest of it"]


def test_drill_18_not_in_the_manifest() -> None:
    decision, problems = requested(manifest("0.2.0"), "0.4.0")
    assert refused(decision)[0].startswith("nobody says where telemetry 0.4.0")
    assert problems == ["family telemetry: its manifest has no version 0.4.0"]


@pytest.mark.parametrize("missing", ["is_version_from_rsm", "version"])
def test_a_request_without_its_properties_is_an_error_and_no_self_update(missing: str) -> None:
    fields: dict[str, Any] = {"version": "0.4.0", "is_version_from_rsm": True}
    fields[missing] = {"version": ""}.get(missing)
    name = {"version": "version"}.get(missing, "isVersionFromRSM")
    decision, problems = instructed(manifest("0.9.0"), is_vm_enabled_for_rsm_upgrades=True, **fields)
    assert settled(decision)
    assert problems == [f"family telemetry: the host asks for versions, but its goal state has no {name}"]


def test_a_version_that_is_not_from_the_host_itself_is_nothing_to_do() -> None:
    decision, problems = requested(manifest("0.4.0"), "0.4.0", is_version_from_rsm=False)
    assert (settled(decision), problems) == (True, [])


def test_a_requested_version_is_taken_exactly_and_what_runs_is_settled() -> None:
    decision, problems = requested(manifest("0.4.0", "0.5.0"), "0.4.0")
    assert (begun(decision), problems) == ("0.4.0", [])
    decision, problems = requested(manifest("0.5.0"), "0.3")
    assert (settled(decision), problems) == (True, [])
    decision, problems = requested(manifest("0.5.0-rc1"), "0.5.0-rc1")
    assert settled(decision)
    assert problems == ["family telemetry: the host asks for '0.5.0-rc1', which is no version of ours"]


def test_drill_23_downgrade_without_leave() -> None:
    decision, _ = requested(manifest("0.2.0"), "0.2.0")
    assert refused(decision) == (
        "telemetry 0.2.0 is older than 0.3.0, and the host gave no fromVersion",
        "agentctl update now telemetry 0.2.0",
    )
    # Nobody asks for an older one by leaving out the newer ones.
    decision, _ = instructed(manifest("0.2.0"), running="0.3.0")
    assert settled(decision)


def test_drill_23_downgrade_from_another_version() -> None:
    for other in ("0.4.0", "0.2.0", "junk", "0.3.0.1"):
        decision, _ = requested(manifest("0.2.0"), "0.2.0", from_version=other)
        assert refused(decision)[0] == f"telemetry 0.2.0 is older than 0.3.0, and the host would have it follow {other}"


def test_drill_23_downgrade_with_leave_and_below_the_floor() -> None:
    decision, _ = requested(manifest("0.2.0"), "0.2.0", from_version="0.3.0", floor="0.2.0")
    assert begun(decision) == "0.2.0"
    decision, _ = requested(manifest("0.2.0"), "0.2.0", from_version="0.3.0", floor="0.2.1")
    assert refused(decision)[0].startswith("telemetry 0.2.0 is below 0.2.1, the floor of telemetry 0.3.0")
    # The operator may go back without the host's leave, but not below the floor either.
    here = found("0.3.0", whole=(on_disk("0.3.0", floor="0.2.1"), on_disk("0.2.0"), on_disk("0.2.1")))
    assert refused(decided(here=here, policy=ask(Policy(), "telemetry", "0.2.0")))[0].startswith("telemetry 0.2.0 is b")
    assert begun(decided(here=here, policy=ask(Policy(), "telemetry", "0.2.1"))) == "0.2.1"


texts = st.text(max_size=12) | st.sampled_from(["0.2.0", "0.3.0", "1.0-rc1", "telemetry", "true", "http://h/x.zip"])
switches = st.none() | st.booleans()
families = st.builds(
    AgentFamily,
    name=st.just("telemetry") | texts,
    version=texts,
    from_version=texts,
    is_version_from_rsm=switches,
    is_vm_enabled_for_rsm_upgrades=switches,
    uris=st.lists(texts, max_size=2).map(tuple),
)


@given(st.lists(families, max_size=4), st.lists(texts, max_size=4), texts)
def test_whatever_the_host_says_is_an_offer_a_problem_or_nothing(
    said: list[AgentFamily], versions: list[str], running: str
) -> None:
    escaped = [one.replace("&", "").replace("<", "") for one in versions]
    try:
        packages = parse_agent_manifest(manifest(*escaped))
    except DocumentError:
        packages = ()
    offers, problems = collect(
        ("telemetry", "netagent"), families=said, manifests={"telemetry": packages}, running={"telemetry": running}
    )
    assert len(problems) <= 2
    assert all("\n" not in one for one in problems)
    record = Record(component="telemetry", current=chosen("0.1.0"))
    decision = decided(*offers, here=found(running, record=record, whole=()))
    if not offers:
        assert isinstance(decision, Settled)
