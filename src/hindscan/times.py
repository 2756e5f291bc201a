"""Times: aware UTC outside, microseconds since the epoch inside.

One place says what a time in a setting, an option or a parameter means: ISO 8601; without an offset it is UTC; a bare date is 00:00. The same for a length of
time: a number and a unit, ``90s``, ``12h``, ``7d``. Foundation.
"""

from __future__ import annotations

import re
import time
from datetime import UTC, date, datetime, timedelta

__all__ = ["duration", "duration_text", "from_datetime", "from_text", "now", "to_datetime", "to_text"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)")
#: Microseconds of each unit, the longest last.
_UNITS = {"ms": 1000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000, "w": 604_800_000_000}
#: A hundred years: beyond it no bound can be reckoned, and no one means it.
_LONGEST = 36_525 * 86_400_000_000


def now() -> int:
    """Tell the time, microseconds since the epoch."""
    return time.time_ns() // 1000


def from_datetime(value: datetime | date) -> int:
    """Convert to microseconds since the epoch; naive values and bare dates are UTC.

    Examples
    --------
    >>> from_datetime(date(1970, 1, 2))
    86400000000
    """
    if not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day, tzinfo=UTC)
    if value.tzinfo is None:
        value = value.replace(tzinfo=UTC)
    return (value - _EPOCH) // timedelta(microseconds=1)


def from_text(text: str) -> int:
    """Read an ISO 8601 time.

    Raises
    ------
    ValueError
        The text is no time.

    Examples
    --------
    >>> from_text("1970-01-01T00:00:01Z"), from_text("1970-01-02"), from_text("1970-01-01T01:00:00+01:00")
    (1000000, 86400000000, 0)
    """
    try:
        # What lies outside the years 1 to 9999 in UTC could be kept, but never be written as a time again.
        read = datetime.fromisoformat(text)
        return from_datetime(read if read.tzinfo is None else read.astimezone(UTC))
    except (ValueError, OverflowError):
        raise ValueError(
            f"must be an ISO 8601 time such as 2018-12-31 or 2018-12-31T12:00:00Z, found {text!r}"
        ) from None


def to_datetime(micros: int) -> datetime:
    """Convert microseconds since the epoch to an aware UTC time."""
    return _EPOCH + timedelta(microseconds=micros)


def to_text(micros: int) -> str:
    """Write a time as ISO 8601 with Z, microseconds only where there are any.

    Examples
    --------
    >>> to_text(1_000_000), to_text(1)
    ('1970-01-01T00:00:01Z', '1970-01-01T00:00:00.000001Z')
    """
    return to_datetime(micros).isoformat().replace("+00:00", "Z")


def duration(text: str) -> int:
    """Read a length of time: a number and one of ms, s, m, h, d, w. Gives microseconds.

    Raises
    ------
    ValueError
        The text is none, or is longer than a hundred years.

    Examples
    --------
    >>> duration("1.5s"), duration("7d") == duration("1w") == duration("168h")
    (1500000, True)
    """
    found = _DURATION.fullmatch(text.strip())
    micros = round(float(found[1]) * _UNITS[found[2]]) if found else -1
    if not 0 <= micros <= _LONGEST:
        raise ValueError(f"must be a number with a unit of ms, s, m, h, d or w, such as 30s, 12h or 7d, found {text!r}")
    return micros


def duration_text(micros: int) -> str:
    """Write a length of time, rounded up to a millisecond, in the largest unit that keeps it exact.

    Examples
    --------
    >>> duration_text(duration("48h")), duration_text(1_500_000), duration_text(1)
    ('2d', '1500ms', '1ms')
    """
    whole = -(-micros // 1000) * 1000
    for unit in ("d", "h", "m", "s"):
        if whole and whole % _UNITS[unit] == 0:
            return f"{whole // _UNITS[unit]}{unit}"
    return f"{whole // 1000}ms"
