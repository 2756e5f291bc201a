"""JSON Schema gives the columns; the values are decoded as strictly as any JSON."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hindscan.history.formats.confluent import UnknownSchema, head
from hindscan.history.formats.json import JsonDecoder
from hindscan.history.formats.json_schema import JsonSchemaDecoder, json_schema_columns
from hindscan.kafka.registry import RegisteredSchema


def registered(schema: Any, **others: Any) -> RegisteredSchema:
    files = [(name, json.dumps(each)) for name, each in others.items()]
    return RegisteredSchema(kind="JSON", files=(*files, ("own", json.dumps(schema))))


def columns(schema: Any, **others: Any) -> tuple[dict[str, str], list[tuple[str, str]]]:
    found, refused = json_schema_columns(registered(schema, **others))
    return {each.name: f"{each.type}{'' if each.nullable else ' not null'}" for each in found}, refused


def one(property_: Any) -> tuple[dict[str, str], list[tuple[str, str]]]:
    return columns({"type": "object", "properties": {"x": property_}, "$defs": {"id": {"type": "integer"}}})


@pytest.mark.parametrize(
    ("property_", "type_"),
    [
        ({"type": "integer"}, "int64"),
        ({"type": "number"}, "double"),
        ({"type": "boolean"}, "bool"),
        ({"type": "string"}, "string"),
        ({"type": "string", "format": "date-time"}, "timestamp[us, tz=UTC]"),
        ({"type": "string", "format": "date"}, "date32[day]"),
        ({"type": "string", "format": "email"}, "string"),
        ({"type": "string", "contentEncoding": "base64"}, "binary"),
        ({"enum": ["a", "b"]}, "string"),
        ({"const": "a"}, "string"),
        ({"type": ["null", "integer"]}, "int64"),
        ({"oneOf": [{"type": "null"}, {"type": "integer"}]}, "int64"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}]}, "string"),
        ({"allOf": [{"$ref": "#/$defs/id"}]}, "int64"),
        ({"$ref": "#/$defs/id"}, "int64"),
        ({"type": "integer", "connect.type": "int16"}, "int16"),
        ({"type": "array", "items": {"type": ["integer", "null"]}}, "list<element: int64>"),
        ({"type": "array", "items": {"type": "integer"}}, "list<element: int64 not null>"),
        (
            {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "string"}}, "required": ["a"]},
            "struct<a: int64 not null, b: string>",
        ),
    ],
)
def test_a_property_becomes_its_column(property_: Any, type_: str) -> None:
    assert one(property_) == ({"x": type_}, [])


@pytest.mark.parametrize(
    ("property_", "why"),
    [
        ({}, "no type"),
        (True, "no schema of its own"),
        ({"type": "null"}, "the types null alone"),
        ({"type": ["integer", "string"]}, "the types integer, string"),
        ({"oneOf": [{"type": "integer"}, {"type": "string"}]}, "oneOf of 2 schemas"),
        ({"type": "array"}, "an array without one schema of its items"),
        ({"type": "object"}, "an object without properties"),
        ({"$ref": "#/$defs/absent"}, "the reference own#/$defs/absent, which leads nowhere"),
        ({"$ref": "#"}, "the recursive #"),
        ({"enum": [1, "a"]}, "no type"),
        ({"type": "quaternion"}, "the type quaternion"),
        ({"anyOf": 5}, "no JSON Schema: 'int' object is not iterable"),
    ],
)
def test_a_property_that_can_be_no_column_is_named(property_: Any, why: str) -> None:
    assert one(property_) == ({}, [("x", why)])


def test_required_properties_cannot_be_null_unless_they_say_so() -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer"}, "b": {"type": ["null", "integer"]}, "c": {"type": "integer"}},
        "required": ["a", "b"],
    }
    assert columns(schema)[0] == {"a": "int64 not null", "b": "int64", "c": "int64"}


def test_references_lead_into_other_schemas_and_from_there_on() -> None:
    money = {"$defs": {"cents": {"type": "integer"}}, "type": "object", "properties": {"n": {"$ref": "#/$defs/cents"}}}
    schema = {"type": "object", "properties": {"net": {"$ref": "money.json"}}}
    assert columns(schema, **{"money.json": money})[0] == {"net": "struct<n: int64>"}


@pytest.mark.parametrize("text", ["{", "5", '{"type": "array"}', '{"type": "object"}'])
def test_what_is_no_schema_of_an_object_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="must be a JSON Schema"):
        json_schema_columns(RegisteredSchema(kind="JSON", files=(("own", text),)))


BID = {
    "type": "object",
    "properties": {"n": {"type": "integer"}, "s": {"type": ["string", "null"]}, "b": {"type": "boolean"}},
    "required": ["n"],
}


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from("nsbz"),
            st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=2) | st.just([1]),
        ),
        max_size=8,
    )
)
def test_records_are_taken_as_the_schema_says(records: list[dict[str, Any]]) -> None:
    """The oracle is jsonschema; but that a null stands for what may be missing, as in every JSON history."""
    schema, _ = json_schema_columns(registered(BID))

    def known(schema_id: int) -> RegisteredSchema:
        if schema_id != 1:
            raise UnknownSchema("unknown")
        return registered(BID)

    values = [head(1) + json.dumps(each).encode() for each in records] + [head(2) + b'{"n": 1}']
    table, bad = JsonSchemaDecoder(JsonDecoder(schema), known).decode(pa.array(values, pa.large_binary()))
    valid = jsonschema.Draft202012Validator(BID)
    good = [
        valid.is_valid({name: value for name, value in each.items() if value is not None or name == "n"})
        for each in records
    ]
    assert [b.index for b in bad] == [*(at for at, ok in enumerate(good) if not ok), len(records)]
    expected = [{name: each.get(name) for name in "nsb"} for each, ok in zip(records, good, strict=True) if ok]
    assert table.to_pylist() == expected
