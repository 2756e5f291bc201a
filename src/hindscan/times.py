"""Times: aware UTC outside, microseconds since the epoch inside.

One place says what a time in a setting, an option or a parameter means: ISO 8601; without an offset it is UTC; a bare date is 00:00. Foundation.
"""

from __future__ import annotations

import time
from datetime import UTC, date, datetime, timedelta

__all__ = ["from_datetime", "from_text", "now", "to_datetime", "to_text"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


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
        return from_datetime(datetime.fromisoformat(text))
    except ValueError:
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
