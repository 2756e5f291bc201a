"""Types as text: what Arrow prints can be declared, and what is declared is what a pin carries."""

from __future__ import annotations

import re

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hindscan.history.columns import described, parse_type, schema_from_columns, schema_from_text, schema_to_text

SIMPLE = st.sampled_from(
    [pa.bool_(), pa.int8(), pa.uint64(), pa.int64(), pa.float32(), pa.float64(), pa.string(), pa.binary(), pa.date32()]
    + [pa.timestamp(unit, zone) for unit in ("s", "ms", "us", "ns") for zone in (None, "UTC")]
    + [pa.decimal128(12, 2), pa.decimal256(40, 1), pa.time32("ms"), pa.time64("us")]
)


def nested(inner: st.SearchStrategy[pa.DataType]) -> st.SearchStrategy[pa.DataType]:
    fields = st.builds(lambda kind, nullable: (kind, nullable), inner, st.booleans())
    lists = fields.map(lambda f: pa.list_(pa.field("element", f[0], f[1])))
    structs = st.lists(fields, min_size=1, max_size=3).map(
        lambda children: pa.struct([pa.field(f"c_{at}", *child) for at, child in enumerate(children)])
    )
    return lists | structs


TYPES = st.recursive(SIMPLE, nested, max_leaves=5)


@given(kind=TYPES, nullable=st.booleans())
def test_what_arrow_prints_can_be_declared(kind: pa.DataType, nullable: bool) -> None:
    text = str(kind)
    field = parse_type(text if nullable else f"{text} not null")
    assert (field.type, field.nullable) == (kind, nullable)


@given(st.lists(TYPES, max_size=4))
def test_a_schema_travels_in_a_pin(kinds: list[pa.DataType]) -> None:
    schema = pa.schema(
        [pa.field(f"ü {at}", kind, at % 2 == 0, {"k": "v"}) for at, kind in enumerate(kinds)], {"m": "n"}
    )
    again = schema_from_text(schema_to_text(schema))
    assert again == schema
    assert again.metadata is None
    assert described(again) == described(schema)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("int65", "found 'int65'"),
        ("", "found 'its end'"),
        ("int64 int64", "left over: int64"),
        ("timestamp[days]", "s or ms or us or ns is expected, found days"),
        ("timestamp[us, Europe]", "UTC is expected, found Europe"),
        ("list<int64", "> is expected, found its end"),
        ("struct<>", "the name of a field is expected"),
        ("decimal128(a, 2)", "a number is expected, found a"),
        ("int64!", "found 'int64!'"),
    ],
)
def test_what_is_no_type_says_what_was_expected(text: str, expected: str) -> None:
    with pytest.raises(ValueError, match=re.escape(expected)):
        parse_type(text)


def test_a_schema_keeps_the_order_in_which_columns_are_declared() -> None:
    assert schema_from_columns({"b": "int64", "a": "string"}).names == ["b", "a"]
