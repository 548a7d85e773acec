"""What the release after this one may say: `agentctl drill skew` puts this into a copy of `ipc`, as `ipc/newer.py`.

Whatever the contract allows a newer release to add, it adds: keys in every header, body, state file and spooled entry;
with `words` an unknown word at each enumeration; an unknown event and an unknown request for everybody at the start.
It says in the log, behind SAYS, who did not take it as the contract wants.
"""

import asyncio
import logging
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, ClassVar

import msgspec
from msgspec import inspect

from ipc import frame, statefile
from ipc.component import Component
from ipc.errors import FrameError, NoAnswer, Refused
from ipc.message import Event, Reply, Request
from ipc.places import COMPONENTS
from ipc.record import Emitter

SAYS = "drill skew:"
DONE = "everybody was asked"
_KEYS = {"newer": {"of": ["any", "shape", 1.5, None]}, "newer_flag": True}
_PATIENCE = 15.0

logger = logging.getLogger("ipc")


class Opinion(Reply, frozen=True, kw_only=True):
    """Never given by those who stay behind."""


class Ask(Request[Opinion], frozen=True, kw_only=True):
    """A question of a later contract."""

    reply: ClassVar[type[Reply]] = Opinion
    subject: str = "everything"


class Rumour(Event, frozen=True, kw_only=True):
    """An event of a later contract."""

    words: str = "nobody knows"


def begin(*, words: bool) -> None:
    """From now on this process speaks as a later release."""
    life, append = Component.run, Emitter._append

    def packed(value: msgspec.Struct) -> bytes:
        plain = msgspec.to_builtins(value, builtin_types=(bytes,))
        return bytes(frame._PACKER.pack(newer(plain, inspect.type_info(type(value)), words=words)))

    def kept(path: Path, state: msgspec.Struct) -> None:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        said = newer(msgspec.to_builtins(state), inspect.type_info(type(state)), words=words)
        statefile.write_atomically(path, msgspec.json.encode(said))

    def spooled(self: Emitter, line: bytes) -> None:
        append(self, msgspec.json.encode(_KEYS | msgspec.json.decode(line)) + b"\n")

    async def lived(self: Component, *loops: Coroutine[Any, Any, None]) -> None:
        await life(self, *loops, _provoke(self))

    frame._pack = packed
    statefile.write_state = kept
    Emitter._append = spooled  # type: ignore[method-assign]  # what this module is for
    Component.run = lived  # type: ignore[method-assign]


def newer(value: Any, kind: inspect.Type, *, words: bool) -> Any:
    """A value in plain types with what a later release would have added."""
    match kind:
        case inspect.Metadata(type=inspect.LiteralType(), extra={"unknown": _}) if words and isinstance(value, str):
            return f"newer than {value}"
        case inspect.Metadata(type=inner):
            return newer(value, inner, words=words)
        case inspect.StructType(fields=fields) if isinstance(value, dict):
            types = {field.encode_name: field.type for field in fields}
            return _KEYS | {key: newer(one, types[key], words=words) for key, one in value.items()}
        case inspect.ListType(item_type=inner) if isinstance(value, list):
            return [newer(one, inner, words=words) for one in value]
        case inspect.DictType(value_type=inner) if isinstance(value, dict):
            return {key: newer(one, inner, words=words) for key, one in value.items()}
        case inspect.UnionType(types=types) if value is not None:
            found = [one for one in types if not isinstance(one, inspect.NoneType)]
            return newer(value, found[0], words=words) if len(found) == 1 else value
    return value


async def _provoke(component: Component) -> None:
    component.announce(Rumour())
    await asyncio.gather(*(_ask(component, name) for name in COMPONENTS if name != component.name))
    component.announce(Rumour())
    logger.info("%s %s", SAYS, DONE)


async def _ask(component: Component, name: str) -> None:
    until = asyncio.get_running_loop().time() + _PATIENCE
    while True:
        try:
            await component.bus.ask(Ask(), to=name, within=1.0)
            logger.warning("%s %s answered a request it cannot know", SAYS, name)
        except Refused as refusal:
            if refusal.code != "unsupported":
                logger.warning("%s %s refused an unknown request as %s, %s", SAYS, name, refusal.code, refusal.reason)
        except (NoAnswer, FrameError) as error:
            if asyncio.get_running_loop().time() < until:
                continue
            logger.warning("%s %s did not refuse an unknown request: %s", SAYS, name, error)
        return
