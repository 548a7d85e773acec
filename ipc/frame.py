"""Messages to bytes and back, and nothing else: two MessagePack frames, header and body.

The header alone suffices to route, log, refuse or drop, whatever version its sender speaks. Types are checked here;
whatever the bytes are, the only error is FrameError.
"""

from typing import Annotated, Literal, TypeVar

import msgpack
import msgspec

from ipc.contract import PROTOCOL
from ipc.enumeration import mended
from ipc.errors import FrameError, RefusalCode
from ipc.message import Message

HEADER_LIMIT = 4 * 1024
BODY_LIMIT = 256 * 1024

Kind = Literal["request", "reply", "refusal", "event"]
Word = Annotated[str, msgspec.Meta(max_length=200)]
"""Short enough that an answer's header, which repeats the question's, always fits."""
M = TypeVar("M", bound=msgspec.Struct)

# Kept: a fresh one costs more than packing with it. It begins anew after an error.
_PACKER = msgpack.Packer()


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """First frame."""

    id: Word
    """Of the request; a reply or refusal repeats it."""
    kind: Kind
    name: Word
    """Wire name of the body's class."""
    sender: Word
    version: Word
    """The sender's component version."""
    protocol: tuple[int, int] = PROTOCOL
    deadline: float | None = None
    """CLOCK_MONOTONIC seconds after which the sender no longer cares: one machine, one clock."""


class RefusalBody(msgspec.Struct, frozen=True, kw_only=True):
    """Second frame of a refusal."""

    code: RefusalCode
    reason: str


def encode(header: Header, body: Message | RefusalBody) -> list[bytes]:
    """Two frames. Raises FrameError (`value`, `size`) for what the other side could not take."""
    frames = [_pack(header), _pack(body)]
    _check_sizes(frames)
    return frames


def decode_header(frames: list[bytes]) -> Header:
    """The first of exactly two frames. Raises FrameError (`shape`, `size`, `header`).

    Its sender may speak another major version: see `why_foreign`.
    """
    if len(frames) != 2:
        raise FrameError("shape", f"{len(frames)} frames instead of 2")
    _check_sizes(frames)
    return _unpack("header", frames[0], Header)


def why_foreign(header: Header) -> str:
    """Empty if the body is for us; else why not: within a major version every minor one understands every other."""
    (major, minor), (ours, our_minor) = header.protocol, PROTOCOL
    if major == ours:
        return ""
    sender = header.sender.partition("/")[0]
    return f"{sender} {header.version} speaks protocol {major}.{minor}, which does not go with our {ours}.{our_minor}"


def decode_body(frame: bytes, kind: type[M]) -> M:
    """The second frame as a `kind`. Raises FrameError (`body`).

    Fields we do not know are left out, words we do not know become what their enumeration names for that.
    """
    return _unpack("body", frame, kind)


def _pack(value: msgspec.Struct) -> bytes:
    try:
        packed: bytes = _PACKER.pack(msgspec.to_builtins(value, builtin_types=(bytes,)))
    except (ValueError, OverflowError) as error:
        # A file name that is no UTF-8, a number of more than 64 bits.
        raise FrameError("value", f"{type(value).__name__} cannot be written: {error}") from error
    return packed


def _unpack(part: str, data: bytes, kind: type[M]) -> M:
    try:
        value = msgpack.unpackb(data)
        try:
            return msgspec.convert(value, kind)
        except msgspec.ValidationError:
            return msgspec.convert(mended(value, kind), kind)
    except (ValueError, TypeError, RecursionError, OverflowError) as error:
        # msgpack's own errors and msgspec's ValidationError are all ValueErrors, UnicodeDecodeError too.
        raise FrameError(part, f"no {kind.__name__}: {error}") from error


def _check_sizes(frames: list[bytes]) -> None:
    header, body = frames
    if len(header) > HEADER_LIMIT:
        raise FrameError("size", f"header of {len(header)} bytes, limit {HEADER_LIMIT}")
    if len(body) > BODY_LIMIT:
        raise FrameError("size", f"body of {len(body)} bytes, limit {BODY_LIMIT}")
