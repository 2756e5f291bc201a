"""What is left out of a read because of names, statistics and conditions changes no result: DuckDB over the same rows in memory is the oracle."""

from __future__ import annotations

import datetime as dt
import math
import tempfile
from decimal import Decimal
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import unquote

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hindscan import files
from hindscan.data import Data, TableSource
from hindscan.errors import CorruptData
from hindscan.history import decoded
from hindscan.history.parquet import ParquetHistory
from hindscan.history.snapshot import Window
from hindscan.plans.cut import cut
from hindscan.query import reads_of

LONG = "a" * 80
VALUES: dict[str, list[Any]] = {
    "i": [None, -(2**40), -1, 0, 1, 7, 2**40],
    "x": [None, math.nan, -math.inf, -1.5, -0.0, 0.0, 1.5, math.inf],
    "s": [None, "", "a", LONG, LONG + "b", LONG + "\U0010ffff", "é", "b"],
    "d": [None, Decimal("-1.50"), Decimal("0.00"), Decimal("2.25"), Decimal("99999.99")],
    "moment": [
        None,
        *(dt.datetime(2018, 1, 1, tzinfo=dt.UTC) + dt.timedelta(days=n, microseconds=n) for n in range(-2, 3)),
    ],
    "ok": [None, True, False],
    "kind": ["1", "2", None],
}
TYPES: dict[str, pa.DataType] = {
    "i": pa.int64(),
    "x": pa.float64(),
    "s": pa.string(),
    "d": pa.decimal128(9, 2),
    "moment": pa.timestamp("us", "UTC"),
    "ok": pa.bool_(),
}
#: Values of another kind that the engine compares with a column all the same.
EQUAL: dict[str, list[Any]] = {"i": [True, "7", 0.5, 2.0**40], "x": [1], "s": [], "moment": [dt.datetime(2018, 1, 1)]}
CODED = pa.dictionary(pa.int8(), pa.string())
#: What an older file may have had instead.
NARROW: dict[str, pa.DataType] = {
    "x": pa.float32(),
    "moment": pa.timestamp("us"),
    "s": pa.dictionary(pa.int32(), pa.string()),
}


def literal(column: str, value: object) -> str:
    """Write a value as SQL does."""
    match value:
        case None:
            return "NULL"
        case bool():
            return str(value)
        case float() if math.isfinite(value):
            return str(value)
        case float():
            return f"'{value}'::DOUBLE"
        case dt.datetime():
            return f"TIMESTAMPTZ '{value.isoformat()}'"
        case str() if column == "kind":
            return value
        case str():
            return f"'{value}'"
    return str(value)


WRITERS = ["arrow", "dictionary", "no statistics", "page index", "duckdb", "polars"]


@st.composite
def conditions(draw: st.DrawFn, depth: int = 2) -> str:
    """Make a condition of comparisons, IN, BETWEEN, IS NULL, NOT, AND and OR."""
    if depth and draw(st.booleans()):
        parts = draw(st.lists(conditions(depth=depth - 1), min_size=1, max_size=3))
        whole = "(" + draw(st.sampled_from([" AND ", " OR "])).join(parts) + ")"
        return f"(NOT {whole})" if draw(st.booleans()) else whole
    column = draw(st.sampled_from(sorted(VALUES)))
    value = st.sampled_from(VALUES[column]).map(lambda v: literal(column, v))
    match draw(st.sampled_from(["compare", "in", "between", "null", "distinct"])):
        case "compare":
            return f"{column} {draw(st.sampled_from(['=', '<>', '<', '<=', '>', '>=']))} {draw(value)}"
        case "in":
            negated = draw(st.sampled_from(["", "NOT "]))
            return f"{column} {negated}IN ({', '.join(draw(st.lists(value, min_size=1, max_size=3)))})"
        case "between":
            return f"{column} BETWEEN {draw(value)} AND {draw(value)}"
        case "null":
            return f"{column} IS {draw(st.sampled_from(['', 'NOT ']))}NULL"
    return f"{column} IS NOT DISTINCT FROM {draw(value)}"


