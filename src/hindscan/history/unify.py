"""One schema out of the files of a data set: which differences there may be, and what columns become of them.

Keeps promise 1 for schemas that drift: what every column is read as is decided when the files are pinned, from their footers alone, and a difference that is not
declared is an error that names file and column. With ``drift = "widen"`` a column becomes the least type that holds every value of every file exactly; what a
file lacks is null there. Nothing is rounded, cut or guessed: where no type holds all values (a 64-bit integer and a double, a number and a
text) the files disagree, whatever is declared. The order of columns, nullability and encodings in memory (dictionaries, large texts, zones) never are a difference.

Stands between `footer`, whose schemas it joins, and `parquet`, which pins the one that comes out; `parquet_reader` makes the rows so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import pyarrow as pa

from hindscan.history.footer import Footer, plain_type

__all__ = ["DRIFTS", "common_type", "misfits", "union", "widens"]

#: What `drift` can say.
DRIFTS: Final = ("fail", "widen")
_UNITS: Final = ("s", "ms", "us", "ns")
#: Digits of the greatest integer of so many bits.
_DIGITS: Final = {8: 3, 16: 5, 32: 10, 64: 20}
#: What a decimal of 128 bits holds.
_MOST_DIGITS: Final = 38


def union(
    footers: Mapping[str, Footer], *, without: Sequence[str], drift: str
) -> tuple[dict[str, pa.Field[Any]], list[str]]:
    """Join the files' columns by name, in the order in which they first occur.

    Parameters
    ----------
    footers : mapping of str to Footer
        By path.
    without : sequence of str
        Columns that are left out: the folders' names say their values.
    drift : {"fail", "widen"}
        Whether files may differ.

    Returns
    -------
    tuple of dict and list of str
        The columns; the differences that may not be, each with file and column.
    """
    joined: dict[str, pa.Field[Any]] = {}
    first_in: dict[str, str] = {}
    faults = []
    for path, footer in footers.items():
        for column in footer.schema:
            if column.name in without:
                continue
            known = joined.setdefault(column.name, column)
            first_in.setdefault(column.name, path)
            kind = known.type if known.type == column.type else _joined(known.type, column.type, drift)
            if kind is None:
                faults.append(
                    f"{path}: column {column.name!r} is {column.type}, in {first_in[column.name]} it is {known.type}"
                )
            else:
                joined[column.name] = pa.field(column.name, kind, known.nullable or column.nullable)
    for path, footer in footers.items():
        for name in joined.keys() - set(footer.schema.names):
            joined[name] = joined[name].with_nullable(True)
            if drift == "fail":
                faults.append(f"{path}: no column {name!r}; {first_in[name]} has it")
    return joined, faults


def _joined(one: pa.DataType, other: pa.DataType, drift: str) -> pa.DataType | None:
    return common_type(one, other) if drift == "widen" else None


def misfits(declared: Sequence[pa.Field[Any]], footers: Mapping[str, Footer], *, drift: str) -> list[str]:
    """Find what of the files does not fit the declared columns, each with file and column."""
    faults = []
    for path, footer in footers.items():
        for column in declared:
            if column.name not in footer.schema.names:
                if drift == "fail" or not column.nullable:
                    faults.append(f"{path}: no column {column.name!r}; declared as {column.type}")
                continue
            found = footer.schema.field(column.name).type
            if not _holds(plain_type(column.type), found, drift):
                faults.append(f"{path}: column {column.name!r} is {found}, declared as {column.type}")
            elif not column.nullable and column.name in footer.may_be_null:
                faults.append(f"{path}: column {column.name!r} has or may have nulls, declared as not null")
    return faults


def _holds(declared: pa.DataType, found: pa.DataType, drift: str) -> bool:
    if widens(found, declared):
        return True
    # Fields of a struct may come in another order, and a list may be of what cannot be null: neither is a difference of values.
    joined = common_type(declared, found) if drift == "widen" else None
    return joined is not None and joined.equals(declared)


def widens(found: pa.DataType, declared: pa.DataType) -> bool:
    """Tell whether every value of one type is exactly one of the other, and Arrow's scan makes it so by itself, its statistics too."""
    if found == declared:
        return True
    t = pa.types
    if t.is_integer(found) and t.is_integer(declared):
        if t.is_signed_integer(found) == t.is_signed_integer(declared):
            return found.bit_width <= declared.bit_width
        return t.is_unsigned_integer(found) and found.bit_width < declared.bit_width
    if t.is_floating(found) and t.is_floating(declared):
        return found.bit_width <= declared.bit_width
    if t.is_integer(found) and t.is_float64(declared):
        return found.bit_width <= 32
    if isinstance(found, pa.TimestampType) and isinstance(declared, pa.TimestampType):
        # A naive time means UTC, but Arrow compares no statistics of one kind with bounds of the other.
        return found.tz == declared.tz and _UNITS.index(found.unit) <= _UNITS.index(declared.unit)
    return t.is_date32(found) and t.is_date32(declared)


