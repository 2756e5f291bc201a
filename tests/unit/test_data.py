"""hs.Data: reads only what is asked for, keeps order and bounds, opens nothing but the step's tables."""

from __future__ import annotations

import datetime as dt
import itertools
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from at_once import at_once
from hindscan.data import Data, Source, TableSource
from hindscan.errors import CorruptData, UsageError
from hindscan.query import Read

BIDS = pa.table(
    {
        "auction": pa.array([1, 2, 1, 3], pa.int64()),
        "bidder": pa.array([7, 8, 7, 9], pa.int64()),
        "price": pa.array([100, 200, 150, None], pa.int64()),
        "category": ["cars", "cars", "boats", "cars"],
        "date_time": pa.array([0, 1, 2, 3], pa.timestamp("us", "UTC")),
    }
)
AUCTIONS = pa.table({"id": pa.array([1, 2, 3], pa.int64()), "seller": ["ann", "bob", "cy"]})


class Watched(TableSource):
    """Remembers which columns were asked for."""

    def __init__(self, table: pa.Table) -> None:
        super().__init__(table)
        self.asked: list[list[str] | None] = []

    def dataset(self, columns: Sequence[str] | None = None, where: Any = None) -> ds.Dataset:
        self.asked.append(None if columns is None else list(columns))
        return super().dataset(columns)


def bids(**others: Source) -> Data:
    return Data("bids", {"bids": TableSource(BIDS), **others})


def test_sql_joins_the_tables_of_the_step_by_their_names() -> None:
    found = bids(auctions=TableSource(AUCTIONS)).sql(
        "SELECT seller, count(*) AS n FROM bids JOIN auctions ON auction = id GROUP BY ALL ORDER BY seller"
    )
    assert found.to_pylist() == [{"seller": "ann", "n": 2}, {"seller": "bob", "n": 1}, {"seller": "cy", "n": 1}]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("cars'; DROP TABLE bids; --", 0),
        ("cars", 3),
        (np.str_("cars"), 3),
        (pa.scalar("cars"), 3),
        (None, 0),
    ],
)
def test_values_are_bound_and_never_pasted(value: object, expected: int) -> None:
    assert bids().sql("SELECT count(*) AS n FROM bids WHERE category = $c", c=value).to_pylist() == [{"n": expected}]


def test_numbers_times_and_lists_are_bound_as_such() -> None:
    when = dt.datetime(1970, 1, 1, 0, 0, 0, 2, tzinfo=dt.UTC)
    found = bids().sql(
        "SELECT price FROM bids WHERE date_time < $when AND bidder IN (SELECT unnest($some)) AND price > $least",
        when=when,
        some=[7, 8],
        least=np.int64(100),
    )
    assert found["price"].to_pylist() == [200]


@pytest.mark.parametrize(
    ("query", "read"),
    [
        ("SELECT sum(price) FROM bids WHERE category = $x", ["price", "category"]),
        ("SELECT price FROM (SELECT * FROM bids) WHERE date_time IS NOT NULL", ["price", "date_time"]),
        ("SELECT * FROM bids", ["auction", "bidder", "price", "category", "date_time"]),
        ("FROM bids SELECT bidder", ["bidder"]),
        ("SELECT bidder FROM bids a JOIN bids b USING (auction)", ["auction", "bidder"]),
        ("WITH b AS (SELECT *, row_number() OVER (ORDER BY date_time) AS r FROM bids) SELECT r FROM b", ["date_time"]),
    ],
)
def test_sql_reads_only_the_columns_the_statement_looks_at(query: str, read: list[str]) -> None:
    watched = Watched(BIDS)
    values = {"x": "cars"} if "$x" in query else {}
    query = query.replace("SELECT bidder FROM bids a", "SELECT a.bidder FROM bids a")
    Data("bids", {"bids": watched}).sql(query, **values)
    assert watched.asked == [read]


def test_counting_rows_reads_a_single_column_and_a_table_that_is_not_named_is_not_opened() -> None:
    watched, other = Watched(BIDS), Watched(AUCTIONS)
    counted = Data("bids", {"bids": watched, "auctions": other}).sql("SELECT count(*) AS n FROM bids")
    assert counted.to_pylist() == [{"n": 4}]
    assert [len(columns or []) for columns in watched.asked] == [1]
    assert other.asked == []


QUERIES = st.sampled_from(
    [
        "SELECT k, count(*) AS n, sum(v)::BIGINT AS s, min(w) AS w FROM t WHERE v > $v GROUP BY ALL ORDER BY k",
        "SELECT v, w FROM t WHERE k <= $v",
        "SELECT t.k, u.w FROM t JOIN t u ON t.k = u.v",
        "SELECT k, (SELECT max(w) FROM t u WHERE u.k = t.k) AS m FROM t",
        "SELECT DISTINCT k FROM t WHERE k IN (SELECT v FROM t WHERE w <> 'b')",
        "SELECT * FROM t QUALIFY row_number() OVER (PARTITION BY k ORDER BY v, w) = 1",
        "SELECT count(*) AS n FROM t",
        "SUMMARIZE SELECT k, v FROM t",
        "SELECT $v + k AS x FROM t WHERE 1 = 0",
        "WITH m AS MATERIALIZED (FROM t) SELECT m.v FROM m JOIN m o USING (k) WHERE o.w = 'a'",
    ]
)
ROWS = st.lists(
    st.tuples(st.integers(-3, 3), st.one_of(st.none(), st.integers(-3, 3)), st.sampled_from(["a", "b", None])),
    max_size=12,
)


