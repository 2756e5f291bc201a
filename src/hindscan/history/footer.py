"""What the footer of a Parquet file says: columns, row groups, least and greatest times.

Keeps the metadata half of promises 1, 2 and 10 for Parquet. A footer is a few kilobytes, read in parallel, and all that pinning and planning look at. What
a footer cannot show is not assumed: times are known only where the file counts no null among them, and the bytes of a row group are
at least what its rows take in memory, because a run-length encoded column can be ten thousand times smaller on disk than read.

Stands before `parquet`, which pins what is found here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, cast

import pyarrow as pa
import pyarrow.parquet as pq

from hindscan.errors import CorruptData, SchemaMismatch, SourceChanged
from hindscan.files import Place
from hindscan.history.int96 import INT96_UNIT
from hindscan.history.snapshot import RowGroup

__all__ = ["Footer", "greatest_times", "plain_type", "read_footer"]

_UNIT_NANOS: Final = {"milliseconds": 1_000_000, "microseconds": 1000, "nanoseconds": 1}
_DAY_MICROS: Final = 86_400_000_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Footer:
    """One file's footer, as far as pinning needs it."""

    #: Columns with plain types (see `plain_type`).
    schema: pa.Schema
    row_groups: tuple[RowGroup, ...]
    #: Columns in which some row group has, or may have, a null.
    may_be_null: frozenset[str]
    #: Nulls that the statistics count in the time column.
    null_times: int = 0


def read_footer(file: Place, shown: str, time: str | None, rename: Mapping[str, str] | None = None) -> Footer:
    """Read the footer of one file.

    Parameters
    ----------
    file : Place
        The file.
    shown : str
        Its name in messages.
    time : str, optional
        The time column, whose statistics are wanted.
    rename : mapping of str to str, optional
        New names of columns by their old ones; the footer is given with the new ones.

    Raises
    ------
    CorruptData
        The file is no Parquet file, cut short or damaged.
    SourceChanged
        The file has gone since it was listed.
    SchemaMismatch
        Two columns have one name, or a renamed column is there under both of its own.
    """
    rename = rename or {}
    try:
        with file.filesystem.open_input_file(file.path) as stream:
            metadata = pq.read_metadata(stream)
            arrow = metadata.schema.to_arrow_schema()
        # Arrow's own copy of the schema knows more (durations, zones) and is there when Arrow or Polars wrote the file.
        with file.filesystem.open_input_file(file.path) as stream:
            arrow = pq.ParquetFile(stream, metadata=metadata, coerce_int96_timestamp_unit=INT96_UNIT).schema_arrow
        _refuse_doubles(arrow.names, rename, shown)
        schema = pa.schema([pa.field(rename.get(f.name, f.name), plain_type(f.type), f.nullable) for f in arrow])
        return _footer(metadata, schema, time, rename)
    except FileNotFoundError as fault:
        raise SourceChanged(
            f"While reading the footer of {shown}: the file must be there as listed; it has gone. Run again.",
            path=shown,
        ) from fault
    except (pa.ArrowException, OSError, ValueError, UnicodeDecodeError) as fault:
        raise CorruptData(
            f"While reading the footer of {shown}: a whole Parquet file is required; {fault}. "
            "Restore the file, or take it out of the history.",
            path=shown,
        ) from fault


def _refuse_doubles(names: list[str], rename: Mapping[str, str], shown: str) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise SchemaMismatch(
            f"While reading the footer of {shown}: every column must have a name of its own; several have {', '.join(map(repr, twice))}. "
            "Write the file with other names, or take it out of the history.",
            path=shown,
        )
    now = [rename.get(name, name) for name in names]
    doubled = [f"{new} (as {old})" for old, new in rename.items() if old in names and now.count(new) > 1]
    if doubled:
        raise SchemaMismatch(
            f"While reading the footer of {shown}: a renamed column must be there under one name; the file has {', '.join(doubled)} under several. "
            "Correct `rename`, or take the file out of the history.",
            path=shown,
        )


