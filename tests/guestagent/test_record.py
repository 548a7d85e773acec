"""What was applied: it comes back, tells changes apart, and a damaged file is begun anew with a word about it."""

import random
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestagent.record import Applied, Records, digest, key
from wire.extensions import Handler, Settings

APPLIED = Applied(version="1.0", digest="d", ok=True, goal_state="incarnation_1", message="Plugin enabled", at=7.5)


def handler(**changed: Any) -> Handler:
    return Handler(**{"name": "A.B", "version": "1.0", "state": "enabled", **changed})


def test_without_a_file_nothing_was_applied(tmp_path: Path) -> None:
    records = Records(tmp_path / "state")
    assert (records.applied, records.goal_state, records.goal_state_at, records.problem) == ({}, "", None, "")


def test_what_was_written_comes_back(tmp_path: Path) -> None:
    records = Records(tmp_path / "state")
    records.set("A.B", APPLIED)
    records.processed("incarnation_1")
    again = Records(tmp_path / "state")
    assert again.applied == {"A.B": APPLIED}
    assert again.goal_state == "incarnation_1"
    assert again.goal_state_at == records.goal_state_at is not None
    assert again.problem == ""
    assert (tmp_path / "state" / "applied.json").stat().st_mode & 0o777 == 0o600


def test_a_turn_is_taken_with_each_end_and_never_given_back(tmp_path: Path) -> None:
    records = Records(tmp_path)
    assert records.turn("A.B") == 0
    records.set("A.B", APPLIED)
    records.set("A.B/first", APPLIED)
    assert (records.turn("A.B"), records.turn("A.BC")) == (2, 0)
    records.forget("A.B")
    assert Records(tmp_path).turn("A.B") == 3


def test_only_failures_are_tried_again_one_of_several_or_all(tmp_path: Path) -> None:
    records = Records(tmp_path)
    failed = msgspec.structs.replace(APPLIED, ok=False, kind="extension", tries=4)
    for one in ("A.B/first", "A.B/second", "A.C"):
        records.set(one, failed)
    records.set("A.B/third", APPLIED)
    assert records.retry("A.B", "second") == ["A.B/second"]
    assert sorted(records.retry("A.B")) == ["A.B/first", "A.B/second"]
    assert [one.retry_at for one in Records(tmp_path).applied.values()] == [0.0, 0.0, None, None]
    assert records.retry("A.D") == []


def test_what_a_way_back_leads_to(tmp_path: Path) -> None:
    first, second = Settings(name="a", sequence_number=1), Settings(name="b", sequence_number=2)
    records = Records(tmp_path)
    records.enabled("A.B", "1.0", first)
    records.enabled("A.B", "1.0", second)
    assert Records(tmp_path).good["A.B"].for_extension(first) == first
    # Another version begins anew: what was not enabled with it is no part of it.
    records.enabled("A.B", "2.0", second)
    assert Records(tmp_path).good["A.B"].settings == (second,)
    records.forget("A.B", "b")
    assert records.good["A.B"].settings == ()


def test_forgetting_a_handler_forgets_its_extensions_and_nobody_else_s(tmp_path: Path) -> None:
    records = Records(tmp_path)
    for one in ("A.B", "A.B/first", "A.B/se/cond", "A.BC", "A.BC/first"):
        records.set(one, APPLIED)
    records.forget("A.B")
    assert sorted(Records(tmp_path).applied) == ["A.BC", "A.BC/first"]
    records.forget("never seen")


@pytest.mark.parametrize(
    "content",
    [b"", b"{half", b"\0" * 500, b"\xff", b"[]", b'{"extensions": {"A.B": {}}}', b'{"goal_state": 7}', b"[" * 100_000],
)
def test_a_damaged_file_is_named_and_begun_anew(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "applied.json"
    path.write_bytes(content)
    records = Records(tmp_path)
    assert str(path) in records.problem
    assert "is damaged" in records.problem
    assert (records.applied, records.goal_state) == ({}, "")
    records.set("A.B", APPLIED)
    assert Records(tmp_path).applied == {"A.B": APPLIED}
    assert Records(tmp_path).problem == ""


def test_two_records_do_not_share_what_they_begin_with(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "applied.json").write_bytes(b"")
    Records(tmp_path / "one").set("A.B", APPLIED)
    assert Records(tmp_path / "two").applied == {}


def test_a_file_that_cannot_be_read_is_named_too(tmp_path: Path) -> None:
    (tmp_path / "applied.json").mkdir()
    records = Records(tmp_path)
    assert "cannot be read" in records.problem
    assert records.applied == {}


def test_mutated_records_are_records_or_a_problem(tmp_path: Path) -> None:
    Records(tmp_path).set("A.B", APPLIED)
    path, dice = tmp_path / "applied.json", random.Random(9)
    whole, damaged = path.read_bytes(), 0
    for _ in range(600):
        data = bytearray(whole)
        for _ in range(dice.randint(1, 3)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        path.write_bytes(data[: dice.choice([len(data), dice.randrange(len(data))])])
        records = Records(tmp_path)
        damaged += bool(records.problem)
        assert records.applied == {} or not records.problem
    assert 100 < damaged < 600


def test_keys_name_the_extension_where_there_are_several() -> None:
    assert key("A.B", None) == key("A.B", Settings(sequence_number=1)) == "A.B"
    assert key("A.B", Settings(sequence_number=1, name="first")) == "A.B/first"


BASE = Settings(sequence_number=1, public={"a": 1, "b": [None, 2.5]}, protected="MII", thumbprint="AB")


@pytest.mark.parametrize(
    ("handler_change", "settings_change"),
    [
        ({"version": "1.1"}, {}),
        ({"state": "disabled"}, {}),
        ({}, {"sequence_number": 2}),
        ({}, {"state": "disabled"}),
        ({}, {"public": {"a": 1, "b": [None, 2]}}),
        ({}, {"public": None}),
        ({}, {"protected": None}),
        ({}, {"name": "first"}),
    ],
)
def test_every_change_of_what_is_asked_for_changes_the_digest(
    handler_change: dict[str, Any], settings_change: dict[str, Any]
) -> None:
    fields = {name: getattr(BASE, name) for name in BASE.__struct_fields__}
    assert digest(handler(), BASE) != digest(handler(**handler_change), Settings(**{**fields, **settings_change}))
    assert digest(handler(), BASE) != digest(handler(), None)


def test_secrets_encrypted_for_another_certificate_do_not_change_the_digest() -> None:
    rotated = Settings(sequence_number=1, public=BASE.public, protected="MIX", thumbprint="CD")
    assert digest(handler(), BASE) == digest(handler(), rotated)


def test_where_it_comes_from_does_not_change_the_digest() -> None:
    moved = handler(locations=("http://elsewhere",), settings=(BASE,))
    assert digest(moved, BASE) == digest(handler(), BASE)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(),
    lambda one: st.lists(one, max_size=3) | st.dictionaries(st.text(), one, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), JSON))
def test_the_order_of_keys_does_not_change_the_digest(public: dict[str, Any]) -> None:
    reversed_ = dict(reversed(public.items()))
    made = [digest(handler(), Settings(sequence_number=1, public=one)) for one in (public, reversed_)]
    assert made[0] == made[1]
