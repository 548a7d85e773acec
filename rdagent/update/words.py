"""Words for people: in a reason, a log line, a report."""

import datetime


def moment(at: float) -> str:
    """E.g. `2026-11-25 22:00:00Z`; a number that is no date of the calendar as it is. `at`: UTC, since the epoch."""
    try:
        return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return f"{at:g}"


def one_line(text: str, limit: int = 300) -> str:
    """What somebody else wrote, fit for a line of ours: no more than so many characters, all printable."""
    printable = "".join(one if one.isprintable() else " " for one in text[: 2 * limit])
    words = " ".join(printable.split())
    return words if len(words) <= limit else f"{words[: limit - 3]}..."