@given(rows=ROWS, query=QUERIES, value=st.integers(-3, 3))
def test_sql_gives_what_plain_duckdb_gives_over_the_same_rows(
    rows: list[tuple[int, int | None, str | None]], query: str, value: int
) -> None:
    table = pa.table(
        {
            "k": pa.array([r[0] for r in rows], pa.int64()),
            "v": pa.array([r[1] for r in rows], pa.int64()),
            "unread": pa.array([0.5 for _ in rows], pa.float64()),
            "w": pa.array([r[2] for r in rows], pa.string()),
        }
    )
    values = {"v": value} if "$v" in query else {}
    with duckdb.connect() as oracle:
        oracle.register("t", table)
        expected = oracle.sql(query, params=values or None).to_arrow_table().to_pylist()
    found = Data("t", {"t": TableSource(table)}).sql(query, **values).to_pylist()
    assert sorted(map(repr, found)) == sorted(map(repr, expected))


@pytest.mark.parametrize(
    "query",
    [
        "SELECT 1; SELECT 2",
        "",
        "CREATE TABLE x AS SELECT 1",
        "INSERT INTO bids VALUES (1)",
        "COPY bids TO '/tmp/stolen.csv'",
        "ATTACH '/tmp/x.db'",
        "SET threads = 8",
        "INSTALL httpfs",
        "LOAD httpfs",
        "EXPLAIN ANALYZE SELECT 1",
        "CALL duckdb_settings()",
    ],
)
def test_only_one_reading_statement_is_run(query: str) -> None:
    with pytest.raises(UsageError, match="exactly one statement"):
        bids().sql(query)


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM glob('/etc/*')",
        "SELECT * FROM parquet_scan('https://example.org/x.parquet')",
        "SELECT * FROM stray",
        "SELECT getenv('HOME')",
    ],
)
def test_no_file_network_variable_or_environment_can_be_read(query: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hindscan.data.stray", AUCTIONS, raising=False)
    with pytest.raises(duckdb.Error):
        bids().sql(query)


@pytest.mark.parametrize("first", [0, 1])
def test_a_value_that_chooses_columns_or_tables_is_not_confused_with_another(first: int) -> None:
    """The plan of a statement is kept, and these show in it."""
    data = Data("t", {"t": TableSource(pa.table({"a": [1], "b": [2]})), "u": TableSource(pa.table({"c": [3]}))})
    queries = [
        ("SELECT COLUMNS($x) FROM t", ["a", "b"], [{"a": 1}, {"b": 2}]),
        ("FROM query_table($x)", ["t", "u"], [{"a": 1, "b": 2}, {"c": 3}]),
    ]
    for query, values, expected in queries:
        for at in (first, 1 - first, first):
            try:
                found = data.sql(query, x=values[at]).to_pylist()
            except duckdb.Error:
                continue  # not every version of the engine binds a value there
            assert found == [expected[at]]


def test_one_query_does_not_see_the_tables_of_another() -> None:
    Data("secret", {"secret": TableSource(AUCTIONS)}).sql("SELECT * FROM secret")
    with pytest.raises(duckdb.CatalogException):
        bids().sql("SELECT * FROM secret")


def test_times_without_zone_are_utc_whatever_the_machine_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "America/New_York")
    found = bids().sql("SELECT current_setting('TimeZone') AS zone, hour(date_time) AS hour FROM bids LIMIT 1")
    assert found.to_pylist() == [{"zone": "UTC", "hour": 0}]


def test_a_wrong_statement_is_the_engines_error_and_names_the_column() -> None:
    with pytest.raises(duckdb.BinderException, match="prise"):
        bids().sql("SELECT prise FROM bids")


def test_a_filter_of_the_data_set_holds_under_the_engines_own_filters(tmp_path: Path) -> None:
    """Bounds of a window are such a filter: DuckDB builds its own scanner, with its own columns and filter."""
    pq.write_table(
        pa.table({"t": range(1000), "v": [i % 7 for i in range(1000)]}), tmp_path / "a.parquet", row_group_size=100
    )

    class Bounded(TableSource):
        def dataset(self, columns: Sequence[str] | None = None, where: Any = None) -> ds.Dataset:
            whole = ds.dataset(tmp_path / "a.parquet")
            bounded = whole.filter((ds.field("t") >= 250) & (ds.field("t") < 333))
            return bounded.replace_schema(pa.schema([whole.schema.field(c) for c in {"t", *(columns or ["v"])}]))

    data = Data("b", {"b": Bounded(pa.table({"t": pa.array([], pa.int64()), "v": pa.array([], pa.int64())}))})
    expected = [t for t in range(250, 333) if t % 7 == 3]
    assert data.sql("SELECT t FROM b WHERE v = 3 AND t > 10")["t"].to_pylist() == expected
    assert data.sql("SELECT count(*) AS n FROM b").to_pylist() == [{"n": 83}]
    assert data.sql("SELECT count(*) AS n FROM b WHERE v >= 0").to_pylist() == [{"n": 83}]
    assert data.arrow(["t"])["t"].to_pylist() == list(range(250, 333))


