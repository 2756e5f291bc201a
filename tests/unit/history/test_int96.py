"""Times of twelve bytes are read as what was written, or the slice fails: DuckDB reads the same files by itself."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hindscan import files
from hindscan.data import Data
from hindscan.errors import SchemaMismatch
from hindscan.history.columns import schema_from_columns
from hindscan.history.parquet import ParquetHistory
from hindscan.history.snapshot import Window
from hindscan.plans.cut import cut

FAR = [dt.datetime(1, 1, 1), dt.datetime(1677, 9, 21), dt.datetime(2262, 4, 12), dt.datetime(9999, 12, 31, 23, 59)]


def history(folder: Path, values: list[dt.datetime | None], *, nanos: int = 0, **declared: str) -> ParquetHistory:
    """Write a file of such times, `nanos` later each, and declare it."""
    folder.mkdir(parents=True, exist_ok=True)
    at: pa.Array = pa.array(values, pa.timestamp("us"))
    if nanos:
        at = pa.array([each.value + nanos for each in at.cast(pa.timestamp("ns"))], pa.timestamp("ns"))
    table = pa.table({"n": range(len(values)), "moment": at})
    pq.write_table(table, folder / "a.parquet", use_deprecated_int96_timestamps=True, row_group_size=2)
    columns = schema_from_columns({"n": "int64", **declared}) if declared else None
    return ParquetHistory(name="t", location=str(folder), place=files.place(folder), time="moment", columns=columns)


def ask(of: ParquetHistory, query: str, window: Window | None = None) -> pa.Table:
    pin = of.pin(window or Window())
    with of.reader(pin).open(cut(pin, 100)) as source:
        found = Data("t", {"t": source}).sql(query)
        source.proofs()
        return found


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(st.one_of(st.datetimes(), st.sampled_from(FAR)), min_size=1, max_size=6))
def test_any_time_is_read_as_duckdb_reads_it(tmp_path: Path, values: list[dt.datetime | None]) -> None:
    of = history(tmp_path / "t", values)
    with duckdb.connect() as oracle:
        oracle.execute(f"CREATE VIEW t AS FROM '{tmp_path}/t/a.parquet'")
        for query in (
            "FROM t",
            "SELECT n, moment FROM t WHERE n > 0",
            "SELECT max(moment) AS moment FROM t WHERE moment > '2000-01-01'",
        ):
            assert ask(of, query).to_pylist() == oracle.sql(query).to_arrow_table().to_pylist()
    assert ask(of, "FROM t")["moment"].to_pylist() == values


def test_a_bound_by_time_sees_far_times_as_what_they_are(tmp_path: Path) -> None:
    of = history(tmp_path, [dt.datetime(2018, 1, 1), *FAR])
    found = ask(
        of, "SELECT n FROM t ORDER BY n", Window(as_of=int(dt.datetime(2020, 1, 1, tzinfo=dt.UTC).timestamp() * 1e6))
    )
    assert found["n"].to_pylist() == [0, 1, 2]


@pytest.mark.parametrize(
    "query", ["SELECT max(moment) FROM t", "SELECT n FROM t WHERE moment > '2000-01-01' AND n >= 0"]
)
def test_what_a_unit_does_not_hold_fails_by_file_and_column(tmp_path: Path, query: str) -> None:
    fine = history(tmp_path / "fine", [dt.datetime(2018, 1, 1)] * 3, nanos=7)
    with pytest.raises(
        SchemaMismatch,
        match=r"of a\.parquet: every time in column 'moment' \(INT96\).*2 have fractions of a microsecond",
    ):
        ask(fine, query)
    declared = history(tmp_path / "fine", [dt.datetime(2018, 1, 1)] * 3, nanos=7, moment="timestamp[ns]")
    assert ask(declared, "SELECT epoch_ns(moment) % 1000 AS rest FROM t")["rest"].to_pylist() == [7, 7, 7]
    far = history(tmp_path / "far", FAR, moment="timestamp[ns]")
    with pytest.raises(
        SchemaMismatch, match=r"column 'moment' \(INT96\) must be a whole one in timestamp\[ns\]; 2 are before 1678"
    ):
        ask(far, query)
    assert ask(far, "SELECT n FROM t WHERE n > 2")["n"].to_pylist() == [3]


def test_two_columns_of_one_name_are_refused_by_the_file(tmp_path: Path) -> None:
    pq.write_table(pa.table([[1], [2], [3]], names=["a", "a", "b"]), tmp_path / "a.parquet")
    of = ParquetHistory(name="t", location=str(tmp_path), place=files.place(tmp_path))
    with pytest.raises(
        SchemaMismatch, match=r"footer of a\.parquet: every column must have a name of its own; several have 'a'"
    ):
        of.pin(Window())
