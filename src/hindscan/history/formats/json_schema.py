"""JSON Schema to columns: format `jsonschema`, JSON records whose schema a registry or a file declares.

Keeps promise 1 for schemas, and promise 2 as `json.py` does: the schema gives the column types, the values are decoded by the strict JSON decoder. What
it says beyond types and presence (patterns, ranges) is the producer's to keep, and is not checked here.

=====================================================  ==================================================
JSON Schema                                            column
=====================================================  ==================================================
integer, number, boolean, string                       int64, double, bool, string
string with format date-time, date                     timestamp[us, UTC], date32
string with contentEncoding base64                     binary
array with items, object with properties               list, struct
[T, null], or anyOf / oneOf of T and null              T, which may be null
enum or const of texts                                 string
connect.type int8 ... int64, float32, float64, bytes   the type it names
=====================================================  ==================================================

A property that is required and cannot be null makes a column that is not null: a record without it is bad. Refused by name: unions of several types, recursive
schemas, objects without properties, and whatever else has no one type.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

import pyarrow as pa

from hindscan.history.formats import confluent
from hindscan.history.formats.decoder import BadValue, Decoder, Headers
from hindscan.history.formats.json import is_field_name
from hindscan.kafka.registry import RegisteredSchema

__all__ = ["JsonSchemaDecoder", "json_schema_columns"]

_CONNECT: Final[dict[str, pa.DataType]] = {
    "int8": pa.int8(),
    "int16": pa.int16(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "bytes": pa.binary(),
}
_TYPES: Final[dict[str, pa.DataType]] = {
    "integer": pa.int64(),
    "number": pa.float64(),
    "boolean": pa.bool_(),
    "string": pa.string(),
}
_FORMATS: Final[dict[str, pa.DataType]] = {"date-time": pa.timestamp("us", "UTC"), "date": pa.date32()}


class _Refused(ValueError):
    """A schema that gives no one type."""


def json_schema_columns(schema: RegisteredSchema) -> tuple[pa.Schema, list[tuple[str, str]]]:
    """Give the columns of a schema, and the properties that can be none with the reason.

    Raises
    ------
    ValueError
        It is no JSON Schema of an object.
    """
    documents = {}
    for name, text in schema.files:
        try:
            documents[name] = json.loads(text)
        except (ValueError, RecursionError) as fault:
            raise ValueError(f"must be a JSON Schema in JSON: {fault}") from fault
    reading = _Reading(documents)
    main = schema.files[-1][0]
    root, where, _ = reading.followed(documents[main], main, ())
    if not isinstance(root, Mapping) or not isinstance(root.get("properties"), Mapping):
        raise _Refused("must be a JSON Schema of an object with properties, so that these are columns")
    columns, refused = [], []
    for name in root["properties"]:
        try:
            columns.append(reading.property(root, name, where, ()))
        except _Refused as fault:
            refused.append((name, str(fault)))
        except (TypeError, AttributeError, RecursionError) as fault:
            refused.append((name, f"no JSON Schema: {fault}"))
    return pa.schema(columns), refused


class _Reading:
    """One reading of a schema and those it refers to."""

    def __init__(self, documents: Mapping[str, Any]) -> None:
        self._documents = documents

    def followed(self, node: Any, where: str, seen: tuple[str, ...]) -> tuple[Any, str, tuple[str, ...]]:
        """Follow references: the node they lead to, its document, and the way there."""
        while isinstance(node, Mapping) and "$ref" in node:
            name, _, pointer = str(node["$ref"]).partition("#")
            where = name or where
            place = f"{where}#{pointer}"
            if place in seen:
                raise _Refused(f"the recursive {node['$ref']}")
            seen = (*seen, place)
            node = self._documents.get(where)
            for part in pointer.split("/")[1:]:
                key = part.replace("~1", "/").replace("~0", "~")
                node = node.get(key) if isinstance(node, Mapping) else None
            if node is None:
                raise _Refused(f"the reference {place}, which leads nowhere")
        return node, where, seen

    def property(self, parent: Mapping[str, Any], name: str, where: str, seen: tuple[str, ...]) -> pa.Field[Any]:
        """Make the field of a property."""
        if not is_field_name(name):
            raise _Refused("a quote, backslash or control character in its name")
        type_, nullable = self._type(parent["properties"][name], where, seen)
        return pa.field(name, type_, nullable=nullable or name not in parent.get("required", ()))

    def _type(self, node: Any, where: str, seen: tuple[str, ...]) -> tuple[pa.DataType, bool]:
        node, where, seen = self.followed(node, where, seen)
        if not isinstance(node, Mapping):
            raise _Refused("no schema of its own")
        for key in ("anyOf", "oneOf", "allOf"):
            if key in node:
                return self._one_of(key, node[key], where, seen)
        named = node.get("type")
        kinds = named if isinstance(named, list) else [named]
        kind, nullable = [each for each in kinds if each != "null"], "null" in kinds
        if node.get("connect.type") in _CONNECT:
            return _CONNECT[node["connect.type"]], nullable
        if len(kind) != 1:
            raise _Refused(f"the types {', '.join(map(str, kind)) or 'null alone'}")
        return self._of_kind(kind[0], node, where, seen), nullable

    def _one_of(self, key: str, branches: Any, where: str, seen: tuple[str, ...]) -> tuple[pa.DataType, bool]:
        others = [branch for branch in branches if branch != {"type": "null"}]
        if len(others) != 1:
            raise _Refused(f"{key} of {len(others)} schemas")
        type_, nullable = self._type(others[0], where, seen)
        return type_, nullable or len(others) < len(branches)

    def _of_kind(self, kind: Any, node: Mapping[str, Any], where: str, seen: tuple[str, ...]) -> pa.DataType:
        if kind == "string" or kind is None:
            texts = node.get("enum", [node["const"]] if "const" in node else None)
            if kind is None and "properties" in node:
                return self._of_kind("object", node, where, seen)
            if kind is None and not (texts and all(isinstance(each, str) for each in texts)):
                raise _Refused("no type")
            if node.get("contentEncoding") == "base64":
                return pa.binary()
            return _FORMATS.get(str(node.get("format")), pa.string())
        if kind == "array":
            if not isinstance(node.get("items"), Mapping):
                raise _Refused("an array without one schema of its items")
            type_, nullable = self._type(node["items"], where, seen)
            return pa.list_(pa.field("element", type_, nullable=nullable))
        if kind == "object":
            if not node.get("properties"):
                raise _Refused("an object without properties")
            return pa.struct([self.property(node, name, where, seen) for name in node["properties"]])
        if kind not in _TYPES:
            raise _Refused(f"the type {kind}")
        return _TYPES[kind]


class JsonSchemaDecoder:
    """Decodes JSON records behind the heads of the wire format.

    Parameters
    ----------
    decoder : Decoder
        What decodes the JSON behind them.
    writers : callable
        Raises `UnknownSchema` for an id that is no JSON Schema; which one it is makes no difference, because JSON names its fields.
    """

    def __init__(self, decoder: Decoder, writers: confluent.Schemas) -> None:
        self.schema = decoder.schema
        self._decoder = decoder
        self._writers = writers

    def decode(self, values: pa.LargeBinaryArray, headers: Headers | None = None) -> tuple[pa.Table, list[BadValue]]:
        """Decode values; see `Decoder`."""
        del headers
        return confluent.decode_by_id(self.schema, values, self._of_one)

    def _of_one(self, schema_id: int, values: pa.LargeBinaryArray) -> tuple[pa.Table, list[BadValue]]:
        self._writers(schema_id)
        return self._decoder.decode(confluent.bodies(values))
