"""Rows as lines of JSON, for commands: nothing is lost on the way out, and nothing unexpected comes back in.

Keeps promise 9 for commands that speak NDJSON: what comes back is checked against the declared columns, value by value, and the first that does not fit is
named with its line. One object per line, one key per column, all of them in every line; a null is ``null``.

================================  ===================================================================
integers                          numbers with all their digits; with ``integers = "text"`` those of 64 bits are strings
floats                            numbers, or ``"NaN"``, ``"Infinity"``, ``"-Infinity"``
timestamps                        ``"2018-01-31T12:00:00.000001Z"``: always microseconds, UTC; back: any offset, but one there must be
dates, times of day, durations    ``"2018-01-31"``, ``"12:00:00.000001"``, ``"PT1.5S"`` (ISO 8601)
decimals                          strings of digits
binary                            base64
lists, structs                    arrays, objects
================================  ===================================================================

::

    batches -> write_lines -> the command -> read_lines(declared schema) -> table, or BadPartial with the line
"""

from __future__ import annotations

import datetime as dt
import decimal
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import IO, Annotated, Any, Final, Literal, Optional, cast

import msgspec
import pyarrow as pa

from hindscan.errors import BadPartial, UsageError
from hindscan.jobs.returned import stored_type

__all__ = ["faulty_columns", "read_lines", "write_lines"]

#: Bytes read at a time.
_PIECE_BYTES: Final = 1 << 20
#: Longest line: what is longer is no row but output without line ends.
_LINE_BYTES_MOST: Final = 64 << 20
#: Rows encoded at a time.
_ROWS: Final = 8_192

#: From here on numbers are rounded to the next power of two, which is more than floats of 32 bits hold.
_FLOAT_MOST: Final = (2.0 - 2.0**-24) * 2.0**127

_NOT_FINITE = Literal["NaN", "Infinity", "-Infinity"]

_Spell = Callable[[Any], Any]


# To the command --------------------------------------------------------------------------------------------------


def write_lines(batches: Iterable[pa.RecordBatch], out: IO[bytes], *, integers: str = "number") -> None:
    """Write rows.

    Parameters
    ----------
    batches : iterable of pa.RecordBatch
        The rows.
    out : file
        Where to.
    integers : {"number", "text"}
        How integers of 64 bits are spelt.

    Raises
    ------
    hindscan.errors.UsageError
        A column that has no spelling, or times finer than microseconds.
    """
    encoder = msgspec.json.Encoder()
    for batch in batches:
        for start in range(0, batch.num_rows, _ROWS):
            piece = batch.slice(start, _ROWS)
            columns = [
                _spelt(name, column, integers) for name, column in zip(piece.schema.names, piece.columns, strict=True)
            ]
            names = piece.schema.names
            rows = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
            out.write(encoder.encode_lines(rows))


def _spelt(name: str, column: pa.Array[Any], integers: str) -> Sequence[Any]:
    try:
        plain = column.cast(stored_type(column.type))
    except pa.ArrowException as error:
        raise UsageError(
            f"Writing the column {name!r} as lines of JSON: its values must be told in microseconds and plain types, and cannot: {error}. "
            'Read other columns, or say format = "arrow".',
            column=name,
        ) from error
    spell = _spelling(plain.type, integers)
    values = plain.to_pylist()
    return values if spell is None else [None if value is None else spell(value) for value in values]


def _spelling(kind: pa.DataType, integers: str) -> _Spell | None:
    """Give what turns a Python value into one that JSON keeps; None where it is one."""
    if pa.types.is_floating(kind):
        return _float
    if pa.types.is_timestamp(kind):
        return _time
    if integers == "text" and (pa.types.is_int64(kind) or pa.types.is_uint64(kind)):
        return str
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        item = _spelling(cast("Any", kind).value_type, integers)
        return None if item is None else (lambda values: [None if one is None else item(one) for one in values])
    if pa.types.is_struct(kind):
        fields = {field.name: _spelling(field.type, integers) for field in cast("Iterable[Any]", kind)}
        if not any(fields.values()):
            return None
        return lambda value: {k: v if v is None or (f := fields[k]) is None else f(v) for k, v in value.items()}
    return None


