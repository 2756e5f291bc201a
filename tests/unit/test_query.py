"""Which rows a statement can do without: never one that it would have looked at."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hindscan.condition import Where
from hindscan.data import Data, TableSource
from hindscan.errors import UsageError
from hindscan.query import reads_of

SCHEMA = pa.schema(
    [
        ("n", pa.int64()),
        ("x", pa.float64()),
        ("s", pa.string()),
        ("day", pa.timestamp("us", "UTC")),
        ("part", pa.struct([("a", pa.int64())])),
    ]
)


def where_of(query: str, **values: object) -> Where | None:
    return reads_of(query, values, {"t": SCHEMA, "u": SCHEMA})["t"].where


class Filtering(TableSource):
    """Leaves out every row that it may, and makes null every column that is not asked for."""

    def __init__(self, table: pa.Table) -> None:
        super().__init__(table)
        self.whole = table
        self.given: list[int] = []

    def dataset(self, columns: Sequence[str] | None = None, where: Where | None = None) -> ds.Dataset:
        assert columns is not None
        kept = self.whole
        if where is not None:
            # Only what it says that it looks at is there for it to see.
            kept = kept.filter(pa.array(where.keeps(self.whole.select(where.columns))))
        self.given.append(kept.num_rows)
        return ds.dataset(kept.select(list(columns)))


def table_of(rows: Sequence[tuple[Any, ...]]) -> pa.Table:
    return pa.Table.from_pylist([dict(zip(SCHEMA.names, row, strict=True)) for row in rows], SCHEMA)


CONDITIONS = [
    "n = 3",
    "n > $n AND s = 'a'",
    "NOT (n < 2 OR s IS NULL)",
    "s IN ('a', 'b''c') AND x BETWEEN -1 AND 2.5",
    "s LIKE 'a%' OR part.a > 1",
    "t.n = 1 AND year(day) = 2018",
    "day >= TIMESTAMPTZ '2018-01-01' AND day < '2018-06-01'::TIMESTAMPTZ",
    "CASE WHEN n > 1 THEN s = 'a' ELSE x > 0 END",
    "coalesce(n, 0) % 2 = 0",
    "n",
    "s > $s AND n <> 0",
    "n BETWEEN 1 AND $n",
    "n IN (1, NULL) OR x > 0.5",
    "s >= $s AND 'b''c' > s AND n <= 3",
    "day >= $begin AND day < $end",
]
VALUES = {"s": "a", "begin": datetime(2018, 1, 1, tzinfo=UTC), "end": datetime(2018, 3, 2, 14, 13, 20, tzinfo=UTC)}
ROWS = st.lists(
    st.tuples(
        st.sampled_from([None, 0, 1, 2, 3, 4]),
        st.sampled_from([None, -2.0, 0.5, 2.5, float("nan")]),
        st.sampled_from([None, "", "a", "ab", "b'c", "é"]),
        st.sampled_from([None, 0, 1_514_764_800_000_000, 1_520_000_000_000_000, 1_550_000_000_000_000]),
        st.sampled_from([None, {"a": None}, {"a": 1}, {"a": 2}]),
    ),
    max_size=12,
)


@pytest.mark.parametrize("condition", CONDITIONS)
@settings(max_examples=25)
@given(rows=ROWS, least=st.integers(0, 3))
def test_a_source_that_leaves_out_what_it_may_gives_the_same_result(condition: str, rows: Any, least: int) -> None:
    table = table_of(rows)
    source = Filtering(table)
    values = {name: value for name, value in {"n": least, **VALUES}.items() if f"${name}" in condition}
    query = f"SELECT s, count(*) AS c, max(n) AS top FROM t WHERE {condition} GROUP BY ALL ORDER BY ALL"
    expected = Data("t", {"t": TableSource(table)}).sql(query, **values)
    assert Data("t", {"t": source}).sql(query, **values).equals(expected)
    assert source.given == [expected["c"].to_numpy().sum() if len(expected) else 0], "no row too many either"


@pytest.mark.parametrize(
    ("query", "columns"),
    [
        ("SELECT n FROM t WHERE s = 'a'", ["s"]),
        ("SELECT n FROM t AS v WHERE v.s = 'a' AND v.x > 0", ["x", "s"]),
        ("WITH a AS (SELECT n, s FROM t WHERE x > 0) SELECT * FROM a JOIN u USING (n) WHERE a.s = 'a'", ["x"]),
        ("SELECT * FROM (SELECT n FROM t WHERE n > 1) WHERE n < 5", ["n"]),
        ("SELECT n FROM u WHERE n IN (SELECT n FROM t WHERE s = 'a')", ["s"]),
        ("FROM t WHERE part.a = 1", ["part"]),
        ("SELECT n FROM t WHERE n = 1 AND n IN (SELECT n FROM u) AND s BETWEEN 'a' AND 'b'", ["n", "s"]),
        ("SELECT n FROM t WHERE n > 2.5 AND n IN (SELECT unnest([1, 3]))", ["n"]),
        ("SELECT * FROM (SELECT n FROM t WHERE n > 1), range(3)", ["n"]),
    ],
)
def test_the_condition_of_the_one_select_from_a_table_is_found(query: str, columns: list[str]) -> None:
    found = where_of(query)
    assert found is not None
    assert found.columns == columns


@pytest.mark.parametrize(
    "query",
    [
        "SELECT n FROM t",
        "SELECT a.n FROM t a, t b WHERE a.n = 1",
        "SELECT n FROM t WHERE n = 1 UNION ALL SELECT n FROM t",
        "SELECT t.n FROM t JOIN u USING (n) WHERE t.s = 'a'",
        "SELECT t.n FROM t LEFT JOIN u USING (n) WHERE u.n IS NULL",
        "SELECT n FROM t WHERE random() < 0.5",
        "SELECT n FROM t WHERE day < now()",
        "SELECT n FROM t WHERE n IN (SELECT n FROM u)",
        "SELECT n FROM t WHERE n IN (SELECT n FROM u) AND s::INT = 1",
        "SELECT n FROM t WHERE n IN (SELECT n FROM u) AND s BETWEEN 'a' AND x::TEXT",
        "SELECT n * 2 AS twice FROM t WHERE twice > 3",
        "WITH t AS (SELECT 1 AS n) SELECT n FROM t WHERE n = 1",
        "SELECT n FROM t TABLESAMPLE 10% WHERE n = 1",
        "SELECT n FROM t WHERE true",
        "SELECT n FROM u WHERE EXISTS (SELECT 1 FROM t WHERE t.n = u.n)",
        "SELECT n, (SELECT count(*) FROM query_table('t')) AS c FROM t WHERE n = 1",
        "SELECT n, (SELECT count(*) FROM query('FROM t')) AS c FROM t WHERE n = 1",
        "SELECT n FROM t WHERE n IN (SELECT n FROM u) AND n > 0.00000000000000000001",
    ],
)
def test_what_depends_on_more_than_the_row_is_left_to_the_engine(query: str) -> None:
    assert where_of(query) is None


def test_conditions_are_the_same_only_if_the_same_rows_pass() -> None:
    one, same = where_of("SELECT n FROM t WHERE s = $s", s="a"), where_of("SELECT x FROM t WHERE s = $s", s="a")
    other, number = where_of("SELECT n FROM t WHERE s = $s", s="b"), where_of("SELECT n FROM t WHERE n = $s", s=1)
    assert one is not None
    assert same is not None
    assert other is not None
    assert number is not None
    assert one.key == same.key
    assert len({one.key, other.key, number.key}) == 3


@pytest.mark.parametrize(
    ("condition", "is_said"),
    [
        ("n = 3 AND s > 'a'", True),
        ("2 < n AND day BETWEEN $begin AND $end", True),
        ("x < 0.25 AND -1.5 <= x", True),
        ("x BETWEEN 0.1 AND 7", True),
        ("x < 0.1234567890123456", False),
        ("x < 1e-3", False),
        ("n BETWEEN 1 AND x", False),
        ("n BETWEEN 1 AND 2.5", True),
        ("n = 1 AND s LIKE 'a%'", False),
        ("n = 1 OR n = 2", False),
        ("n <> 1", False),
        ("lower(s) = 'a'", False),
    ],
)
def test_a_condition_of_plain_comparisons_is_known_to_be_no_more(condition: str, is_said: bool) -> None:
    values = {name: value for name, value in VALUES.items() if f"${name}" in condition}
    found = where_of(f"SELECT n FROM t WHERE {condition}", **values)
    assert found is not None
    assert found.is_implied == is_said


@pytest.mark.parametrize(
    ("kind", "condition", "expected"),
    [
        (pa.timestamp("ns", "UTC"), "day = $begin", [True, False, False]),
        (pa.timestamp("us", "UTC"), "day = $begin", [True, False, False]),
        (pa.timestamp("us", "UTC"), "day > $begin", [False, True, False]),
    ],
)
def test_rows_pass_as_the_engine_sees_them(kind: pa.DataType, condition: str, expected: list[bool]) -> None:
    schema = pa.schema([("day", kind)])
    first = int(VALUES["begin"].timestamp()) * (10**9 if kind.unit == "ns" else 10**6)
    where = reads_of(f"SELECT count(*) FROM t WHERE {condition}", {"begin": VALUES["begin"]}, {"t": schema})["t"].where
    assert where is not None
    rows = pa.table({"day": pa.array([first, first + 1, None]).cast(kind)}, schema=schema)
    assert where.keeps(rows).tolist() == expected


@pytest.mark.parametrize("compared", ["=", "<", "<=", ">", ">="])
@pytest.mark.parametrize(
    "value", ["0.1", "0.3", "-0.0", "123456789.012345", ".000000000000007", "5.", "7", "9007199254740993", "$v"]
)
def test_doubles_are_compared_with_fractions_as_by_the_engine(compared: str, value: str) -> None:
    number = 0.1 + 0.2 if value == "$v" else float(value)
    near = [number, math.nextafter(number, math.inf), math.nextafter(number, -math.inf)]
    rows = pa.table({"x": pa.array([*near, 0.0, -0.0, math.nan, math.inf, -math.inf, None], pa.float64())})
    bound = {"v": number} if value == "$v" else {}
    where = reads_of(f"SELECT count(*) FROM t WHERE x {compared} {value}", bound, {"t": rows.schema})["t"].where
    assert where is not None
    assert (where.keeps_plainly(rows) is None) == (value == "9007199254740993"), "an integer that no double holds"
    with duckdb.connect() as engine:
        engine.register("t", rows)
        passes = engine.sql(f"SELECT coalesce(x {compared} {value}, false) FROM t", params=bound or None).fetchall()
    assert where.keeps(rows).tolist() == [one for (one,) in passes]


def test_a_condition_that_fails_on_a_row_fails_the_query() -> None:
    source = Filtering(table_of([(1, 0.0, "x", 0, None)]))
    with pytest.raises(duckdb.ConversionException):
        Data("t", {"t": source}).sql("SELECT n FROM t WHERE s::INTEGER = 1")


@pytest.mark.parametrize("reading", ["query_table('t')", "query('FROM t')"])
def test_a_table_that_is_named_by_a_text_is_read_whole(reading: str) -> None:
    source = Filtering(table_of([(n, 0.0, "x", 0, None) for n in range(5)]))
    found = Data("t", {"t": source}).sql(f"SELECT n, (SELECT count(*) FROM {reading}) AS c FROM t WHERE n > 3")
    assert found.to_pylist() == [{"n": 4, "c": 5}]


def test_columns_that_differ_in_case_alone_are_not_guessed_between() -> None:
    table = pa.table({"a": [1, 2], "A": [10, 20], "A_1": [7, 8], "b": [3, 4]})
    t = Data("t", {"t": TableSource(table)})
    for query in ("FROM t", "SELECT a FROM t", 'SELECT "A" FROM t', 'SELECT b FROM t WHERE "A" > 5'):
        with pytest.raises(UsageError, match=r"of t that is looked at must have a name of its own.*found \['a', 'A'\]"):
            t.sql(query)
    assert t.sql("SELECT b FROM t WHERE b > 3")["b"].to_pylist() == [4]
    assert t.arrow(["A"])["A"].to_pylist() == [10, 20]
