"""Every message of the contract, and any value of one."""

from types import UnionType
from typing import Any, ClassVar, get_args, get_origin, get_type_hints

import msgspec
from hypothesis import strategies as st

from ipc.contract import EVENTS, REQUESTS
from ipc.message import Message

MESSAGES: list[type[Message]] = [
    *REQUESTS.values(),
    *EVENTS.values(),
    *dict.fromkeys(request.reply for request in REQUESTS.values()),
]

st.register_type_strategy(int, st.integers(-(2**63), 2**64 - 1))


def instances(kind: type[Any]) -> st.SearchStrategy[Any]:
    """Values of a struct, with every field drawn (the default factories of msgspec mislead `st.builds`)."""
    return st.builds(
        kind, **{name: values(hint) for name, hint in get_type_hints(kind).items() if not _is_class_var(hint)}
    )


def values(hint: Any) -> st.SearchStrategy[Any]:
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return instances(hint)
    if get_origin(hint) is list:
        return st.lists(values(get_args(hint)[0]), max_size=3)
    if get_origin(hint) is dict:
        return st.dictionaries(st.text(), values(get_args(hint)[1]), max_size=3)
    if get_origin(hint) is UnionType:
        return st.one_of(*(values(one) for one in get_args(hint)))
    return st.from_type(hint)


def _is_class_var(hint: Any) -> bool:
    return get_origin(hint) is ClassVar
