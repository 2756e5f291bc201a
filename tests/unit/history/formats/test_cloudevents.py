"""CloudEvents: attributes and members of the data as columns, in both modes."""

from __future__ import annotations

import datetime as dt
import decimal
import json
from typing import Any

import pyarrow as pa
import pytest
from cloudevents.core.bindings.kafka import to_binary, to_structured
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from hindscan.history.columns import schema_from_columns
from hindscan.history.formats.cloudevents import (
    CloudEventsDecoder,
    cloudevents_column_faults,
    cloudevents_columns,
    valueless_events,
)
from hindscan.history.formats.decoder import BadValue
from hindscan.kafka.fetch import HEADERS

Record = tuple[bytes | None, list[tuple[str, bytes | None]] | None]
COLUMNS = {
    "ce_id": "string",
    "ce_time": "timestamp[us, UTC]",
    "ce_subject": "string",
    "ce_count": "int32",
    "ce_flag": "bool",
    "price": "int64",
    "when": "timestamp[us, UTC]",
}


def event(mode: str, data: Any = None, **attributes: Any) -> Record:
    """Write an event with the specification's own library."""
    whole = {"id": "1", "source": "/s", "type": "t", "specversion": "1.0", **attributes}
    made = CloudEvent(attributes=whole, data=data)
    message = (to_binary if mode == "binary" else to_structured)(made, JSONFormat())
    value = message.value.encode() if isinstance(message.value, str) else message.value
    return value, [(name, each) for name, each in message.headers.items()]


def decode(columns: dict[str, str], *records: Record) -> tuple[list[dict[str, Any]], list[BadValue]]:
    schema = schema_from_columns(columns)
    values = pa.array([value for value, _ in records], pa.large_binary())
    table, bad = CloudEventsDecoder(schema).decode(values, pa.array([headers for _, headers in records], HEADERS))
    assert table.schema == schema
    return table.to_pylist(), bad


@pytest.mark.parametrize("mode", ["binary", "structured"])
def test_attributes_and_data_are_columns_in_both_modes(mode: str) -> None:
    time = dt.datetime(2018, 1, 2, 3, 4, 5, 678901, dt.UTC)
    record = event(
        mode,
        {"price": 2**53 + 1, "when": "2018-01-01T00:00:00Z", "more": [1]},
        time=time,
        datacontenttype="application/json",
        count="7",
        flag="true",
    )
    rows, bad = decode(COLUMNS, record, record)
    assert bad == []
    assert (
        rows
        == [
            {
                "ce_id": "1",
                "ce_time": time,
                "ce_subject": None,
                "ce_count": 7,
                "ce_flag": True,
                "price": 2**53 + 1,
                "when": dt.datetime(2018, 1, 1, tzinfo=dt.UTC),
            }
        ]
        * 2
    )


HEAD: list[tuple[str, bytes | None]] = [  # without a content type data is opaque
    ("ce_specversion", b"1.0"),
    ("ce_id", b"1"),
    ("ce_source", b"/s"),
    ("ce_type", b"t"),
]
JSON_HEAD = [*HEAD, ("content-type", b"application/json")]
STRUCTURED: list[tuple[str, bytes | None]] = [("content-type", b"application/cloudevents+json")]


def structured(**members: Any) -> bytes:
    return json.dumps({"specversion": "1.0", "id": "1", "source": "/s", "type": "t", **members}).encode()


def test_numbers_of_the_data_are_taken_from_the_bytes_that_came() -> None:
    digits = "0.12345678901234567890123456789"
    value = structured(data={"price": 0}).replace(b'"price": 0', b'"price": ' + digits.encode())
    for record in ((value, STRUCTURED), (b'{"price": ' + digits.encode() + b"}", JSON_HEAD)):
        rows, bad = decode({"price": "decimal128(38, 29)"}, record)
        assert (rows, bad) == ([{"price": decimal.Decimal(digits)}], [])


@pytest.mark.parametrize(
    ("record", "field", "why"),
    [
        ((b"{}", None), "", ""),
        ((b"not json", STRUCTURED), "", ""),
        ((structured(id=""), STRUCTURED), "", "id"),
        ((b"{}", HEAD[:-1]), "", "type"),
        ((structured(data=[1]), STRUCTURED), "data", "must be a JSON object"),
        ((structured(data_base64="AAA="), STRUCTURED), "data", "must be a JSON object"),
        ((b"text", [*HEAD, ("content-type", b"text/plain")]), "data", "must be a JSON object"),
        ((structured(data={"price": "5"}), STRUCTURED), "price", "Expected `int"),
        ((structured(data={}, count="x"), STRUCTURED), "ce_count", "must be int32, found 'x'"),
        ((structured(data={}, count="1_0"), STRUCTURED), "ce_count", "must be int32, found '1_0'"),
        ((structured(data={}, flag="yes"), STRUCTURED), "ce_flag", "must be bool, found 'yes'"),
    ],
)
def test_what_is_no_such_event_is_bad_and_its_neighbours_are_not(record: Record, field: str, why: str) -> None:
    good: Record = (structured(data={"price": 1}), STRUCTURED)
    columns = {name: COLUMNS[name] for name in ("ce_id", "ce_count", "ce_flag", "price")}
    rows, bad = decode(columns, good, record, good)
    assert [each["price"] for each in rows] == [1, 1]
    assert [(b.index, b.field) for b in bad] == [(1, field)]
    assert why in bad[0].reason
    assert bad[0].reason


def test_data_is_looked_at_only_where_it_is_asked_for() -> None:
    record: Record = (b"text", [*HEAD, ("content-type", b"text/plain")])
    assert decode({"ce_id": "string"}, record) == ([{"ce_id": "1"}], [])


def test_an_event_without_data_is_a_row_and_a_tombstone_is_none() -> None:
    records: list[Record] = [(None, HEAD), (None, None), (b"{}", HEAD), (None, [("other", b"x")])]
    values = pa.array([value for value, _ in records], pa.large_binary())
    headers = pa.array([each for _, each in records], HEADERS)
    assert valueless_events(values, headers).tolist() == [True, False, False, False]
    assert decode({"ce_id": "string", "price": "int64"}, records[0]) == ([{"ce_id": "1", "price": None}], [])


def test_a_required_attribute_that_is_absent_is_bad() -> None:
    _, [bad] = decode({"ce_subject": "string not null"}, (structured(), STRUCTURED))
    assert bad.field == "ce_subject"


def test_columns_are_inferred_from_both_modes() -> None:
    schema, faults = cloudevents_columns(
        [
            (structured(subject="s", time="2018-01-01T00:00:00Z", data={"price": 1}), STRUCTURED),
            (b'{"at": "2018-01-01T00:00:00Z", "price": 2}', [*JSON_HEAD, ("ce_zone", b"eu")]),
            (b"no event", None),
        ]
    )
    assert faults == []
    assert schema == schema_from_columns(
        {
            "ce_id": "string",
            "ce_source": "string",
            "ce_type": "string",
            "ce_subject": "string",
            "ce_time": "timestamp[us, UTC]",
            "ce_datacontenttype": "string",
            "ce_zone": "string",
            "price": "int64",
            "at": "timestamp[us, UTC]",
        }
    )


def test_columns_that_an_attribute_cannot_give_are_named() -> None:
    assert cloudevents_column_faults(schema_from_columns({"ce_time": "string"}))[0][0] == "columns.ce_time"
    assert cloudevents_column_faults(schema_from_columns({"ce_id": "double"}))[0][0] == "columns.ce_id"
    assert cloudevents_column_faults(schema_from_columns(COLUMNS)) == []
