"""The bounds of a window on one history: which apply, and which rows they keep.

Keeps promise 3 (as of): rows with time < T and no others, to the microsecond, in whatever unit the column has; a history whose rows have no
time is refused as of T unless it says that it may be read anyway. Both kinds of history pin and read through here, so that
they mean the same by `since`, `until` and `as_of`.
"""

from __future__ import annotations

from typing import Any, Final, cast

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hindscan.errors import SchemaMismatch, UsageError
from hindscan.history.snapshot import Window

__all__ = ["Bounds", "bounds_of", "check_time_column", "keeps", "micros_of"]

#: Microseconds of one step of the unit; nanoseconds are finer.
_STEP: Final = {"s": 1_000_000, "ms": 1000, "us": 1}
_DAY: Final = 86_400_000_000


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """What of a window applies to one history: rows with since <= time < before."""

    since: int | None = None
    before: int | None = None
    caveats: tuple[str, ...] = ()


def bounds_of(window: Window, *, history: str, has_time: bool, ignores_as_of: bool) -> Bounds:
    """Decide which bounds of a window apply.

    Parameters
    ----------
    window : Window
        What is asked for.
    history : str
        Its name, for messages.
    has_time : bool
        Whether its rows have a time.
    ignores_as_of : bool
        Whether it is declared with ``as_of = "ignore"``.

    Raises
    ------
    UsageError
        A bound is asked for and the rows have no time.
    """
    asked = [name for name in ("since", "until") if getattr(window, name) is not None]
    if window.as_of is not None and not ignores_as_of:
        asked.append("as_of")
    if asked and not has_time:
        raise UsageError(
            f"While pinning history {history}: {', '.join(asked)} needs to know the time of its rows; it has no time column. "
            f'Declare `time = "COLUMN"` in [history.{history}]'
            + (', or `as_of = "ignore"` if it may be read as it is now.' if asked == ["as_of"] else "."),
            history=history,
            asked=asked,
        )
    ends = [end for end in (window.until, None if ignores_as_of else window.as_of) if end is not None]
    ignored = window.as_of is not None and ignores_as_of
    return Bounds(
        since=window.since,
        before=min(ends) if ends else None,
        caveats=('as_of is ignored: read as it was when pinned (as_of = "ignore")',) if ignored else (),
    )


def check_time_column(schema: pa.Schema, time: str, history: str) -> None:
    """Check that the time column is there and is a time.

    Raises
    ------
    SchemaMismatch
        It is not.
    """
    found = schema.field(time).type if time in schema.names else None
    if found is not None and (pa.types.is_timestamp(found) or pa.types.is_date32(found)):
        return
    raise SchemaMismatch(
        f"While pinning history {history}: its time column {time!r} must be a timestamp or date32; "
        + (f"it is {found}" if found is not None else f"the columns are {', '.join(schema.names)}")
        + f". Correct `time` in [history.{history}], or declare the type in `columns`.",
        history=history,
        column=time,
    )


def keeps(time: str, kind: pa.DataType, bounds: Bounds) -> pc.Expression | None:
    """Give the filter that keeps the rows inside; None if all are."""
    column = pc.field(time)
    parts = []
    if bounds.since is not None:
        least, fits = _in_steps(kind, bounds.since)
        parts.append(column >= least if fits else column > least)
    if bounds.before is not None:
        end, fits = _in_steps(kind, bounds.before)
        parts.append(column < end if fits else column <= end)
    if not parts:
        return None
    return parts[0] if len(parts) == 1 else parts[0] & parts[1]


def _in_steps(kind: pa.DataType, micros: int) -> tuple[pa.Scalar[Any], bool]:
    """Give a bound in the column's unit, and whether it is not beyond the greatest time the column can have."""
    # t >= bound and t < bound mean the same of t in whole steps as of the next whole step at or after the bound. The bound takes the
    # column's unit, never the column the bound's: that keeps row-group statistics usable and cannot overflow in the data.
    if pa.types.is_date32(kind):
        value, bits, integers = -(-micros // _DAY), 31, cast(Any, pa.int32())
    else:
        unit = cast(Any, kind).unit
        value, bits, integers = micros * 1000 if unit == "ns" else -(-micros // _STEP[unit]), 63, pa.int64()
    greatest = (1 << bits) - 1
    return pa.scalar(min(max(value, -greatest - 1), greatest), integers).cast(kind), value <= greatest


def micros_of(times: pa.ChunkedArray[Any] | pa.Array[Any]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Give a column of times without nulls in microseconds since the epoch, rounded down.

    Times further than some 146,000 years away are taken as that far, so that what is reckoned with them cannot overflow.
    """
    is_date = pa.types.is_date32(times.type)
    unit = "day" if is_date else cast(Any, times.type).unit
    values = np.asarray(times.cast(pa.int32() if is_date else pa.int64())).astype(np.int64)
    step = _DAY if is_date else _STEP.get(unit, 1)
    furthest = (1 << 62) // step
    return np.asarray(np.clip(values // 1000 if unit == "ns" else values, -furthest, furthest) * step, np.int64)
