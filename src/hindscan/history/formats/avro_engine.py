"""What an engine that reads Avro is told, and what is made of the arrays it gives.

Keeps promise 2 against engines: they are told only types that they read alike and right. An int is read as the long it is on the wire, because one engine wraps it
in silence; an enum as the long of its place, because one engine counts negative places from the end and the other panics on a null; a boolean as its byte, because
one engine takes a byte that is neither 0 nor 1 for false and the other for true; a map as the array of pairs it is on the wire. The ranges that this leaves open
are checked here.

::

    AvroType -> told -> (polars | fastavro) -> array of type `given` -> from_engine -> array of the writer's type
"""

from __future__ import annotations

from typing import Any, cast

import pyarrow as pa
import pyarrow.compute as pc

from hindscan.history.formats.avro_arrays import list_of, outside, struct_of
from hindscan.history.formats.avro_schema import AvroType, arrow_type
from hindscan.history.formats.decoder import Misfit

__all__ = ["from_engine", "given", "told", "told_fields"]


def told_fields(writer: AvroType) -> dict[str, dict[str, Any]]:
    """Give the engine's field for each of a record's; their names are by place, so that any name can be read."""
    return {each.name: {"name": f"f{at}", "type": told(each.type, f"t{at}")} for at, each in enumerate(writer.fields)}


def told(type_: AvroType, name: str) -> Any:
    """Give a type as the engine is told it; `name` is free for its named types. What can be no column can at least be skipped."""
    if type_.kind == "refused":
        return type_.plain
    kind: Any = type_.kind
    match type_.kind:
        case "int" | "enum":
            kind = "long"
        case "boolean":
            kind = {"type": "fixed", "name": name, "size": 1}
        case "fixed":
            kind = {"type": "fixed", "name": name, "size": type_.size}
        case "array":
            kind = {"type": "array", "items": told(cast(AvroType, type_.items), name)}
        case "map":
            value = told(cast(AvroType, type_.items), f"{name}_0")
            pair = [{"name": "key", "type": "string"}, {"name": "value", "type": value}]
            kind = {"type": "array", "items": {"type": "record", "name": name, "fields": pair}}
        case "record":
            inner = [
                {"name": each.name, "type": told(each.type, f"{name}_{at}")} for at, each in enumerate(type_.fields)
            ]
            kind = {"type": "record", "name": name, "fields": inner}
    if type_.null_at is None:
        return kind
    return ["null", kind] if type_.null_at == 0 else [kind, "null"]


def given(type_: AvroType) -> pa.DataType:
    """Give the type of the arrays in which the engine's values fit."""
    match type_.kind:
        case "int" | "enum":
            return pa.int64()
        case "boolean":
            return pa.binary()
        case "array":
            return pa.list_(pa.field("element", given(cast(AvroType, type_.items))))
        case "map":
            pair = [pa.field("key", pa.string()), pa.field("value", given(cast(AvroType, type_.items)))]
            return pa.list_(pa.field("element", pa.struct(pair)))
        case "record":
            return pa.struct([pa.field(each.name, given(each.type)) for each in type_.fields])
    return arrow_type(type_, logical=False)


def from_engine(array: Any, type_: AvroType, path: str) -> pa.Array[Any]:
    """Make the writer's array of what an engine gave.

    Raises
    ------
    Misfit
        A value that the type does not have.
    """
    match type_.kind:
        case "int":
            try:
                return cast("pa.Array[Any]", array.cast(pa.int32()))
            except pa.ArrowInvalid as fault:
                raise Misfit(path, "is out of the range of int") from fault
        case "boolean":
            byte: Any = array.cast(pa.binary())
            # Where a record around it is null there is no byte.
            known = pc.is_in(byte, value_set=pa.array([b"\x00", b"\x01", b"", None], pa.binary()))
            if pc.all(known).as_py() is False:
                raise Misfit(path, "is neither true nor false")
            return cast("pa.Array[Any]", pc.equal(byte, pa.scalar(b"\x01", pa.binary())))
        case "string":
            return cast("pa.Array[Any]", array.cast(pa.string()))
        case "bytes" | "fixed":
            return cast("pa.Array[Any]", array.cast(pa.binary()))
        case "enum":
            if outside(array, len(type_.symbols)):
                raise Misfit(path, "is the number of no symbol")
            return cast("pa.Array[Any]", pa.array(type_.symbols, pa.string()).take(array))
        case "array":
            return list_of(array, from_engine(array.values, cast(AvroType, type_.items), f"{path}[...]"))
        case "map":
            pairs = array.values
            value = from_engine(pairs.field(1), cast(AvroType, type_.items), f"{path}[...]")
            return list_of(array, struct_of(pairs, [pairs.field(0).cast(pa.string()), value], ["key", "value"]))
        case "record":
            children = [
                from_engine(array.field(at), each.type, f"{path}.{each.name}") for at, each in enumerate(type_.fields)
            ]
            return struct_of(array, children, [each.name for each in type_.fields])
    return cast("pa.Array[Any]", array)
