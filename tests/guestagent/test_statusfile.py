"""Status files: what real extensions write there, and whatever else could lie there."""

import json
import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestagent.errors import StatusFileError
from guestagent.statusfile import READ_LIMIT, SIZE_LIMIT, ExtensionStatus, Substatus, parse_status

MARK = " ... [TRUNCATED]"
WORDS = {"transitioning", "warning", "error", "success"}


def message(text: Any) -> dict[str, Any]:
    return {"lang": "en-US", "message": text}


def document(**status: Any) -> bytes:
    return json.dumps([{"version": "1.0", "timestampUTC": "2031-05-06T07:08:09Z", "status": status}]).encode()


def refusal(data: bytes) -> str:
    with pytest.raises(StatusFileError) as caught:
        parse_status(data)
    assert caught.value.code == 1012
    return str(caught.value)


def test_a_whole_status_is_read_and_what_is_not_forwarded_left_out() -> None:
    found = parse_status(
        document(
            name="greeter",
            operation="Enable",
            configurationAppliedTime="2031-05-06T07:08:00Z",
            status="success",
            code=0,
            formattedMessage=message("hello written"),
            substatus=[{"name": "StdOut", "status": "success", "code": 0, "formattedMessage": message("hi")}],
        )
    )
    assert found == ExtensionStatus(
        status="success",
        code=0,
        message="hello written",
        operation="Enable",
        applied_at="2031-05-06T07:08:00Z",
        substatus=(Substatus(name="StdOut", status="success", code=0, message="hi"),),
    )


@pytest.mark.parametrize("version", [1, 1.0, "1.0", None])
@pytest.mark.parametrize("stamp", ["2031-05-06T07:08:09Z", "2031-05-06T07:08:09+00:00", 7, None])
@pytest.mark.parametrize("listed", [True, False])
def test_versions_stamps_shapes_and_unknown_keys_do_not_matter(version: Any, stamp: Any, listed: bool) -> None:
    one = {"version": version, "timestampUTC": stamp, "status": {"status": "success", "new": [{}]}, "more": None}
    for mark in (b"", b"\xef\xbb\xbf"):
        data = mark + json.dumps([one, "not looked at"] if listed else one).encode()
        assert parse_status(data) == ExtensionStatus(status="success")


@pytest.mark.parametrize("word", ["failed", "Failed", "Ready", "NotReady", "Succeeded", " success", "7"])
def test_a_word_nobody_agreed_on_is_an_error_above_and_below(word: str) -> None:
    found = parse_status(document(status=word, code=3, substatus=[{"name": "x", "status": word}]))
    assert (found.status, found.code, found.substatus[0].status) == ("error", 3, "error")


@pytest.mark.parametrize("word", sorted(WORDS))
def test_words_count_in_any_case(word: str) -> None:
    assert parse_status(document(status=word.title())).status == word


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (0, 0),
        (51, 51),
        (-21, -21),
        ("7", "7"),
        ("51", "51"),
        ("", ""),
        (None, 0),
        (True, 0),
        (1.0, 0),
        ([], 0),
        ("9" * 99, "9" * 32),
    ],
)
def test_codes_are_passed_on_as_they_are_or_are_0(code: Any, told: Any) -> None:
    found = parse_status(
        document(status="error", code=code, substatus=[{"name": "x", "status": "error", "code": code}])
    )
    assert (found.code, found.substatus[0].code) == (told, told)
    assert parse_status(document(status="error")).code == 0


@pytest.mark.parametrize(
    ("formatted", "told"),
    [
        (None, None),
        (message("text"), "text"),
        ({"message": "no language"}, "no language"),
        (message(None), None),
        (message(7), None),
        ("the text itself", "the text itself"),
        ([], None),
        (message(""), ""),
        (message('{"executionState": "Running"}'), '{"executionState": "Running"}'),
        (message("\0\x01\x1b[31m é \U0001f600"), "\0\x01\x1b[31m é \U0001f600"),
    ],
)
def test_messages_in_every_shape(formatted: Any, told: Any) -> None:
    inner = [{"name": None, "status": "success", "formattedMessage": formatted}]
    found = parse_status(document(status="success", formattedMessage=formatted, substatus=inner))
    assert found.message == told
    assert found.substatus == (Substatus(name="", status="success", code=0, message=told),)


@pytest.mark.parametrize("substatus", [None, {}, "x", 7, []])
def test_no_substatus_in_many_ways(substatus: Any) -> None:
    assert parse_status(document(status="success", substatus=substatus)).substatus == ()


def test_items_that_are_none_are_passed_over() -> None:
    found = parse_status(document(status="success", substatus=[None, {"name": "a", "status": "warning"}, "text", 7]))
    assert [one.name for one in found.substatus] == ["a"]


