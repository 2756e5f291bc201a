"""One value of a schema registry's wire format at a time, as JSON has it: for records that are events, read by the decoders of histories.

Keeps promise 2 for a record that starts a run: it is decoded by the schema it was written with, by the same rules as when it is history (`formats`), and a
field that can be no column is refused by name. Times are ISO 8601 texts, decimals texts with all their digits, bytes base64, maps lists of key and value. Of JSON
Schema the value is JSON already; its head must name a schema of that kind.

::

    value -> head -> schema of the registry -> decoder -> a row -> JSON values
"""

from __future__ import annotations

import base64
import datetime as dt
import decimal
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa

from hindscan.events.strict import parse_json
from hindscan.history.formats import confluent
from hindscan.history.formats.choose import KINDS
from hindscan.history.formats.decoder import Decoder, Misfit
from hindscan.kafka.registry import RegisteredSchema, SchemaRegistry

__all__ = ["registry_values"]


def registry_values(
    format_: str, settings: Mapping[str, str | int | float | bool], name: str
) -> Callable[[bytes], Any]:
    """Make the function that reads one value in a registry's wire format.

    Parameters
    ----------
    format_ : "avro", "protobuf" or "jsonschema"
        Of the values.
    settings : mapping
        Of the registry.
    name : str
        Its name in the project file.

    Returns
    -------
    callable
        Takes a value. It raises `ValueError` for a bad one, and what the registry raises where it does not answer.
    """
    registry = SchemaRegistry(settings, name)
    kind = KINDS[format_]
    schemas: dict[int, RegisteredSchema] = {}
    decoders: dict[object, Decoder] = {}

    def schema(schema_id: int) -> RegisteredSchema:
        if schema_id not in schemas:
            found = registry.schema(schema_id, kind)
            if found is None:
                raise ValueError(f"schema id {schema_id} is not in registry {name}")
            if found.kind != kind:
                raise ValueError(f"schema id {schema_id} is of {found.kind}; {kind} is required")
            schemas[schema_id] = found
        return schemas[schema_id]

    def read(value: bytes) -> Any:
        values = pa.array([value], pa.large_binary())
        ids, bad = confluent.split(values)
        if bad:
            raise ValueError(f"it {bad[0].reason}")
        schema_id = int(ids[0])
        written = schema(schema_id)
        if format_ == "jsonschema":
            return parse_json(value[confluent.HEAD_BYTES :])
        which = (schema_id, _message_at(value) if format_ == "protobuf" else ())
        if which not in decoders:
            decoders[which] = _protobuf(written, *which) if format_ == "protobuf" else _avro(written, schema_id)
        table, wrong = decoders[which].decode(values)
        if wrong:
            raise ValueError(f"{wrong[0].field or 'it'} {wrong[0].reason}")
        return _as_json(table.to_pylist()[0])

    return read


def _avro(written: RegisteredSchema, schema_id: int) -> Decoder:
    from hindscan.history.formats.avro import AvroDecoder, avro_columns
    from hindscan.history.formats.avro_schema import parse_avro

    parsed = parse_avro([text for _, text in written.files])
    return AvroDecoder(_whole(schema_id, *avro_columns(parsed)), parsed, lambda _: parsed)


def _message_at(value: bytes) -> tuple[int, ...]:
    from hindscan.history.formats.protobuf import read_indexes

    try:
        return read_indexes(value)[0]
    except Misfit as fault:
        raise ValueError(f"it {fault}") from None


def _protobuf(written: RegisteredSchema, schema_id: int, indexes: tuple[int, ...]) -> Decoder:
    from hindscan.history.formats.protobuf import ProtobufDecoder
    from hindscan.history.formats.protobuf_schema import load_file, message_at, protobuf_columns

    file = load_file(written)
    message = message_at(file, indexes)
    if message is None:
        raise ValueError(f"it is a message at {list(indexes)}, which schema id {schema_id} lacks")
    return ProtobufDecoder(_whole(schema_id, *protobuf_columns(message)), message, lambda _: file)


def _whole(schema_id: int, columns: pa.Schema, refused: list[tuple[str, str]]) -> pa.Schema:
    """Give the columns, if every field is one."""
    if refused:
        listed = "; ".join(f"{at} is {why}" for at, why in refused)
        raise ValueError(f"schema id {schema_id} has fields that cannot be read: {listed}")
    return columns


def _as_json(value: Any) -> Any:
    match value:
        case dict():
            return {name: _as_json(part) for name, part in value.items()}
        case list():
            return [_as_json(part) for part in value]
        case dt.datetime():
            return value.isoformat().replace("+00:00", "Z")
        case dt.date() | dt.time():
            return value.isoformat()
        case decimal.Decimal():
            return str(value)
        case bytes():
            return base64.b64encode(value).decode()
    return value
