"""Plain records become CloudEvents as it is declared; what cannot be found in one is told with all the rest."""

from __future__ import annotations

import dataclasses
import json
import tomllib
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hindscan.config_file import load_project
from hindscan.errors import ConfigError, InvalidEvent
from hindscan.events.declared import trigger_from_toml
from hindscan.events.event import Event
from hindscan.events.received import received_from_kafka
from hindscan.events.wrapping import RecordPlace, Wrapping, wrap

PLACE = RecordPlace(cluster="prod", topic="closings", topic_id="c3RvcmU", partition=2, offset=17)
WRITTEN = """
on = "kafka:prod:closings"
job = "scan"
event = { type = "'auction.closed'", id = "auction_id", source = "'/auctions'", time = "closed_at", subject = "category", tier = "seller.tier" }
"""


def wrapping(written: str = WRITTEN, **change: Any) -> Wrapping:
    found = trigger_from_toml("t", {**tomllib.loads(written), **change}).wrapping
    assert found is not None
    return found


def wrapped(record: Any, how: Wrapping | None = None) -> Event:
    (event,) = wrap(how or wrapping(), None if record is None else json.dumps(record).encode(), PLACE)
    return event


RECORD = {
    "auction_id": 815,
    "closed_at": "2018-04-05T17:31:00+02:00",
    "category": "cars",
    "seller": {"tier": 3},
    "price": 12.5,
}


def test_attributes_come_from_where_it_is_declared_and_the_data_is_the_record() -> None:
    assert wrapped(RECORD).to_json() == {
        "specversion": "1.0",
        "id": "815",
        "source": "/auctions",
        "type": "auction.closed",
        "time": "2018-04-05T15:31:00Z",
        "subject": "cars",
        "tier": 3,
        "datacontenttype": "application/json",
        "data": RECORD,
    }


def test_a_mapping_without_an_id_takes_the_records_place() -> None:
    bare = wrapping('on = "kafka:closings"\njob = "scan"\nformat = "json"')
    event = wrapped([1], bare)
    assert event.identity == ("/kafka/prod/closings", "prod/c3RvcmU/2/17")
    assert (event.type, event.time, event.data) == ("hindscan.record", None, [1])
    assert wrapped(None, bare).data is None
    sourced = wrapping(event={"source": "'/auctions'", "data": "[0]"})
    assert (wrapped([1], sourced).identity, wrapped([1], sourced).data) == (("/auctions", event.id), 1)


@pytest.mark.parametrize("field", ["cluster", "topic_id", "partition", "offset"])
def test_records_at_two_places_are_two_events(field) -> None:
    other = dataclasses.replace(PLACE, **{field: 5 if field in ("partition", "offset") else "other"})
    bare = Wrapping(format="json")
    assert wrap(bare, b"1", PLACE)[0].identity != wrap(bare, b"1", other)[0].identity


@pytest.mark.parametrize(
    ("time", "unit", "expected"),
    [
        (1522942260, "s", "2018-04-05T15:31:00Z"),
        (1522942260.5, "s", "2018-04-05T15:31:00.500000Z"),
        (1522942260123, "ms", "2018-04-05T15:31:00.123000Z"),
        (1522942260123456, "us", "2018-04-05T15:31:00.123456Z"),
        ("2018-04-05 15:31", "ms", "2018-04-05T15:31:00Z"),
    ],
)
def test_a_time_is_a_text_or_a_number_with_its_unit(time, unit, expected) -> None:
    how = wrapping(event={"time": {"path": "at", "unit": unit}})
    assert wrapped({"at": time}, how).to_json()["time"] == expected


def test_all_faults_of_a_record_are_told_at_once() -> None:
    with pytest.raises(InvalidEvent) as refused:
        wrapped({"closed_at": 1522942260, "seller": {"tier": 3}})
    (no_id, no_unit) = refused.value.details["faults"]  # type: ignore[misc]
    assert no_id == "id from 'auction_id': it is null or not there, and this attribute is needed"
    assert "a time that is a number needs its unit" in no_unit


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"auction_id": ""}, "id: it must not be empty"),
        ({"auction_id": 1.5}, "id: it must be a string"),
        ({"category": ["cars"]}, "subject: it must be a string"),
        ({"seller": {"tier": 2**31}}, "extension tier: a whole number must fit 32 bits"),
        ({"closed_at": "yesterday"}, "time from 'closed_at': must be an ISO 8601 time"),
        ({"closed_at": True}, "a time is an ISO 8601 text or a number"),
    ],
)
def test_an_attribute_that_is_none_is_a_fault(change, fault) -> None:
    with pytest.raises(InvalidEvent) as refused:
        wrapped({**RECORD, **change})
    assert fault in str(refused.value)


