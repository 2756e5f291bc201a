"""Bounds: which of a window apply, and which rows they keep, to the nanosecond."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hindscan.errors import SchemaMismatch, UsageError
from hindscan.history.bounds import Bounds, bounds_of, check_time_column, keeps, micros_of
from hindscan.history.snapshot import Window

NANOS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
#: Microseconds, far beyond what nanoseconds can hold.
MICROS = st.one_of(st.integers(-5_000_000, 5_000_000), st.integers(-(1 << 62), 1 << 62))


@given(data=st.data())
def test_rows_are_kept_exactly_if_they_are_inside(data: st.DataObject) -> None:
    unit = data.draw(st.sampled_from([*NANOS, "day"]))
    if unit == "day":
        kind: pa.DataType = pa.date32()
        step, raw = 86_400 * 10**9, st.one_of(st.integers(-60, 60), st.integers(-(1 << 31), (1 << 31) - 1))
    else:
        kind = pa.timestamp(unit, data.draw(st.sampled_from([None, "UTC"])))
        step, raw = NANOS[unit], st.one_of(st.integers(-5000, 5000), st.integers(-(1 << 63), (1 << 63) - 1))
    values = data.draw(st.lists(raw, max_size=8))
    bounds = Bounds(since=data.draw(st.none() | MICROS), before=data.draw(st.none() | MICROS))
    integers = pa.int32() if unit == "day" else pa.int64()
    table = pa.table({"n": range(len(values)), "t": pa.array(values, integers).cast(kind)})
    kept = keeps("t", kind, bounds)
    found = ds.dataset(table).to_table(filter=kept)["n"].to_pylist()
    assert found == [
        n
        for n, value in enumerate(values)
        if (bounds.since is None or value * step >= bounds.since * 1000)
        and (bounds.before is None or value * step < bounds.before * 1000)
    ]
    furthest = ((1 << 62) * 1000 // step) * step // 1000 if step >= 1000 else 1 << 62
    assert micros_of(table["t"]).tolist() == [min(max(value * step // 1000, -furthest), furthest) for value in values]


def test_the_earlier_of_until_and_as_of_is_the_end() -> None:
    def ends(**window: int) -> tuple[int | None, int | None]:
        bounds = bounds_of(Window(**window), history="h", has_time=True, ignores_as_of=False)
        return bounds.since, bounds.before

    assert ends() == (None, None)
    assert ends(as_of=5, until=3, since=1) == (1, 3)
    assert ends(as_of=2, until=3) == (None, 2)


def test_an_ignored_as_of_leaves_until_and_says_so() -> None:
    bounds = bounds_of(Window(as_of=2, until=3), history="h", has_time=True, ignores_as_of=True)
    assert bounds.before == 3
    assert len(bounds.caveats) == 1
    assert bounds_of(Window(), history="h", has_time=False, ignores_as_of=True).caveats == ()


@pytest.mark.parametrize("window", [Window(as_of=1), Window(since=1), Window(until=1)])
def test_a_bound_without_a_time_column_is_refused(window: Window) -> None:
    with pytest.raises(UsageError, match=r"history h.*no time column"):
        bounds_of(window, history="h", has_time=False, ignores_as_of=False)


def test_a_time_column_must_be_there_and_be_a_time() -> None:
    schema = pa.schema([("t", pa.timestamp("ns")), ("d", pa.date32()), ("n", pa.int64())])
    check_time_column(schema, "t", "h")
    check_time_column(schema, "d", "h")
    with pytest.raises(SchemaMismatch, match="it is int64"):
        check_time_column(schema, "n", "h")
    with pytest.raises(SchemaMismatch, match="the columns are t, d, n"):
        check_time_column(schema, "x", "h")
