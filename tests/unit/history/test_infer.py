"""Inference believes what the sample shows, and refuses what does not mix."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hindscan.history.columns import schema_from_text, schema_to_text
from hindscan.history.formats.json import JsonDecoder
from hindscan.history.infer import infer_schema


def infer(*records: object) -> dict[str, str]:
    schema, faults = infer_schema([json.dumps(record).encode() for record in records])
    assert faults == []
    return {field.name: str(field.type) for field in schema}


@pytest.mark.parametrize(
    ("values", "type_"),
    [
        ([1, None, 2], "int64"),
        ([1, 2.5], "double"),
        ([True], "bool"),
        (["x", "2018-01-01T00:00:00Z"], "string"),
        (["2018-01-01T00:00:00Z", "2018-01-01 10:00"], "timestamp[us, tz=UTC]"),
        (["2018-01-01T00:00:00.123456789+01:00"], "timestamp[ns, tz=UTC]"),
        (["2018-01-01"], "string"),
        (["2018-13-01T00:00:00Z"], "string"),
        ([[1], [], None], "list<element: int64>"),
        ([{"a": 1}, {"b": [{"c": "x"}]}], "struct<a: int64, b: list<element: struct<c: string>>>"),
    ],
)
def test_the_type_is_what_all_values_are(values: list[object], type_: str) -> None:
    assert infer(*({"x": value} for value in values)) == {"x": type_}


def test_columns_come_in_the_order_in_which_they_first_occur() -> None:
    assert list(infer({"b": 1}, {"a": 1, "b": 2}, {"c": 1})) == ["b", "a", "c"]


def test_what_has_no_type_is_no_column() -> None:
    assert infer({"a": None, "b": [], "c": {}, "d": 1}) == {"d": "int64"}


def test_kinds_that_do_not_mix_are_all_named() -> None:
    records = [{"a": 1, "b": {"c": 1}}, {"a": "x", "b": {"c": [1]}}, {"a": 2**70}]
    _, faults = infer_schema([json.dumps(record).encode() for record in records])
    assert faults == ["a is int64 and integer beyond int64 and string", "b.c is int64 and list"]


def test_a_name_that_the_decoder_cannot_compare_is_a_fault() -> None:
    assert infer_schema([b'{"a\\"b": 1}'])[1] == ["'a\"b' has a quote, backslash or control character in its name"]


def test_records_that_are_no_objects_are_left_out() -> None:
    schema, faults = infer_schema([b"", b"[1]", b"{", b'{"a": 1}', b"[" * 100_000])
    assert (schema.names, faults) == (["a"], [])


@pytest.mark.parametrize(("begin", "end"), [(b"[", b"]"), (b'{"a":', b"}")])
def test_a_column_of_more_levels_than_a_schema_can_have_is_a_fault(begin: bytes, end: bytes) -> None:
    def nested(levels: int) -> bytes:
        return b'{"x":' + begin * levels + b"1" + end * levels + b"}"

    schema, faults = infer_schema([nested(64)])
    assert faults == []
    assert schema_from_text(schema_to_text(schema)) == schema
    for levels in (65, 480, 900):
        (fault,) = infer_schema([nested(levels)])[1]
        assert fault.endswith("is nested deeper than 64 levels")


SCALARS = (
    st.sampled_from([1, -5, 2**40]),
    st.sampled_from([0.5, 2]),
    st.text(max_size=3),
    st.booleans(),
    st.just("2018-01-01T00:00:00Z"),
)


@given(st.data())
def test_what_was_inferred_decodes_every_record_of_the_sample(data: st.DataObject) -> None:
    fields: dict[str, Any] = data.draw(st.dictionaries(st.sampled_from("abcd"), st.sampled_from(SCALARS), min_size=1))
    records = data.draw(st.lists(st.fixed_dictionaries({}, optional=fields), min_size=1, max_size=6))
    raw = [json.dumps(record).encode() for record in records]
    schema, faults = infer_schema(raw)
    assert faults == []
    table, bad = JsonDecoder(schema).decode(pa.array(raw, pa.large_binary()))
    assert bad == []
    assert table.num_rows == len(records) or not schema.names
