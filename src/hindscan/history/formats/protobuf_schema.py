"""Protobuf schemas: descriptors by name, what columns a message gives, and what may change between two of its versions.

Keeps promise 2 for Protobuf: every field is a column or refused by name, and a field whose type changed in a way that Protobuf would skip or cut in silence is
a fault. Descriptors come from a registry, or from a file that ``protoc --include_imports --descriptor_set_out`` wrote; Google's own types need not be in it.

===========================================  ==========================================================
Protobuf                                     column
===========================================  ==========================================================
(s)int32, (s)int64, uint32, uint64, fixed    int32, int64, uint32, uint64
float, double, bool, string, bytes           float, double, bool, string, binary
enum                                         string, the symbol's name
message, repeated                            struct, list
map                                          list<struct<key, value>>, by key
google.protobuf.Timestamp                    timestamp[ns, UTC]
google.protobuf.Int64Value and its like      the type within, which may be null
===========================================  ==========================================================

A field that knows whether it is there (optional, message, oneof) is null where it is not; any other has its default, as Protobuf has it. Refused: recursive messages.
"""

from __future__ import annotations

import base64
import binascii
import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa

from hindscan.history.formats.decoder import missing_extra
from hindscan.kafka.registry import RegisteredSchema

if TYPE_CHECKING:
    from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor, FileDescriptor

__all__ = [
    "TIMESTAMP",
    "WRAPPERS",
    "enum_of",
    "evolution_faults",
    "is_map",
    "load_file",
    "message_at",
    "message_of",
    "protobuf_columns",
    "reading_of_message",
    "schema_of_descriptor_set",
]

TIMESTAMP: Final = "google.protobuf.Timestamp"
WRAPPERS: Final = frozenset(
    f"google.protobuf.{name}Value"
    for name in ("Double", "Float", "Int64", "UInt64", "Int32", "UInt32", "Bool", "String", "Bytes")
)
#: Google's own types lie under this, and are in the library.
_OWN: Final = "google/protobuf/"
_MAIN: Final = "hindscan.main.proto"
# FieldDescriptor.TYPE_*: the numbers of descriptor.proto.
_SCALARS: Final[dict[int, pa.DataType]] = {
    1: pa.float64(),
    2: pa.float32(),
    3: pa.int64(),
    4: pa.uint64(),
    5: pa.int32(),
    6: pa.uint64(),
    7: pa.uint32(),
    8: pa.bool_(),
    9: pa.string(),
    12: pa.binary(),
    13: pa.uint32(),
    15: pa.int32(),
    16: pa.int64(),
    17: pa.int32(),
    18: pa.int64(),
}
_ENUM: Final = 14
_MESSAGES: Final = (10, 11)
#: Changes of a field's type that lose nothing: int32 to int64, uint32 to uint64, sint32 to sint64, string to bytes.
_WIDER: Final = {(5, 3), (13, 4), (17, 18), (9, 12)}


def load_file(schema: RegisteredSchema) -> FileDescriptor:
    """Load a schema and what it refers to into a pool of its own.

    Raises
    ------
    ValueError
        It is no descriptor.
    """
    try:
        from google.protobuf import descriptor_pb2, descriptor_pool
        from google.protobuf.message import DecodeError
    except ImportError as fault:
        raise missing_extra("format protobuf", "protobuf", "protobuf") from fault
    pool = descriptor_pool.DescriptorPool()
    loaded: set[str] = set()
    for at, (name, text) in enumerate(schema.files):
        file = descriptor_pb2.FileDescriptorProto()
        try:
            file.ParseFromString(base64.b64decode(text, validate=True))
        except (DecodeError, binascii.Error) as fault:
            raise ValueError(f"must be a serialized descriptor; {name} is none: {fault}") from fault
        file.name = name if at < len(schema.files) - 1 else _MAIN
        for needed in file.dependency:
            if needed.startswith(_OWN) and needed not in loaded:
                _add_own(pool, needed, loaded)
        try:
            pool.Add(file)
            loaded.add(file.name)
            found = pool.FindFileByName(file.name)
        except (TypeError, KeyError) as fault:
            raise ValueError(f"must be a complete descriptor; {name} is not: {fault}") from fault
    return found


def _add_own(pool: Any, name: str, loaded: set[str]) -> None:
    from google.protobuf import descriptor_pb2

    module = importlib.import_module(name.removesuffix(".proto").replace("/", ".") + "_pb2")
    file = descriptor_pb2.FileDescriptorProto()
    module.DESCRIPTOR.CopyToProto(file)
    for needed in file.dependency:
        if needed not in loaded:
            _add_own(pool, needed, loaded)
    pool.Add(file)
    loaded.add(name)


