"""JSON records to columns, by a fixed schema, strictly: format `json`.

Keeps promise 2 for what is inside a record: a value becomes exactly what it says or is an error that names the field. A number is no text, 1.0 is no integer, an
integer out of its column's range is not cut to it, nor rounded to the nearest that a double holds (fractions are), and a record is one whole JSON document. Missing
and null are null where the column allows it; fields that no column asks for are skipped (of two equal keys the last counts). Only the columns asked for are decoded.

A batch is decoded at once, about a million records a second; only when one of its records is bad is it halved until the bad ones stand alone.

::

    RawBatch.values -> JsonDecoder.decode -> columns + the bad ones with field and reason
"""

from __future__ import annotations

import datetime as dt
import decimal
import operator
import re
from collections.abc import Callable
from typing import Any, Final, cast

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hindscan.history.formats.decoder import BadValue, Columns, Headers, Misfit, decode_by_halves

__all__ = ["JsonDecoder", "is_field_name", "json_column_faults"]

#: What a bad record raises.
_EXPECTED: Final = (msgspec.MsgspecError, ValueError, OverflowError, RecursionError, pa.ArrowException)
_ZONE: Final = r":\d\d(?:\.\d+)?(?:Z|[+-]\d\d(?::?\d\d)?)$"
_INTEGERS: Final = {
    pa.int8(): (-(1 << 7), (1 << 7) - 1),
    pa.int16(): (-(1 << 15), (1 << 15) - 1),
    pa.int32(): (-(1 << 31), (1 << 31) - 1),
    pa.int64(): (-(1 << 63), (1 << 63) - 1),
    pa.uint8(): (0, (1 << 8) - 1),
    pa.uint16(): (0, (1 << 16) - 1),
    pa.uint32(): (0, (1 << 32) - 1),
    pa.uint64(): (0, (1 << 64) - 1),
}

#: Up to here every integer is held exactly.
_EXACT: Final[dict[pa.DataType, int]] = {pa.float32(): 1 << 24, pa.float64(): 1 << 53}


def json_column_faults(schema: pa.Schema) -> list[tuple[str, str]]:
    """Find the declared columns that JSON cannot give, as (field, text)."""
    faults = []
    for column in schema:
        try:
            _kind(pa.struct([column]), nullable=True, name=column.name)
        except (TypeError, ValueError) as fault:
            faults.append((f"columns.{column.name}", str(fault)))
    return faults


def is_field_name(name: str) -> bool:
    """Whether a JSON key of this name can be a column: the decoder takes no names that JSON must escape."""
    return not re.search(r'["\\\x00-\x1f]', name)


#: Values decoded at once: as Python objects, so many stay in the processor's cache (200,000 were seen to cost 1.4 times as much each).
PIECE_RECORDS: Final = 4_000


