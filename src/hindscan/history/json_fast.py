"""JSON records to columns in one compiled pass, the odd ones by the reference decoder.

Keeps promise 2 at wire speed. `json_scan` takes the records that are plainly what the columns ask for; whatever is odd about another (escapes, exponents, other
spellings of times, a name twice, a wrong type, half a document) sends it to the reference, which decodes it or says what is wrong with it. Rows come in the
order of the records, whoever decoded them. So the result is the reference's, record for record; tests compare the two over whatever hypothesis can think of.

Most topics have one writer, whose records differ in their values only. So the layout of a batch's first record is learnt, and in those like it
names are compared, not looked for.

::

    values -> scan -> columns of the plain records   -> in order -> table, bad
                   -> the others -> reference decode ->
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Callable

    from hindscan.history.formats.decoder import BadValue, Headers

__all__ = ["FastJson", "Layout", "can_scan", "layout_of"]

_BOUNDS: Final[dict[pa.DataType, tuple[int, int]]] = {
    pa.int8(): (-(1 << 7), (1 << 7) - 1),
    pa.int16(): (-(1 << 15), (1 << 15) - 1),
    pa.int32(): (-(1 << 31), (1 << 31) - 1),
    pa.int64(): (-(1 << 63), (1 << 63) - 1),
    pa.uint8(): (0, (1 << 8) - 1),
    pa.uint16(): (0, (1 << 16) - 1),
    pa.uint32(): (0, (1 << 32) - 1),
}
_DIGITS: Final = {"s": 0, "ms": 3, "us": 6, "ns": 9}

_Array = np.ndarray[Any, np.dtype[Any]]

_OPENED: Final = re.compile(r"[ \t\r\n]*\{[ \t\r\n]*")
_NAMED: Final = re.compile(r'"([^"\\]*)"[ \t\r\n]*:[ \t\r\n]*')
_NEXT: Final = re.compile(r"[ \t\r\n]*,[ \t\r\n]*")
_CLOSED: Final = re.compile(r"[ \t\r\n]*\}[ \t\r\n]*")


def can_scan(schema: pa.Schema) -> bool:
    """Tell whether all columns are of types that the scanner takes."""
    t = pa.types
    return len(schema) > 0 and all(
        kind in _BOUNDS or t.is_string(kind) or t.is_timestamp(kind) or t.is_boolean(kind) or t.is_float64(kind)
        for kind in schema.types
    )


class Layout(NamedTuple):
    """How a record is laid out, for `json_scan.scan`."""

    #: The bytes before, between and after its values, one after another.
    between: _Array
    #: Where each of them begins, and the end.
    places: _Array
    #: The column of each value; -1 for one that is not asked for.
    members: _Array


#: No record is like this one. Read-only as any other: the loop is compiled for arrays that are.
_UNKNOWN: Final = Layout(np.frombuffer(b" ", np.uint8), np.zeros(1, np.int64), np.zeros(0, np.int64))


def layout_of(record: bytes, schema: pa.Schema) -> Layout | None:
    """Learn from one record how those after it are probably laid out; None where it does not have every column once, or is odd."""
    text = record.decode()
    decoder = json.JSONDecoder()
    between: list[str] = []
    members: list[int] = []
    begin, found = 0, _OPENED.match(text)
    while found is not None and (named := _NAMED.match(text, found.end())) is not None:
        try:
            _, after = decoder.raw_decode(text, named.end())
        except (ValueError, RecursionError):
            return None
        between.append(text[begin : named.end()])
        members.append(schema.get_field_index(named[1]))
        begin, found = after, _NEXT.match(text, after)
    if _CLOSED.fullmatch(text, begin) is None or sorted(at for at in members if at >= 0) != list(range(len(schema))):
        return None
    between.append(text[begin:])
    pieces = [piece.encode() for piece in between]
    return Layout(
        np.frombuffer(b"".join(pieces), np.uint8),
        np.cumsum([0, *map(len, pieces)], dtype=np.int64),
        np.array(members, np.int64),
    )


class FastJson:
    """Decodes JSON records to columns of simple types.

    Parameters
    ----------
    schema : pyarrow.Schema
        One for which `can_scan` is true.
    reference : callable
        Decodes any records, as `Decoder.decode` does.
    """

    def __init__(
        self, schema: pa.Schema, reference: Callable[[pa.LargeBinaryArray], tuple[pa.Table, list[BadValue]]]
    ) -> None:
        from hindscan.history import json_scan

        self.schema = schema
        self._reference = reference
        names = [name.encode() for name in schema.names]
        self._names = np.frombuffer(b"".join(names), np.uint8)
        self._name_places = np.cumsum([0, *map(len, names)], dtype=np.int64)
        kinds, digits, bounds = [], [], []
        for kind in schema.types:
            bounds.append(_BOUNDS.get(kind, _BOUNDS[pa.int64()]))
            digits.append(_DIGITS[kind.unit] if isinstance(kind, pa.TimestampType) else 0)
            if isinstance(kind, pa.TimestampType):
                kinds.append(json_scan.TIME)
            elif pa.types.is_string(kind):
                kinds.append(json_scan.TEXT)
            elif pa.types.is_boolean(kind):
                kinds.append(json_scan.BOOL)
            else:
                kinds.append(json_scan.FLOAT if pa.types.is_float64(kind) else json_scan.INTEGER)
        self._kinds, self._digits = np.array(kinds, np.int64), np.array(digits, np.int64)
        self._least, self._greatest = np.array(bounds, np.int64).T.copy()
        self._nullable = np.array([column.nullable for column in schema], np.bool_)

    def decode(self, values: pa.LargeBinaryArray, headers: Headers | None = None) -> tuple[pa.Table, list[BadValue]]:  # noqa: ARG002
        """Decode values; see `formats.decoder.Decoder.decode`."""
        if not len(values):
            return self.schema.empty_table(), []
        if not _is_text(values):
            # Whose fault that is, and whether it matters, the reference says.
            return self._reference(values)
        taken, columns = self._scan(values)
        plain = pa.Table.from_arrays(columns, schema=self.schema)
        if taken.all():
            return plain, []
        others = np.flatnonzero(~taken)
        decoded, bad = self._reference(values.take(others))
        wrong = [fault.index for fault in bad]
        where = np.concatenate([np.flatnonzero(taken), np.delete(others, wrong)])
        whole = pa.concat_tables([plain, decoded]).take(np.argsort(where, kind="stable"))
        return whole, [_at(fault, int(others[fault.index])) for fault in bad]

    def _scan(self, values: pa.LargeBinaryArray) -> tuple[_Array, list[pa.Array[Any]]]:
        from hindscan.history import json_scan

        _, marks, content = cast(list[Any], values.buffers())
        count = len(values)
        places = np.frombuffer(marks, np.int64)[values.offset : values.offset + count + 1]
        data = np.frombuffer(content, np.uint8) if content is not None and content.size else np.zeros(1, np.uint8)
        width = len(self.schema)
        taken = np.zeros(count, np.bool_)
        there = np.full((width, count), 2, np.uint8)
        begins, ends = (np.empty((width, count), np.int64) for _ in range(2))
        layout = layout_of(bytes(data[places[0] : places[1]]), self.schema) or _UNKNOWN
        json_scan.scan(
            data, places, self._names, self._name_places, self._kinds, self._digits, self._least, self._greatest, self._nullable,
            *layout, taken, there, begins, ends,
        )  # fmt: skip
        if not taken.all():
            there, begins, ends = (each.compress(taken, axis=1) for each in (there, begins, ends))
        columns = []
        for at, kind in enumerate(self._kinds):
            valid = there[at] == 1
            if kind in (json_scan.TEXT, json_scan.FLOAT):
                columns.append(self._texts(at, begins[at], ends[at], valid))
            else:
                columns.append(self._numbers(at, begins[at], valid))
        return taken, columns

    def _numbers(self, at: int, numbers: _Array, valid: _Array) -> pa.Array[Any]:
        kind = self.schema.field(at).type
        mask = None if valid.all() else ~valid
        if pa.types.is_boolean(kind):
            return pa.array(numbers.astype(np.bool_), kind, mask=mask)
        if pa.types.is_timestamp(kind):
            return cast("pa.Array[Any]", pa.array(numbers, pa.int64(), mask=mask).cast(kind))
        with np.errstate(over="ignore"):  # under a null stands whatever was there
            fitting = numbers.astype(np.dtype(str(kind)), copy=False)
        return cast("pa.Array[Any]", pa.array(fitting, kind, mask=mask))

    def _texts(self, at: int, begins: _Array, ends: _Array, valid: _Array) -> pa.Array[Any]:
        from hindscan.history.addresses import gather

        marks = np.zeros(len(valid) + 1, np.int64)
        np.cumsum((ends - begins) * valid, out=marks[1:])
        content = np.empty(int(marks[-1]), np.uint8)
        gather(begins, marks, content)
        missing = int(len(valid) - valid.sum())
        mask = pa.py_buffer(np.packbits(valid, bitorder="little").data) if missing else None
        buffers = [mask, pa.py_buffer(marks.data), pa.py_buffer(content.data)]
        texts: pa.Array[Any] = pa.Array.from_buffers(pa.large_string(), len(valid), buffers, missing)
        return cast("pa.Array[Any]", texts.cast(self.schema.field(at).type))


def _is_text(values: pa.LargeBinaryArray) -> bool:
    """Tell whether every value is UTF-8: most are ASCII, which is seen in a tenth of the time."""
    _, marks, content = cast(list[Any], values.buffers())
    places = np.frombuffer(marks, np.int64)
    first, last = (int(places[at]) for at in (values.offset, values.offset + len(values)))
    if first == last or int(np.frombuffer(content, np.uint8)[first:last].max()) < 128:
        return True
    try:
        values.cast(pa.large_string())
    except pa.ArrowInvalid:
        return False
    return True


def _at(fault: BadValue, index: int) -> BadValue:
    return type(fault)(index=index, field=fault.field, reason=fault.reason)
