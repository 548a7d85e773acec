"""TelemetryData: events as the host takes them (protocol: telemetry wire format)."""

from collections.abc import Iterable, Iterator
from xml.sax.saxutils import quoteattr

import msgspec

from wire.xml import writable

AGENT_EVENTS = "69B669B9-4AF8-4C50-BDC4-6006FA76E975"
EXTENSION_EVENTS = "FFF0196F-EE4C-4EAF-9AA5-776F622DEB4F"

# 65536 less room for the envelope.
_BODY_LIMIT = 64512

Parameter = tuple[str, str | int | bool | float | None]


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a provider."""

    event_id: int
    parameters: tuple[Parameter, ...]


def bodies(provider: str, events: Iterable[Event]) -> Iterator[tuple[bytes, int]]:
    """Request bodies of at most 64 KiB, each with the number of events it accounts for.

    An event too large for any request is accounted for with the body it would have stood in, and left out.
    """
    texts: list[str] = []
    size = count = 0
    for event in events:
        text = _event(event)
        length = len(text.encode())
        if size + length >= _BODY_LIMIT and texts:
            yield _body(provider, texts), count
            texts, size, count = [], 0, 0
        count += 1
        if length < _BODY_LIMIT:
            texts.append(text)
            size += length
    if count:
        yield _body(provider, texts), count


def _body(provider: str, texts: list[str]) -> bytes:
    inside = f'<Provider id="{provider}">{"".join(texts)}</Provider>' if texts else ""
    return f'<?xml version="1.0"?><TelemetryData version="1.0">{inside}</TelemetryData>'.encode()


def _event(event: Event) -> str:
    params = "".join(_param(name, value) for name, value in event.parameters)
    # The parameters are XML inside CDATA: its own end mark must not occur in them.
    return f'<Event id="{event.event_id}"><![CDATA[{params.replace("]]>", "]]&gt;")}]]></Event>'


def _param(name: str, value: str | int | bool | float | None) -> str:
    match value:
        case bool():
            kind = "mt:bool"
        case int():
            kind = "mt:uint64"
        case float():
            kind = "mt:float64"
        case None:
            kind = ""
        case _:
            kind = "mt:wstr"
    text = "" if value is None else str(value)
    return f'<Param Name={quoteattr(writable(name))} Value={quoteattr(writable(text))} T="{kind}" />'