@pytest.mark.parametrize(
    "value", [b"", b"{", b"\xff", b'{"a": NaN}', b'{"a": 1, "a": 2}', b"[" * 100 + b"]" * 100, b" " * (1 << 20) + b"1"]
)
def test_a_value_that_is_no_json_is_received_with_its_bytes_and_place(value) -> None:
    (one,) = received_from_kafka(
        value, [], key=b"k", cluster="prod", topic="closings", topic_id="id", partition=0, offset=3, record_time=5,
        wrapped=partial(wrap, Wrapping(format="json")),
    )  # fmt: skip
    assert (one.event, one.body, one.key, one.offset) == (None, value, b"k", 3)
    assert "wrapping a record of format json" in one.reason


leaves = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
names = st.sampled_from(["auction_id", "closed_at", "category", "x"])
records = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=4), max_leaves=8
)


@given(records)
def test_any_record_is_an_event_or_has_faults(record) -> None:
    (one,) = received_from_kafka(
        json.dumps(record).encode(), [], key=None, cluster="prod", topic="t", topic_id="i", partition=0, offset=3, record_time=5,
        wrapped=partial(wrap, wrapping()),
    )  # fmt: skip
    assert (one.event is None) == bool(one.faults)
    if one.event is not None:
        assert one.event.data == record
        assert one.event.id == str(record["auction_id"])


@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        ({"format": "xml"}, "format", "it is one of cloudevents, json, avro, protobuf, jsonschema, s3, not 'xml'"),
        ({"format": "cloudevents"}, "event", "CloudEvents have their attributes"),
        ({"format": "s3"}, "event", "has its own mapping"),
        ({"event": "id"}, "event", "it must be a table of attributes"),
        ({"event": {"id": "a b"}}, "event.id", "column 3"),
        ({"event": {"Id": "a"}}, "event.Id", "lower-case"),
        ({"event": {"specversion": "a"}}, "event.specversion", "always 1.0"),
        ({"event": {"id": {"path": "a", "unit": "ms"}}}, "event.id", "only time takes a table"),
        ({"event": {"time": {"path": "a", "unit": "h"}}}, "event.time", "with path and unit (s, ms, us)"),
        ({"event": {"data": 5}}, "event.data", "it is not a string"),
        ({"registry": "x"}, "registry", "it is for the formats avro, protobuf, jsonschema"),
        ({"confirm": "arn"}, "confirm", "it is a list of SNS topics"),
        ({"confirm": ["https://a"]}, "confirm", "arn:aws:sns:REGION:ACCOUNT:NAME"),
        ({"confirm": []}, "confirm", "for notifications (format s3) that come over http"),
        ({"unsigned": True}, "unsigned", "for notifications (format s3) that come over http"),
        ({"unsigned": "yes"}, "unsigned", "it is true or false"),
        ({"on": "cron:0 6 * * *"}, "format", "the trigger has neither"),
        ({"on": "http", "event": {"id": "a"}}, "event", "must name its id and its source"),
        ({"time_zone": "UTC"}, "time_zone", "it is for the source cron:, and the trigger has kafka:prod:closings"),
        ({"missed": "skip"}, "missed", "it is for the source cron:"),
        ({"every": "1s"}, "every", "it is for the source files:"),
        ({"on": "cron:0 6 * * *", "time_zone": "Bonn"}, "time_zone", "there is no time zone 'Bonn'"),
        ({"on": "cron:0 6 * * *", "missed": "no"}, "missed", '"catch up"'),
        ({"on": "files:in", "every": "10ms"}, "every", "from 1s to 1d"),
        ({"on": "files:in", "every": 5}, "every", "must be a number with a unit"),
        ({"on": "cron:0 6 * *"}, "on", "has five fields"),
        ({"on": "files:"}, "on", "there is no source 'files:'"),
    ],
)
def test_what_is_declared_wrongly_is_refused_with_its_field(change, field, message) -> None:
    with pytest.raises(ConfigError) as refused:
        trigger_from_toml("t", {**tomllib.loads(WRITTEN), **change})
    found = dict(refused.value.details["faults"])  # type: ignore[call-overload]
    assert message in found[field]


def test_triggers_of_one_topic_read_its_records_alike(tmp_path) -> None:
    (tmp_path / "hindscan.toml").write_text(
        '[triggers.one]\non = "kafka:a"\njob = "j"\nformat = "json"\n[triggers.two]\non = ["http", "kafka:a"]\njob = "j"\n'
    )
    with pytest.raises(ConfigError) as refused:
        load_project(tmp_path, {})
    assert (
        "hindscan.toml:5: triggers.two: its format and event must be those of one, which listens to kafka:a too"
        in str(refused.value)
    )
