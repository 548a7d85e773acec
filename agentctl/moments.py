"""Times that an operator writes, and how they are shown to him: UTC, as in logs and in what the host hears."""

import datetime
import re

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_LONGEST = 3650 * 86400.0


def span(text: str) -> float:
    """Seconds of e.g. `90s`, `30m`, `2h`, `1d12h`. Raises ValueError."""
    if not re.fullmatch(r"([0-9]{1,9}[smhd])+", text):
        raise ValueError(f"{text[:40]!r} is no length of time: write e.g. 30m, 2h, 1d12h")
    seconds = float(sum(int(number) * _UNITS[unit] for number, unit in re.findall(r"([0-9]+)([smhd])", text)))
    if not 0 < seconds <= _LONGEST:
        raise ValueError(f"{text[:40]!r}: between a second and ten years is possible")
    return seconds


def moment(text: str) -> float:
    """UTC, seconds since the epoch, of e.g. `2026-11-30 22:00` or `2026-11-30 23:00+01:00`. Raises ValueError."""
    try:
        found = datetime.datetime.fromisoformat(text.strip())
        return (found if found.tzinfo else found.replace(tzinfo=datetime.UTC)).timestamp()
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{text[:40]!r} is no time: write e.g. 2026-11-30 22:00 (UTC)") from error


def shown(at: float) -> str:
    """E.g. `2026-11-30 22:00:00Z`; what is no date of the calendar as a number."""
    try:
        return datetime.datetime.fromtimestamp(at, datetime.UTC).strftime("%Y-%m-%d %H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return f"{at:g}"