class JsonDecoder:
    """Decodes JSON records to columns of one schema.

    Parameters
    ----------
    schema : pyarrow.Schema
        The columns to decode, and no others.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema
        # Field names of a struct must be identifiers; those of JSON need not.
        names = [f"f{at}" for at in range(len(schema))]
        fields: list[Any] = []
        for at, column in zip(names, schema, strict=True):
            kind = _kind(column.type, column.nullable, column.name)
            fields.append((at, kind, None) if column.nullable else (at, kind))
        record = msgspec.defstruct(
            "Record",
            fields,
            rename=dict(zip(names, schema.names, strict=True)),
            kw_only=True,
            gc=False,  # a million records at once hold no cycles
        )
        self._decode_one: Callable[[bytes], Any] = msgspec.json.Decoder(record).decode
        self._pick = [operator.attrgetter(at) for at in names]

    def decode(self, values: pa.LargeBinaryArray, headers: Headers | None = None) -> tuple[pa.Table, list[BadValue]]:
        """Decode values; see `Decoder`."""
        del headers
        return decode_by_halves(self.schema, values, self._all, _bad, _EXPECTED, most=PIECE_RECORDS)

    def _all(self, first: int, values: pa.LargeBinaryArray) -> Columns:
        del first
        records = list(map(self._decode_one, cast(list[bytes], values.to_pylist())))
        return [
            _array(list(map(pick, records)), column.type, column.name)
            for pick, column in zip(self._pick, self.schema, strict=True)
        ]


def _bad(index: int, fault: Exception) -> BadValue:
    if isinstance(fault, Misfit):
        return BadValue(index=index, field=fault.field, reason=str(fault))
    if isinstance(fault, msgspec.ValidationError):
        # "Expected `int`, got `str` - at `$.price`"
        reason, _, path = str(fault).partition(" - at `")
        missing = re.search(r"missing required field `(.*)`", reason)
        field = path.rstrip("`").removeprefix("$").removeprefix(".")
        if missing:
            field = f"{field}.{missing[1]}".removeprefix(".")
        return BadValue(index=index, field=field, reason=reason)
    if isinstance(fault, RecursionError):
        return BadValue(index=index, field="", reason="nested too deeply")
    if isinstance(fault, UnicodeDecodeError):
        return BadValue(index=index, field="", reason=f"no UTF-8 text: {fault.reason} at byte {fault.start} of a text")
    return BadValue(index=index, field="", reason=str(fault))


def _kind(type_: pa.DataType, nullable: bool, name: str) -> Any:
    """Give the JSON type that a column is decoded from."""
    inner: Any = type_
    t = pa.types
    kind: Any
    if t.is_boolean(type_):
        kind = bool
    elif type_ in _INTEGERS:
        kind = int
    elif t.is_float32(type_) or t.is_float64(type_):
        kind = int | float  # an integer stays one until it is known that the column holds it
    elif t.is_string(type_):
        kind = str
    elif t.is_timestamp(type_) or t.is_date32(type_):
        kind = int | str
    elif t.is_decimal(type_):
        kind = decimal.Decimal
    elif t.is_binary(type_):
        kind = bytes  # base64, as JSON has no bytes
    elif t.is_list(type_):
        kind = list[_kind(inner.value_type, inner.value_field.nullable, name)]  # type: ignore[misc]
    elif t.is_struct(type_):
        kind = _struct(inner, name)
    else:
        raise TypeError(f"must be a type that JSON can give, found {type_}")
    return kind | None if nullable else kind


def _struct(type_: Any, name: str) -> Any:
    fields: list[Any] = []
    for at, child in enumerate(type_.fields):
        if not is_field_name(child.name):
            raise TypeError(
                f"must have a name without quotes, backslashes and control characters, found {child.name!r}"
            )
        kind = _kind(child.type, child.nullable, f"{name}.{child.name}")
        fields.append((f"f{at}", kind, None) if child.nullable else (f"f{at}", kind))
    rename = {f"f{at}": child.name for at, child in enumerate(type_.fields)}
    return msgspec.defstruct("Part", fields, rename=rename, kw_only=True, gc=False)


def _array(values: list[Any], type_: pa.DataType, name: str) -> pa.Array[Any]:
    """Make a column of decoded values; raises `Misfit` where one does not fit."""
    t = pa.types
    try:
        if t.is_timestamp(type_):
            return _timestamps(values, cast(Any, type_), name)
        if t.is_date32(type_):
            return pa.array([_date(value, name) for value in values], type_)
        if t.is_list(type_):
            return _lists(values, cast(Any, type_), name)
        if t.is_struct(type_):
            return _structs(values, cast(Any, type_), name)
        if t.is_floating(type_):
            return _floats(values, type_, name)
        if t.is_decimal(type_):
            return _decimals(values, cast(Any, type_), name)
        return pa.array(values, type_)
    except Misfit:
        raise
    except (OverflowError, ValueError, pa.ArrowException) as fault:
        if not t.is_integer(type_):
            raise Misfit(name, f"does not fit {type_}: {fault}") from fault
        least, greatest = _INTEGERS[cast(Any, type_)]
        raise Misfit(name, f"is out of the range of {type_}, {least} to {greatest}") from fault


def _floats(values: list[Any], type_: pa.DataType, name: str) -> pa.Array[Any]:
    """Fractions as near as the column can; integers exactly, because who writes one means that number and no neighbour of it."""
    most = _EXACT[type_]
    far = [value for value in values if type(value) is int and not -most <= value <= most]
    for value in far:
        if not _is_held(value, type_):
            said = str(value) if abs(value) < 10**40 else f"{str(value)[:40]}..."
            raise Misfit(
                name,
                f"is an integer that no {type_} holds exactly: {said}; declare the column an integer or decimal128",
            )
    if far:
        values = [float(value) if type(value) is int else value for value in values]
    doubles = pa.array(values, pa.float64())
    if type_ == pa.float64():
        return doubles
    floats = doubles.cast(pa.float32(), safe=False)
    if pc.any(pc.is_inf(floats)).as_py():
        raise Misfit(name, "is out of the range of float")
    return floats


def _decimals(values: list[Any], type_: Any, name: str) -> pa.Array[Any]:
    """Numbers with all their digits; Arrow alone makes nought of some that are far smaller than a column's scale."""
    unit = decimal.Decimal((0, (1,), -type_.scale))
    exactly = decimal.Context(prec=type_.precision, traps=[decimal.InvalidOperation, decimal.Inexact]).quantize
    try:
        numbers = [None if value is None else exactly(value, unit) for value in values]
    except decimal.DecimalException as fault:
        said = "a digit would be lost" if isinstance(fault, decimal.Inexact) else "it is too large, or no number"
        raise Misfit(name, f"does not fit {type_}: {said}") from fault
    return cast("pa.Array[Any]", pa.array(numbers, type_))


