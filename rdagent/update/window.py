"""When versions from the channel may be tried: `Sat,Sun 22:00-04:00; Wed 12:00-13:00`, always UTC.

Spans are separated by `;`. Without days a span is open each day. One that ends before it begins goes over midnight and
belongs to the day on which it begins. Nothing at all: always open.
"""

import math
import re

import msgspec

DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_DAY = 24 * 60
_WEEK = 7 * _DAY
# 1970-01-01 was a Thursday; minutes of the week count from Monday.
_EPOCH = 3 * _DAY
_SPAN = re.compile(r"(?:(\S+)\s+)?(\d\d):(\d\d)\s*-\s*(\d\d):(\d\d)", re.ASCII)


class WindowError(ValueError):
    """The text is no window; says which part, why, and how it is written."""

    def __init__(self, part: str, reason: str) -> None:
        super().__init__(f"window: {part[:80]!r} {reason}; write e.g. 'Sat,Sun 22:00-04:00' (UTC)")


class Window(msgspec.Struct, frozen=True):
    """Spans of the week; none: always open."""

    spans: tuple[tuple[int, int], ...] = ()
    """Of each: its beginning in minutes since Monday 00:00, and its length in minutes."""


def parse(text: str) -> Window:
    """Raises WindowError."""
    if not text.strip():
        return Window()
    return Window(tuple(span for part in text.split(";") for span in _parse_spans(part.strip())))


def next_open(window: Window, now: float) -> float:
    """The first moment from `now` on that lies within it, at most a week ahead. UTC, seconds since the epoch."""
    if not window.spans:
        return now
    minute = math.floor(now / 60)
    of_week = (minute + _EPOCH) % _WEEK
    waits = []
    for begin, length in window.spans:
        since = (of_week - begin) % _WEEK
        if since < length:
            return now
        waits.append(_WEEK - since)
    return float((minute + min(waits)) * 60)


def _parse_spans(part: str) -> list[tuple[int, int]]:
    match = _SPAN.fullmatch(part)
    if match is None:
        raise WindowError(part, "is not days and a span of time")
    begin, end = _parse_time(part, match[2], match[3]), _parse_time(part, match[4], match[5])
    if begin == _DAY:
        raise WindowError(part, "begins at 24:00, which is 00:00 of the next day")
    if begin == end:
        raise WindowError(part, "ends where it begins (00:00-24:00 is the whole day)")
    return [(day * _DAY + begin, (end - begin) % _DAY or _DAY) for day in _parse_days(part, match[1])]


def _parse_days(part: str, text: str | None) -> list[int]:
    if text is None:
        return list(range(7))
    days = text.split(",")
    for day in days:
        if day.capitalize() not in DAYS:
            raise WindowError(part, f"names no day by {day[:20]!r}: known are {', '.join(DAYS)}")
    return sorted({DAYS.index(day.capitalize()) for day in days})


def _parse_time(part: str, hours: str, minutes: str) -> int:
    time = int(hours) * 60 + int(minutes)
    if time > _DAY or int(minutes) > 59:
        raise WindowError(part, f"has {hours}:{minutes}, which is no time of day")
    return time
