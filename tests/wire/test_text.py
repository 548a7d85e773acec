"""Redaction, versions, retry, telemetry bodies: properties."""

import json
import time

import pytest
from defusedxml.ElementTree import fromstring
from hypothesis import example, given
from hypothesis import strategies as st

from wire.deadline import Deadline
from wire.errors import HostError, Refused, Unreachable
from wire.events import AGENT_EVENTS, Event, bodies
from wire.redact import redact
from wire.retry import Policy, attempt
from wire.version import BadVersion, Version, best

CANARY = "CANARYxyz123"
noise = st.text(max_size=60)


@pytest.mark.parametrize(
    "secret",
    [
        f"https://b.example/c/d?sv=2018&sr=b&sig={CANARY}%3D&se=1",
        f"https://b.example/c/d?se=1&amp;sig={CANARY}",
        f"https://b.example/c/d?x=1&SIG={CANARY}",
        f'{{"protectedSettings": "{CANARY}"}}',
        f'{{"protectedSettings":"ab\\"{CANARY}"}}',
        f'"{{\\"protectedSettings\\": \\"{CANARY}\\"}}"',
        f'{{"storageAccountKey" : "{CANARY}"}}',
        f"Authorization: Bearer {CANARY}",
        f"authorization=SharedKey {CANARY}",
        f"-----BEGIN RSA PRIVATE KEY-----\n{CANARY}\n-----END RSA PRIVATE KEY-----",
        f"-----BEGIN PRIVATE KEY-----\n{CANARY}",
        f"SharedAccessSignature={CANARY}",
    ],
)
@given(before=noise, after=noise)
@example(before="", after="")
def test_no_secret_survives_whatever_stands_around_it(secret: str, before: str, after: str) -> None:
    assert CANARY not in redact(f"{before} {secret} {after}")


SECRETS = [
    f"https://b.example/c/d?sv=2018&sr=b&sig={CANARY}&se=1",
    f"https://b.example/c/d?x=1&sig={CANARY}",
    f'{{"password": "{CANARY}"}}',
    f'{{"password": "a\\"{CANARY}\\\\"}}',
    f"authorization: Bearer {CANARY}",
    f"sig={CANARY}",
    f"-----BEGIN PRIVATE KEY-----\n{CANARY}\n-----END PRIVATE KEY-----",
    f"-----BEGIN PRIVATE KEY-----\n{CANARY}",
]


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("secret", SECRETS)
@given(before=noise, after=noise)
@example(before="", after="")
@example(before='"', after='"')
@example(before="\\", after="\\")
def test_json_stays_json_however_often_it_is_wrapped(secret: str, depth: int, before: str, after: str) -> None:
    """A script's output stands in a string of a JSON text in a string of a status: redaction must not end a string."""
    for joint in ("&", "\\u0026"):
        text = f"{before} {secret} {after}"
        for _ in range(depth):
            text = json.dumps({"output": text, "exitCode": 3}).replace("&", joint)
        text = redact(text)
        assert CANARY not in text
        found = {"output": text, "exitCode": 3}
        for _ in range(depth):
            assert found["exitCode"] == 3
            found = json.loads(str(found["output"]))


@given(st.text(alphabet="abc xyz0123./:-_\n", max_size=200))
def test_plain_text_stays_as_it_is(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize(
    "hostile", ["?", '"password"' + ":" * 3, "sig=", "&sv=", '\\"protectedSettings', "authorization ", "-----BEGIN "]
)
def test_redaction_takes_time_in_proportion(hostile: str) -> None:
    """Ten times the text must not take a hundred times as long: a hundred thousand repeats end at once."""
    began = time.process_time()
    redact(hostile * 100_000)
    assert time.process_time() - began < 20


@pytest.mark.parametrize(
    ("lower", "higher"),
    [
        ("1.0", "1.0.1"),
        ("1.9", "1.10"),
        ("2.0.0-alpha", "2.0.0-beta1"),
        ("2.0.0-rc1", "2.0.0"),
        ("2.0.0rc1", "2.0.0rc2"),
    ],
)
def test_versions_are_ordered_as_the_protocol_says(lower: str, higher: str) -> None:
    assert Version(lower) < Version(higher)


def test_missing_parts_count_as_zero_but_lead_only_what_they_list() -> None:
    assert Version("1.0") == Version("1.0.0")
    assert hash(Version("1.0")) == hash(Version("1.0.0"))
    assert best(Version("1"), [Version("1.4.2"), Version("2.0")]) == Version("1.4.2")
    assert best(Version("1.0.0"), [Version("1.0")]) is None


@given(st.text(max_size=30))
def test_any_text_is_a_version_or_bad_version(text: str) -> None:
    try:
        assert Version(text) == Version(text)
    except BadVersion as error:
        assert "is not a version" in str(error)


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99), st.integers(0, 99)), min_size=2, max_size=20))
def test_sorting_versions_is_sorting_their_numbers(numbers: list[tuple[int, int, int]]) -> None:
    texts = [".".join(map(str, one)) for one in numbers]
    assert [one.parts for one in sorted(map(Version, texts))] == sorted(numbers)


def test_pauses_double_are_capped_and_spread() -> None:
    policy = Policy(attempts=6, first_pause=1.0, longest_pause=5.0)
    assert list(policy.pauses(lambda: 1.0)) == [1, 2, 4, 5, 5]
    assert list(policy.pauses(lambda: 0.0)) == [0.5, 1, 2, 2.5, 2.5]


def test_retry_ends_with_the_deadline_the_policy_or_the_client() -> None:
    tried: list[int] = []

    def act() -> None:
        tried.append(1)
        raise Unreachable("http://h", "no")

    policy = Policy(attempts=4, first_pause=2.0)
    for seconds, closed, count in ((100.0, False, 4), (0.5, False, 1), (100.0, True, 1)):
        tried.clear()
        waits = {False: lambda _: False, True: lambda _: True}
        with pytest.raises(HostError):
            attempt(policy, Deadline.after(seconds), act, waits[closed])
        assert len(tried) == count
    assert not policy.worth_another(Refused("http://h", 403))


@example([{"\x08\uffff": None}])
@given(
    st.lists(
        st.dictionaries(
            st.text(max_size=8), st.text() | st.integers(0, 2**64) | st.booleans() | st.floats() | st.none(), max_size=3
        ),
        max_size=6,
    )
)
def test_telemetry_bodies_are_xml_twice_over(events: list[dict[str, str | int | bool | float | None]]) -> None:
    made = [Event(event_id=1, parameters=tuple(one.items())) for one in events]
    found = list(bodies(AGENT_EVENTS, made))
    assert sum(count for _, count in found) == len(events)
    for body, _ in found:
        for event in fromstring(body.decode()).iter("Event"):
            fromstring(f"<P>{event.text or ''}</P>")


def test_telemetry_bodies_stay_under_the_limit_and_too_large_events_are_left_out() -> None:
    events = [Event(event_id=1, parameters=(("Message", "é" * size),)) for size in (20_000, 20_000, 40_000, 10)]
    found = list(bodies(AGENT_EVENTS, events))
    assert [count for _, count in found] == [1, 1, 2]
    assert all(len(body) < 65536 for body, _ in found)