def common_type(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """Give the least type that holds every value of both exactly; None where there is none.

    Both are plain (see `footer.plain_type`).

    Examples
    --------
    >>> common_type(pa.int32(), pa.decimal128(12, 2))
    Decimal128Type(decimal128(12, 2))
    >>> common_type(pa.timestamp("s"), pa.timestamp("us", "UTC"))
    TimestampType(timestamp[us, tz=UTC])
    >>> common_type(pa.int64(), pa.float64()) is None
    True
    """
    t = pa.types
    if widens(one, other):
        return other
    if widens(other, one):
        return one
    if t.is_null(one) or t.is_null(other):
        return other if t.is_null(one) else one
    if isinstance(one, pa.TimestampType) and isinstance(other, pa.TimestampType):
        unit: Any = max(one.unit, other.unit, key=_UNITS.index)
        # Without a zone a time is UTC's, as everywhere.
        return pa.timestamp(unit, one.tz or other.tz)
    if t.is_time(one) and t.is_time(other):
        return max(one, other, key=lambda kind: _UNITS.index(_unit(kind)))
    if t.is_nested(one) and t.is_nested(other):
        return _common_nested(one, other)
    return _common_number(one, other)


def _unit(kind: Any) -> str:
    return str(kind.unit)


def _common_number(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    t = pa.types
    if t.is_integer(one) and t.is_integer(other):
        unsigned = one if t.is_unsigned_integer(one) else other
        # A signed one of twice the size holds both; there is none for 64 bits.
        return {8: pa.int16(), 16: pa.int32(), 32: pa.int64()}.get(unsigned.bit_width)
    numbers = (one, other)
    if any(map(t.is_floating, numbers)) and any(map(t.is_integer, numbers)):
        [whole] = [kind for kind in numbers if t.is_integer(kind)]
        return pa.float64() if whole.bit_width <= 32 else None
    if any(map(t.is_decimal, numbers)) and all(t.is_decimal(kind) or t.is_integer(kind) for kind in numbers):
        (digits, scale), (other_digits, other_scale) = _digits(one), _digits(other)
        scale_of_both = max(scale, other_scale)
        digits_of_both = max(digits - scale, other_digits - other_scale) + scale_of_both
        return pa.decimal128(digits_of_both, scale_of_both) if digits_of_both <= _MOST_DIGITS else None
    return None


def _digits(kind: Any) -> tuple[int, int]:
    return (_DIGITS[kind.bit_width], 0) if pa.types.is_integer(kind) else (kind.precision, kind.scale)


def _common_nested(one: Any, other: Any) -> pa.DataType | None:
    t = pa.types
    if t.is_struct(one) and t.is_struct(other):
        return _common_struct(one, other)
    if t.is_list(one) and t.is_list(other):
        element = common_type(one.value_type, other.value_type)
        nullable = one.value_field.nullable or other.value_field.nullable
        return None if element is None else pa.list_(pa.field("element", element, nullable))
    if t.is_map(one) and t.is_map(other):
        key, item = common_type(one.key_type, other.key_type), common_type(one.item_type, other.item_type)
        return None if key is None or item is None else pa.map_(key, item)
    return None


def _common_struct(one: Any, other: Any) -> pa.DataType | None:
    mine: dict[str, pa.Field[Any]] = {field.name: field for field in one.fields}
    theirs: dict[str, pa.Field[Any]] = {field.name: field for field in other.fields}
    fields = []
    for name, field in {**mine, **theirs}.items():
        if name not in mine or name not in theirs:
            fields.append(field.with_nullable(True))
            continue
        kind = common_type(mine[name].type, theirs[name].type)
        if kind is None:
            return None
        fields.append(pa.field(name, kind, mine[name].nullable or theirs[name].nullable))
    return pa.struct(fields)
