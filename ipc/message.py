"""What a message is: a frozen struct whose name says who speaks it."""

from typing import ClassVar, Generic, TypeVar

import msgspec


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """Base of everything that travels. Unknown fields are ignored, new fields have defaults."""

    speaker: ClassVar[str] = ""
    """The component that answers this request or announces this event; empty where every component does."""

    @classmethod
    def wire_name(cls) -> str:
        """`<speaker>.<Class>`, or `every.<Class>`."""
        return f"{cls.speaker or 'every'}.{cls.__name__}"


class Reply(Message, frozen=True, kw_only=True):
    """An answer."""


R = TypeVar("R", bound=Reply)


class Request(Message, Generic[R], frozen=True, kw_only=True):
    """A question to one component; the type parameter is the answer."""

    reply: ClassVar[type[Reply]]


class Event(Message, frozen=True, kw_only=True):
    """An announcement: look again. Losing one costs delay, never correctness."""
