"""Entries as the host takes them: within its limits, and with the very text, whatever that is."""

import re
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from defusedxml.ElementTree import fromstring
from hypothesis import given, settings
from hypothesis import strategies as st

from ipc.contract.telemetry import Entry
from telemetry.events import as_event
from telemetry.uploader import upload
from wire.deadline import Deadline
from wire.events import AGENT_EVENTS, bodies
from wire.http import HttpClient
from wire.wireserver import WireServer

Make = Callable[..., Entry]

HOSTILE = [
    "]]>",
    "]]&gt;",
    "a ]]>]]> b <![CDATA[ c",
    '"/><Event id="7">',
    "' \" < > & &amp; &lt; &#10; &#x0;",
    "tab\there, line\nbreak\r\nand\rmore",
    "\x00\x01\x08\x0b\x0c\x1b[31m\x7f\x85\u2028",
    "\ufffe\uffff\ufeff",
    "ünï 中文 \U0001f600",
    "x" * 3072,
    "",
]

# What XML 1.0 cannot carry (section 2.2) is left out.
FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]")


def read(body: bytes) -> list[dict[str, str]]:
    """As a host would: XML, and XML once more inside."""
    events = []
    for event in fromstring(body).iter("Event"):
        inner = fromstring(f"<Params>{event.text}</Params>")
        events.append({one.attrib["Name"]: one.attrib["Value"] for one in inner})
    return events


def entries_of_any_kind() -> st.SearchStrategy[Entry]:
    text = st.text(max_size=200) | st.sampled_from(HOSTILE)
    numbers = st.floats(allow_nan=False, allow_infinity=False)
    integers = st.integers(-(2**63), 2**64 - 1)
    return st.builds(
        Entry,
        id=st.uuids().map(str),
        at=numbers,
        monotonic=numbers,
        boot=text,
        component=text,
        version=text,
        pid=integers,
        operation=text,
        ok=st.booleans(),
        message=text,
        subject=text,
        subject_version=text,
        correlation=text,
        duration_ms=st.none() | integers,
    )


@settings(deadline=None)
@given(entries_of_any_kind())
def test_every_entry_comes_out_as_it_went_in(entry: Entry) -> None:
    ((body, count),) = bodies(AGENT_EVENTS, [as_event(entry)])
    (event,) = read(body)
    message = entry.message + (f" [{entry.correlation}]" if entry.correlation else "")
    assert event["Message"] == FORBIDDEN.sub("", message)
    assert event["Name"] == FORBIDDEN.sub("", entry.subject or f"azvmagent.{entry.component}")
    assert (event["OperationSuccess"], event["EventId"], count) == (str(entry.ok), entry.id, 1)
    assert int(event["Duration"]) >= 0
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", event["OpcodeName"])


@settings(deadline=None, max_examples=30)
@given(st.lists(st.sampled_from([0, 10, 3072, 20_000, 63_000, 65_000, 200_000]), max_size=40))
def test_bodies_are_within_64_kib_and_account_for_every_event(lengths: list[int]) -> None:
    entries = [
        Entry(
            id=str(number),
            at=0.0,
            monotonic=0.0,
            boot="b",
            component="c",
            version="1",
            pid=1,
            operation="o",
            message="x" * length,
        )
        for number, length in enumerate(lengths)
    ]
    made = list(bodies(AGENT_EVENTS, map(as_event, entries)))
    assert all(len(body) <= 65536 for body, _ in made)
    assert sum(count for _, count in made) == len(entries)
    arrived = [event["EventId"] for body, _ in made for event in read(body)]
    # Only what no body can hold is left out.
    assert arrived == [str(number) for number, length in enumerate(lengths) if length < 64_000]


