"""Frames: what is written is read back; whatever else arrives is a FrameError."""

import time
from typing import Any

import msgpack
import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ipc.contract import PROTOCOL, REQUESTS
from ipc.contract.every import Health, HealthReport
from ipc.contract.telemetry import Entry, Record, Timeline
from ipc.errors import FrameError
from ipc.frame import BODY_LIMIT, HEADER_LIMIT, Header, RefusalBody, decode_body, decode_header, encode, why_foreign
from ipc.message import Message
from tests.ipc.messages import MESSAGES, instances

HEADER = Header(id="1", kind="request", name="every.Health", sender="a/1/ff", version="0.1.0", deadline=12.5)

anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


@given(st.sampled_from(MESSAGES).flatmap(instances))
def test_every_message_comes_back_as_it_was_sent(message: Message) -> None:
    frames = encode(HEADER, message)
    assert decode_header(frames) == HEADER
    # NaN is the one value that does not equal itself.
    assert repr(decode_body(frames[1], type(message))) == repr(message)


@given(st.binary(max_size=200), st.binary(max_size=200))
@example(b"\xc1", b"")
@example(b"\xdd\xff\xff\xff\xff", b"\xdd\xff\xff\xff\xff")
@example(b"\x91" * 1000, b"\x81\xa1a" * 1000)
def test_arbitrary_bytes_are_a_frame_error_or_a_message(first: bytes, second: bytes) -> None:
    _only_frame_errors([first, second])


@given(anything, anything)
def test_well_packed_nonsense_is_a_frame_error_or_a_message(first: Any, second: Any) -> None:
    _only_frame_errors([msgpack.packb(first), msgpack.packb(second)])


@given(st.sampled_from(MESSAGES).flatmap(instances), st.data())
def test_mutated_frames_are_a_frame_error_or_a_message(message: Message, data: st.DataObject) -> None:
    frames = [bytearray(frame) for frame in encode(HEADER, message)]
    for frame in frames:
        for _ in range(data.draw(st.integers(1, 4))):
            frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    _only_frame_errors([bytes(frame) for frame in frames])


@given(instances(HealthReport), st.dictionaries(st.text(min_size=12), anything, max_size=3))
def test_fields_of_a_newer_neighbour_are_left_out(message: HealthReport, news: dict[str, Any]) -> None:
    body = msgpack.packb({**news, **msgspec.to_builtins(message)})
    assert repr(decode_body(body, HealthReport)) == repr(message)


def test_another_major_version_is_told_from_the_header() -> None:
    frames = encode(msgspec.structs.replace(HEADER, protocol=(PROTOCOL[0] + 1, 0)), Health())
    assert why_foreign(decode_header(frames)).startswith("a 0.1.0 speaks protocol 2.0, which does not go with our 1.")


def test_a_newer_minor_version_is_welcome() -> None:
    header = msgspec.structs.replace(HEADER, protocol=(PROTOCOL[0], PROTOCOL[1] + 7))
    assert decode_header(encode(header, Health())) == header
    assert not why_foreign(header)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_other_than_two_frames_are_refused(count: int) -> None:
    with pytest.raises(FrameError, match=f"{count} frames instead of 2"):
        decode_header([b"\x80"] * count)


def test_oversized_frames_are_refused_when_sent_and_when_received() -> None:
    with pytest.raises(FrameError, match="size: body"):
        encode(HEADER, RefusalBody(code="failed", reason="x" * BODY_LIMIT))
    with pytest.raises(FrameError, match="size: header"):
        decode_header([b"x" * (HEADER_LIMIT + 1), b"\x80"])


def test_what_cannot_be_written_is_a_frame_error() -> None:
    for reason in ("\udcff", "x"):
        bad = Timeline(entries=[], cursor=2**64 if reason == "x" else 0)
        with pytest.raises(FrameError, match="value"):
            encode(HEADER, bad if reason == "x" else RefusalBody(code="failed", reason=reason))
        # Nothing of it is left in the next one.
        assert decode_header(encode(HEADER, Health())) == HEADER


def test_a_refusal_of_the_longest_header_still_fits() -> None:
    longest = Header(id="i" * 200, kind="request", name="n" * 200, sender="s" * 200, version="v" * 200)
    encode(longest, RefusalBody(code="failed", reason="r" * 1000))


def test_a_full_batch_of_the_longest_entries_fits_a_frame() -> None:
    entry = Entry(
        id="i" * 32, at=time.time(), monotonic=1.0, boot="b" * 36, component="guestagent", version="1", pid=1,
        operation="Enable", message="\U0001f600" * 3072, subject="s" * 256, correlation="c" * 256,
    )  # fmt: skip
    size = len(msgspec.json.encode(entry))
    encode(HEADER, Record(entries=[entry] * (100 * 1024 // size + 1)))


def _only_frame_errors(frames: list[bytes]) -> None:
    try:
        header = decode_header(frames)
        decode_body(frames[1], REQUESTS.get(header.name, Health))
    except FrameError as error:
        assert error.kind
    kinds: list[type[msgspec.Struct]] = [*MESSAGES, RefusalBody]
    for kind in kinds:
        try:
            decode_body(frames[1], kind)
        except FrameError as error:
            assert error.reason
