"""Protobuf: columns are what Google's own library reads, by another of its ways; the rest is bad by name."""

from __future__ import annotations

import base64
import datetime as dt
import sys
from typing import Any

import pyarrow as pa
import pytest
from google.protobuf import descriptor_pb2, json_format, message_factory
from hypothesis import given
from hypothesis import strategies as st

from hindscan.errors import UsageError
from hindscan.history.formats.confluent import head
from hindscan.history.formats.decoder import BadValue
from hindscan.history.formats.protobuf import ProtobufDecoder, read_indexes
from hindscan.history.formats.protobuf_schema import (
    evolution_faults,
    load_file,
    message_at,
    protobuf_columns,
    reading_of_message,
    schema_of_descriptor_set,
)
from hindscan.kafka.registry import RegisteredSchema

Type = descriptor_pb2.FieldDescriptorProto
STRING, INT32, INT64, DOUBLE, BYTES, BOOL = (
    Type.TYPE_STRING,
    Type.TYPE_INT32,
    Type.TYPE_INT64,
    Type.TYPE_DOUBLE,
    Type.TYPE_BYTES,
    Type.TYPE_BOOL,
)


def field(name: str, number: int, type_: Any, *, of: str = "", repeated: bool = False, optional: bool = False) -> Type:
    made = Type(name=name, number=number, type=type_, label=3 if repeated else 1)
    if of:
        made.type_name = of
    if optional:
        made.proto3_optional = True
    return made


def message(name: str, *fields: Type, **more: Any) -> descriptor_pb2.DescriptorProto:
    made = descriptor_pb2.DescriptorProto(name=name, field=fields, **more)
    for at, each in enumerate(each for each in made.field if each.proto3_optional):
        each.oneof_index = at
        made.oneof_decl.add(name=f"_{each.name}")
    return made


def schema(*messages: descriptor_pb2.DescriptorProto, enums: Any = (), needs: Any = ()) -> RegisteredSchema:
    file = descriptor_pb2.FileDescriptorProto(
        name="bid.proto", package="shop", syntax="proto3", message_type=messages, enum_type=enums, dependency=needs
    )
    return RegisteredSchema(
        kind="PROTOBUF", files=(("bid.proto", base64.b64encode(file.SerializeToString()).decode()),)
    )


ENUM = descriptor_pb2.EnumDescriptorProto(
    name="Channel",
    value=[descriptor_pb2.EnumValueDescriptorProto(name=name, number=n) for n, name in enumerate(["NONE", "WEB"])],
)
ENTRY = message("TagsEntry", field("key", 1, STRING), field("value", 2, INT64))
ENTRY.options.map_entry = True
PART = message("Part", field("a", 1, INT32), field("b", 2, STRING, optional=True))
EVERY = schema(
    PART,
    message(
        "Bid",
        field("i", 1, INT32),
        field("l", 2, INT64, optional=True),
        field("d", 3, DOUBLE),
        field("s", 4, STRING),
        field("y", 5, BYTES),
        field("f", 6, BOOL),
        field("e", 7, Type.TYPE_ENUM, of=".shop.Channel"),
        field("m", 8, Type.TYPE_MESSAGE, of=".shop.Part"),
        field("r", 9, INT64, repeated=True),
        field("p", 10, Type.TYPE_MESSAGE, of=".shop.Part", repeated=True),
        field("tags", 11, Type.TYPE_MESSAGE, of=".shop.Bid.TagsEntry", repeated=True),
        field("at", 12, Type.TYPE_MESSAGE, of=".google.protobuf.Timestamp"),
        field("w", 13, Type.TYPE_MESSAGE, of=".google.protobuf.Int64Value"),
        field("u", 14, Type.TYPE_UINT64),
        nested_type=[ENTRY],
    ),
    enums=[ENUM],
    needs=["google/protobuf/timestamp.proto", "google/protobuf/wrappers.proto"],
)
BID = load_file(EVERY).message_types_by_name["Bid"]
Bid = message_factory.GetMessageClass(BID)


def decode(
    of: Any, values: list[bytes], columns: list[str] | None = None, writers: Any = None
) -> tuple[list[dict[str, Any]], list[BadValue]]:
    wanted, refused = protobuf_columns(of)
    if columns is None:
        assert refused == []
    else:
        wanted = pa.schema([wanted.field(name) for name in columns])
    table, bad = ProtobufDecoder(wanted, of, writers).decode(pa.array(values, pa.large_binary()))
    table.validate(full=True)
    return table.to_pylist(), bad


