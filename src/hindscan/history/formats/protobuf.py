"""Protobuf records to columns: format `protobuf`, in a registry's wire format or bare with a declared descriptor.

Keeps promise 2 for Protobuf. A body is parsed as the pinned message; by Protobuf's rules that reads other versions of it too, once `protobuf_schema` has
found that no field changed its type. What Protobuf would pass over in silence is bad here: a field that came with the wire type of
another, a number that is no symbol of its enum.
Which message a body is, the wire format says by its place in the writer's file; another than the pinned one is bad.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, cast

import pyarrow as pa

from hindscan.history.formats import confluent
from hindscan.history.formats.decoder import BadValue, Columns, Headers, Misfit, decode_by_halves
from hindscan.history.formats.protobuf_schema import (
    TIMESTAMP,
    WRAPPERS,
    enum_of,
    evolution_faults,
    is_map,
    message_at,
    message_of,
)

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor

__all__ = ["ProtobufDecoder", "read_indexes"]

_NANOS: Final = 1_000_000_000
_ENUM: Final = 14
_MESSAGES: Final = (10, 11)
#: More levels of messages within messages than this are no schema of anybody's.
_MAX_INDEXES: Final = 64

Take = Callable[[Any], Any]


def read_indexes(value: bytes) -> tuple[tuple[int, ...], int]:
    """Read the places that say which message of its file a body is.

    Returns
    -------
    indexes, end
        The places; and where the body begins.

    Raises
    ------
    Misfit
        There are none.
    """
    at = confluent.HEAD_BYTES
    count, at = _zigzag(value, at)
    if count == 0:  # the first message of the file, which is nearly always meant
        return (0,), at
    if not 0 < count <= _MAX_INDEXES:
        raise Misfit("", f"says that its message is {count} levels deep")
    indexes = []
    for _ in range(count):
        index, at = _zigzag(value, at)
        indexes.append(index)
    return tuple(indexes), at


def _zigzag(value: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while at < len(value) and shift < 64:
        number |= (value[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if value[at - 1] < 0x80:
            return (number >> 1) ^ -(number & 1), at
    raise Misfit("", "ends within the places of its message")


class ProtobufDecoder:
    """Decodes Protobuf records to columns of one message.

    Parameters
    ----------
    schema : pyarrow.Schema
        The columns to decode, and no others.
    message : Descriptor
        The pinned message.
    writers : callable, optional
        Gives the file of a schema id. Default: values have no heads.
    """

    def __init__(self, schema: pa.Schema, message: Descriptor, writers: confluent.Schemas | None = None) -> None:
        from google.protobuf.message_factory import GetMessageClass

        self.schema = schema
        self._message = message
        self._writers = writers
        self._parse: Callable[[bytes], Any] = GetMessageClass(message).FromString
        self._takes = [_taker(message.fields_by_name[name]) for name in schema.names]
        self._known = _Known(message, schema.names)
        self._faults: dict[tuple[int, tuple[int, ...]], Misfit | None] = {}

    def decode(self, values: pa.LargeBinaryArray, headers: Headers | None = None) -> tuple[pa.Table, list[BadValue]]:
        """Decode values; see `Decoder`."""
        del headers
        if self._writers is None:
            return self._decode(values, lambda value: value)
        return confluent.decode_by_id(self.schema, values, self._of_one)

    def _of_one(self, schema_id: int, values: pa.LargeBinaryArray) -> tuple[pa.Table, list[BadValue]]:
        assert self._writers is not None
        file = self._writers(schema_id)

        def body(value: bytes) -> bytes:
            indexes, end = read_indexes(value)
            if (schema_id, indexes) not in self._faults:
                self._faults[schema_id, indexes] = self._fault(file, indexes)
            fault = self._faults[schema_id, indexes]
            if fault is not None:
                raise Misfit(fault.field, str(fault))
            return value[end:]

        return self._decode(values, body)

    def _fault(self, file: FileDescriptor, indexes: Sequence[int]) -> Misfit | None:
        found = message_at(file, indexes)
        if found is None or found.full_name != self._message.full_name:
            said = (
                f"message {found.full_name}"
                if found is not None
                else f"a message at {list(indexes)}, which its schema lacks"
            )
            return Misfit("", f"is {said}; {self._message.full_name} is required")
        faults = evolution_faults(found, self._message, self.schema.names)
        return Misfit(*faults[0]) if faults else None

    def _decode(self, values: pa.LargeBinaryArray, body: Callable[[bytes], bytes]) -> tuple[pa.Table, list[BadValue]]:
        from google.protobuf.message import DecodeError

        def decode_all(first: int, part: pa.LargeBinaryArray) -> Columns:
            del first
            messages = [self._parse(body(value)) for value in cast("list[bytes]", part.to_pylist())]
            for message in messages:
                self._known.check(message)
            return [
                _column([take(message) for message in messages], column)
                for take, column in zip(self._takes, self.schema, strict=True)
            ]

        return decode_by_halves(self.schema, values, decode_all, _explain, (ValueError, DecodeError))


def _explain(index: int, fault: Exception) -> BadValue:
    reason = str(fault) if isinstance(fault, Misfit) else f"is no message of its schema: {fault}"
    return BadValue(index=index, field=getattr(fault, "field", ""), reason=reason)


def _column(values: list[Any], column: pa.Field[Any]) -> pa.Array[Any]:
    try:
        array: pa.Array[Any] = pa.array(values, column.type)
        return array
    except (OverflowError, ValueError, pa.ArrowException) as fault:
        raise Misfit(column.name, f"does not fit {column.type}: {fault}") from fault


def _taker(field: FieldDescriptor) -> Take:
    """Make the function that takes a field out of its message as a value for its column."""
    name, one = field.name, _one(field)
    if is_map(field):
        value = _one(message_of(field).fields_by_name["value"])

        def pairs(message: Any) -> Any:
            found = getattr(message, name)
            # Protobuf's maps have no order; a result must have one.
            return [{"key": key, "value": value(found[key])} for key in sorted(found)]

        return pairs
    if field.is_repeated:
        return lambda message: [one(each) for each in getattr(message, name)]
    if field.has_presence:
        return lambda message: one(getattr(message, name)) if message.HasField(name) else None
    return lambda message: one(getattr(message, name))


def _one(field: FieldDescriptor) -> Take:
    if field.type == _ENUM:
        return _symbol(field)
    if field.type not in _MESSAGES:
        return lambda value: value
    message = message_of(field)
    if message.full_name == TIMESTAMP:
        return _timestamp(field.name)
    if message.full_name in WRAPPERS:
        return lambda value: value.value
    if is_map(field):
        return lambda value: value
    takes = {each.name: _taker(each) for each in message.fields}
    return lambda value: {name: take(value) for name, take in takes.items()}


def _symbol(field: FieldDescriptor) -> Take:
    # Of several names of one number the first.
    names: Mapping[int, str] = {each.number: each.name for each in reversed(enum_of(field).values)}

    def symbol(value: int) -> str:
        if value not in names:
            raise Misfit(field.name, f"is {value}, which is no symbol of enum {enum_of(field).name}")
        return names[value]

    return symbol


def _timestamp(field: str) -> Take:
    def nanoseconds(value: Any) -> int:
        if not 0 <= value.nanos < _NANOS:
            raise Misfit(field, f"has {value.nanos} nanoseconds; less than a second is required")
        return int(value.seconds) * _NANOS + int(value.nanos)

    return nanoseconds


class _Known:
    """Finds fields of a message that came with a wire type they do not have: the parser lays them aside as unknown."""

    def __init__(self, message: Descriptor, wanted: Sequence[str]) -> None:
        from google.protobuf.unknown_fields import UnknownFieldSet

        self._unknown: Callable[[Any], Any] = UnknownFieldSet
        fields = [each for each in message.fields if each.name in wanted]
        self._names = {each.number: each.name for each in fields}
        # What is wanted is never recursive: that could be no column.
        self._inner = [
            (each, _Known(message_of(each), [inner.name for inner in message_of(each).fields]))
            for each in fields
            if each.type in _MESSAGES and not is_map(each)
        ]

    def check(self, message: Any) -> None:
        for each in self._unknown(message):
            if each.field_number in self._names:
                raise Misfit(self._names[each.field_number], "came with the wire type of another type")
        for field, known in self._inner:
            if field.is_repeated:
                for each in getattr(message, field.name):
                    known.check(each)
            elif message.HasField(field.name):
                known.check(getattr(message, field.name))
