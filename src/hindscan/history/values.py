"""One Avro value at a time, as JSON has it: for records that are events, read by the decoder of histories.

Keeps promise 2 for a record that starts a run: it is decoded by the schema it was written with, by the same rules as when it is history (`formats.avro`), and a field
that can be no column is refused by name. Times are ISO 8601 texts, decimals texts with all their digits, bytes base64, maps lists of key and value.

::

    value -> head -> schema of the registry -> AvroDecoder -> a row -> JSON values
"""

from __future__ import annotations

import base64
import datetime as dt
import decimal
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa

from hindscan.history.formats import confluent
from hindscan.history.formats.avro import AvroDecoder, avro_columns
from hindscan.history.formats.avro_schema import AvroType, parse_avro
from hindscan.kafka_registry import SchemaRegistry

__all__ = ["avro_values"]


def avro_values(settings: Mapping[str, str | int | float | bool], name: str) -> Callable[[bytes], Any]:
    """Make the function that reads one value in a registry's wire format.

    Parameters
    ----------
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
    decoders: dict[int, AvroDecoder] = {}

    def schema(schema_id: int) -> AvroType:
        found = registry.schema(schema_id, "AVRO")
        if found is None:
            raise ValueError(f"schema id {schema_id} is not in registry {name}")
        if found.kind != "AVRO":
            raise ValueError(f"schema id {schema_id} is of {found.kind}; AVRO is required")
        return parse_avro([text for _, text in found.files])

    def read(value: bytes) -> Any:
        values = pa.array([value], pa.large_binary())
        ids, bad = confluent.split(values)
        if bad:
            raise ValueError(f"it {bad[0].reason}")
        schema_id = int(ids[0])
        if schema_id not in decoders:
            written = schema(schema_id)
            columns, refused = avro_columns(written)
            if refused:
                raise ValueError(
                    f"schema id {schema_id} has fields that cannot be read: {'; '.join(f'{at} is {why}' for at, why in refused)}"
                )
            decoders[schema_id] = AvroDecoder(columns, written, lambda _: written)
        table, wrong = decoders[schema_id].decode(values)
        if wrong:
            raise ValueError(f"{wrong[0].field or 'it'} {wrong[0].reason}")
        return _as_json(table.to_pylist()[0])

    return read


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
