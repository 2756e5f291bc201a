"""One Avro value is what the registry's schema says, as JSON has it: against what fastavro wrote."""

from __future__ import annotations

import datetime as dt
import decimal
import io
import json
from collections.abc import Iterator
from typing import Any

import fastavro
import pytest

from hindscan.errors import RegistryUnavailable
from hindscan.history.values import avro_values
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
    read = avro_values({"url": registry.url}, "default")
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
        avro_values({"url": registry.url}, "default")(value)


def test_a_registry_that_does_not_answer_is_no_fault_of_the_value(registry: RegistryServer) -> None:
    registry.broken += [500] * 10
    with pytest.raises(RegistryUnavailable):
        avro_values({"url": registry.url, "max.retries": 0}, "default")(b"\0\0\0\0\x01\x02")
