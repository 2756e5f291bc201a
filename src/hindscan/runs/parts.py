"""Parts: how the rows of a partial are split by key, and how finished parts become one sorted table again.

Keeps promises 8 and 10. Which part a row is in follows from the values of its key columns and the number of parts, and from nothing else: not from workers,
grouping, or how the values are encoded. So all rows of a key, of whatever slice, meet in one part, and what combines a part holds one part of its children.

The hash is part of what a split partial means, and is changed only with `plans.keys.SPLIT_VERSION`. A value becomes 64 bits:

* integers, booleans and dates of any width as a 64-bit two's complement; times and durations of any unit as whole microseconds
* floats of any width as the bits of a double, all NaN as one, -0.0 as 0.0
* texts and binaries as the XXH3 of their bytes, dictionaries as their values
* null as `_NULL`

Columns are put together by ``h = mix(h ^ mix(value))`` from 0 on, in the order of the key, where ``mix`` is the finalizer of SplitMix64. The part is the
upper 32 bits of ``h`` times the number of parts, divided by 2**32.

::

    slice's table -> split -> one partial with a batch for each part -> tree of each part -> finish -> sort_by_key -> merge -> result
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt
import xxhash

from hindscan.errors import BadPartial

__all__ = ["check_joinable", "key_kinds", "merge", "sort_by_key", "split"]

#: Rows of a batch in which finished parts are stored and merged: a few megabytes.
BATCH_ROWS: Final = 65_536

#: Stands for null: an odd number that no short text and no small integer has.
_NULL: Final = np.uint64(0x9E3779B97F4A7C15)

#: Kinds of values that can be keys, each with an equality of its own: those of one kind that are equal have one hash.
_KINDS: Final[Mapping[str, Callable[[pa.DataType], bool]]] = {
    "null": pt.is_null,
    "whole number": pt.is_integer,
    "float": pt.is_floating,
    "boolean": pt.is_boolean,
    "text": pt.is_large_string,
    "binary": pt.is_large_binary,
    "date": pt.is_date,
    "timestamp": pt.is_timestamp,
    "time of day": pt.is_time,
    "duration": pt.is_duration,
}

_Hashes: TypeAlias = "np.ndarray[Any, np.dtype[np.uint64]]"
_Positions: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"


def split(table: pa.Table, by: Sequence[str], parts: int) -> list[pa.Table]:
    """Split a table's rows by key.

    Parameters
    ----------
    table : pa.Table
        Of any rows.
    by : sequence of str
        Its key columns.
    parts : int
        How many parts there are.

    Returns
    -------
    list of pa.Table
        One for each part, empty ones too; the rows of each in the order they had.

    Raises
    ------
    hindscan.errors.BadPartial
        A key column is not there, or of a type that cannot be a key.
    """
    hashes = np.zeros(table.num_rows, np.uint64)
    for values in _keys(table, by).columns:
        hashes = _mix(hashes ^ _mix(_bits(values)))
    numbers = ((hashes >> np.uint64(32)) * np.uint64(parts)) >> np.uint64(32)
    order = np.argsort(numbers.astype(np.uint16), kind="stable")  # of 16 bits: sorted by radix
    ends = np.cumsum(np.bincount(numbers.astype(np.int64), minlength=parts))
    grouped = _take(table, order)
    return [grouped.slice(end - count, count) for end, count in zip(ends, np.diff(ends, prepend=0), strict=True)]


def sort_by_key(table: pa.Table, by: Sequence[str]) -> pa.Table:
    """Sort the rows by key, nulls last; rows of one key stay in the order they have.

    Raises
    ------
    hindscan.errors.BadPartial
        As `split`.
    """
    ordered = _take(table, _order(_keys(table, by)))
    return pa.Table.from_batches(ordered.combine_chunks().to_batches(BATCH_ROWS), ordered.schema)


def key_kinds(schema: pa.Schema, by: Sequence[str]) -> tuple[str, ...]:
    """Name what kind of value each key column has: values of one kind that are equal lie in the same part, of whatever table.

    Returns
    -------
    tuple of str
        "null" for a column that knows no type because all of it is null, which goes with every kind.

    Raises
    ------
    hindscan.errors.BadPartial
        As `split`.
    """
    return tuple(_kind(kind) for kind in _keys(schema.empty_table(), by).schema.types)


def check_joinable(
    ours: pa.Schema, by: Sequence[str], theirs: pa.Schema, their_by: Sequence[str], *, name: str
) -> None:
    """Refuse to join tables whose keys are of different kinds: equal values would lie in different parts.

    Parameters
    ----------
    ours : pa.Schema
        Of one table.
    by : sequence of str
        Its key columns.
    theirs : pa.Schema
        Of the other.
    their_by : sequence of str
        Its key columns, each compared with ours at its place.
    name : str
        What the other table is called.

    Raises
    ------
    hindscan.errors.BadPartial
        Naming each pair that differs.
    """
    pairs = zip(by, key_kinds(ours, by), their_by, key_kinds(theirs, their_by), strict=True)
    wrong = [
        f"{column!r} is {ours.field(column).type} ({kind}) and {other!r} of {name} is {theirs.field(other).type} ({their_kind})"
        for column, kind, other, their_kind in pairs
        if kind != their_kind and "null" not in (kind, their_kind)
    ]
    if wrong:
        raise BadPartial(
            f"Joining with {name} by {', '.join(by)}: keys must be of one kind on both sides, because equal values of two kinds are split in two ways; "
            f"{'; '.join(wrong)}. Cast one of them in its step.",
            join=name,
        )


def merge(
    schema: pa.Schema, by: Sequence[str], readers: Sequence[Callable[[Sequence[str] | None], Iterator[pa.RecordBatch]]]
) -> Iterator[pa.Table]:
    """Merge parts, each sorted by key, to one sorted sequence of rows.

    Holds the key columns and two positions per row, and of everything else a batch of each part.

    Parameters
    ----------
    schema : pa.Schema
        Of what is given.
    by : sequence of str
        Key columns.
    readers : sequence of callable
        Of each part: given columns or None for all, its rows in batches.
    """
    fields = pa.schema([schema.field(name) for name in by])
    keys = [_cast(read(by), fields) for read in readers]
    starts = np.cumsum([0, *(table.num_rows for table in keys)])
    order = _order(_plain(pa.concat_tables(keys))).to_numpy()
    del keys
    streams = [_Stream(read(None), schema) for read in readers]
    for first in range(0, len(order), BATCH_ROWS):
        yield _interleaved(order[first : first + BATCH_ROWS].astype(np.int64), starts, streams)


def _interleaved(wanted: _Positions, starts: _Positions, streams: Sequence[_Stream]) -> pa.Table:
    """Give the rows at some positions of all parts one after another; of each part they are the next ones."""
    owners = np.searchsorted(starts, wanted, side="right") - 1
    counts = np.bincount(owners, minlength=len(streams))
    taken = pa.concat_tables([stream.take(int(count)) for stream, count in zip(streams, counts, strict=True)])
    # The n-th row of a part is the n-th that was taken of it.
    places = np.empty(len(wanted), np.int64)
    places[np.argsort(owners, kind="stable")] = np.arange(len(wanted))
    return _take(taken, places)


class _Stream:
    """The rows of one part, from the first on."""

    def __init__(self, batches: Iterator[pa.RecordBatch], schema: pa.Schema) -> None:
        self._batches = batches
        self._schema = schema
        self._held = schema.empty_table()

    def take(self, count: int) -> pa.Table:
        """Give the next rows."""
        while self._held.num_rows < count:
            more = pa.Table.from_batches([next(self._batches)]).cast(self._schema)
            self._held = pa.concat_tables([self._held, more])
        given, self._held = self._held.slice(0, count), self._held.slice(count)
        return given


def _take(table: pa.Table, positions: Any) -> pa.Table:
    """Give the rows at some positions. Arrow takes nothing of texts in the layout of views: they go by way of the plain one."""
    plain = [pa.field(field.name, _unviewed(field.type)) for field in table.schema]
    return table.cast(pa.schema(plain)).take(positions).cast(table.schema)


def _unviewed(kind: pa.DataType) -> pa.DataType:
    if pt.is_string_view(kind):
        return pa.large_string()
    return pa.large_binary() if pt.is_binary_view(kind) else kind


def _cast(batches: Iterator[pa.RecordBatch], schema: pa.Schema) -> pa.Table:
    tables = [pa.Table.from_batches([batch]).cast(schema) for batch in batches]
    return pa.concat_tables([schema.empty_table(), *tables])


def _order(keys: pa.Table) -> Any:
    """Give the stable order of rows by their keys."""
    return pc.sort_indices(keys, sort_keys=[(str(at), "ascending") for at in range(keys.num_columns)])


def _keys(table: pa.Table, by: Sequence[str]) -> pa.Table:
    """Give the key columns in layouts that can be hashed and sorted, named by their numbers."""
    wrong = [f"{name!r} is not there" for name in by if table.column_names.count(name) != 1]
    if not wrong:
        plain = _plain(table.select(list(by)))
        wrong = [f"{name!r} is {kind}" for name, kind in zip(by, plain.schema.types, strict=True) if not _kind(kind)]
    if wrong:
        raise BadPartial(
            f"Splitting a table by {', '.join(by)}: each key must be a column of what every step returns, of numbers, texts, binaries, booleans or times; "
            f"{'; '.join(wrong)}, and the columns are {table.column_names}. Return the key columns, or change by=.",
            by=list(by),
        )
    return plain


def _plain(keys: pa.Table) -> pa.Table:
    return pa.table([_decoded(column) for column in keys.columns], names=[str(at) for at in range(keys.num_columns)])


def _decoded(column: Any) -> Any:
    kind = column.type
    if pt.is_dictionary(kind):
        return _decoded(column.cast(kind.value_type))
    if pt.is_run_end_encoded(kind):
        return _decoded(pc.call_function("run_end_decode", [column]))
    if pt.is_string(kind) or pt.is_string_view(kind):
        return column.cast(pa.large_string())
    if pt.is_binary_view(kind) or pt.is_binary(kind) or pt.is_fixed_size_binary(kind):
        return column.cast(pa.large_binary())
    if pt.is_float16(kind):
        return column.cast(pa.float32())
    return column


def _kind(kind: pa.DataType) -> str:
    """Name the kind of a type as `_plain` gives it; empty for one that cannot be a key."""
    return next((name for name, is_so in _KINDS.items() if is_so(kind)), "")


def _bits(values: Any) -> _Hashes:
    """Give the 64 bits that each value stands for."""
    array = values.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks)
    kind = array.type
    if pt.is_null(kind):
        return np.full(len(array), _NULL)
    if pt.is_large_string(kind) or pt.is_large_binary(kind):
        bits = _text_bits(array)
    elif pt.is_floating(kind):
        doubles = pc.cast(array, pa.float64()).fill_null(0.0).to_numpy() + 0.0  # -0.0 + 0.0 is 0.0
        bits = np.where(np.isnan(doubles), np.nan, doubles).view(np.uint64)
    elif pt.is_uint64(kind):
        bits = array.fill_null(0).to_numpy()
    else:
        bits = _whole(array).fill_null(0).to_numpy().view(np.uint64)
    return np.where(array.is_valid().to_numpy(zero_copy_only=False), bits, _NULL) if array.null_count else bits


def _whole(array: Any) -> Any:
    """Give booleans, integers, dates and times as 64-bit integers."""
    kind = array.type
    if pt.is_date(kind):
        return array.cast(pa.date32()).cast(pa.int32()).cast(pa.int64())
    if pt.is_timestamp(kind):
        return array.cast(pa.timestamp("us", kind.tz), safe=False).cast(pa.int64())
    if pt.is_duration(kind):
        return array.cast(pa.duration("us"), safe=False).cast(pa.int64())
    if pt.is_time(kind):
        return array.cast(pa.time64("us"), safe=False).cast(pa.int64())
    return array.cast(pa.int64())


def _text_bits(array: Any) -> _Hashes:
    encoded = array.dictionary_encode()
    if not len(encoded.dictionary):
        return np.zeros(len(array), np.uint64)
    distinct = encoded.dictionary.cast(pa.large_binary()).to_pylist()
    hashes: _Hashes = np.fromiter((xxhash.xxh3_64_intdigest(text) for text in distinct), np.uint64, len(distinct))
    spread: _Hashes = hashes[encoded.indices.fill_null(0).to_numpy()]
    return spread


def _mix(bits: _Hashes) -> _Hashes:
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
