"""Open enumerations: a word that a newer neighbour made up becomes the one its type names for that.

`Annotated[Literal["ok", "busy"], unknown_is("ok")]`. A `Literal` without it stays closed.
"""

import functools
from typing import Any

import msgspec
from msgspec import inspect

_UNKNOWN = "unknown"


def unknown_is(word: str) -> msgspec.Meta:
    """What a reader takes an unknown word for."""
    return msgspec.Meta(extra={_UNKNOWN: word})


def mended(value: Any, kind: type[msgspec.Struct]) -> Any:
    """A decoded `value` with the unknown words of `kind`'s open enumerations replaced; all else is left as it is.

    For values that `kind` was not made of at the first try: who knows every word pays nothing.
    """
    return _mended(value, _described(kind))


_described = functools.cache(inspect.type_info)


def _mended(value: Any, kind: inspect.Type) -> Any:
    match kind:
        case inspect.Metadata(type=inspect.LiteralType(values=words), extra={"unknown": word}):
            return word if isinstance(value, str) and value not in words else value
        case inspect.Metadata(type=inner):
            return _mended(value, inner)
        case inspect.StructType(fields=fields) if isinstance(value, dict):
            known = {field.encode_name: field.type for field in fields}
            return {key: _mended(one, known[key]) if key in known else one for key, one in value.items()}
        case inspect.ListType(item_type=inner) if isinstance(value, list):
            return [_mended(one, inner) for one in value]
        case inspect.DictType(value_type=inner) if isinstance(value, dict):
            return {key: _mended(one, inner) for key, one in value.items()}
        case inspect.UnionType(types=types):
            for one in types:
                value = _mended(value, one)
    return value