def write(path: Path, rows: pa.Table, writer: str, row_group_rows: int) -> None:
    """Write a file as one of those who write Parquet would."""
    path.parent.mkdir(parents=True, exist_ok=True)
    match writer:
        case "duckdb":
            with duckdb.connect() as connection:
                connection.execute("SET TimeZone = 'UTC'")
                connection.register("rows", rows)
                connection.execute(f"COPY rows TO '{path}' (FORMAT parquet)")
        case "polars":
            frame = pl.from_arrow(rows)
            assert isinstance(frame, pl.DataFrame)
            frame.write_parquet(path, row_group_size=row_group_rows)
        case _:
            if writer == "dictionary":
                rows = rows.set_column(rows.schema.get_field_index("s"), "s", rows["s"].cast(CODED))
            pq.write_table(
                rows,
                path,
                row_group_size=row_group_rows,
                write_page_checksum=True,
                write_statistics=writer != "no statistics",
                write_page_index=writer == "page index",
                data_page_version="2.0" if writer == "page index" else "1.0",
            )


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_conditions_over_files_give_what_they_give_over_the_rows(tmp_path: Path, data: st.DataObject) -> None:
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    tables, count = [], 0
    drifts = data.draw(st.booleans())
    for number in range(data.draw(st.integers(1, 3))):
        size = data.draw(st.integers(1, 8))
        columns = {
            name: data.draw(st.lists(st.sampled_from(VALUES[name]), min_size=size, max_size=size)) for name in TYPES
        }
        # Sorted files have row groups that statistics can tell apart.
        if data.draw(st.booleans()):
            columns["i"].sort(key=lambda v: (v is None, v or 0))
        rows = pa.table(
            {"n": pa.array(range(count, count + size)), **{k: pa.array(v, TYPES[k]) for k, v in columns.items()}}
        )
        count += size
        # A folder's name has a type only where one of them has a value.
        kind = data.draw(st.sampled_from(VALUES["kind"] if number else ["1", "2"]))
        tables.append(rows.append_column("kind", pa.array([None if kind is None else int(kind)] * size, pa.int64())))
        for name in data.draw(st.sets(st.sampled_from(sorted(NARROW)))) if drifts else ():
            rows = rows.set_column(rows.schema.get_field_index(name), name, rows[name].cast(NARROW[name]))
        writer = data.draw(st.sampled_from(WRITERS))
        where = f"kind={'__HIVE_DEFAULT_PARTITION__' if kind is None else kind}"
        write(folder / where / f"{number}.parquet", rows, writer, data.draw(st.integers(1, 4)))
    columns = pa.schema([("n", pa.int64()), *TYPES.items()])
    drift = "widen" if drifts else "fail"
    of = ParquetHistory(name="t", location=str(folder), place=files.place(folder), columns=columns, drift=drift)
    pin = of.pin(Window())
    condition, bound = data.draw(conditions()), {}
    if data.draw(st.booleans()):
        # A bound value: of the column's own kind, or of one that the engine converts.
        column = data.draw(st.sampled_from(["i", "x", "s", "moment"]))
        bound["v"] = data.draw(st.sampled_from([v for v in [*VALUES[column], *EQUAL.get(column, ())] if v is not None]))
        compared = data.draw(st.sampled_from(["=", "<", "<=", ">", ">="]))
        sides = data.draw(st.permutations([column, "$v"]))
        condition = f"({condition}) AND {sides[0]} {compared} {sides[1]}"
    query = f"SELECT n, i, x, s, d, moment, ok, kind FROM t WHERE {condition} ORDER BY n"
    with duckdb.connect() as oracle:
        oracle.execute("SET TimeZone = 'UTC'")
        oracle.register("rows", pa.concat_tables(tables))
        oracle.execute("CREATE TABLE t AS SELECT * FROM rows")
        expected = [str(row) for row in oracle.sql(query, params=bound or None).to_arrow_table().to_pylist()]
    slices = cut(pin, data.draw(st.integers(1, 20)))
    found = []
    # Files of a few rows are small, but for their headers: only so are their texts few enough to stay dictionaries.
    with mock.patch.object(decoded, "_CODED_BYTES", data.draw(st.sampled_from([decoded._CODED_BYTES, 10_000]))):
        for piece in slices:
            with of.reader(pin).open([piece]) as source:
                found += Data("t", {"t": source}).sql(query, **bound).to_pylist()
        with of.reader(pin).open(slices) as source:
            whole = Data("t", {"t": source}).sql(query, **bound).to_pylist()
    assert [str(row) for row in sorted(found, key=lambda row: row["n"])] == expected, condition
    assert [str(row) for row in whole] == expected, condition