def test_rows_come_in_the_order_of_the_history_every_time() -> None:
    table = pa.concat_tables([pa.table({"n": list(range(i, i + 5000))}) for i in range(0, 100_000, 5000)])
    data = Data("t", {"t": TableSource(table)})
    assert data.sql("SELECT n FROM t WHERE n % 2 = 0")["n"].to_pylist() == list(range(0, 100_000, 2))
    assert data.arrow()["n"].to_pylist() == list(range(100_000))
    grouped = [data.sql("SELECT n % 1000 AS g, sum(n / 7) AS s FROM t GROUP BY g") for _ in range(3)]
    assert grouped[0].equals(grouped[1])
    assert grouped[0].equals(grouped[2])


def test_frames_and_batches_have_the_same_rows() -> None:
    data = bids()
    assert data.arrow(["price", "auction"]).column_names == ["price", "auction"]
    pd.testing.assert_frame_equal(data.pandas(["auction"]), BIDS.select(["auction"]).to_pandas())
    assert data.polars(["bidder"])["bidder"].to_list() == [7, 8, 7, 9]
    assert data.schema == BIDS.schema
    assert pa.Table.from_batches(list(data.batches())).equals(BIDS.combine_chunks())


@given(sizes=st.lists(st.integers(0, 9), max_size=8), rows=st.integers(1, 10))
def test_batches_have_exactly_the_rows_asked_for(sizes: list[int], rows: int) -> None:
    total = sum(sizes)
    starts = np.cumsum([0, *sizes])
    chunks = [pa.table({"n": pa.array(range(a, b), pa.int64())}) for a, b in itertools.pairwise(starts)]
    table = pa.concat_tables([pa.table({"n": pa.array([], pa.int64())}), *chunks])
    batches = list(Data("t", {"t": TableSource(table)}).batches(rows=rows))
    assert [b.num_rows for b in batches] == [min(rows, total - at) for at in range(0, total, rows)]
    assert [n for b in batches for n in b["n"].to_pylist()] == list(range(total))


def test_an_unknown_column_is_named_with_those_there_are() -> None:
    with pytest.raises(UsageError, match=r"'prise'.*'price'"):
        bids().arrow(["prise"])


def test_a_fault_while_reading_is_told_in_the_words_of_the_source(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": list(range(1000))}), tmp_path / "a.parquet", write_page_checksum=True)
    broken = bytearray((tmp_path / "a.parquet").read_bytes())
    broken[50] ^= 255
    (tmp_path / "a.parquet").write_bytes(broken)

    class Broken(TableSource):
        def dataset(self, columns: Sequence[str] | None = None, where: Any = None) -> ds.Dataset:
            options = ds.ParquetFragmentScanOptions(page_checksum_verification=True)
            return ds.dataset(
                tmp_path / "a.parquet", format=ds.ParquetFileFormat(default_fragment_scan_options=options)
            )

        def diagnose(self) -> None:
            raise CorruptData("a is broken")

    data = Data("t", {"t": Broken(pa.table({"a": pa.array([], pa.int64())}))})
    readers: list[Any] = [data.arrow, lambda: data.sql("SELECT sum(a) FROM t"), lambda: list(data.batches())]
    for read in readers:
        with pytest.raises(CorruptData, match="a is broken"):
            read()
    with pytest.raises(duckdb.BinderException):
        data.sql("SELECT b FROM t")


def test_queries_in_several_threads_do_not_disturb_each_other() -> None:
    def work(number: int) -> None:
        data = Data("t", {"t": TableSource(pa.table({"n": [number] * 1000}))})
        for _ in range(20):
            assert data.sql("SELECT sum(n)::BIGINT AS s FROM t").to_pylist() == [{"s": number * 1000}]

    at_once(*(partial(work, number) for number in range(4)))


def test_odd_names_of_tables_and_columns_can_be_quoted() -> None:
    table = pa.table({'we"ird name': [1], "select": [2]})
    data = Data("order", {"order": TableSource(table)})
    assert data.sql('SELECT "we""ird name" + "select" AS x FROM "order"').to_pylist() == [{"x": 3}]


def test_a_table_the_plan_wrongly_left_out_is_an_error_not_an_empty_table(monkeypatch: pytest.MonkeyPatch) -> None:
    import hindscan.data as module

    real = module.reads_of

    def forgetful(*arguments: Any) -> Any:
        return {name: Read(read.types, []) for name, read in real(*arguments).items()}

    monkeypatch.setattr(module, "reads_of", forgetful)
    with pytest.raises(duckdb.Error, match="does not read bids"):
        bids().sql("SELECT price FROM bids")


def test_the_engine_leaves_no_folder_where_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    bids().sql("SELECT * FROM bids ORDER BY price")
    assert list(tmp_path.iterdir()) == []
