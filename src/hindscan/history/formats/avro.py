"""Avro records to columns: format `avro`, in a registry's wire format or bare with a declared schema.

Keeps promise 2 for Avro. A record is decoded by the schema it was written with and resolved to the pinned one by Avro's rules: reordered, added, dropped and
renamed fields, promoted numbers, defaults. What does not survive (a null where none may be, a long that no double holds, a symbol that is not
known) is a bad record, and so is one whose body does not end exactly where its schema says.

There are three ways from bytes to arrays of the writer's types, and one from there to columns. All accept the same records and give the same
arrays; see `avro_block` for the one exception. Two take a batch at once: `avro_fast` where the compiler is there and the columns are one value each, else `avro_block`
where polars is installed and the schema has only types it can read. Whatever they refuse is halved and judged, record by record, by fastavro, whose word is final.

::

    values -> heads -> (avro_fast | avro_block | fastavro) -> writer's arrays -> resolve -> columns
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO, Final, cast

import pyarrow as pa

from hindscan.history.formats import avro_block, avro_fast, confluent
from hindscan.history.formats.avro_arrays import finished
from hindscan.history.formats.avro_engine import from_engine, given, told_fields
from hindscan.history.formats.avro_schema import (
    AvroField,
    AvroType,
    arrow_type,
    default_value,
    matching,
    resolution_faults,
)
from hindscan.history.formats.decoder import (
    BadValue,
    Columns,
    Headers,
    Misfit,
    decode_by_halves,
    missing_extra,
)

__all__ = ["AvroDecoder", "avro_columns", "is_scanned"]

#: Fewer records are decoded one by one: a block for the engine costs more than it saves.
BLOCK_FROM: Final = 32
#: Blocks of one batch that may fail before the rest is judged record by record: each bad record fails about a dozen, and a panic writes to standard error.
FAILED_BLOCKS: Final = 64
#: Laid behind a body, so that what reads past its end is seen to do so instead of getting less than it asked for.
_BEYOND: Final = bytes(16)


def avro_columns(reader: AvroType) -> tuple[pa.Schema, list[tuple[str, str]]]:
    """Give the columns of a schema, and the fields that can be none with the reason."""
    good = [each for each in reader.fields if each.type.kind != "refused"]
    refused = [(each.name, each.type.refusal) for each in reader.fields if each.type.kind == "refused"]
    return pa.schema([pa.field(each.name, arrow_type(each.type)) for each in good]), refused


def is_scanned(reader: AvroType, names: Sequence[str]) -> bool:
    """Tell whether columns of a schema are read by a compiled loop, of records that were written with it."""
    return avro_fast.can_scan(reader, [each for each in reader.fields if each.name in names])


class AvroDecoder:
    """Decodes Avro records to columns of one reader schema.

    Parameters
    ----------
    schema : pyarrow.Schema
        The columns to decode, and no others.
    reader : AvroType
        The pinned schema.
    writers : callable, optional
        Gives the schema of an id. Default: values have no heads and were written with the pinned schema.
    compiled : bool
        Use compiled loops where they can read what is asked for.
    """

    def __init__(
        self, schema: pa.Schema, reader: AvroType, writers: confluent.Schemas | None = None, *, compiled: bool = False
    ) -> None:
        self.schema = schema
        self._reader = [each for name in schema.names for each in reader.fields if each.name == name]
        self._writers = writers
        self._compiled = compiled
        self._plans: dict[int, _Plan] = {}
        self._bare = self._planned(reader, 0) if writers is None else None

    def decode(self, values: pa.LargeBinaryArray, headers: Headers | None = None) -> tuple[pa.Table, list[BadValue]]:
        """Decode values; see `Decoder`."""
        del headers
        if self._bare is not None:
            return self._bare.decode(values)
        return confluent.decode_by_id(self.schema, values, lambda schema_id, part: self._plan(schema_id).decode(part))

    def _plan(self, schema_id: int) -> _Plan:
        if schema_id not in self._plans:
            assert self._writers is not None
            self._plans[schema_id] = self._planned(self._writers(schema_id), confluent.HEAD_BYTES)
        return self._plans[schema_id]

    def _planned(self, writer: AvroType, head_bytes: int) -> _Plan:
        return _Plan(self.schema, self._reader, writer, head_bytes, compiled=self._compiled)


class _Plan:
    """How records of one writer schema become the columns asked for."""

    def __init__(
        self, schema: pa.Schema, reader: Sequence[AvroField], writer: AvroType, head_bytes: int, *, compiled: bool
    ) -> None:
        self._schema = schema
        self._reader = reader
        self._head_bytes = head_bytes
        self._failed_blocks = 0
        wanted = AvroType(kind="record", fields=tuple(reader))
        self._faults = resolution_faults(writer, wanted, "")
        #: The writer's field that each column is read from; None: its default.
        self._from = [matching(each, writer) for each in reader]
        self._taken = list({each.name: each for each in self._from if each is not None}.values())
        if self._faults:
            return
        self._block: avro_fast.Scan | avro_block.Block | None = None
        if compiled:
            self._block = avro_fast.scan_of(writer, self._taken, head_bytes)
        if self._block is None and avro_block.installed():
            self._block = avro_block.block_of(writer, self._taken, head_bytes)
        self._names, self._read = _reference(writer, self._taken)

    def decode(self, values: pa.LargeBinaryArray) -> tuple[pa.Table, list[BadValue]]:
        if self._faults:
            field, reason = self._faults[0]
            bad = [BadValue(index=index, field=field, reason=reason) for index in range(len(values))]
            return self._schema.empty_table(), bad
        self._failed_blocks = 0
        return decode_by_halves(self._schema, values, self._all, _explain, (ValueError, pa.ArrowException))

    def _all(self, first: int, values: pa.LargeBinaryArray) -> Columns:
        del first
        if self._block is not None and len(values) >= BLOCK_FROM:
            arrays = self._at_once(self._block, values)
        else:
            records = [self._one(value) for value in cast("list[bytes]", values.to_pylist())]
            arrays = {
                each.name: _column([record[name] for record in records], each)
                for name, each in zip(self._names, self._taken, strict=True)
            }
        return [
            _default(each, len(values)) if source is None else finished(arrays[source.name], source.type, each)
            for each, source in zip(self._reader, self._from, strict=True)
        ]

    def _at_once(
        self, block: avro_fast.Scan | avro_block.Block, values: pa.LargeBinaryArray
    ) -> dict[str, pa.Array[Any]]:
        if self._failed_blocks >= FAILED_BLOCKS:
            raise Misfit("", "too many blocks failed")
        try:
            return block.read(values)
        except Misfit:
            self._failed_blocks += 1
            raise

    def _one(self, value: bytes) -> dict[str, Any]:
        body = io.BytesIO(value + _BEYOND)
        body.seek(self._head_bytes)
        try:
            record: dict[str, Any] = self._read(body)
        except EOFError as fault:
            # Whose text names an address, which is another in every process.
            raise Misfit("", "is no record of its schema: it ends before its last field does") from fault
        except Exception as fault:
            raise Misfit("", f"is no record of its schema: {type(fault).__name__}: {fault}".rstrip(": ")) from fault
        beyond = body.tell() - len(value)
        if beyond:
            said = (
                "ends before its last field does"
                if beyond > 0
                else f"ends at byte {len(value) + beyond} of {len(value)}"
            )
            raise Misfit("", f"is no record of its schema: it {said}")
        return record


def _explain(index: int, fault: Exception) -> BadValue:
    return BadValue(index=index, field=getattr(fault, "field", ""), reason=str(fault))


def _reference(writer: AvroType, taken: Sequence[AvroField]) -> tuple[list[str], Callable[[BinaryIO], dict[str, Any]]]:
    """Make the function that reads one record with fastavro, and its names of the fields; those that are not taken are skipped."""
    try:
        from fastavro import parse_schema, schemaless_reader
    except ImportError as fault:
        raise missing_extra("format avro", "fastavro", "avro") from fault
    fields = told_fields(writer)
    names = [fields[each.name]["name"] for each in taken]
    written = parse_schema({"type": "record", "name": "r", "fields": list(fields.values())})
    read = parse_schema({"type": "record", "name": "r", "fields": [fields[each.name] for each in taken]})

    def one(body: BinaryIO) -> dict[str, Any]:
        return cast(dict[str, Any], schemaless_reader(body, written, read))

    return names, one


def _column(values: list[Any], field: AvroField) -> pa.Array[Any]:
    try:
        array = pa.array(values, given(field.type))
    except (OverflowError, ValueError, pa.ArrowException) as fault:
        raise Misfit(field.name, f"does not fit {arrow_type(field.type)}: {fault}") from fault
    return from_engine(array, field.type, field.name)


def _default(field: AvroField, count: int) -> pa.Array[Any]:
    kind = arrow_type(field.type, logical=False)
    whole = pa.array([default_value(field)], kind).take(pa.array([0] * count, pa.int64()))
    return finished(whole, field.type, field)
