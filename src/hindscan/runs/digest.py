"""The digest of a table's content: columns, order, types and values, and nothing else.

Part of promises 6, 8 and 9: two computations of one slice, a partial before and after it was stored, and a result and its Parquet file are compared
by it. It does not depend on how the rows are cut into chunks, on the bytes of a file, on metadata, nor on which of several encodings of the same
values was chosen: a dictionary or run-end encoding counts as its values, large or view layouts as the plain one, and a time as Parquet gives it
back (seconds as milliseconds, 64-bit dates as dates).
Nulls are not values: what lies under them does not count. All NaN are one; 0.0 and -0.0 are two, because their bits differ and a difference of bits must show.

::

    table -> column by column: name, type, validity, values (lengths, then bytes, for what has a length) -> "xxh3:..."
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pt
import xxhash

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["Columned", "table_digest"]

#: Bits that stand for every NaN, by width in bytes.
_NAN = {2: (np.uint16, 0x7E00), 4: (np.uint32, 0x7FC00000), 8: (np.uint64, 0x7FF8000000000000)}


#: One chunk of a column; its class follows from its type.
_Array: TypeAlias = Any
#: What NumPy makes of one.
_Values: TypeAlias = "np.ndarray[Any, Any]"


class Columned(Protocol):
    """What is digested: a table, or columns that come one after another."""

    @property
    def num_columns(self) -> int:
        """How many columns."""
        ...

    @property
    def num_rows(self) -> int:
        """How many rows."""
        ...

    @property
    def column_names(self) -> list[str]:
        """Their names, in order."""
        ...

    @property
    def columns(self) -> Iterable[Any]:
        """The columns, in order."""
        ...


class _Hash(Protocol):
    def update(self, data: Any, /) -> None: ...


def table_digest(table: Columned) -> str:
    """Digest a table's content.

    Parameters
    ----------
    table : pa.Table
        Or what gives its columns one by one. Any column types but intervals in months, which Parquet cannot hold.

    Returns
    -------
    str
        ``xxh3:`` and 32 hexadecimal digits. It finds damage and differences; it is no defence against somebody who makes equal digests on purpose.

    Raises
    ------
    TypeError
        A column's type is none that a result can have.
    """
    hashed = xxhash.xxh3_128()
    _say(hashed, f"{table.num_columns} columns {table.num_rows} rows")
    for name, column in zip(table.column_names, table.columns, strict=True):
        _say(hashed, name)
        chunks = column.chunks or [pa.nulls(0, column.type)]
        inside = pt.is_nested(column.type) or isinstance(column.type, pa.BaseExtensionType)
        if inside and not all(map(_unsliced, chunks)):
            chunks = _trimmed(chunks)
        _add(hashed, [_Part(chunk, None) for chunk in chunks])
    return f"xxh3:{hashed.hexdigest()}"


class _Part(NamedTuple):
    """One chunk, and which of its rows count (None: all). What lies under a null of an outer value does not."""

    chunk: _Array
    counts: _Values | None


def _say(hashed: _Hash, text: str) -> None:
    # With its length, so that no two sequences of texts look the same.
    content = text.encode()
    hashed.update(len(content).to_bytes(8, "little") + content)


def _unsliced(chunk: _Array) -> bool:
    """Tell whether lists are surely no slices: they begin with their inner arrays and have all of them, as those do that were just made or read."""
    kind = chunk.type
    if not pt.is_list(kind):
        return not (pt.is_nested(kind) or isinstance(kind, pa.BaseExtensionType) or chunk.offset)
    values, ends = chunk.values, _offsets(chunk)
    return not chunk.offset and not ends[0] and ends[-1] == len(values) and _unsliced(values)


def _trimmed(chunks: list[_Array]) -> list[_Array]:
    """Give nested chunks whose inner arrays begin at their beginning.

    A slice of a nested array shares the inner arrays of the whole in ways that accessors and kernels treat differently; some were seen to abort the process
    (`flatten`, pyarrow 26) or to give wrong rows (casts of list views). What was written as a stream and read again has no slices.
    """
    sink = pa.BufferOutputStream()
    schema = pa.schema([pa.field("", chunks[0].type)])
    with pa.ipc.new_stream(sink, schema) as writer:
        for chunk in chunks:
            writer.write_batch(pa.RecordBatch.from_arrays([chunk], schema=schema))
    with pa.ipc.open_stream(sink.getvalue()) as reader:
        return [batch.column(0) for batch in reader]


def _plain(part: _Part) -> _Part:
    """Give the chunk in the one layout that stands for all of the same values."""
    chunk = part.chunk
    kind: Any = chunk.type
    if isinstance(kind, pa.BaseExtensionType):
        return _plain(_Part(chunk.storage, part.counts))
    if _is_plain(kind):
        return part
    if pt.is_dictionary(kind):
        return _plain(_Part(chunk.dictionary_decode(), part.counts))
    if pt.is_run_end_encoded(kind):
        return _plain(_Part(pc.call_function("run_end_decode", [chunk]), part.counts))
    if pt.is_list_view(kind) or pt.is_large_list_view(kind):
        # Rare, and its inner ranges may lie in any order: by way of Python, which is slow and right.
        return _Part(pa.array(chunk.to_pylist(), pa.large_list(kind.value_type)), part.counts)
    return _Part(chunk.cast(_plain_type(kind)), part.counts)


@functools.lru_cache(maxsize=256)
def _is_plain(kind: Any) -> bool:
    """Tell whether a type has one layout only, on the outside."""
    encoded = pt.is_dictionary(kind) or pt.is_run_end_encoded(kind)
    return not (encoded or pt.is_list_view(kind) or pt.is_large_list_view(kind)) and _plain_type(kind) is None


@functools.lru_cache(maxsize=256)
def _plain_type(kind: pa.DataType) -> pa.DataType | None:
    if pt.is_string_view(kind) or pt.is_string(kind):
        return pa.large_string()
    if pt.is_binary_view(kind) or pt.is_binary(kind):
        return pa.large_binary()
    if pt.is_timestamp(kind) and kind.unit == "s":
        return pa.timestamp("ms", kind.tz)
    if pt.is_time32(kind) and kind.unit == "s":
        return pa.time32("ms")
    return pa.date32() if pt.is_date64(kind) else None


def _add(hashed: _Hash, given: Iterable[_Part]) -> None:
    parts = [_plain(part) for part in given]
    kind = parts[0].chunk.type
    if pt.is_map(kind):
        _add_lists(hashed, "map", parts, [lambda chunk: chunk.keys, lambda chunk: chunk.items])
    elif pt.is_fixed_size_list(kind):
        _add_lists(hashed, f"lists of {kind.list_size}", parts, [lambda chunk: chunk.values])
    elif pt.is_list(kind) or pt.is_large_list(kind):
        _add_lists(hashed, "lists", parts, [lambda chunk: chunk.values])
    elif pt.is_struct(kind):
        _say(hashed, f"struct of {kind.num_fields}")
        _add_validity(hashed, parts)
        for index in range(kind.num_fields):
            _say(hashed, kind.field(index).name)
            _add(hashed, [_Part(part.chunk.field(index), _shown(part)) for part in parts])
    else:
        _add_values(
            hashed,
            [part if part.counts is None else _Part(part.chunk.filter(pa.array(part.counts)), None) for part in parts],
        )


def _add_lists(hashed: _Hash, what: str, parts: list[_Part], inner: list[Callable[[_Array], _Array]]) -> None:
    _say(hashed, what)
    _add_validity(hashed, parts)
    lengths, shown = [_lengths(part.chunk) for part in parts], [_shown(part) for part in parts]
    _each(hashed, [length if rows is None else length[rows] for rows, length in zip(shown, lengths, strict=True)])
    # Where nothing is hidden all of an inner array counts.
    counts = [None if rows is None else np.repeat(rows, length) for rows, length in zip(shown, lengths, strict=True)]
    for get in inner:
        _add(hashed, [_Part(get(part.chunk), rows) for part, rows in zip(parts, counts, strict=True)])


def _each(hashed: _Hash, contents: Iterable[Any]) -> None:
    # The contents of all chunks one after another are those of the whole column: where it is cut does not show.
    for content in contents:
        if len(content):
            hashed.update(content)


def _add_validity(hashed: _Hash, parts: list[_Part]) -> None:
    if all(part.counts is None and not part.chunk.null_count for part in parts):
        _say(hashed, f"{sum(len(part.chunk) for part in parts)} of which 0 null")
        return
    valid = [_valid(part.chunk) if part.counts is None else _valid(part.chunk)[part.counts] for part in parts]
    nulls = sum(len(values) - int(values.sum()) for values in valid)
    _say(hashed, f"{sum(map(len, valid))} of which {nulls} null")
    if nulls:
        _each(hashed, [values.view(np.uint8) for values in valid])


def _valid(chunk: _Array) -> _Values:
    if not chunk.null_count and not pt.is_null(chunk.type):
        return np.ones(len(chunk), np.bool_)
    valid: _Values = chunk.is_valid().to_numpy(zero_copy_only=False)
    return valid


def _shown(part: _Part) -> _Values | None:
    """Tell which rows have something inside that counts; None: all."""
    if part.counts is None and not part.chunk.null_count:
        return None
    valid = _valid(part.chunk)
    return valid if part.counts is None else valid & part.counts


def _lengths(chunk: _Array) -> _Values:
    """Give the lengths of strings or lists, whatever lies under nulls included."""
    kind = chunk.type
    if pt.is_fixed_size_list(kind):
        return np.full(len(chunk), kind.list_size, np.int64)
    return np.diff(_offsets(chunk)).astype(np.int64, copy=False)


def _offsets(chunk: _Array) -> _Values:
    kind = chunk.type
    width = 4 if pt.is_list(kind) or pt.is_map(kind) else 8
    data = chunk.buffers()[1]
    if data is None or not len(chunk):
        return np.zeros(1, np.int64)
    return np.frombuffer(data, f"i{width}", count=len(chunk) + 1, offset=chunk.offset * width)


def _add_values(hashed: _Hash, parts: list[_Part]) -> None:
    chunks = [part.chunk for part in parts]
    kind = chunks[0].type
    texts = pt.is_large_string(kind) or pt.is_large_binary(kind)
    _say(hashed, str(kind).removeprefix("large_") if texts else str(kind))
    _add_validity(hashed, parts)
    if pt.is_null(kind):
        return
    if texts:
        empty = "" if pt.is_large_string(kind) else b""
        filled = [chunk.fill_null(empty) if chunk.null_count else chunk for chunk in chunks]
        _each(hashed, [_lengths(chunk) for chunk in filled])
        _each(hashed, [_characters(chunk) for chunk in filled])
    elif pt.is_boolean(kind):
        _each(hashed, [chunk.fill_null(False).to_numpy(zero_copy_only=False).view(np.uint8) for chunk in chunks])
    elif pt.is_interval(kind) or not kind.bit_width or kind.bit_width % 8:
        raise TypeError(f"a digest of {kind} values is not defined")
    else:
        _each(hashed, (_fixed(chunk) for chunk in chunks))


def _characters(chunk: _Array) -> Any:
    offsets = _offsets(chunk)
    data = chunk.buffers()[2]
    return b"" if data is None else memoryview(data)[offsets[0] : offsets[-1]]


def _fixed(chunk: _Array) -> _Values:
    width = chunk.type.bit_width // 8
    count = len(chunk)
    data: Any = chunk.buffers()[1] or b""
    values = np.frombuffer(data, np.uint8, count=count * width, offset=chunk.offset * width).reshape(count, width)
    if pt.is_floating(chunk.type):
        unsigned: Any
        unsigned, nan = _NAN[width]
        bits = values.view(unsigned).reshape(count)
        not_a_number = np.isnan(values.view(f"f{width}").reshape(count))
        if not_a_number.any():
            values = np.where(not_a_number, unsigned(nan), bits).astype(unsigned).view(np.uint8).reshape(count, width)
    if chunk.null_count:
        values = np.where(_valid(chunk)[:, None], values, np.uint8(0))
    return np.ascontiguousarray(values)