#: Statements around a condition; rows come in an order of their own, or in none that counts. What is asked of each slice alone is marked.
STATEMENTS = [
    ("SELECT n, i, s, part FROM t WHERE {}", True),
    ("SELECT * FROM t AS v WHERE {}", True),
    ("SELECT n, i + 1 AS s FROM t WHERE {} AND n >= 0", True),
    ("WITH w AS (SELECT * FROM t WHERE {}) SELECT w.n, u.n AS other FROM w LEFT JOIN u ON w.n = u.n", True),
    ("SELECT n FROM t WHERE {} AND n IN (SELECT n FROM u)", True),
    ("SELECT n, (SELECT count(*) FROM t) AS c FROM t WHERE {}", False),
    ("SELECT n, (SELECT count(*) FROM query_table('t')) AS c FROM t WHERE {}", False),
    ("SELECT part, count(*) AS c, min(n) AS least, count(i) AS known FROM t WHERE {} GROUP BY ALL", False),
    ("SELECT DISTINCT part, ok FROM t WHERE {}", False),
    ("SELECT n, row_number() OVER (PARTITION BY part ORDER BY n) AS r, count(*) OVER () AS c FROM t WHERE {}", False),
    ("SELECT u.n, (SELECT count(*) FROM t WHERE {} AND t.n >= u.n) AS c FROM u", False),
    ("SELECT n FROM t WHERE {} UNION ALL SELECT n FROM u", False),
    ("SELECT n FROM t WHERE {} ORDER BY n DESC LIMIT 2", False),
]
FOLDERS = ["a b", "%41", "x%3Dy", "a%2Fb", "a+b", "NULL", "", "__HIVE_DEFAULT_PARTITION__", "01", "\u0663", "1.5"]


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_statements_over_files_give_what_they_give_over_the_rows(tmp_path: Path, data: st.DataObject) -> None:
    folder = Path(tempfile.mkdtemp(dir=tmp_path))
    tables, count = [], 0
    for number in range(data.draw(st.integers(1, 3))):
        size = data.draw(st.integers(0, 6))
        columns = {
            name: data.draw(st.lists(st.sampled_from(VALUES[name]), min_size=size, max_size=size)) for name in TYPES
        }
        rows = pa.table({"n": range(count, count + size), **{k: pa.array(v, TYPES[k]) for k, v in columns.items()}})
        rows = rows.set_column(0, "n", rows["n"].cast(pa.int64()))
        count += size
        # A text that is no number keeps the others texts.
        where = data.draw(st.sampled_from(FOLDERS)) if number else "a b"
        write(folder / f"kind={number}/part={where}/a.parquet", rows, "arrow", data.draw(st.integers(1, 4)))
        part = None if where == "__HIVE_DEFAULT_PARTITION__" else unquote(where)
        rows = rows.append_column("kind", pa.array([number] * size, pa.int64()))
        tables.append(rows.append_column("part", pa.array([part] * size, pa.string())))
    of = ParquetHistory(name="t", location=str(folder), place=files.place(folder))
    pin = of.pin(Window())
    assert pin.files[0].partition_values == {"kind": "0", "part": "a b"}
    statement, by_slice = data.draw(st.sampled_from(STATEMENTS))
    query = statement.format(data.draw(conditions()))
    others = pa.table({"n": pa.array([0, 1, 3, None], pa.int64())})
    with duckdb.connect() as oracle:
        oracle.execute("SET TimeZone = 'UTC'")
        oracle.register("rows", pa.concat_tables(tables))
        oracle.execute("CREATE TABLE t AS SELECT * FROM rows")
        oracle.register("u", others)
        expected = sorted(str(row) for row in oracle.sql(query).to_arrow_table().to_pylist())
    slices = cut(pin, data.draw(st.integers(1, 20)))
    for pieces in ([[piece] for piece in slices], [slices]) if by_slice else ([slices],):
        found = []
        for some in pieces:
            with of.reader(pin).open(some) as source:
                found += Data("t", {"t": source, "u": TableSource(others)}).sql(query).to_pylist()
        assert sorted(str(row) for row in found) == (expected if slices or not by_slice else []), query