def schema_of_descriptor_set(content: bytes) -> RegisteredSchema:
    """Take the files of a descriptor set; the last, which protoc writes after those it needs, is the schema.

    Raises
    ------
    ValueError
        It is none.
    """
    try:
        from google.protobuf import descriptor_pb2
        from google.protobuf.message import DecodeError
    except ImportError as fault:
        raise missing_extra("format protobuf", "protobuf", "protobuf") from fault
    try:
        found = descriptor_pb2.FileDescriptorSet.FromString(content)
    except DecodeError as fault:
        raise ValueError(f"must be a descriptor set: {fault}") from fault
    if not found.file or any(not each.name for each in found.file):
        raise ValueError("must be a descriptor set, as protoc --include_imports --descriptor_set_out=FILE writes it")
    files = [
        (each.name, base64.b64encode(each.SerializeToString()).decode())
        for each in found.file
        if not each.name.startswith(_OWN)
    ]
    return RegisteredSchema(kind="PROTOBUF", files=tuple(files))


def message_at(file: FileDescriptor, indexes: Sequence[int]) -> Descriptor | None:
    """Give the message at a path of places: of those of the file, of those in it, and so on."""
    messages: list[Descriptor] = list(file.message_types_by_name.values())
    found: Descriptor | None = None
    for index in indexes:
        if not 0 <= index < len(messages):
            return None
        found = messages[index]
        messages = list(found.nested_types)
    return found


def message_of(field: FieldDescriptor) -> Descriptor:
    """Give the message that a field is of."""
    assert field.message_type is not None
    return field.message_type


def enum_of(field: FieldDescriptor) -> EnumDescriptor:
    """Give the enum that a field is of."""
    assert field.enum_type is not None
    return field.enum_type


def is_map(field: FieldDescriptor) -> bool:
    """Whether a field is a map."""
    return field.type in _MESSAGES and bool(message_of(field).GetOptions().map_entry)


def protobuf_columns(message: Descriptor) -> tuple[pa.Schema, list[tuple[str, str]]]:
    """Give the columns of a message, and the fields that can be none with the reason."""
    columns, refused = [], []
    for field in message.fields:
        try:
            columns.append(pa.field(field.name, _type(field, (message.full_name,))))
        except TypeError as fault:
            refused.append((field.name, str(fault)))
    return pa.schema(columns), refused


def _type(field: FieldDescriptor, inside: tuple[str, ...]) -> pa.DataType:
    if is_map(field):
        key, value = message_of(field).fields_by_name["key"], message_of(field).fields_by_name["value"]
        pair = [pa.field("key", _one(key, inside), nullable=False), pa.field("value", _one(value, inside))]
        return pa.list_(pa.field("element", pa.struct(pair)))
    one = _one(field, inside)
    return pa.list_(pa.field("element", one)) if field.is_repeated else one


def _one(field: FieldDescriptor, inside: tuple[str, ...]) -> pa.DataType:
    if field.type == _ENUM:
        return pa.string()
    if field.type not in _MESSAGES:
        return _SCALARS[field.type]
    message = message_of(field)
    if message.full_name == TIMESTAMP:
        return pa.timestamp("ns", "UTC")
    if message.full_name in WRAPPERS:
        return _SCALARS[message.fields_by_name["value"].type]
    if message.full_name in inside:
        raise TypeError(f"the recursive message {message.full_name}")
    return pa.struct([pa.field(each.name, _type(each, (*inside, message.full_name))) for each in message.fields])


def evolution_faults(
    writer: Descriptor, reader: Descriptor, wanted: Sequence[str], path: str = ""
) -> list[tuple[str, str]]:
    """Find the wanted fields that a writer's version of a message gives otherwise than the reader's, as (field, reason).

    Fields are the same by number. One that either side lacks is no fault: Protobuf has a default for it.
    """
    faults = []
    for field in reader.fields:
        other = writer.fields_by_number.get(field.number)
        if field.name not in wanted or other is None:
            continue
        name = f"{path}{field.name}"
        if other.is_repeated != field.is_repeated:
            faults.append((name, "is repeated in one schema and single in the other"))
        elif other.type != field.type and (other.type, field.type) not in _WIDER:
            faults.append((name, f"{_said(other)} cannot be read as {_said(field)}"))
        elif field.type in _MESSAGES:
            inner = message_of(field)
            faults += evolution_faults(message_of(other), inner, [each.name for each in inner.fields], f"{name}.")
    return faults


def reading_of_message(message: Descriptor, wanted: Sequence[str]) -> object:
    """Tell in JSON values all of a message's wanted fields that shows in rows, for keys."""
    told: list[object] = []
    for field in message.fields:
        if field.name not in wanted:
            continue
        inner: object = None
        if field.type == _ENUM:
            inner = [[each.number, each.name] for each in enum_of(field).values]
        elif field.type in _MESSAGES:
            inner = reading_of_message(message_of(field), [each.name for each in message_of(field).fields])
        told.append([field.name, field.number, field.type, field.is_repeated, field.has_presence, inner])
    return [message.full_name, told]


def _said(field: FieldDescriptor) -> str:
    if field.type == _ENUM:
        return f"enum {enum_of(field).name}"
    return f"message {message_of(field).name}" if field.type in _MESSAGES else _PROTO_NAMES[field.type]


_PROTO_NAMES: Final = {
    1: "double",
    2: "float",
    3: "int64",
    4: "uint64",
    5: "int32",
    6: "fixed64",
    7: "fixed32",
    8: "bool",
    9: "string",
    12: "bytes",
    13: "uint32",
    15: "sfixed32",
    16: "sfixed64",
    17: "sint32",
    18: "sint64",
}
