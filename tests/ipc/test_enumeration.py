"""What a newer neighbour says: keys and words nobody here knows change nothing else."""

from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import hypothesis
import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipc.contract.every import HealthReport
from ipc.contract.rdagent import ComponentTruth, HostView, Truth
from ipc.errors import FrameError
from ipc.frame import RefusalBody, decode_body, decode_header
from tests.ipc.messages import MESSAGES, instances

EVERY: list[type[msgspec.Struct]] = [*MESSAGES, RefusalBody]
NEWS = {"a newer key": [1, {"of": "any shape"}], "": None}


class Shapes(msgspec.Struct):
    """Wherever a later message may have an enumeration."""

    several: list[HealthReport]
    perhaps: HealthReport | None
    named: dict[str, HealthReport]
    deep: list[dict[str, list[HealthReport] | None]]


def test_every_enumeration_is_open_and_falls_back_to_a_word_it_has() -> None:
    found = {(kind, name): (words, word) for kind in structs() for name, words, word in enumerations(kind)}
    assert len({words for words, _ in found.values()}) > 5
    for (kind, name), (words, word) in found.items():
        assert word in words, f"{kind.__name__}.{name} has no unknown_is(...), or with a word it does not have"
        default = {field.name: field.default for field in msgspec.structs.fields(kind)}[name]
        assert default in {msgspec.NODEFAULT, word}, f"{kind.__name__}.{name}: its default is another word"


@pytest.mark.parametrize("kind", [*EVERY, Shapes], ids=lambda kind: kind.__name__)
@hypothesis.settings(max_examples=20)
@given(st.data(), st.text())
def test_a_newer_neighbour_is_understood(kind: type[msgspec.Struct], data: st.DataObject, word: str) -> None:
    message = data.draw(instances(kind))
    body = msgspec.to_builtins(message, builtin_types=(bytes,))
    said, understood = aged(body, kind, f"newer {word}")
    # NaN is the one value that does not equal itself.
    assert repr(decode_body(msgpack.packb(said), kind)) == repr(msgspec.convert(understood, kind))


@given(instances(ComponentTruth), st.integers(-9, 9) | st.none() | st.lists(st.text()))
def test_a_retyped_word_is_no_unknown_word(one: ComponentTruth, retyped: Any) -> None:
    truth = msgspec.to_builtins(Truth(host=HostView(), components=[one]))
    truth["components"][0]["state"] = retyped
    with pytest.raises(FrameError):
        decode_body(msgpack.packb(truth), Truth)


def test_beside_an_unknown_word_everything_else_is_still_checked() -> None:
    with pytest.raises(FrameError, match=r"Expected `str`, got `int` - at `\$.what`"):
        decode_body(msgpack.packb({"state": "newer", "what": 3}), HealthReport)
    with pytest.raises(FrameError, match="missing required field `state`"):
        decode_body(msgpack.packb({"newer": 3}), HealthReport)


def test_the_kind_of_a_frame_stays_closed() -> None:
    header = {"id": "1", "kind": "rumour", "name": "every.Health", "sender": "a", "version": "1"}
    with pytest.raises(FrameError, match="rumour"):
        decode_header([msgpack.packb(header), b"\x80"])


def structs() -> list[type[msgspec.Struct]]:
    """Every struct that travels, nested ones too."""
    found: list[type[msgspec.Struct]] = []
    waiting: list[Any] = [*EVERY]
    while waiting:
        one = waiting.pop()
        if isinstance(one, type) and issubclass(one, msgspec.Struct):
            if one not in found:
                found.append(one)
                waiting += get_type_hints(one).values()
        else:
            waiting += [inner for inner in get_args(one) if get_origin(one) is not Literal]
    return found


def enumerations(kind: type[msgspec.Struct]) -> Iterator[tuple[str, tuple[str, ...], str | None]]:
    """Field, its words, and which of them an unknown one is read as."""
    for name, hint in get_type_hints(kind, include_extras=True).items():
        inner, *extras = get_args(hint) if get_origin(hint) is Annotated else (hint,)
        if get_origin(inner) is Literal:
            yield name, get_args(inner), next((extra.extra["unknown"] for extra in extras), None)
        else:
            assert "Literal" not in str(hint), f"{kind.__name__}.{name}: an enumeration inside {hint}"


def aged(value: Any, kind: Any, word: str) -> tuple[Any, Any]:
    """The value as a newer neighbour would say it, with `word` at each enumeration; and what is to be understood."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        words = {name: unknown for name, _, unknown in enumerations(kind)}
        hints = get_type_hints(kind)
        both = {key: (word, words[key]) if key in words else aged(one, hints[key], word) for key, one in value.items()}
        return {**NEWS, **{key: one[0] for key, one in both.items()}}, {key: one[1] for key, one in both.items()}
    inner = [one for one in get_args(kind) if one is not type(None)]
    if isinstance(kind, UnionType) and value is not None:
        return aged(value, inner[0], word)
    if isinstance(value, list):
        pairs = [aged(one, inner[0], word) for one in value]
        return [one[0] for one in pairs], [one[1] for one in pairs]
    if isinstance(value, dict):
        both = {key: aged(one, inner[1], word) for key, one in value.items()}
        return {key: one[0] for key, one in both.items()}, {key: one[1] for key, one in both.items()}
    return value, value
