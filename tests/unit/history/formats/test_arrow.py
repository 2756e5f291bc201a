"""Arrow records: one row each, of the pinned types, whole."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hindscan.history.formats.arrow import ArrowDecoder, arrow_columns
from hindscan.history.formats.decoder import BadValue

TEXT = pa.schema([("a", pa.int32()), ("s", pa.string())])
SCHEMA = pa.schema([("a", pa.int32()), ("b", pa.list_(pa.string()))])


def stream(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def row(schema: pa.Schema = SCHEMA, **values: Any) -> bytes:
    return stream(pa.Table.from_pylist([values], schema))


def decode(schema: pa.Schema, *values: bytes) -> tuple[list[dict[str, Any]], list[BadValue]]:
    table, bad = ArrowDecoder(schema).decode(pa.array(values, pa.large_binary()))
    assert table.schema == schema
    return table.to_pylist(), bad


@given(
    st.lists(
        st.tuples(st.none() | st.integers(-(2**31), 2**31 - 1), st.none() | st.lists(st.text(max_size=3), max_size=3)),
        max_size=6,
    )
)
def test_rows_come_as_they_were_written(rows: list[tuple[Any, Any]]) -> None:
    dicts = [{"a": a, "b": b} for a, b in rows]
    assert decode(SCHEMA, *(row(**each) for each in dicts)) == (dicts, [])


def test_only_the_columns_asked_for_are_looked_at() -> None:
    wanted = pa.schema([("b", pa.list_(pa.string()))])
    other = pa.schema([("a", pa.string()), ("b", pa.list_(pa.string()))])
    assert decode(wanted, row(a=1, b=["x"]), row(other, a="?", b=None)) == ([{"b": ["x"]}, {"b": None}], [])


def test_a_dictionary_is_its_values() -> None:
    schema = pa.schema([("a", pa.dictionary(pa.int8(), pa.string()))])
    found = arrow_columns([b"no stream", row(schema, a="x")])
    assert found == pa.schema([("a", pa.string())])
    assert decode(found, row(schema, a="x"), row(schema, a="y")) == ([{"a": "x"}, {"a": "y"}], [])


@pytest.mark.parametrize(
    ("value", "field", "why"),
    [
        (b"", "", "null or length 0"),
        (b"no stream", "", ""),
        (row(a=1)[:-20], "", ""),
        (row(a=1) + b"more", "", "4 bytes behind the end"),
        (row(TEXT, a=1, s="word").replace(b"word", b"\xff\xfe\xff\xfe"), "", "UTF8"),
        (stream(pa.table({"a": pa.array([], pa.int32())})), "", "has 0 rows"),
        (stream(pa.table({"a": pa.array([1, 2], pa.int32())})), "", "has 2 rows"),
        (row(pa.schema([("a", pa.int64())]), a=1), "a", "must be int32, found int64"),
        (row(pa.schema([("z", pa.int64())]), z=1), "a", "must be in the stream once; it has z"),
    ],
)
def test_what_is_no_such_row_is_bad_and_its_neighbours_are_not(value: bytes, field: str, why: str) -> None:
    wanted = TEXT if why == "UTF8" else TEXT.remove(1)
    rows, bad = decode(wanted, row(TEXT, a=1), value, row(TEXT, a=2))
    assert [each["a"] for each in rows] == [1, 2]
    assert [(b.index, b.field) for b in bad] == [(1, field)]
    assert why in bad[0].reason
    assert bad[0].reason


def test_a_null_where_none_may_be_is_bad() -> None:
    rows, bad = decode(pa.schema([pa.field("a", pa.int32(), nullable=False)]), row(a=None))
    assert (rows, bad[0].field) == ([], "a")


@given(st.data())
def test_damaged_streams_are_bad_or_rows_never_more(data: st.DataObject) -> None:
    value = bytearray(row(a=7, b=["text", None]))
    for _ in range(data.draw(st.integers(1, 3))):
        value[data.draw(st.integers(0, len(value) - 1))] = data.draw(st.integers(0, 255))
    rows, bad = decode(SCHEMA, row(a=1), bytes(value), row(a=2))
    assert len(rows) + len(bad) == 3
    assert (rows[0]["a"], rows[-1]["a"]) == (1, 2)