@pytest.mark.parametrize("operation", ["", "Enable", "any word", None, 7])
def test_any_operation(operation: Any) -> None:
    found = parse_status(document(status="success", operation=operation, configurationAppliedTime=operation))
    told = operation if isinstance(operation, str) else None
    assert (found.operation, found.applied_at) == (told, told)


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (b"", "is not JSON"),
        (document(status="success")[:40], 'is not JSON: .*: .."version": "1.0", "timestampUTC"'),
        (b"\0" * 4000, "is not JSON"),
        (b'[{"status": {"status": "\xff"}}]', "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"9" * 10_000, "is not JSON"),
        (b"null", "no status object"),
        (b"[]", "no status object"),
        (b"[null]", "no status object"),
        (b"7", "no status object"),
        (b'[{"status": "success"}]', "no status object"),
        (document(), "no status.status"),
        (document(status=None), "no status.status"),
        (document(status=""), "no status.status"),
        (document(status=["success"]), "no status.status"),
        (document(status="success", substatus=[{"name": "x"}]), "no substatus.status"),
        (b" " * (READ_LIMIT + 1), "larger than"),
    ],
)
def test_what_cannot_be_understood_is_1012_and_says_why(data: bytes, complaint: str) -> None:
    with pytest.raises(StatusFileError, match=complaint) as caught:
        parse_status(data)
    assert caught.value.code == 1012
    assert len(str(caught.value)) < 500


def test_a_half_written_file_is_an_error_at_every_length() -> None:
    data = document(
        status="success", formattedMessage=message("é\U0001f600"), substatus=[{"name": "x", "status": "error"}]
    )
    for length in range(len(data)):
        refusal(data[:length])
    assert parse_status(data).status == "success"


def test_a_file_within_the_size_is_not_cut() -> None:
    room = SIZE_LIMIT - len(document(status="success", formattedMessage=message("")))
    found = parse_status(document(status="success", formattedMessage=message("m" * room)))
    assert found.message == "m" * room
    cut = parse_status(document(status="success", formattedMessage=message("m" * (room + 1))))
    assert cut.message == "m" * (1024 - len(MARK)) + MARK


def test_an_oversize_file_is_cut_by_the_protocol_s_rule() -> None:
    inner = [
        {"name": f"n{number}", "status": "success", "formattedMessage": message("s" * 50_000)} for number in range(20)
    ]
    found = parse_status(document(status="warning", code="51", formattedMessage=message("m" * 2000), substatus=inner))
    assert (found.status, found.code) == ("warning", "51")
    assert found.message is not None
    assert len(found.message) == 1024
    assert found.message.endswith(MARK)
    # 12 of 10,240 characters and their names fit into 131,072.
    assert [one.name for one in found.substatus] == [f"n{number}" for number in range(12)]
    assert all(one.message == "s" * (10_240 - len(MARK)) + MARK for one in found.substatus)


def test_null_messages_in_an_oversize_file_are_no_reason_to_fail() -> None:
    inner = [
        {"name": None, "status": "success", "formattedMessage": None},
        {"name": "x", "status": "success", "formattedMessage": message("s" * SIZE_LIMIT)},
    ]
    found = parse_status(document(status="success", formattedMessage=None, substatus=inner))
    assert found.message is None
    assert [one.message is None for one in found.substatus] == [True, False]


def test_hundreds_of_substatuses_are_kept_and_what_a_host_would_not_take_is_not() -> None:
    inner = [{"name": f"n{number}", "status": "success"} for number in range(800)]
    assert len(parse_status(document(status="success", substatus=inner)).substatus) == 800
    many = b'[{"status":{"status":"success","substatus":[' + b'{"status":"success"},' * 500_000 + b"null]}}]"
    found = parse_status(many)
    assert found.status == "success"
    assert len(msgspec.json.encode(found)) < 4 * SIZE_LIMIT


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(["status", "code", "formattedMessage", "substatus", "operation", "configurationAppliedTime"])
SUBSTATUS = st.lists(st.dictionaries(st.sampled_from(["name", "status", "code", "formattedMessage"]), JSON), max_size=3)


def check(data: bytes) -> None:
    """A status the blob can carry, or the one error."""
    try:
        found = parse_status(data)
    except StatusFileError as error:
        assert error.code == 1012
        return
    assert {found.status, *(one.status for one in found.substatus)} <= WORDS
    assert msgspec.json.decode(msgspec.json.encode(found), type=ExtensionStatus) == found


@given(st.dictionaries(KEYS, JSON), st.none() | SUBSTATUS, st.booleans())
def test_any_values_are_a_status_or_a_status_file_error(
    values: dict[str, Any], substatus: list[dict[str, Any]] | None, well: bool
) -> None:
    extra: dict[str, Any] = {"status": "success"} if well else {}
    check(document(**{**values, **({} if substatus is None else {"substatus": substatus}), **extra}))


@given(JSON | st.binary(max_size=60))
def test_any_document_is_a_status_or_a_status_file_error(value: Any) -> None:
    check(value if isinstance(value, bytes) else json.dumps(value).encode())


def test_mutated_files_are_a_status_or_a_status_file_error() -> None:
    dice = random.Random(3)
    whole = document(
        status="success", code="7", formattedMessage=message("é"), substatus=[None, {"name": "x", "status": "error"}]
    )
    for _ in range(5000):
        data = bytearray(whole)
        for _ in range(dice.randint(1, 4)):
            at = dice.randrange(len(data))
            data[at : at + dice.randrange(3)] = dice.choice(
                [b"", b'"', b"\\", b"{", b"9", bytes([dice.randrange(256)])]
            )
        check(bytes(data))
