"""From a writer's arrays to columns: Avro's resolution and logical types, over whole arrays.

Keeps promise 2 where schemas differ: whatever does not survive raises `Misfit` with the field, and is never cut, rounded or made null. Both engines end here, so that
there is one meaning of Avro whichever of them read the bytes.

::

    array of the writer's type -> resolved -> array of the reader's type -> column
"""

from __future__ import annotations

import decimal
import uuid
from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc

from hindscan.history.formats.avro_schema import AvroField, AvroType, arrow_type, default_value, matching
from hindscan.history.formats.decoder import Misfit

__all__ = ["finished", "list_of", "outside", "struct_of"]

#: Times of day are less than this.
_DAY = {"time-millis": 86_400_000, "time-micros": 86_400_000_000}


def finished(array: pa.Array[Any], writer: AvroType, reader: AvroField) -> pa.Array[Any]:
    """Make a column.

    Parameters
    ----------
    array : pyarrow.Array
        Of the writer's type without logical types.
    writer : AvroType
        What it was written as.
    reader : AvroField
        What it is read as.

    Raises
    ------
    Misfit
        A value does not survive.
    """
    try:
        return _logical(_resolved(array, writer, reader.type, reader.name, None), reader.type, reader.name)
    except pa.ArrowException as fault:
        raise Misfit(reader.name, f"does not fit {arrow_type(reader.type)}: {fault}") from fault


def list_of(array: Any, values: pa.Array[Any]) -> pa.Array[Any]:
    """Give lists as they are cut in an array, with other elements."""
    mask = array.is_null() if array.null_count else None
    kind = pa.list_(pa.field("element", values.type))
    return pa.ListArray.from_arrays(array.offsets.cast(pa.int32()), values, type=kind, mask=mask)


def struct_of(array: Any, children: list[pa.Array[Any]], names: list[str]) -> pa.Array[Any]:
    """Give structs that are null where those of an array are, with other children."""
    mask = array.is_null() if array.null_count else None
    fields = [pa.field(name, child.type) for name, child in zip(names, children, strict=True)]
    return pa.StructArray.from_arrays(children, fields=fields, mask=mask)


def _resolved(array: Any, writer: AvroType, reader: AvroType, path: str, inside: pa.Array[Any] | None) -> pa.Array[Any]:
    """Read a writer's array as a reader's type; `inside` says where the record around it is there."""
    if writer == reader:
        return cast("pa.Array[Any]", array)
    if array.null_count and writer.nullable and not reader.nullable:
        lost = pc.is_null(array) if inside is None else pc.and_(pc.is_null(array), cast(Any, inside))
        if pc.any(lost).as_py():
            raise Misfit(path, "is null, which the pinned schema does not allow")
    if writer.kind != reader.kind:
        try:
            return cast("pa.Array[Any]", array.cast(arrow_type(reader, logical=False)))
        except pa.ArrowInvalid as fault:
            raise Misfit(path, f"{writer.kind} does not survive as {reader.kind}: {fault}") from fault
    if writer.kind == "enum":
        return _symbols(array, reader, path)
    if writer.items is not None and reader.items is not None:
        if writer.kind == "array":
            return list_of(array, _resolved(array.values, writer.items, reader.items, f"{path}[...]", None))
        pairs = array.values
        value = _resolved(pairs.field(1), writer.items, reader.items, f"{path}[...]", None)
        return list_of(array, struct_of(pairs, [pairs.field(0), value], ["key", "value"]))
    if writer.kind == "record":
        children = []
        for each in reader.fields:
            source = matching(each, writer)
            if source is None:
                one = pa.array([default_value(each)], arrow_type(each.type, logical=False))
                children.append(one.take(pa.array([0] * len(array), pa.int64())))
            else:
                child = array.field([field.name for field in writer.fields].index(source.name))
                valid = pc.is_valid(array)
                children.append(_resolved(child, source.type, each.type, f"{path}.{each.name}", cast(Any, valid)))
        return struct_of(array, children, [each.name for each in reader.fields])
    return cast("pa.Array[Any]", array)


def outside(numbers: Any, end: int) -> bool:
    """Whether a number is less than 0, or not less than an end."""
    extremes: Any = pc.min_max(numbers).as_py()
    return extremes["min"] is not None and not 0 <= extremes["min"] <= extremes["max"] < end


def _symbols(array: Any, reader: AvroType, path: str) -> pa.Array[Any]:
    known = pc.or_(pc.is_in(array, value_set=pa.array(reader.symbols, pa.string())), pc.is_null(array))
    if pc.all(known).as_py() is not False:
        return cast("pa.Array[Any]", array)
    if reader.fallback is None:
        found = array.filter(pc.invert(known))[0].as_py()
        raise Misfit(path, f"is {found!r}, which the pinned schema does not know; it has {', '.join(reader.symbols)}")
    return cast("pa.Array[Any]", pc.if_else(known, array, reader.fallback))


def _logical(array: Any, type_: AvroType, path: str) -> pa.Array[Any]:
    wanted = arrow_type(type_)
    if wanted == array.type:
        return cast("pa.Array[Any]", array)
    match type_.logical:
        case "decimal":
            return _decimals(array, type_, path)
        case "uuid":
            texts = [None if each is None else str(uuid.UUID(bytes=each)) for each in array.to_pylist()]
            return pa.array(texts, pa.string())
        case "time-millis" | "time-micros":
            if outside(array, _DAY[type_.logical]):
                raise Misfit(path, "is no time of a day")
            return cast("pa.Array[Any]", array.cast(wanted))
        case str():
            return cast("pa.Array[Any]", array.cast(wanted))
    if type_.kind == "record":
        children = [_logical(array.field(at), each.type, f"{path}.{each.name}") for at, each in enumerate(type_.fields)]
        return struct_of(array, children, [each.name for each in type_.fields])
    assert type_.items is not None
    if type_.kind == "array":
        return list_of(array, _logical(array.values, type_.items, f"{path}[...]"))
    pairs = array.values
    return list_of(
        array,
        struct_of(pairs, [pairs.field(0), _logical(pairs.field(1), type_.items, f"{path}[...]")], ["key", "value"]),
    )


def _decimals(array: Any, type_: AvroType, path: str) -> pa.Array[Any]:
    """Big-endian two's complement; a number of more digits than declared is refused."""
    limit, scale = 10**type_.precision, -type_.scale
    context = decimal.Context(prec=type_.precision)
    found = []
    for each in array.to_pylist():
        number = None if each is None else int.from_bytes(each, "big", signed=True)
        if number is not None and not -limit < number < limit:
            raise Misfit(path, f"has more than {type_.precision} digits")
        found.append(None if number is None else decimal.Decimal(number).scaleb(scale, context))
    return pa.array(found, arrow_type(type_))
