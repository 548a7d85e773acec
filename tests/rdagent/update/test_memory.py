"""What the updater remembers: torn, of wrong types, hostile. It costs what stood in it, never the updater."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipc.contract.rdagent import UpdateEvent
from ipc.places import Places
from rdagent.update.memory import Memory, NotKeptError, Refusal, Remembered, still_refused
from rdagent.update.plan import decide
from rdagent.update.policy import Policy, Stopped, abort_rest, expire, held, pin, sound
from release.manifest import is_version
from tests.rdagent.update.situations import AT_ONCE, MACHINE, NOW, found, junk, offers, versions

texts = versions | junk | st.text(max_size=5)
hostile = st.builds(
    Policy,
    pins=st.dictionaries(texts | st.just("telemetry"), texts, max_size=2),
    asked=st.dictionaries(texts | st.just("telemetry"), texts, max_size=2),
    stopped=st.none()
    | st.builds(
        Stopped,
        component=texts | st.just("telemetry"),
        version=texts,
        why=texts,
        rest=st.dictionaries(texts | st.just("telemetry"), texts, max_size=2),
    ),
)


fields = st.sampled_from([*Remembered.__struct_fields__, *Policy.__struct_fields__, "x"])
documents = st.recursive(
    st.none() | st.booleans() | st.integers() | texts,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(fields, inner, max_size=3),
    max_leaves=8,
)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b"null",
        b"[]",
        b"[" * 100_000,
        b'{"policy": {"pins": 7}}',
        b'{"seen": {"telemetry 0.2.0": "yesterday"}}',
        b'{"attempts": {"telemetry": {"component": "telemetry"}}}',
        b'{"policy": {"pins": {"telemetry": "0.2.0"}}}'[:-9],
    ],
)
def test_a_damaged_memory_is_an_empty_one(places: Places, data: bytes) -> None:
    file = places.state_of("rdagent") / "updates.json"
    file.parent.mkdir(parents=True)
    file.write_bytes(data)
    memory = Memory(places)
    assert msgspec.structs.replace(memory.now, lost="", bad_unknown=[]) == Remembered()
    memory.change(policy=pin(memory.now.policy, "telemetry", "0.2.0"))
    assert Memory(places).now.policy.pins == {"telemetry": "0.2.0"}


def test_of_a_damaged_memory_the_bytes_are_kept_and_the_loss_is_told_over_a_restart(places: Places) -> None:
    file = places.state_of("rdagent") / "updates.json"
    kept = file.with_name("updates.json.damaged")
    assert Memory(places).now.lost == ""
    for data in (b'{"policy": {"pins": {"gues', b'{"policy": {"ho', b""):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        told = Memory(places).now.lost
        assert "are forgotten: updates.json is damaged: " in told
        assert f"lies in {kept}. Say it once more: agentctl update pin" in told
        # One is kept, the newest, and who is killed at once has lost nothing either.
        assert sorted(one.name for one in file.parent.iterdir()) == [file.name, kept.name]
        assert kept.read_bytes() == data
        assert Memory(places).now.lost == told
        assert kept.read_bytes() == data
    Memory(places).change(lost="")
    assert Memory(places).now.lost == ""
    assert kept.exists()


def test_who_was_killed_before_the_loss_was_written_down_finds_it_again(places: Places) -> None:
    """The link is there, the damaged file too."""
    file = places.state_of("rdagent") / "updates.json"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"junk")
    file.with_name("updates.json.damaged").hardlink_to(file)
    assert "are forgotten" in Memory(places).now.lost
    assert file.with_name("updates.json.damaged").read_bytes() == b"junk"
    assert not list(file.parent.glob(".*"))


@pytest.mark.parametrize("name", ["updates.json", "update-history.jsonl"])
def test_a_folder_in_its_place_costs_memory_over_a_restart_alone(places: Places, name: str) -> None:
    (places.state_of("rdagent") / name).mkdir(parents=True)
    memory = Memory(places)
    memory.change(policy=pin(memory.now.policy, "telemetry", "0.2.0"))
    memory.note(UpdateEvent(at=NOW, component="telemetry", phase="commit"))
    assert memory.now.policy.pins == {"telemetry": "0.2.0"}
    assert len(memory.history("", 10)) == 1


def test_an_operators_word_that_cannot_be_kept_is_refused(places: Places) -> None:
    """And what else could not be written is written as soon as it can be."""
    file = places.state_of("rdagent") / "updates.json"
    file.mkdir(parents=True)
    memory = Memory(places)
    word = pin(memory.now.policy, "telemetry", "0.2.0")
    with pytest.raises(NotKeptError, match=r"updates.json cannot be written: Is a directory; nothing was changed"):
        memory.keep(policy=word)
    assert memory.now == Remembered()
    memory.change(restarting="netagent")
    memory.catch_up()
    assert memory.is_behind
    # A word that changes nothing is no better kept than the rest.
    with pytest.raises(NotKeptError):
        memory.keep(policy=memory.now.policy)
    file.rmdir()
    memory.catch_up()
    assert not memory.is_behind
    assert Memory(places).now == Remembered(restarting="netagent")
    memory.keep(policy=word)
    assert Memory(places).now == Remembered(restarting="netagent", policy=word)


def test_a_history_that_could_not_be_written_is_written_later(places: Places, caplog: pytest.LogCaptureFixture) -> None:
    file = places.state_of("rdagent") / "update-history.jsonl"
    file.mkdir(parents=True)
    memory = Memory(places)
    for number in range(3):
        memory.note(UpdateEvent(at=NOW, component="telemetry", phase="commit", version=f"0.{number}.0"))
        memory.catch_up()
    assert memory.is_behind
    assert caplog.text.count("cannot be written") == 1
    file.rmdir()
    memory.catch_up()
    assert [one.version for one in Memory(places).history("", 10)] == ["0.0.0", "0.1.0", "0.2.0"]
    memory.note(UpdateEvent(at=NOW, component="telemetry", phase="commit", version="0.3.0"))
    assert [one.version for one in Memory(places).history("", 10)][-1] == "0.3.0"
    assert not memory.is_behind


def test_of_a_torn_history_the_rest_is_kept(places: Places) -> None:
    memory = Memory(places)
    for number in range(5):
        memory.note(UpdateEvent(at=NOW + number, component="telemetry", phase="commit", version=f"0.{number}.0"))
    file = places.state_of("rdagent") / "update-history.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    torn = [
        lines[0],
        b"\xff\n",
        b'{"at": "now"}\n',
        b"[" * 100_000 + b"\n",
        lines[1],
        b"\0" * 500 + b"\n",
        lines[2][:20],
    ]
    file.write_bytes(b"".join(torn))
    again = Memory(places)
    assert [one.version for one in again.history("", 10)] == ["0.0.0", "0.1.0"]
    # What is added to a line that broke off is not lost with it.
    again.note(UpdateEvent(at=NOW, component="telemetry", phase="trial", version="0.9.0"))
    assert [one.version for one in Memory(places).history("", 10)] == ["0.0.0", "0.1.0", "0.9.0"]


@given(hostile, st.lists(offers, max_size=3))
def test_no_policy_of_wrong_words_keeps_it_from_deciding(policy: Policy, wanted: list[Any]) -> None:
    again = sound(msgspec.json.decode(msgspec.json.encode(policy), type=Policy))
    assert sound(again) is again
    expire(again, NOW)
    held(again, "telemetry", NOW)
    for one in filter(lambda one: is_version(one.version), wanted):
        abort_rest(again, one, "hangs", wanted)
    decide("telemetry", found(), wanted, again, AT_ONCE, now=NOW, machine=MACHINE)


@given(documents)
def test_no_document_keeps_it_from_starting(tmp_path_factory: pytest.TempPathFactory, document: Any) -> None:
    places = Places.under(tmp_path_factory.getbasetemp() / "documents")
    file = places.state_of("rdagent") / "updates.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(document))
    assert isinstance(Memory(places).now, Remembered)


@given(st.dictionaries(st.text(max_size=3), st.floats(-2e5, 2e5)))
def test_a_refusal_is_kept_for_a_day_and_not_if_it_is_of_the_future(ages: dict[str, float]) -> None:
    refused = {key: Refusal(why="it is junk", at=NOW - age) for key, age in ages.items()}
    kept = still_refused(refused, NOW, "keys")
    assert kept == {key: refused[key] for key in kept}
    for key in refused:
        assert (key in kept) == (0 <= NOW - refused[key].at < 86400)
