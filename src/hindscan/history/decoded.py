"""Rows of a Parquet file for an engine that filters them: decoded at once, few texts as the dictionary they lie in, a folder's value as one value.

Serves promise 2 at an engine's pace. What is decoded is what Arrow's scanner gives, checksums verified, in the same order; only its encoding differs, which no
query sees. A column of few different texts is spelt out for every row by whoever asks for texts, and that takes longer than all the numbers beside it; engines compute
with the dictionary. Where a condition compares columns with values, these are decoded first, row group by row group, and of the others only what is in groups that
have rows which pass; only such rows are kept, so that what is held is what passes, not what lies there. Where a file's columns are not of the pinned types they
must be converted, which is the scanner's work: then there is no table.

Stands beside `parquet_reader`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from hindscan.history.parquet_files import OpenFile

if TYPE_CHECKING:
    from pyarrow import Scalar

    from hindscan.condition import Where

__all__ = ["decoded"]

#: Bytes of a value, at most and on average, of a column that is taken as a dictionary: its places in the dictionary, and nearly no texts.
_CODED_BYTES: Final = 2


def decoded(
    file: OpenFile,
    row_groups: Sequence[int],
    schema: pa.Schema,
    *,
    constants: Mapping[str, Scalar[Any]],
    where: Where,
    int96: Literal["us", "ns"],
    verify: bool,
) -> pa.Table | None:
    """Decode columns of some row groups, perhaps without rows that do not fulfil a condition.

    Parameters
    ----------
    file : OpenFile
        The file.
    row_groups : sequence of int
        Their numbers, in order.
    schema : pyarrow.Schema
        The columns wanted, with their pinned types.
    constants : mapping
        Values that all rows share, by column: those of the folders' names.
    where : Where
        Rows that do not fulfil it may be left out.
    int96 : {"us", "ns"}
        Unit in which times of twelve bytes are read.
    verify : bool
        Verify page checksums.

    Returns
    -------
    pyarrow.Table or None
        The columns in order, texts and constants perhaps as dictionaries of their types. None where a column is not stored as it is pinned.

    Raises
    ------
    pyarrow.ArrowException or OSError
        The file does not read.
    """
    stored = [field for field in schema if field.name not in constants]
    physical = file.fragment.physical_schema
    # Arrow takes a dot for the way into a struct; and a file may have of its own what its folder says.
    if any("." in name or name in constants for name in physical.names):
        return None
    if not all(_is_stored(physical, field) for field in stored):
        return None
    metadata = file.metadata
    with file.place.filesystem.open_input_file(file.place.path) as stream:
        parquet = pq.ParquetFile(
            stream,
            metadata=metadata,
            read_dictionary=_coded(metadata, row_groups, stored),
            coerce_int96_timestamp_unit=int96,
            page_checksum_verification=verify,
            pre_buffer=not file.place.is_local,
        )

        def read(group: int, names: Sequence[str]) -> pa.Table:
            wanted = [name for name in names if name not in constants]
            table = parquet.read_row_group(group, columns=wanted, use_threads=False)
            rows = metadata.row_group(group).num_rows
            columns = [_repeated(constants[name], rows) if name in constants else table.column(name) for name in names]
            return pa.table(columns, names=list(names))

        found = [_passing(functools.partial(read, group), schema.names, where) for group in row_groups]
    tables = [table for table in found if table is not None]
    return pa.concat_tables(tables) if tables else schema.empty_table()


def _passing(read: Callable[[Sequence[str]], pa.Table], names: Sequence[str], where: Where) -> pa.Table | None:
    """Read the rows of one row group that may fulfil a condition; None if there are none."""
    judged = read(where.columns if where.is_implied else names)
    kept = where.keeps_plainly(judged)
    passing = judged.num_rows if kept is None else pc.sum(kept).as_py()
    if not passing:
        return None
    rest = read([name for name in names if name not in judged.column_names])
    columns = [(judged if name in judged.column_names else rest).column(name) for name in names]
    rows = pa.table(columns, names=list(names))
    return rows if kept is None or passing == rows.num_rows else rows.filter(kept)


def _is_stored(physical: pa.Schema, field: pa.Field[Any]) -> bool:
    """Tell whether a column lies in the file once, flat, and with the pinned type or as a dictionary of it."""
    at = physical.get_field_index(field.name)
    if at < 0:
        return False
    kind: Any = physical.field(at).type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return not pa.types.is_nested(kind) and bool(kind == field.type)


def _coded(metadata: pq.FileMetaData, row_groups: Collection[int], fields: Sequence[pa.Field[Any]]) -> list[str]:
    """Give the columns of texts that lie as dictionaries of few."""
    texts = {field.name for field in fields if pa.types.is_string(field.type) or pa.types.is_binary(field.type)}
    coded = []
    for at in range(metadata.num_columns if texts else 0):
        if metadata.schema.column(at).path in texts:
            chunks = [metadata.row_group(number).column(at) for number in row_groups]
            few = sum(c.total_uncompressed_size for c in chunks) <= _CODED_BYTES * sum(c.num_values for c in chunks)
            if few and all(c.has_dictionary_page for c in chunks):
                coded.append(metadata.schema.column(at).path)
    return coded


def _repeated(value: Scalar[Any], rows: int) -> pa.Array[Any]:
    """Give one value for all rows."""
    places: Any = pa.array(np.zeros(rows, np.int8)) if value.is_valid else pa.nulls(rows, pa.int8())
    texts = pa.array([value.as_py()] if value.is_valid else [], value.type)
    return pa.DictionaryArray.from_arrays(places, texts, safe=False)