def _is_held(value: int, type_: pa.DataType) -> bool:
    try:
        with np.errstate(over="ignore"):
            return int(float(value) if type_ == pa.float64() else np.float32(value)) == value
    except OverflowError:
        return False


def _lists(values: list[Any], type_: Any, name: str) -> pa.Array[Any]:
    mask = np.fromiter((value is None for value in values), bool, len(values))
    lengths = np.fromiter((0 if value is None else len(value) for value in values), np.int64, len(values))
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    flat = _array([item for value in values if value is not None for item in value], type_.value_type, f"{name}[...]")
    return pa.ListArray.from_arrays(offsets, flat, type=type_, mask=pa.array(mask) if mask.any() else None)


def _structs(values: list[Any], type_: Any, name: str) -> pa.Array[Any]:
    mask = np.fromiter((value is None for value in values), bool, len(values))
    children = []
    for at, child in enumerate(type_.fields):
        pick = operator.attrgetter(f"f{at}")
        picked = [None if value is None else pick(value) for value in values]
        # Under an absent struct even a field that cannot be null has no value; Arrow wants a place for it all the same.
        children.append(_array(picked, child.type, f"{name}.{child.name}"))
    return pa.StructArray.from_arrays(children, fields=list(type_.fields), mask=pa.array(mask) if mask.any() else None)


def _timestamps(values: list[Any], type_: Any, name: str) -> pa.Array[Any]:
    """Texts in ISO 8601, without a zone in UTC; integers in the column's unit."""
    try:
        alone = pa.array(values, pa.string())
    except pa.ArrowTypeError:
        pass  # there are integers among them
    else:
        return _from_texts(alone, type_, name)
    if str not in set(map(type, values)):
        return pa.array(values, pa.int64()).cast(type_)
    texts = _from_texts(pa.array([v if isinstance(v, str) else None for v in values], pa.string()), type_, name)
    numbers = pa.array([v if isinstance(v, int) else None for v in values], pa.int64()).cast(type_)
    return pc.coalesce(texts, numbers)


def _from_texts(texts: pa.Array[Any], type_: Any, name: str) -> pa.Array[Any]:
    zoned, naive = pa.timestamp(type_.unit, "UTC"), pa.timestamp(type_.unit)
    try:
        times = _cast_texts(texts, zoned, naive)
    except pa.ArrowInvalid as fault:
        if len(texts) > 1:
            raise
        # Arrow's message speaks of what it tried last, not of what was wrong.
        finer = re.search(r"\.\d+", texts[0].as_py() or "")
        hint = "; it is finer than the column" if finer and len(finer[0]) > 1 + _digits(type_.unit) else ""
        raise Misfit(name, f"is no ISO 8601 time that fits {type_}: {texts[0].as_py()!r}{hint}") from fault
    return times.cast(type_)


def _digits(unit: str) -> int:
    return {"s": 0, "ms": 3, "us": 6, "ns": 9}[unit]


def _cast_texts(texts: pa.Array[Any], zoned: pa.DataType, naive: pa.DataType) -> pa.Array[Any]:
    try:
        return texts.cast(zoned)
    except pa.ArrowInvalid:
        has_zone = pc.match_substring_regex(texts, _ZONE)
        with_zone = pc.if_else(has_zone, texts, None).cast(zoned)
        without = pc.if_else(has_zone, None, texts).cast(naive).cast(zoned)
        return pc.coalesce(with_zone, without)


def _date(value: int | str | None, name: str) -> int | dt.date | None:
    if not isinstance(value, str):
        return value
    try:
        return dt.date.fromisoformat(value)
    except ValueError as fault:
        raise Misfit(name, f"is no ISO 8601 date: {value!r}") from fault