@pytest.mark.parametrize("stored", ["texts", "dictionary"])
@pytest.mark.parametrize(
    "query",
    [
        "SELECT s, sum(x) AS total, count(*) AS n FROM t WHERE x >= 0.1 GROUP BY ALL",
        "SELECT s, b, sum(x) AS total FROM t WHERE x >= 0.1 AND kind = 1 GROUP BY ALL",
        "SELECT DISTINCT s, kind FROM t WHERE s >= 'v3'",
        "SELECT s, x, row_number() OVER (PARTITION BY s ORDER BY b) AS r FROM t WHERE x > 0.5",
    ],
)
def test_a_dictionary_gives_the_rows_of_its_texts_in_their_order(tmp_path: Path, stored: str, query: str) -> None:
    rng = np.random.default_rng(3)
    count = 20_000
    texts = pa.array([None if n == 9 else f"v{n}" for n in rng.integers(0, 10, count)])
    rows = pa.table({"s": texts, "b": rng.integers(0, 50, count), "x": rng.random(count)})
    file = rows.set_column(0, "s", texts.cast(CODED)) if stored == "dictionary" else rows
    write(tmp_path / "b/kind=1/a.parquet", file, "arrow", 7_000)
    of = ParquetHistory(name="t", location=str(tmp_path / "b"), place=files.place(tmp_path / "b"))
    pin = of.pin(Window())
    with of.reader(pin).open(cut(pin, 100_000)) as source:
        where = reads_of(query, {}, {"t": source.schema})["t"].where
        assert pa.types.is_dictionary(source.dataset(["s"], where).schema.field("s").type)
        found = Data("t", {"t": source}).sql(query)
    plain = Data("t", {"t": TableSource(rows.append_column("kind", pa.repeat(pa.scalar(1), count)))}).sql(query)
    assert found.equals(plain)


@pytest.mark.parametrize("stored", ["arrow", "dictionary"])
@pytest.mark.parametrize(
    "condition",
    ["s = 'v3'", "s = 'v3' AND kind = 1", "s >= 'v3' AND b < 25", "s = 'none'", "b BETWEEN 3 AND 5", "kind = 2"],
)
def test_of_a_file_only_what_passes_is_held(tmp_path: Path, stored: str, condition: str) -> None:
    rng = np.random.default_rng(4)
    count = 20_000
    texts = pa.array([None if n == 9 else f"v{n}" for n in rng.integers(0, 10, count)])
    # The first row group has nothing that passes, and its least and greatest do not say so.
    texts = pa.concat_arrays([pa.array(["v2", "v8"] * 2_500), texts[5_000:]])
    numbers = np.concatenate([np.tile([1, 9], 2_500), rng.integers(0, 50, count - 5_000)])
    rows = pa.table({"s": texts, "b": numbers, "x": rng.random(count)})
    file = rows.set_column(0, "s", texts.cast(CODED)) if stored == "dictionary" else rows
    write(tmp_path / "b/kind=1/a.parquet", file, "arrow", 5_000)
    write(tmp_path / "b/kind=2/a.parquet", file.slice(0, 0), "arrow", 5_000)
    of = ParquetHistory(name="t", location=str(tmp_path / "b"), place=files.place(tmp_path / "b"))
    pin = of.pin(Window())
    query = f"SELECT s, b, x, kind FROM t WHERE {condition}"
    with of.reader(pin).open(cut(pin, 100_000)) as source:
        where = reads_of(query, {}, {"t": source.schema})["t"].where
        held = source.dataset(["s", "b", "x", "kind"], where).to_table()
    with duckdb.connect() as oracle:
        oracle.register("t", rows.append_column("kind", pa.repeat(pa.scalar(1), count)))
        expected = oracle.sql(query).to_arrow_table()
    assert held.to_pydict() == expected.to_pydict()


