"""Whatever an event holds, it is read back as it was written, in every mode of every binding."""

from __future__ import annotations

import json
import pickle
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from hindscan.events.event import Event, event_from_json
from hindscan.events.wire import encode_http, encode_http_batch, encode_kafka, parse_http, parse_kafka

#: Characters that attributes may have.
allowed = st.characters(exclude_categories=("Cc", "Cs", "Cn"))

json_values = st.recursive(
    st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: (
        st.lists(inner | st.none(), max_size=4) | st.dictionaries(st.text(max_size=8), inner | st.none(), max_size=4)
    ),
    max_leaves=10,
)

names = st.from_regex(r"[a-z0-9]{1,20}", fullmatch=True).filter(
    lambda name: (
        name not in {"data", "id", "source", "type", "time", "subject", "specversion", "datacontenttype", "dataschema"}
    )
)
sources = st.sampled_from(
    ["/site", "https://example.com/a?b=c#d", "urn:uuid:6e8bc430-9c3a-11d9-9669-0800200c9a66", "1-555", "/%E2%82%AC"]
)


@st.composite
def events(draw: st.DrawFn, *, extension_values: st.SearchStrategy | None = None) -> Event:
    """Any valid event; extensions of every type unless said otherwise."""
    values = extension_values or (st.text(allowed, max_size=20) | st.booleans() | st.integers(-(2**31), 2**31 - 1))
    media_type, data = draw(
        st.one_of(
            st.tuples(st.sampled_from([None, "application/json", "application/vnd.x+json; v=1"]), json_values),
            st.tuples(
                st.sampled_from(["text/plain", "application/xml", "text/csv; charset=utf-8"]),
                st.text(max_size=30) | st.binary(max_size=30),
            ),
            st.tuples(
                st.sampled_from([None, "application/octet-stream", "text/plain; charset=utf-16"]),
                st.binary(max_size=30),
            ),
            st.tuples(st.sampled_from([None, "application/json", "text/plain"]), st.none()),
        )
    )
    return Event(
        id=draw(st.text(allowed, min_size=1, max_size=20)),
        source=draw(sources),
        type=draw(st.text(allowed, min_size=1, max_size=20)),
        time=draw(
            st.none()
            | st.datetimes(timezones=st.just(UTC), min_value=datetime(1, 1, 1), max_value=datetime(9999, 12, 31))
        ),
        subject=draw(st.none() | st.text(allowed, min_size=1, max_size=20)),
        dataschema=draw(st.none() | st.sampled_from(["http://example.com/schema", "urn:x:y"])),
        datacontenttype=media_type,
        extensions=draw(st.dictionaries(names, values, max_size=3)),
        data=data,
    )


def in_strings(event: Event) -> Event:
    """Give the event as a header carries it: every extension in its canonical string form."""
    return replace(event, extensions={name: event.attribute(name) for name in event.extensions})


@given(events())
def test_an_event_survives_its_json_format(given_event) -> None:
    document = json.loads(json.dumps(given_event.to_json()))
    assert event_from_json(document) == given_event
    assert pickle.loads(pickle.dumps(given_event)) == given_event


@given(events())
def test_a_kafka_record_in_structured_mode_gives_the_event_back(event) -> None:
    message = encode_kafka(event, "structured")
    assert parse_kafka(message.value, message.headers) == event


@given(events())
def test_a_kafka_record_in_binary_mode_gives_the_event_back(event) -> None:
    message = encode_kafka(event, "binary")
    assert parse_kafka(message.value, message.headers) == in_strings(event)
    assert (message.value is None) == (event.data is None)


@given(events())
def test_an_http_message_in_structured_mode_gives_the_event_back(event) -> None:
    message = encode_http(event, "structured")
    assert parse_http(message.headers.items(), message.body) == (event,)


@given(events())
def test_an_http_message_in_binary_mode_gives_the_event_back(event) -> None:
    message = encode_http(event, "binary")
    assert all(value.isascii() and value.isprintable() for value in message.headers.values())
    raw = [(name.title().encode(), value.encode()) for name, value in message.headers.items()]
    assert parse_http(raw, message.body) == (in_strings(event),)


@settings(max_examples=30)
@given(st.lists(events(), max_size=3))
def test_a_batch_gives_its_events_back(several) -> None:
    message = encode_http_batch(several)
    assert parse_http(message.headers.items(), message.body) == tuple(several)


@pytest.mark.parametrize("mode", ["structured", "binary"])
@settings(max_examples=50)
@given(event=events())
def test_the_digest_of_the_data_does_not_depend_on_the_way(mode, event) -> None:
    record, request = encode_kafka(event, mode), encode_http(event, mode)
    assert parse_kafka(record.value, record.headers).data_digest() == event.data_digest()
    assert parse_http(request.headers.items(), request.body)[0].data_digest() == event.data_digest()


@given(json_values)
def test_the_digest_is_of_the_data_and_not_of_its_text(value) -> None:
    shuffled = json.loads(json.dumps(value, indent=2, sort_keys=True))
    assert (
        Event(id="1", source="/s", type="t", data=value).data_digest()
        == Event(id="2", source="/s", type="t", data=shuffled).data_digest()
    )
