"""One value is what the registry's schema says, as JSON has it: against what fastavro and Google's library wrote."""

from __future__ import annotations

import base64
import datetime as dt
import decimal
import io
import json
from collections.abc import Iterator
from typing import Any

import fastavro
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, timestamp_pb2

from hindscan.errors import RegistryUnavailable
from hindscan.history.values import registry_values
from registry_server import RegistryServer

CLOSED = {
    "type": "record",
    "name": "Closed",
    "fields": [
        {"name": "auction_id", "type": "long"},
        {"name": "category", "type": ["null", "string"]},
        {"name": "closed_at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "day", "type": {"type": "int", "logicalType": "date"}},
        {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}},
        {"name": "photo", "type": "bytes"},
        {
            "name": "bids",
            "type": {
                "type": "array",
                "items": {"type": "record", "name": "Bid", "fields": [{"name": "price", "type": "double"}]},
            },
        },
        {"name": "tags", "type": {"type": "map", "values": "int"}},
    ],
}
RECORD: dict[str, Any] = {
    "auction_id": 2**53 + 1,
    "category": None,
    "closed_at": dt.datetime(2018, 4, 5, 17, 31, 0, 123000, dt.UTC),
    "day": dt.date(2018, 4, 5),
    "price": decimal.Decimal("12.50"),
    "photo": b"\xff\x00",
    "bids": [{"price": 1.5}],
    "tags": {"a": 1},
}


def written(schema: dict[str, Any], schema_id: int, record: dict[str, Any]) -> bytes:
    value = io.BytesIO(b"\0" + schema_id.to_bytes(4, "big"))
    value.seek(5)
    fastavro.schemaless_writer(value, fastavro.parse_schema(schema), record)
    return value.getvalue()


@pytest.fixture
def registry() -> Iterator[RegistryServer]:
    with RegistryServer() as server:
        yield server


def test_a_value_is_read_by_the_schema_it_was_written_with(registry: RegistryServer) -> None:
    read = registry_values("avro", {"url": registry.url}, "default")
    number = registry.register("a-value", {"schema": json.dumps(CLOSED)})
    later = registry.register("a-value", {"schema": json.dumps({**CLOSED, "fields": CLOSED["fields"][:1]})})
    for _ in range(2):
        assert read(written(CLOSED, number, RECORD)) == {
            "auction_id": 2**53 + 1,
            "category": None,
            "closed_at": "2018-04-05T17:31:00.123000Z",
            "day": "2018-04-05",
            "price": "12.50",
            "photo": "/wA=",
            "bids": [{"price": 1.5}],
            "tags": [{"key": "a", "value": 1}],
        }
        assert read(written({**CLOSED, "fields": CLOSED["fields"][:1]}, later, {"auction_id": 7})) == {"auction_id": 7}
    assert sum("/schemas/ids/" in path for _, path in registry.requests) == 2


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", "has 0 bytes"),
        (b"{}", "has 2 bytes"),
        (b'{"a": 1}', "begins with byte 0x7b"),
        (b"\0\0\0\0\x63abc", "schema id 99 is not in registry default"),
        (b"\0\0\0\0\x02{}", "schema id 2 is of JSON; AVRO is required"),
        (b"\0\0\0\0\x03\x02", "schema id 3 has fields that cannot be read: x is"),
        (b"\0\0\0\0\x01\x02\x00", "no record of its schema"),
    ],
)
def test_a_value_that_is_none_says_why(registry: RegistryServer, value: bytes, reason: str) -> None:
    registry.register("a", {"schema": json.dumps(CLOSED)})
    registry.register("b", {"schema": "{}", "schemaType": "JSON"})
    union = {"type": "record", "name": "U", "fields": [{"name": "x", "type": ["int", "string"]}]}
    registry.register("c", {"schema": json.dumps(union)})
    with pytest.raises(ValueError, match=reason):
        registry_values("avro", {"url": registry.url}, "default")(value)


def test_a_registry_that_does_not_answer_is_no_fault_of_the_value(registry: RegistryServer) -> None:
    registry.broken += [500] * 10
    with pytest.raises(RegistryUnavailable):
        registry_values("avro", {"url": registry.url, "max.retries": 0}, "default")(b"\0\0\0\0\x01\x02")


