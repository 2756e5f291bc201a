"""Record values as they are: format `bytes`, one column `value`.

Keeps promise 2 trivially for binary, and strictly for text: a value that is no UTF-8 is bad, never mended.
"""

from __future__ import annotations

import pyarrow as pa

from hindscan.history.formats.decoder import BadValue, Columns, Headers, decode_by_halves

__all__ = ["SCHEMA", "RawDecoder", "raw_column_faults"]

#: What a topic of bytes has where nothing is declared.
SCHEMA = pa.schema([pa.field("value", pa.binary())])


def raw_column_faults(schema: pa.Schema) -> list[tuple[str, str]]:
    """Find what is wrong with declared columns, as (field, text)."""
    if schema.names == ["value"] and (
        pa.types.is_binary(schema.field(0).type) or pa.types.is_string(schema.field(0).type)
    ):
        return []
    return [("columns", 'must be { value = "binary" } or { value = "string" } with format = "bytes", or left out')]


class RawDecoder:
    """Gives values as they are.

    Parameters
    ----------
    schema : pyarrow.Schema
        One column of binary or string.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema

    def decode(self, values: pa.LargeBinaryArray, headers: Headers | None = None) -> tuple[pa.Table, list[BadValue]]:
        """Decode values; see `Decoder`."""
        del headers
        return decode_by_halves(self.schema, values, self._all, _explain, (pa.ArrowException, ValueError))

    def _all(self, first: int, values: pa.LargeBinaryArray) -> Columns:
        del first
        return [values.cast(pa.binary()).cast(column.type) for column in self.schema]


def _explain(index: int, fault: Exception) -> BadValue:
    return BadValue(index=index, field="value", reason=str(fault))