def _float(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _time(value: dt.datetime) -> str:
    # All of one length, so that the order of the texts is that of the times.
    return f"{value.isoformat(timespec='microseconds')[:26]}Z"


# From the command ------------------------------------------------------------------------------------------------


def faulty_columns(schema: pa.Schema) -> list[str]:
    """Name the columns that lines of JSON cannot give."""
    return [field.name for field in schema if _annotation(field, "number") is None]


def read_lines(lines: IO[bytes], schema: pa.Schema, *, integers: str = "number") -> pa.Table:
    """Read rows and check them.

    Parameters
    ----------
    lines : file
        What the command wrote.
    schema : pa.Schema
        The declared columns. Keys may come in any order.
    integers : {"number", "text"}
        With "text" integers of 64 bits may come as strings.

    Raises
    ------
    hindscan.errors.BadPartial
        A line that is no such row, with its number.
    """
    fields = [(f"f{index}", _annotation(field, integers)) for index, field in enumerate(schema)]
    names = {f"f{index}": name for index, name in enumerate(schema.names)}
    row = msgspec.defstruct("Row", cast("Any", fields), rename=names, forbid_unknown_fields=True)
    decoder = msgspec.json.Decoder(row)
    batches: list[pa.RecordBatch] = []
    count = 0
    for piece in _pieces(lines):
        try:
            rows = [msgspec.structs.astuple(one) for one in decoder.decode_lines(piece)]
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise _first_fault(decoder, piece, count) from None
        columns = list(zip(*rows, strict=True)) or [()] * len(schema)
        arrays = [_array(values, field, count) for values, field in zip(columns, schema, strict=True)]
        batches.append(pa.RecordBatch.from_arrays(arrays, schema=schema))
        count += len(rows)
    return pa.Table.from_batches(batches, schema)


def _pieces(lines: IO[bytes]) -> Iterator[bytes]:
    """Cut what is read at line ends."""
    rest: list[bytes] = []
    size = done = 0
    while piece := cast("Any", lines).read1(_PIECE_BYTES):
        head, end, tail = piece.rpartition(b"\n")
        if end:
            yield b"".join([*rest, head, end])
            rest, size, done = [], 0, done + head.count(b"\n") + 1
        rest.append(tail)
        size += len(tail)
        if size > _LINE_BYTES_MOST:
            raise _bad(done + 1, f"is longer than {_LINE_BYTES_MOST:,} bytes")
    if size:
        yield b"".join(rest)


def _first_fault(decoder: msgspec.json.Decoder[Any], piece: bytes, before: int) -> BadPartial:
    number = before
    for line in piece.split(b"\n"):
        if not line.strip():
            continue
        number += 1
        try:
            decoder.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            shown = line[:200].decode(errors="replace") + ("..." if len(line) > 200 else "")
            return _bad(number, f"is {shown!r} ({error})")
    return _bad(number, "holds no JSON values, one to a line")


def _bad(number: int, found: str) -> BadPartial:
    return BadPartial(
        f"Reading what the command wrote: line {number:,} must be one JSON object with the declared columns, and {found}. "
        "Write what `output` declares, and everything else to standard error.",
        line=number,
    )


def _array(values: Sequence[Any], field: pa.Field[Any], before: int) -> pa.Array[Any]:
    try:
        made: pa.Array[Any] = pa.array(_from_text(values, field.type), field.type)
    except (pa.ArrowException, ValueError, OverflowError) as error:
        last = before + len(values)
        raise BadPartial(
            f"Reading what the command wrote: column {field.name!r} must be {field.type}, and in lines {before + 1:,} to {last:,} a value is not: "
            f"{error}. Write what `output` declares.",
            column=field.name,
        ) from error
    return made


def _from_text(values: Any, kind: pa.DataType) -> Any:
    """Read back what is spelt as text; struct objects become dicts."""
    if pa.types.is_floating(kind):
        numbers = [float(one) if isinstance(one, str) else one for one in values]
        if pa.types.is_float32(kind):
            # Arrow would make infinity of them.
            far = next((one for one in numbers if one is not None and _FLOAT_MOST <= abs(one) < math.inf), None)
            if far is not None:
                raise ValueError(f"{far} is out of its range")
        return numbers
    if pa.types.is_integer(kind):
        return [int(one) if isinstance(one, str) else one for one in values]
    if pa.types.is_time32(kind):
        # Arrow would cut them short.
        step = 1_000_000 if cast("Any", kind).unit == "s" else 1_000
        finer = next((one for one in values if one is not None and one.microsecond % step), None)
        if finer is not None:
            raise ValueError(f"{finer} is finer than it can hold")
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        item = cast("Any", kind).value_type
        return [None if one is None else _from_text(one, item) for one in values]
    if pa.types.is_struct(kind):
        fields = list(cast("Iterable[Any]", kind))
        return [None if one is None else _from_struct(one, fields) for one in values]
    return values


def _from_struct(value: Any, fields: Sequence[pa.Field[Any]]) -> dict[str, Any]:
    parts = msgspec.structs.astuple(value)
    return {field.name: _from_text([part], field.type)[0] for field, part in zip(fields, parts, strict=True)}


def _annotation(field: pa.Field[Any], integers: str) -> Any:
    """Give the type that a value in JSON must have; None: there is none."""
    kind = cast("Any", field.type)
    made: Any = None
    if pa.types.is_integer(kind):
        signed = pa.types.is_signed_integer(kind)
        least, most = (
            (-(1 << kind.bit_width - 1), (1 << kind.bit_width - 1) - 1) if signed else (0, (1 << kind.bit_width) - 1)
        )
        # msgspec compares with numbers of 64 bits, signed; what is beyond is found when the column is made.
        made = Annotated[int, msgspec.Meta(ge=least, le=most if most < 1 << 63 else None)]
        if integers == "text" and kind.bit_width == 64:
            made = int | Annotated[str, msgspec.Meta(pattern=r"^-?[0-9]{1,20}$")]
    elif pa.types.is_floating(kind):
        made = float | _NOT_FINITE
    elif pa.types.is_timestamp(kind):
        made = Annotated[dt.datetime, msgspec.Meta(tz=True)]
    elif pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        item = _annotation(kind.value_field, integers)
        made = None if item is None else list.__class_getitem__(item)
    elif pa.types.is_struct(kind):
        parts = [(f"f{index}", _annotation(part, integers)) for index, part in enumerate(kind)]
        names = {f"f{index}": part.name for index, part in enumerate(kind)}
        if all(annotation is not None for _, annotation in parts):
            made = msgspec.defstruct("Struct", parts, rename=names, forbid_unknown_fields=True)
    else:
        made = next((known for is_one, known in _PLAIN if is_one(kind)), None)
    return Optional[made] if made is not None and field.nullable else made  # noqa: UP045 (a run-time union of an Annotated)


_PLAIN: Final[tuple[tuple[Callable[[Any], bool], Any], ...]] = (
    (pa.types.is_string, str),
    (pa.types.is_boolean, bool),
    (pa.types.is_date, dt.date),
    (pa.types.is_time, Annotated[dt.time, msgspec.Meta(tz=False)]),
    (pa.types.is_duration, dt.timedelta),
    (pa.types.is_decimal, decimal.Decimal),
    (pa.types.is_binary, bytes),
)