def test_bodies_are_as_few_as_can_be(entry: Make) -> None:
    made = list(bodies(AGENT_EVENTS, (as_event(entry(number, "x" * 3072)) for number in range(200))))
    longest = max(len(body) // count for body, count in made)
    assert all(len(body) + longest > 64_512 for body, _ in made[:-1])


def test_types_are_the_protocols(entry: Make) -> None:
    ((body, _),) = bodies(AGENT_EVENTS, [as_event(entry(1, subject="A.B", subject_version="2.1", duration_ms=5))])
    (event,) = fromstring(body).iter("Event")
    assert event.attrib["id"] == "1"
    inner = fromstring(f"<Params>{event.text}</Params>")
    kinds = {one.attrib["Name"]: (one.attrib["Value"], one.attrib["T"]) for one in inner}
    assert kinds["Name"] == ("A.B", "mt:wstr")
    assert kinds["Version"] == ("2.1", "mt:wstr")
    assert kinds["OperationSuccess"] == ("True", "mt:bool")
    assert kinds["Duration"] == ("5", "mt:uint64")
    assert kinds["OpcodeName"] == ("2023-11-14T22:13:21.000000Z", "mt:wstr")


# -- against the host --------------------------------------------------------------------------------------------------


def arrived(host: Any, ids: set[str]) -> list[dict[str, Any]]:
    """Those of these entries the host was told, in its order."""
    return [one for one in host.told()["events"] if one.get("EventId") in ids]


@pytest.fixture
def wireserver(local_host: Any) -> WireServer:
    return WireServer(HttpClient("test"), local_host.wireserver)


def test_the_host_reads_hostile_text_as_it_was_meant(local_host: Any, wireserver: WireServer, entry: Make) -> None:
    entries = [entry(number, message, id=f"hostile-{number}") for number, message in enumerate(HOSTILE)]
    # An empty message, not the number that stands for none.
    entries = [msgspec.structs.replace(one, message=text) for one, text in zip(entries, HOSTILE, strict=True)]
    assert upload(wireserver, entries, Deadline.after(20)) == (len(entries), "")
    found = arrived(local_host, {one.id for one in entries})
    assert [one["Message"] for one in found] == [FORBIDDEN.sub("", one) for one in HOSTILE]
    assert {one["provider"] for one in found} == {AGENT_EVENTS}


def test_many_entries_go_in_several_bodies(local_host: Any, wireserver: WireServer, entry: Make) -> None:
    entries = [entry(number, "x" * 3000, id=f"many-{number}") for number in range(200)]
    asked = local_host.asked("telemetry")
    assert upload(wireserver, entries, Deadline.after(20)) == (200, "")
    assert 10 <= local_host.asked("telemetry") - asked <= 15
    assert [one["EventId"] for one in arrived(local_host, {one.id for one in entries})] == [one.id for one in entries]


@pytest.mark.parametrize("fault", [("status", 503), ("status", 429), ("status", 410), ("reset", None)])
def test_what_was_taken_before_a_failure_is_accounted_for(
    local_host: Any, wireserver: WireServer, entry: Make, fault: tuple[str, float | None]
) -> None:
    entries = [entry(number, "x" * 3000, id=f"{fault}-{number}") for number in range(60)]
    first = next(iter(bodies(AGENT_EVENTS, map(as_event, entries))))[1]
    assert upload(wireserver, entries[:first], Deadline.after(20)) == (first, "")
    local_host.fault("telemetry", *fault)
    taken, reason = upload(wireserver, entries[first:], Deadline.after(20))
    assert taken == 0
    assert "telemetrydata" in reason
    assert len(arrived(local_host, {one.id for one in entries})) == first


def test_a_body_the_host_cannot_read_is_given_up_and_the_rest_goes_on(
    local_host: Any, wireserver: WireServer, entry: Make
) -> None:
    entries = [entry(number, "x" * 3000, id=f"poison-{number}") for number in range(60)]
    first = next(iter(bodies(AGENT_EVENTS, map(as_event, entries))))[1]
    local_host.fault("telemetry", "status", 400, count=1)
    taken, reason = upload(wireserver, entries, Deadline.after(20))
    assert taken == 60
    assert reason.startswith(f"{first} events given up: ")
    found = arrived(local_host, {one.id for one in entries})
    assert [one["EventId"] for one in found] == [one.id for one in entries[first:]]


def test_a_host_that_does_not_know_us_any_more_costs_no_event(
    local_host: Any, wireserver: WireServer, entry: Make
) -> None:
    local_host.fault("telemetry", "invalid-container", count=1)
    assert upload(wireserver, [entry(1)], Deadline.after(20))[0] == 0


def test_behind_its_deadline_no_further_body_is_begun(local_host: Any, wireserver: WireServer, entry: Make) -> None:
    entries = [entry(number, "x" * 3000, id=f"late-{number}") for number in range(60)]
    local_host.fault("telemetry", "slow", 0.3)
    taken, reason = upload(wireserver, entries, Deadline.after(0.2))
    assert 0 < taken < 60
    assert reason == ""
    assert len(arrived(local_host, {one.id for one in entries})) == taken
    assert upload(wireserver, entries, Deadline.after(0)) == (0, "")