def test_fields_are_columns() -> None:
    assert {each.name: str(each.type) for each in protobuf_columns(BID)[0]} == {
        "i": "int32",
        "l": "int64",
        "d": "double",
        "s": "string",
        "y": "binary",
        "f": "bool",
        "e": "string",
        "m": "struct<a: int32, b: string>",
        "r": "list<element: int64>",
        "p": "list<element: struct<a: int32, b: string>>",
        "tags": "list<element: struct<key: string not null, value: int64>>",
        "at": "timestamp[ns, tz=UTC]",
        "w": "int64",
        "u": "uint64",
    }


def test_what_is_not_there_is_null_where_it_can_be_told_and_its_default_otherwise() -> None:
    [row], bad = decode(BID, [b""])
    assert bad == []
    assert row == {
        "i": 0,
        "l": None,
        "d": 0.0,
        "s": "",
        "y": b"",
        "f": False,
        "e": "NONE",
        "m": None,
        "r": [],
        "p": [],
        "tags": [],
        "at": None,
        "w": None,
        "u": 0,
    }
    value = Bid(l=0, m={}, w={}, at={}).SerializeToString()
    [row], _ = decode(BID, [value])
    assert (row["l"], row["m"], row["w"]) == (0, {"a": 0, "b": None}, 0)
    assert row["at"].isoformat() == "1970-01-01T00:00:00+00:00"


int64s = st.integers(-(2**63), 2**63 - 1)
parts = st.fixed_dictionaries({"a": st.integers(-(2**31), 2**31 - 1)}, optional={"b": st.text(max_size=3)})
bids = st.fixed_dictionaries(
    {},
    optional={
        "i": st.integers(-(2**31), 2**31 - 1),
        "l": int64s,
        "d": st.floats(allow_nan=False, allow_infinity=False),
        "s": st.text(max_size=5),
        "y": st.binary(max_size=5),
        "f": st.booleans(),
        "e": st.sampled_from(["NONE", "WEB"]),
        "m": parts,
        "r": st.lists(int64s, max_size=3),
        "p": st.lists(parts, max_size=2),
        "tags": st.dictionaries(st.text(max_size=2), int64s, max_size=3),
        "w": int64s.map(lambda n: {"value": n}),
        "u": st.integers(0, 2**64 - 1),
    },
)


@given(st.lists(bids, min_size=1, max_size=4))
def test_columns_are_what_googles_json_says(written: list[dict[str, Any]]) -> None:
    messages = [Bid(**each) for each in written]
    rows, bad = decode(BID, [each.SerializeToString() for each in messages])
    assert bad == []
    for row, each in zip(rows, messages, strict=True):
        oracle = json_format.MessageToDict(
            each, always_print_fields_with_no_presence=True, preserving_proto_field_name=True
        )
        assert row["i"] == oracle["i"]
        assert row["l"] == (int(oracle["l"]) if "l" in oracle else None)
        assert row["d"] == float(oracle["d"])
        assert row["s"] == oracle["s"]
        assert row["y"] == base64.b64decode(oracle["y"])
        assert (row["f"], row["e"]) == (oracle["f"], oracle["e"])
        assert row["m"] == ({"b": None, **oracle["m"]} if "m" in oracle else None)
        assert row["r"] == [int(n) for n in oracle["r"]]
        assert row["p"] == [{"b": None, **part} for part in oracle["p"]]
        assert row["tags"] == [{"key": key, "value": int(n)} for key, n in sorted(oracle["tags"].items())]
        assert row["w"] == (int(oracle["w"]) if "w" in oracle else None)
        assert row["u"] == int(oracle["u"])


def test_times_keep_their_nanoseconds() -> None:
    value = Bid(at={"seconds": -1, "nanos": 123_456_789}).SerializeToString()
    wanted, _ = protobuf_columns(BID)
    table, _ = ProtobufDecoder(pa.schema([wanted.field("at")]), BID).decode(pa.array([value], pa.large_binary()))
    assert table["at"].cast(pa.int64()).to_pylist() == [-1_000_000_000 + 123_456_789]


GOOD = Bid(i=1, s="ok").SerializeToString()


