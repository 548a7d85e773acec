"""Times for people: in a reason, a log line, a report."""

import datetime


def moment(at: float) -> str:
    """E.g. `2026-11-25 22:00:00Z`; a number that is no date of the calendar as it is. `at`: UTC, since the epoch."""
    try:
        return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return f"{at:g}"
