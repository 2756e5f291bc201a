"""The decoder and the columns of each format, by its name in the project file.

Keeps promise 2 by naming every format in one place: what is not here is refused when the project file is read. Libraries that only one format needs are loaded where a
history has that format.

::

    format + columns + Coding -> make_decoder -> Decoder;  format + Coding -> columns_of -> columns + refused fields
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import pyarrow as pa

from hindscan.history.formats.confluent import UnknownSchema
from hindscan.history.formats.decoder import Decoder
from hindscan.history.formats.json import JsonDecoder, json_column_faults
from hindscan.history.formats.raw import RawDecoder, raw_column_faults
from hindscan.history.json_fast import FastJson, can_scan
from hindscan.kafka.registry import RegisteredSchema

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor

    from hindscan.history.snapshot import Coding

__all__ = [
    "FORMATS",
    "KINDS",
    "WITH_HEADERS",
    "Lookup",
    "columns_of",
    "declared_column_faults",
    "is_compiled",
    "make_decoder",
    "reading_identity",
]

#: What can be decoded.
FORMATS: Final = ("json", "jsonschema", "avro", "protobuf", "arrow", "cloudevents", "bytes")
#: Formats whose records follow a schema, and what registries call that.
KINDS: Final = {"avro": "AVRO", "protobuf": "PROTOBUF", "jsonschema": "JSON"}
#: Formats that lie in a record's headers too.
WITH_HEADERS: Final = frozenset({"cloudevents"})

#: Gives the schema of an id; raises `UnknownSchema`.
Lookup = Callable[[int], RegisteredSchema]
_T = TypeVar("_T")


def declared_column_faults(schema: pa.Schema, format_: str) -> list[tuple[str, str]]:
    """Find the declared columns that a format cannot give, as (field, text); where a schema decides, it is asked when the history is pinned."""
    match format_:
        case "json":
            return json_column_faults(schema)
        case "bytes":
            return raw_column_faults(schema)
        case "cloudevents":
            from hindscan.history.formats.cloudevents import cloudevents_column_faults

            return cloudevents_column_faults(schema)
    return []


def columns_of(format_: str, coding: Coding) -> tuple[pa.Schema, list[tuple[str, str]]]:
    """Give the columns that the pinned schema gives, and its fields that can be none with the reason.

    Raises
    ------
    ValueError
        It is no schema of the format.
    """
    match format_:
        case "avro":
            from hindscan.history.formats.avro import avro_columns
            from hindscan.history.formats.avro_schema import parse_avro

            return avro_columns(parse_avro([text for _, text in coding.reader.files]))
        case "protobuf":
            from hindscan.history.formats.protobuf_schema import protobuf_columns

            return protobuf_columns(_message(coding))
    from hindscan.history.formats.json_schema import json_schema_columns

    return json_schema_columns(coding.reader)


def make_decoder(
    format_: str, schema: pa.Schema, coding: Coding | None, lookup: Lookup, *, compiled: bool = False
) -> Decoder:
    """Make the decoder of a format for the columns asked for.

    Parameters
    ----------
    format_ : str
        One of `FORMATS`.
    schema : pyarrow.Schema
        The columns.
    coding : Coding, optional
        The pinned schemas, for the formats in `KINDS`.
    lookup : callable
        Gives the schema of an id.
    compiled : bool
        Use compiled loops where they can read the columns: the compiler must be there.
    """
    match format_:
        case "json":
            return _json(schema, compiled=compiled)
        case "bytes":
            return RawDecoder(schema)
        case "arrow":
            from hindscan.history.formats.arrow import ArrowDecoder

            return ArrowDecoder(schema)
        case "cloudevents":
            from hindscan.history.formats.cloudevents import CloudEventsDecoder

            return CloudEventsDecoder(schema)
    assert coding is not None
    wire = coding.registry is not None
    match format_:
        case "avro":
            from hindscan.history.formats.avro import AvroDecoder
            from hindscan.history.formats.avro_schema import parse_avro

            def parsed(found: RegisteredSchema) -> Any:
                return parse_avro([text for _, text in found.files])

            writers = _made(parsed, lookup) if wire else None
            return AvroDecoder(schema, parsed(coding.reader), writers, compiled=compiled)
        case "protobuf":
            from hindscan.history.formats.protobuf import ProtobufDecoder
            from hindscan.history.formats.protobuf_schema import load_file

            return ProtobufDecoder(schema, _message(coding), _made(load_file, lookup) if wire else None)
    from hindscan.history.formats.json_schema import JsonSchemaDecoder

    decoder = _json(schema, compiled=compiled)
    return JsonSchemaDecoder(decoder, lookup) if wire else decoder


def is_compiled(format_: str, schema: pa.Schema, coding: Coding | None) -> bool:
    """Tell whether `make_decoder` has compiled loops for columns, so that decoding holds no interpreter's lock; what they leave to others is taken for the exception.

    Parameters
    ----------
    format_ : str
        One of `FORMATS`. Protobuf, Arrow and CloudEvents are decoded record by record, by objects of Python.
    schema : pyarrow.Schema
        The columns.
    coding : Coding, optional
        The pinned schemas.
    """
    match format_:
        case "json" | "jsonschema":
            return can_scan(schema)
        case "avro":
            from hindscan.history.formats.avro import is_scanned
            from hindscan.history.formats.avro_schema import parse_avro

            assert coding is not None
            return is_scanned(parse_avro([text for _, text in coding.reader.files]), schema.names)
    return format_ == "bytes"  # they are cast


def _json(schema: pa.Schema, *, compiled: bool) -> Decoder:
    decoder = JsonDecoder(schema)
    return FastJson(schema, decoder.decode) if compiled and can_scan(schema) else decoder


def reading_identity(format_: str, schema: pa.Schema, coding: Coding) -> object:
    """Tell in JSON values what of the pinned schemas shows in these columns, so that a new field elsewhere makes no partial anew."""
    wire = coding.registry is not None
    match format_:
        case "avro":
            from hindscan.history.formats.avro_schema import parse_avro, reading_of

            fields = {each.name: each for each in parse_avro([text for _, text in coding.reader.files]).fields}
            wanted = [fields[name] for name in schema.names if name in fields]
            return [wire, [[each.name, list(each.aliases), each.default, reading_of(each.type)] for each in wanted]]
        case "protobuf":
            from hindscan.history.formats.protobuf_schema import reading_of_message

            return [wire, reading_of_message(_message(coding), schema.names)]
    return [wire]  # JSON names its fields: the columns say all


def _message(coding: Coding) -> Descriptor:
    from hindscan.history.formats.protobuf_schema import load_file

    file = load_file(coding.reader)
    try:
        found: Descriptor = file.pool.FindMessageTypeByName(coding.message or "")
    except KeyError as fault:
        raise ValueError(
            f"must have the message {coding.message}; it has {', '.join(file.message_types_by_name)}"
        ) from fault
    return found


def _made(make: Callable[[RegisteredSchema], _T], lookup: Lookup) -> Callable[[int], _T]:
    def made(schema_id: int) -> _T:
        try:
            return make(lookup(schema_id))
        except UnknownSchema:
            raise
        except ValueError as fault:
            raise UnknownSchema(f"schema id {schema_id} {fault}") from fault

    return made
