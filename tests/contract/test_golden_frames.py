"""Frames of every released minor version are still understood, with every value where it was."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from ipc.contract import EVENTS, PROTOCOL, REQUESTS
from ipc.frame import decode_body, decode_header
from ipc.message import Message

FILES = sorted(Path(__file__).parent.glob("frames-*.json"))
KINDS: dict[str, type[Message]] = {
    **REQUESTS,
    **EVENTS,
    **{request.reply.wire_name(): request.reply for request in REQUESTS.values()},
}


def released(path: Path) -> dict[str, dict[str, Any]]:
    return msgspec.json.decode(path.read_bytes(), type=dict[str, dict[str, Any]])


GOLDEN = [
    pytest.param(name, frame, id=f"{path.stem}-{name}") for path in FILES for name, frame in released(path).items()
]


@pytest.mark.parametrize(("name", "frame"), GOLDEN)
def test_a_released_frame_is_still_understood(name: str, frame: dict[str, Any]) -> None:
    first, second = bytes.fromhex(frame["header"]), bytes.fromhex(frame["body"])
    header = decode_header([first, second])
    assert (header.name, header.kind) == (name, frame["kind"])
    now = msgspec.to_builtins(decode_body(second, KINDS[name]))
    assert holds(now, frame["value"]), f"{now} lacks something of {frame['value']}"


def holds(now: Any, then: Any) -> bool:
    """Whether everything that was said then is there now; new fields may have come."""
    if isinstance(then, dict):
        return all(key in now and holds(now[key], value) for key, value in then.items())
    if isinstance(then, list):
        return len(now) == len(then) and all(holds(one, other) for one, other in zip(now, then, strict=True))
    return bool(now == then)


def test_every_message_of_this_version_has_its_golden_frame() -> None:
    newest = Path(__file__).with_name(f"frames-{PROTOCOL[0]}.{PROTOCOL[1]}.json")
    assert set(released(newest)) == set(KINDS)
