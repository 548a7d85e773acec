"""What extensions drop into their events folders: any bytes in, bounded events out, each kept once."""

import json
import os
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from telemetry.events import as_extension_event
from telemetry.extensionevents import collect, parse, remove

EVENT = {
    "Version": "1.2",
    "Timestamp": "2026-01-01T00:00:00Z",
    "TaskName": "Probe",
    "EventLevel": "Error",
    "Message": " went wrong ",
    "EventPid": 7,
    "EventTid": "8",
    "OperationId": "op",
}


def drop(log: Path, name: str, content: bytes | str, *, age: float = 100.0) -> Path:
    folder = log / "Test.One" / "events"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    os.utime(path, (1000.0 - age, 1000.0 - age))
    return path


def test_an_event_becomes_the_hosts_event_seven(tmp_path: Path) -> None:
    drop(tmp_path, "1.json", json.dumps(EVENT))
    (found,) = collect(tmp_path, clock=lambda: 1000.0)
    (entry,) = found.entries
    assert (entry.subject, entry.operation, entry.ok, entry.message) == ("Test.One", "Probe", False, "went wrong")
    told = dict(as_extension_event(entry).parameters)
    assert told["EventName"] == "Test.One-1.2"
    assert (told["CapabilityUsed"], told["TaskName"], told["Context1"]) == ("Error", "Probe", "went wrong")
    assert (told["Context2"], told["Context3"], told["EventPid"], told["EventTid"]) == (
        "2026-01-01T00:00:00Z",
        "op",
        "7",
        "8",
    )


def test_a_pass_that_was_kept_and_not_removed_has_the_same_ids(tmp_path: Path) -> None:
    drop(tmp_path, "1.json", json.dumps([EVENT, EVENT]))
    (first,), (second,) = collect(tmp_path), collect(tmp_path)
    ids = [entry.id for entry in first.entries]
    assert ids == [entry.id for entry in second.entries]
    assert len(set(ids)) == 2
    remove(first)
    assert list(collect(tmp_path)) == []


def test_what_is_no_json_is_left_for_a_while_then_given_up(tmp_path: Path) -> None:
    drop(tmp_path, "1.json", "{half", age=5)
    assert list(collect(tmp_path, clock=lambda: 1000.0)) == []
    (found,) = collect(tmp_path, clock=lambda: 1020.0)
    assert found.dropped == {"no JSON": 1}


def test_links_and_folders_are_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "secret"
    target.write_text(json.dumps(EVENT))
    path = drop(tmp_path, "1.json", "x")
    path.unlink()
    path.symlink_to(target)
    (path.parent / "2.json").mkdir()
    assert list(collect(tmp_path)) == []
    linked = tmp_path / "Test.Two"
    linked.mkdir()
    (linked / "events").symlink_to(tmp_path / "Test.One" / "events")
    assert list(collect(tmp_path)) == []


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from([*EVENT, "message", "other"]), inner, max_size=9)
    ),
    max_leaves=30,
)


@given(_JSON)
def test_any_json_is_events_or_reasons(document: Any) -> None:
    events, problems = parse(json.dumps(document).encode())
    count = len(document) if isinstance(document, list) else 1
    assert len(events) + len(problems) == count
    for event in events:
        assert event.message


@given(st.binary(max_size=200))
def test_any_bytes_are_events_or_a_value_error(data: bytes) -> None:
    try:
        parse(data)
    except ValueError as error:
        assert str(error)  # either is right