@pytest.mark.parametrize(
    ("value", "field_", "why"),
    [
        (GOOD[:-1], "", "is no message"),
        (b"\x22\x02\xff\xfe", "", "is no message"),
        (b"\xff", "", "is no message"),
        (b"\x0a\x01x", "i", "wire type"),  # field 1 as text
        (b"\x42\x03\x0a\x01x", "a", "wire type"),  # ... of the message in field 8
        (b"\x38\x07", "e", "is 7, which is no symbol"),
        (Bid(at={"nanos": -1}).SerializeToString(), "at", "nanoseconds"),
        (Bid(at={"seconds": 2**62}).SerializeToString(), "at", "does not fit"),
    ],
)
def test_what_is_no_such_message_is_bad_and_its_neighbours_are_not(value: bytes, field_: str, why: str) -> None:
    rows, bad = decode(BID, [GOOD, value, GOOD])
    assert [row["s"] for row in rows] == ["ok", "ok"]
    assert [(b.index, b.field) for b in bad] == [(1, field_)]
    assert why in bad[0].reason


def test_only_the_columns_asked_for_are_looked_at() -> None:
    assert decode(BID, [GOOD + b"\x38\x07"], columns=["s"]) == ([{"s": "ok"}], [])


def test_a_recursive_message_is_refused_by_name_and_can_be_left_out() -> None:
    node = message("Node", field("n", 1, INT32), field("next", 2, Type.TYPE_MESSAGE, of=".shop.Node"))
    of = load_file(schema(node)).message_types_by_name["Node"]
    assert protobuf_columns(of)[1] == [("next", "the recursive message shop.Node")]
    value = message_factory.GetMessageClass(of)(n=1, next={"n": 2}).SerializeToString()
    assert decode(of, [value], columns=["n"]) == ([{"n": 1}], [])


# --- The wire format, and versions of a message -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "indexes", "end"),
    [
        (b"\x00rest", (0,), 6),
        (b"\x02\x00rest", (0,), 7),
        (b"\x02\x02rest", (1,), 7),
        (b"\x04\x02\x00", (1, 0), 8),
        (b"\x02\x80\x02", (128,), 8),
    ],
)
def test_the_message_is_named_by_its_place(body: bytes, indexes: tuple[int, ...], end: int) -> None:
    assert read_indexes(head(1) + body) == (indexes, end)


def test_places_lead_to_messages_and_to_messages_in_them() -> None:
    file = BID.file
    found = [message_at(file, path) for path in ((0,), (1,), (1, 0), (2,), (1, 5), (-1,))]
    assert [each and each.full_name for each in found] == [
        "shop.Part",
        "shop.Bid",
        "shop.Bid.TagsEntry",
        None,
        None,
        None,
    ]


def test_confluents_own_serializer_is_understood() -> None:
    from confluent_kafka.schema_registry import SchemaRegistryClient
    from confluent_kafka.schema_registry.protobuf import ProtobufSerializer
    from confluent_kafka.serialization import MessageField, SerializationContext

    client = SchemaRegistryClient.new_client({"url": "mock://serializer"})
    serializer = ProtobufSerializer(Bid, client, {"use.deprecated.format": False})
    value = serializer(Bid(s="x"), SerializationContext("bids", MessageField.VALUE))
    number = int.from_bytes(value[1:5], "big")
    text = str(client.get_schema(number, fmt="serialized").schema_str)
    written = load_file(RegisteredSchema(kind="PROTOBUF", files=(("own", text),)))
    rows, bad = decode(BID, [value], writers=lambda _: written)
    assert bad == []
    assert rows[0]["s"] == "x"


def versions(*writer: Type, reader: list[Type]) -> tuple[list[dict[str, Any]], list[BadValue]]:
    """Write a message of one version with 7, '7' or true in every field; read it as another."""
    written = load_file(schema(message("Bid", *writer)))
    of = load_file(schema(message("Bid", *reader))).message_types_by_name["Bid"]
    examples = {STRING: "7", BYTES: b"7", DOUBLE: 7.0, BOOL: True}
    values = {each.name: examples.get(each.type, 7) for each in writer}
    made = message_factory.GetMessageClass(written.message_types_by_name["Bid"])(**values)
    return decode(of, [head(1) + b"\x00" + made.SerializeToString()], writers=lambda _: written)