def test_slices_that_a_condition_leaves_nothing_give_what_no_rows_give(tmp_path: Path) -> None:
    write(tmp_path / "b/a.parquet", pa.table({"n": pa.array(range(100), pa.int64())}), "arrow", 10)
    of = ParquetHistory(name="t", location=str(tmp_path / "b"), place=files.place(tmp_path / "b"))
    pin = of.pin(Window())
    for piece in cut(pin, 10):
        with of.reader(pin).open([piece]) as source:
            t = Data("t", {"t": source})
            grouped = t.sql("SELECT n % 2 AS odd, count(*) AS c FROM t WHERE n >= $least GROUP BY ALL", least=1000)
            assert (grouped.num_rows, grouped.schema.names) == (0, ["odd", "c"])
            assert t.sql("SELECT count(*) AS c, $least AS v FROM t WHERE n >= $least", least=1000).to_pylist() == [
                {"c": 0, "v": 1000}
            ]
            assert t.sql("SELECT count(*) AS c, $least AS v FROM t WHERE n >= $least", least=1001).to_pylist() == [
                {"c": 0, "v": 1001}
            ]
            (proof,) = source.proofs()
            assert proof.records == 10


def test_row_groups_that_statistics_exclude_are_not_decoded(tmp_path: Path) -> None:
    """A damaged page is the witness: whoever decodes it fails."""
    path = tmp_path / "b/a.parquet"
    write(path, pa.table({"n": pa.array(range(4000), pa.int64())}), "arrow", 1000)
    broken = bytearray(path.read_bytes())
    chunk = pq.read_metadata(path).row_group(0).column(0)
    broken[chunk.dictionary_page_offset + chunk.total_compressed_size // 2] ^= 4
    path.write_bytes(broken)
    of = ParquetHistory(name="t", location=str(path.parent), place=files.place(path.parent))
    pin = of.pin(Window())
    with of.reader(pin).open(cut(pin, 10_000)) as source:
        t = Data("t", {"t": source})
        assert t.sql("SELECT count(n) AS c FROM t WHERE n >= 1000")["c"].to_pylist() == [3000]
        with pytest.raises(CorruptData, match=r"row groups \[0, 4\) of a\.parquet"):
            t.sql("SELECT count(n) AS c FROM t WHERE n >= 999")


def test_folders_that_a_condition_excludes_are_not_decoded(tmp_path: Path) -> None:
    for year in (2017, 2018):
        write(tmp_path / f"b/year={year}/a.parquet", pa.table({"n": pa.array(range(1000), pa.int64())}), "arrow", 1000)
    path = tmp_path / "b/year=2017/a.parquet"
    broken = bytearray(path.read_bytes())
    broken[len(broken) // 2] ^= 4
    path.write_bytes(broken)
    of = ParquetHistory(name="t", location=str(tmp_path / "b"), place=files.place(tmp_path / "b"))
    pin = of.pin(Window())
    with of.reader(pin).open(cut(pin, 10_000)) as source:
        t = Data("t", {"t": source})
        assert t.sql("SELECT sum(n)::BIGINT AS c FROM t WHERE year = 2018")["c"].to_pylist() == [499_500]
        with pytest.raises(CorruptData, match=r"year=2017/a\.parquet"):
            t.sql("SELECT sum(n) AS c FROM t WHERE year >= 2017")


@pytest.mark.parametrize("compared", ["=", "<", "<=", ">", ">="])
@pytest.mark.parametrize(
    "written", ["n {} $v", "$v {} n", "n {} 3", "3 {} n", "N {} $v AND n + 0 > 0", "n BETWEEN 2 AND $v AND m {} 3"]
)
def test_a_row_at_the_bound_is_kept_where_each_row_has_a_group_of_its_own(
    tmp_path: Path, compared: str, written: str
) -> None:
    rows = pa.table({"n": pa.array(range(1, 6), pa.int64()), "m": pa.array(range(1, 6), pa.int32())})
    write(tmp_path / "b/a.parquet", rows, "arrow", 1)
    of = ParquetHistory(name="t", location=str(tmp_path / "b"), place=files.place(tmp_path / "b"))
    pin = of.pin(Window())
    query = f"SELECT n FROM t WHERE {written.format(compared)}"
    bound = {"v": 3} if "$v" in query else {}
    with of.reader(pin).open(cut(pin, 100)) as source:
        found = Data("t", {"t": source}).sql(query, **bound)
    with duckdb.connect() as oracle:
        oracle.register("t", rows)
        assert found.to_pylist() == oracle.sql(query, params=bound or None).to_arrow_table().to_pylist()
