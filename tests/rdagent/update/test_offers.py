"""Who wants what: the repository, the operator, and what each knows of a version."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdagent.update.offers import Entry, Offer, collect, from_family, from_operator, note_seen
from release.manifest import same_version
from tests.rdagent.update import situations
from tests.rdagent.update.situations import NOW, digest_of
from wire.extensions import AgentFamily
from wire.manifest import Package

ALL = ("telemetry", "netagent")


def entry(version: str, *, component: str = "telemetry", channel: str = "stable", ring: int = 1) -> Entry:
    return Entry(
        component=component,
        version=version,
        channel=channel,
        ring=ring,
        digest=digest_of(version),
        target=f"packages/{component}/{component}-{version}.zip",
    )


def package(version: str) -> Package:
    return Package(version=version, uris=(f"http://h/{version}.zip",))


def requested(version: str) -> AgentFamily:
    return AgentFamily(
        name="telemetry",
        version=version,
        is_version_from_rsm=True,
        is_vm_enabled_for_rsm_upgrades=True,
        uris=("http://h/m",),
    )


def test_the_repository_offers_what_is_on_our_channel() -> None:
    entries = [
        entry("0.2.0"),
        entry("0.3.0", channel="beta"),
        entry("0.4.0-rc1"),
        entry("0.2.0", component="fabric"),
        entry("0.5.0", component="netagent", ring=3),
    ]
    offers, problems = collect(ALL, entries=entries, channel="stable")
    assert [(one.name, one.wanted_by, one.ring) for one in offers] == [
        ("telemetry 0.2.0", "channel", 1),
        ("netagent 0.5.0", "channel", 3),
    ]
    assert problems == []
    first = offers[0]
    assert first.digest == digest_of("0.2.0")
    assert first.target == "packages/telemetry/telemetry-0.2.0.zip"


def test_the_hosts_manifest_is_a_channel_when_the_host_asks_for_nothing() -> None:
    family = AgentFamily(name="telemetry", uris=("http://h/m",))
    packages = [package(version) for version in ("0.0.9", "0.1.0", "0.3.0", "0.2.0", "1.0.0-rc1")]
    for switch in (None, False):
        one = AgentFamily(name=family.name, uris=family.uris, version="9.0", is_vm_enabled_for_rsm_upgrades=switch)
        offers, _ = collect(ALL, families=[one], manifests={"telemetry": packages}, running={"telemetry": "0.1.0"})
        assert [(one.version, one.wanted_by, one.urls) for one in offers] == [
            ("0.3.0", "channel", ("http://h/0.3.0.zip",)),
            ("0.2.0", "channel", ("http://h/0.2.0.zip",)),
        ]
    assert collect(ALL, families=[family], manifests={"telemetry": packages}, running={"telemetry": ""}) == ([], [])


def test_what_the_repository_knows_of_a_version_is_used_by_whoever_wants_it() -> None:
    entries = [entry("0.2.0", channel="beta", ring=0)]
    offers, problems = collect(
        ALL, families=[requested("0.2")], manifests={"telemetry": [package("0.2.0")]}, entries=entries
    )
    (one,) = offers
    assert (one.version, one.wanted_by, one.urls) == ("0.2.0", "host", ("http://h/0.2.0.zip",))
    assert (one.digest, one.target) == (digest_of("0.2.0"), "packages/telemetry/telemetry-0.2.0.zip")
    assert one.ring is None  # the host's word is for this machine, the ring for all
    assert problems == []
    # The manifest could not be had: the repository has it.
    offers, problems = collect(ALL, families=[requested("0.2.0")], entries=entries)
    assert (offers[0].target, problems) == (one.target, [])


def test_the_operator_may_name_a_version_of_another_channel() -> None:
    others = entry("0.3.0", component="netagent", channel="beta")
    entries = [others, entry("0.2.0"), entry("0.3.0", channel="beta", ring=0)]
    offers, _ = collect(ALL, entries=entries, asked={"telemetry": "0.3.0", "netagent": ""})
    by_operator = [one for one in offers if one.wanted_by == "operator"]
    assert [(one.name, one.ring, one.digest) for one in by_operator] == [("telemetry 0.3.0", None, digest_of("0.3.0"))]
    assert by_operator[0].target == "packages/telemetry/telemetry-0.3.0.zip"
    family = AgentFamily(name="telemetry", uris=("http://h/m",))
    offers, _ = collect(
        ALL,
        families=[family],
        manifests={"telemetry": [package("0.3.0")]},
        running={"telemetry": "0.1.0"},
        asked={"telemetry": "0.3.0"},
    )
    assert offers[-1].wanted_by == "operator"
    assert offers[-1].urls == ("http://h/0.3.0.zip",)


@pytest.mark.parametrize("spelled", ["0.9", "0.9.0", "0.9.0.0"])
def test_a_number_is_spelled_as_it_is_published(spelled: str) -> None:
    published = [entry("0.9.0")]
    named = from_operator("telemetry", spelled, [], published)
    assert (named.version, named.target) == ("0.9.0", published[0].target)
    offered, _ = from_family(requested(spelled), [package("0.9.0")], "0.1.0")
    assert [one.version for one in offered] == ["0.9.0"]
    host, _ = collect(["telemetry"], families=[requested(spelled)], entries=published, has_repository=True)
    assert [one.version for one in host if one.wanted_by == "host"] == ["0.9.0"]


def test_of_two_families_of_one_name_the_first_with_a_manifest() -> None:
    twice = [
        AgentFamily(name="telemetry", version="0.7.0", is_vm_enabled_for_rsm_upgrades=True, is_version_from_rsm=True),
        requested("0.8.0"),
        requested("0.9.0"),
    ]
    offers, _ = collect(ALL, families=twice, manifests={"telemetry": [package("0.8.0"), package("0.9.0")]})
    assert [one.version for one in offers] == ["0.8.0"]


def test_when_an_offer_was_first_seen_is_kept_while_it_is_away() -> None:
    one = Offer(component="telemetry", version="0.2.0", wanted_by="channel")
    dated, seen = note_seen([one], {}, NOW)
    assert dated[0].seen_at == NOW
    nothing, seen = note_seen([], seen, NOW + 50)
    assert nothing == []
    dated, seen = note_seen([one], seen, NOW + 100)
    assert (dated[0].seen_at, seen) == (NOW, {"telemetry 0.2.0": NOW})


def test_what_was_seen_in_the_future_is_seen_now() -> None:
    one = Offer(component="telemetry", version="0.2.0", wanted_by="channel")
    _, seen = note_seen([one], {}, 4.1e9)
    dated, seen = note_seen([one], seen, NOW)
    assert (dated[0].seen_at, seen) == (NOW, {"telemetry 0.2.0": NOW})


def test_what_is_remembered_is_bounded_and_what_is_offered_comes_first() -> None:
    old = {f"telemetry 0.0.{number}": NOW + number for number in range(3000)}
    one = Offer(component="telemetry", version="0.2.0", wanted_by="channel")
    _, seen = note_seen([one], {**old, one.name: 1.0}, NOW + 5000)
    assert len(seen) == 1000
    assert seen[one.name] == 1.0


@given(st.lists(situations.offers, max_size=6), st.lists(st.floats(0, 4e9), min_size=1, max_size=4))
def test_the_time_of_an_offer_is_never_later_than_now(offers: list[Offer], clock: list[float]) -> None:
    seen: dict[str, float] = {}
    for now in clock:
        dated, seen = note_seen(offers, seen, now)
        assert all(one.seen_at <= now for one in dated)
        assert {one.name for one in offers} == seen.keys()


def test_missing_numbers_are_zero_and_junk_is_like_nothing() -> None:
    assert same_version("1.2", "1.2.0.0")
    assert not same_version("1.2", "1.2.1")
    assert not same_version("junk", "junk")
    assert not same_version("", "")


def test_who_follows_a_repository_has_no_second_channel() -> None:
    """The host's manifest knows no rings; it still says where a version is to be had that is asked for."""
    family = AgentFamily(name="telemetry", uris=("http://h/m",))
    manifests = {"telemetry": (package("0.2.0"),)}
    entries = [entry("0.2.0", ring=0)]
    offers, _ = collect(
        ALL,
        families=[family],
        manifests=manifests,
        running={"telemetry": "0.1.0"},
        entries=entries,
        asked={"telemetry": "0.2.0"},
        has_repository=True,
    )
    assert [(one.wanted_by, one.ring) for one in offers] == [("channel", 0), ("operator", None)]
    assert offers[1].urls == ("http://h/0.2.0.zip",)
    without, _ = collect(ALL, families=[family], manifests=manifests, running={"telemetry": "0.1.0"})
    assert [one.wanted_by for one in without] == ["channel"]
    asked_for, _ = collect(ALL, families=[requested("0.2.0")], manifests=manifests, has_repository=True)
    assert [one.wanted_by for one in asked_for] == ["host"]