def test_versions_are_read_as_the_pinned_one() -> None:
    assert versions(field("a", 1, INT32), reader=[field("a", 1, INT32), field("b", 2, STRING)]) == (
        [{"a": 7, "b": ""}],
        [],
    )
    assert versions(field("a", 1, INT32), field("gone", 2, STRING), reader=[field("a", 1, INT32)]) == ([{"a": 7}], [])
    assert versions(field("old", 1, INT32), reader=[field("new", 1, INT64)]) == ([{"new": 7}], [])
    assert versions(field("a", 1, STRING), reader=[field("a", 1, BYTES)]) == ([{"a": b"7"}], [])


@pytest.mark.parametrize(
    ("writer", "reader", "why"),
    [
        (field("a", 1, INT64), field("a", 1, INT32), "int64 cannot be read as int32"),
        (field("a", 1, STRING), field("a", 1, INT64), "string cannot be read as int64"),
        (field("a", 1, INT32), field("a", 1, Type.TYPE_SINT32), "int32 cannot be read as sint32"),
        (field("a", 1, INT32), field("a", 1, INT32, repeated=True), "is repeated in one schema"),
    ],
)
def test_a_field_that_changed_its_type_is_bad(writer: Type, reader: Type, why: str) -> None:
    rows, [bad] = versions(writer, reader=[reader])
    assert (rows, bad.field) == ([], "a")
    assert why in bad.reason


def test_fields_within_fields_are_compared_too() -> None:
    other = schema(
        message("Part", field("a", 1, STRING)), message("Bid", field("m", 8, Type.TYPE_MESSAGE, of=".shop.Part"))
    )
    writer = load_file(other).message_types_by_name["Bid"]
    assert evolution_faults(writer, BID, ["m"]) == [("m.a", "string cannot be read as int32")]
    assert evolution_faults(writer, BID, ["i"]) == []


@pytest.mark.parametrize(
    ("head_", "why"),
    [
        (b"\x02\x00", "is message shop.Part; shop.Bid is required"),
        (b"\x02\x08", "which its schema lacks"),
        (b"\x80" * 10, "ends within the places"),
        (b"\x81\x01", "says that its message is -65 levels deep"),
    ],
)
def test_another_message_is_bad(head_: bytes, why: str) -> None:
    good = head(1) + b"\x02\x02" + GOOD
    rows, bad = decode(BID, [good, head(1) + head_ + GOOD, good], writers=lambda _: BID.file)
    assert len(rows) == 2
    assert [b.index for b in bad] == [1]
    assert why in bad[0].reason


def test_keys_depend_on_the_wanted_fields_alone() -> None:
    more = load_file(schema(message("Bid", field("a", 1, INT32), field("b", 2, STRING)))).message_types_by_name["Bid"]
    less = load_file(schema(message("Bid", field("a", 1, INT32)))).message_types_by_name["Bid"]
    other = load_file(schema(message("Bid", field("a", 3, INT32)))).message_types_by_name["Bid"]
    assert reading_of_message(more, ["a"]) == reading_of_message(less, ["a"]) != reading_of_message(other, ["a"])


def test_a_descriptor_set_is_a_schema_and_nothing_else_is() -> None:
    file = descriptor_pb2.FileDescriptorProto()
    BID.file.CopyToProto(file)
    found = schema_of_descriptor_set(descriptor_pb2.FileDescriptorSet(file=[file]).SerializeToString())
    assert "Bid" in load_file(found).message_types_by_name
    for content in (b"", b'syntax = "proto3";', file.SerializeToString()):
        with pytest.raises(ValueError, match="must be a descriptor set"):
            schema_of_descriptor_set(content)
    with pytest.raises(ValueError, match="must be a serialized descriptor"):
        load_file(RegisteredSchema(kind="PROTOBUF", files=(("x", 'syntax = "proto3";'),)))
    with pytest.raises(ValueError, match="must be a complete descriptor"):
        load_file(schema(message("Bid", field("x", 1, Type.TYPE_MESSAGE, of=".shop.Absent"))))


def test_times_are_utc() -> None:
    value = Bid(at={"seconds": 1_514_764_800}).SerializeToString()
    assert decode(BID, [value], columns=["at"])[0][0]["at"].to_pydatetime() == dt.datetime(2018, 1, 1, tzinfo=dt.UTC)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google.protobuf", None)
    with pytest.raises(
        UsageError, match=r"format protobuf needs the library protobuf.*pip install 'hindscan\[protobuf\]'"
    ):
        load_file(EVERY)
    with pytest.raises(UsageError, match="needs the library protobuf"):
        schema_of_descriptor_set(b"")
