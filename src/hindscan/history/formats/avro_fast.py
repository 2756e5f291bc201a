"""Avro bodies to a writer's arrays in one compiled pass: the fastest way, for columns that are one value each.

Keeps promise 2 at wire speed. A writer schema becomes a list of steps, once for each schema id; `avro_scan` follows it from body to body, without a copy of them and
without the interpreter's lock, skips what nobody asks for, and says of each whether it is what the schema says to its last byte. Any type may be skipped; what is taken
must be a number, a truth value, text, bytes, fixed or an enum, each perhaps null. Lists, maps and records are left to the other ways.

Works on what `avro.py` gives it, as `avro_block` does, and gives the same; see there.

::

    writer schema, fields -> scan_of -> Scan;  values -> Scan.read -> writer's arrays
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, cast

import numpy as np
import pyarrow as pa

from hindscan.history.formats.avro_schema import AvroField, AvroType, arrow_type
from hindscan.history.formats.decoder import Misfit

__all__ = ["Scan", "can_scan", "scan_of"]

_INTS: Final = 1 << 31
#: Texts of one array, in bytes: their places are of 32 bits.
_MOST_BYTES: Final = (1 << 31) - 1
_ASCII: Final = 128

_Array = np.ndarray[Any, np.dtype[Any]]


def can_scan(writer: AvroType, taken: Sequence[AvroField]) -> bool:
    """Tell whether some fields of a writer schema are read by the compiled loop."""
    return all(_can_skip(each.type) for each in writer.fields) and not any(
        each.type.kind in ("array", "map", "record") for each in taken
    )


def _can_skip(type_: AvroType) -> bool:
    """Tell whether it is known what follows; items without bytes are refused by the schema, as they could ask for any amount of memory."""
    inner = [each.type for each in type_.fields] if type_.items is None else [type_.items]
    return type_.kind != "refused" and all(map(_can_skip, inner))


def scan_of(writer: AvroType, taken: Sequence[AvroField], head_bytes: int) -> Scan | None:
    """Make the scan of a writer schema; None where it has types that are not for it.

    Parameters
    ----------
    writer : AvroType
        What the bodies were written with.
    taken : sequence of AvroField
        The fields of it to read.
    head_bytes : int
        Bytes before each body.
    """
    return Scan(writer, taken, head_bytes) if can_scan(writer, taken) else None


class Scan:
    """Reads bodies of one writer schema at once.

    Parameters
    ----------
    writer : AvroType
        One for which, with these fields, `can_scan` is true.
    taken : sequence of AvroField
        The fields of it to read.
    head_bytes : int
        Bytes before each body.
    """

    def __init__(self, writer: AvroType, taken: Sequence[AvroField], head_bytes: int) -> None:
        self._taken = list(taken)
        self._head_bytes = head_bytes
        steps = _Steps()
        columns = {each.name: at for at, each in enumerate(taken)}
        for each in writer.fields:
            steps.add(each.type, columns.get(each.name, -1))
        self._steps = np.array(steps.made, np.int64).reshape(-1, 4)
        self._blocks = steps.blocks

    def read(self, values: pa.LargeBinaryArray) -> dict[str, pa.Array[Any]]:
        """Read values; see `avro_block.Block.read`."""
        from hindscan.history.formats import avro_scan

        _, marks, content = cast(list[Any], values.buffers())
        count, width = len(values), len(self._taken)
        places = np.frombuffer(marks, np.int64)[values.offset : values.offset + count + 1]
        data = np.frombuffer(content, np.uint8) if content is not None and content.size else np.zeros(1, np.uint8)
        left, taken = np.zeros(self._blocks, np.int64), np.empty(count, np.bool_)
        there = np.empty((width, count), np.uint8)
        begins, ends = (np.empty((width, count), np.int64) for _ in range(2))
        avro_scan.scan(data, places, self._head_bytes, self._steps, left, taken, there, begins, ends)
        if not taken.all():
            raise Misfit("", "a record is not what its schema says")
        return {
            each.name: _column(each, begins[at], ends[at], there[at].view(np.bool_))
            for at, each in enumerate(self._taken)
        }


class _Steps:
    """The steps of a schema, while they are made."""

    def __init__(self) -> None:
        self.made: list[list[int]] = []
        #: Arrays and maps.
        self.blocks = 0

    def add(self, type_: AvroType, column: int) -> None:
        """Add the steps that read a type into a column, or past it."""
        from hindscan.history.formats import avro_scan as scan

        made, union = self.made, len(self.made)
        if type_.null_at is not None:
            made.append([scan.UNION, column, type_.null_at, 0])
        match type_.kind:
            case "boolean":
                made.append([scan.BOOL, column, 0, 0])
            case "int" | "long" | "enum":
                made.append([scan.LONG, column, 0, 0])
            case "float" | "double":
                made.append([scan.FLOAT if type_.kind == "float" else scan.DOUBLE, column, 0, 0])
            case "fixed":
                made.append([scan.FIXED, column, type_.size, 0])
            case "bytes" | "string":
                made.append([scan.BYTES, column, 0, 0])
            case "record":
                for each in type_.fields:
                    self.add(each.type, -1)
            case "array" | "map":
                first, block, self.blocks = len(made), self.blocks, self.blocks + 1
                made.append([scan.BLOCK, block, 0, 0])
                if type_.kind == "map":
                    made.append([scan.BYTES, -1, 0, 0])
                self.add(cast(AvroType, type_.items), -1)
                made.append([scan.AGAIN, block, 0, first])
                made[first][scan.GOES_ON] = len(made)
        if type_.null_at is not None:
            made[union][scan.GOES_ON] = len(made)


def _column(field: AvroField, begins: _Array, ends: _Array, there: _Array) -> pa.Array[Any]:
    """Make an array of what the loop has found."""
    kind = arrow_type(field.type, logical=False)
    missing = int(len(there) - there.sum()) if field.type.nullable else 0
    mask = ~there if missing else None
    match field.type.kind:
        case "boolean":
            return pa.array(begins.astype(np.bool_), kind, mask=mask)
        case "int":
            if not _within(begins, -_INTS, _INTS):
                raise Misfit(field.name, "is out of the range of int")
            return pa.array(begins.astype(np.int32), kind, mask=mask)
        case "float":
            return pa.array(begins.astype(np.int32).view(np.float32), kind, mask=mask)
        case "double":
            return pa.array(begins.view(np.float64), kind, mask=mask)
        case "enum":
            if not _within(begins, 0, len(field.type.symbols)):
                raise Misfit(field.name, "is the number of no symbol")
            places: Any = pa.array(begins, pa.int64(), mask=mask)
            return cast("pa.Array[Any]", pa.array(field.type.symbols, kind).take(places))
        case "long":
            return pa.array(begins, kind, mask=mask)
    return _texts(field, begins, ends, there, missing)


def _texts(field: AvroField, begins: _Array, ends: _Array, there: _Array, missing: int) -> pa.Array[Any]:
    from hindscan.history.addresses import gather

    marks = np.zeros(len(begins) + 1, np.int64)
    np.cumsum(ends - begins, out=marks[1:])
    if marks[-1] > _MOST_BYTES:
        raise Misfit(field.name, "is of more bytes than one array holds")
    content = np.empty(int(marks[-1]), np.uint8)
    gather(begins, marks, content)
    kind = arrow_type(field.type, logical=False)
    is_plain = field.type.kind != "string" or not len(content) or int(content.max()) < _ASCII
    mask = pa.py_buffer(np.packbits(there, bitorder="little").data) if missing else None
    buffers = [mask, pa.py_buffer(marks.astype(np.int32).data), pa.py_buffer(content.data)]
    array: pa.Array[Any] = pa.Array.from_buffers(kind if is_plain else pa.binary(), len(begins), buffers, missing)
    return cast("pa.Array[Any]", array.cast(kind))  # which looks whether it is UTF-8


def _within(numbers: _Array, first: int, end: int) -> bool:
    return not len(numbers) or bool(first <= int(numbers.min()) and int(numbers.max()) < end)