def _footer(metadata: pq.FileMetaData, schema: pa.Schema, time: str | None, rename: Mapping[str, str]) -> Footer:
    # Leaves of nested columns have dotted paths; only flat columns are looked at by name.
    paths = [metadata.schema.column(at).path for at in range(metadata.num_columns)]
    position = {rename.get(path, path): at for at, path in enumerate(paths)}
    width = sum(_width(field.type) for field in schema)
    groups, may_be_null, null_times = [], set(), 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        for field in schema:
            if field.nullable and _nulls(group, position.get(field.name)) != 0:
                may_be_null.add(field.name)
        least = greatest = None
        if time in position:
            least, greatest = _times(group.column(position[time]), metadata.schema.column(position[time]))
            null_times += _nulls(group, position[time]) or 0
        groups.append(
            RowGroup(
                rows=group.num_rows,
                bytes=max(group.total_byte_size, group.num_rows * width // 8),
                least_time=least,
                greatest_time=greatest,
            )
        )
    return Footer(schema=schema, row_groups=tuple(groups), may_be_null=frozenset(may_be_null), null_times=null_times)


def greatest_times(metadata: pq.FileMetaData, groups: range, time: str, rename: Mapping[str, str]) -> list[int | None]:
    """Give the greatest time of each of some row groups that has rows, as `read_footer` would; None where it is not known."""
    paths = [metadata.schema.column(at).path for at in range(metadata.num_columns)]
    position = {rename.get(path, path): at for at, path in enumerate(paths)}
    filled = [group for group in map(metadata.row_group, groups) if group.num_rows]
    if time not in position:
        return [None] * len(filled)
    at = position[time]
    return [_times(group.column(at), metadata.schema.column(at))[1] for group in filled]


def _nulls(group: pq.RowGroupMetaData, position: int | None) -> int | None:
    if position is None:
        return None
    statistics: Any = group.column(position).statistics
    return statistics.null_count if statistics is not None and statistics.has_null_count else None


def _times(chunk: pq.ColumnChunkMetaData, column: Any) -> tuple[int | None, int | None]:
    """Give least and greatest time in microseconds, rounded down, where the statistics have both and count no null."""
    statistics: Any = chunk.statistics
    if statistics is None or not statistics.has_min_max or not statistics.has_null_count or statistics.null_count:
        return None, None
    logical = json.loads(column.logical_type.to_json())
    match logical.get("Type"), chunk.physical_type:
        case "Timestamp", "INT64":
            nanos = _UNIT_NANOS[logical["timeUnit"]]
            return statistics.min_raw * nanos // 1000, statistics.max_raw * nanos // 1000
        case "Date", "INT32":
            return statistics.min_raw * _DAY_MICROS, statistics.max_raw * _DAY_MICROS
    return None, None


def _width(kind: pa.DataType) -> int:
    """Bits a value takes in memory at least."""
    if pa.types.is_struct(kind):
        return sum(_width(field.type) for field in cast(Any, kind).fields)
    try:
        return kind.bit_width
    except ValueError:
        return 32  # of variable length: an offset at least


def plain_type(kind: pa.DataType) -> pa.DataType:
    """Give the type that rows of this type are read as: encodings that differ only in memory become one, zones become UTC."""
    inner: Any = kind
    if pa.types.is_dictionary(kind):
        return plain_type(inner.value_type)
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return pa.binary()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.list_(pa.field("element", plain_type(inner.value_type), inner.value_field.nullable))
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(f.name, plain_type(f.type), f.nullable) for f in inner.fields])
    if pa.types.is_map(kind):
        return pa.map_(plain_type(inner.key_type), plain_type(inner.item_type))
    if pa.types.is_timestamp(kind) and inner.tz is not None:
        return pa.timestamp(inner.unit, "UTC")
    return kind