def closed_file() -> Any:
    """Describe ``shop.Other`` and ``shop.Closed`` as protoc would."""
    field = descriptor_pb2.FieldDescriptorProto
    fields = [
        field(name="auction_id", number=1, type=field.TYPE_INT64, label=1),
        field(name="category", number=2, type=field.TYPE_STRING, label=1),
        field(name="closed_at", number=3, type=field.TYPE_MESSAGE, label=1, type_name=".google.protobuf.Timestamp"),
        field(name="photo", number=4, type=field.TYPE_BYTES, label=1),
        field(name="prices", number=5, type=field.TYPE_DOUBLE, label=3),
    ]
    messages = [
        descriptor_pb2.DescriptorProto(name="Other", field=[field(name="n", number=1, type=field.TYPE_INT32, label=1)]),
        descriptor_pb2.DescriptorProto(name="Closed", field=fields),
    ]
    return descriptor_pb2.FileDescriptorProto(
        name="closed.proto", package="shop", syntax="proto3", message_type=messages, dependency=["google/protobuf/timestamp.proto"]
    )  # fmt: skip


def register_closed(registry: RegistryServer) -> tuple[int, Any]:
    """Register that file; give its id and the class of ``shop.Closed``."""
    file = closed_file()
    pool = descriptor_pool.DescriptorPool()
    own = descriptor_pb2.FileDescriptorProto()
    timestamp_pb2.DESCRIPTOR.CopyToProto(own)
    pool.Add(own)
    pool.Add(file)
    made = message_factory.GetMessageClass(pool.FindMessageTypeByName("shop.Closed"))
    text = base64.b64encode(file.SerializeToString()).decode()
    return registry.register("p-value", {"schema": text, "schemaType": "PROTOBUF"}), made


def test_a_protobuf_value_is_read_as_the_message_that_its_head_names(registry: RegistryServer) -> None:
    number, closed = register_closed(registry)
    record = closed(auction_id=2**53 + 1, category="cars", photo=b"\xff\x00", prices=[1.5, 2.0])
    record.closed_at.FromDatetime(dt.datetime(2018, 4, 5, 17, 31, tzinfo=dt.UTC))
    read = registry_values("protobuf", {"url": registry.url}, "default")
    head = b"\0" + number.to_bytes(4, "big")
    # The second message of the file: one place, zigzag.
    for _ in range(2):
        assert read(head + b"\x02\x02" + record.SerializeToString()) == {
            "auction_id": 2**53 + 1,
            "category": "cars",
            "closed_at": "2018-04-05T17:31:00Z",
            "photo": "/wA=",
            "prices": [1.5, 2.0],
        }
    assert read(head + b"\x00" + b"\x08\x07") == {"n": 7}
    for body, reason in [
        (b"\x02\x0a", r"a message at \[5\], which schema id"),
        (b"", "ends within the places"),
        (b"\x02\x02\xff", "is no message of its schema"),
    ]:
        with pytest.raises(ValueError, match=reason):
            read(head + body)
    with pytest.raises(ValueError, match="schema id 1 is of PROTOBUF; AVRO is required"):
        registry_values("avro", {"url": registry.url}, "default")(head + b"\x00")


def test_a_value_of_json_schema_is_the_json_behind_its_head(registry: RegistryServer) -> None:
    number = registry.register("j-value", {"schema": '{"type": "object"}', "schemaType": "JSON"})
    read = registry_values("jsonschema", {"url": registry.url}, "default")
    head = b"\0" + number.to_bytes(4, "big")
    assert read(head + b'{"a": 1}') == {"a": 1}
    for value, reason in [
        (b'{"a": 1}', "begins with byte 0x7b"),
        (head + b"{", "it is not JSON"),
        (head + b'{"a": NaN}', "NaN"),
        (b"\0\0\0\0\x09{}", "schema id 9 is not in registry"),
    ]:
        with pytest.raises(ValueError, match=reason):
            read(value)
