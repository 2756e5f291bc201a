"""Arrow records to columns: format `arrow`, each value an IPC stream of exactly one row.

Keeps promise 2 for Arrow. One record is one row, because a record's offset, time and key are one; a stream of no row or several is bad, and says how many it
has. Every column asked for must be in the stream with the pinned type (a dictionary counts as the type of its values); others are skipped. What comes from
outside is validated in full before anything looks into it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, cast

import pyarrow as pa

from hindscan.history.formats.decoder import BadValue, Columns, Headers, Misfit, decode_by_halves

__all__ = ["ArrowDecoder", "arrow_columns"]


def arrow_columns(values: Iterable[bytes]) -> pa.Schema | None:
    """Give the columns of the first value that is an IPC stream; None if there is none."""
    for value in values:
        try:
            found = pa.ipc.open_stream(pa.py_buffer(value)).schema
        except (pa.ArrowException, OSError):
            continue
        return pa.schema([pa.field(each.name, _stored(each.type), nullable=each.nullable) for each in found])
    return None


def _stored(type_: pa.DataType) -> pa.DataType:
    return cast(Any, type_).value_type if pa.types.is_dictionary(type_) else type_


class ArrowDecoder:
    """Decodes IPC streams to columns of one schema.

    Parameters
    ----------
    schema : pyarrow.Schema
        The columns to decode, and no others.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema

    def decode(self, values: pa.LargeBinaryArray, headers: Headers | None = None) -> tuple[pa.Table, list[BadValue]]:
        """Decode values; see `Decoder`."""
        del headers
        return decode_by_halves(self.schema, values, self._all, _explain, (ValueError, pa.ArrowException, OSError))

    def _all(self, first: int, values: pa.LargeBinaryArray) -> Columns:
        del first
        rows = pa.concat_tables([self._one(value) for value in cast("list[bytes]", values.to_pylist())])
        return [pa.concat_arrays(rows.column(at).chunks) for at in range(rows.num_columns)]

    def _one(self, value: bytes) -> pa.Table:
        source = pa.BufferReader(value)
        with pa.ipc.open_stream(source) as stream:
            table = stream.read_all()
        if source.tell() != source.size():
            raise Misfit("", f"has {source.size() - source.tell()} bytes behind the end of its stream")
        if table.num_rows != 1:
            raise Misfit("", f"has {table.num_rows} rows; a record must have exactly one")
        columns = []
        for wanted in self.schema:
            if table.schema.names.count(wanted.name) != 1:
                raise Misfit(
                    wanted.name, f"must be in the stream once; it has {', '.join(table.schema.names) or 'no columns'}"
                )
            column = table.column(wanted.name)
            column.validate(full=True)
            if _stored(column.type) != wanted.type:
                raise Misfit(wanted.name, f"must be {wanted.type}, found {column.type}")
            if column.null_count and not wanted.nullable:
                raise Misfit(wanted.name, "is null, which the pinned schema does not allow")
            columns.append(column.cast(wanted.type))
        return pa.Table.from_arrays(columns, schema=self.schema)


def _explain(index: int, fault: Exception) -> BadValue:
    return BadValue(index=index, field=getattr(fault, "field", ""), reason=str(fault) or type(fault).__name__)
