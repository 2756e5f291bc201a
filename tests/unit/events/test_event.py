"""The event: every rule of the specification, all faults at once, one form whatever the way in."""

from __future__ import annotations

import base64
from datetime import UTC, datetime, timedelta, timezone

import pytest

from hindscan.errors import InvalidEvent
from hindscan.events.event import Event, event_from_json

LEAST = {"specversion": "1.0", "id": "1", "source": "/site", "type": "auction.closed"}


def event(**fields) -> Event:
    return Event(**{"id": "1", "source": "/site", "type": "auction.closed"} | fields)


def faults(document: object) -> list[str]:
    with pytest.raises(InvalidEvent) as fault:
        event_from_json(document)
    return fault.value.details["faults"]


def test_all_faults_of_an_event_are_told_at_once() -> None:
    found = faults({
        "specversion": "0.3", "source": "a b", "type": "", "time": "yesterday", "subject": "", "datacontenttype": "json",
        "dataschema": "/relative", "Upper": "x", "long": 2**31, "real": 1.5, "data": {}, "data_base64": "e30=",
    })  # fmt: skip
    assert sorted(fault.split(":")[0] for fault in found) == [
        "data, data_base64", "datacontenttype", "dataschema", "extension 'Upper'", "extension long", "extension real", "id",
        "source", "specversion", "subject", "time", "type",
    ]  # fmt: skip


def test_the_error_says_what_was_done_wanted_and_found_and_what_to_do() -> None:
    with pytest.raises(InvalidEvent) as fault:
        event_from_json(LEAST | {"specversion": "0.3"})
    assert str(fault.value) == (
        "While reading a CloudEvent in the JSON format: it must be a valid CloudEvent of version 1.0; it has 1 fault: "
        "specversion: it must be '1.0', and is '0.3'. Correct what produces it."
    )


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"id": None}, "id: it is required and missing"),
        ({"source": None}, "source: it is required and missing"),
        ({"type": None}, "type: it is required and missing"),
        ({"specversion": None}, "specversion: it is required and missing"),
        ({"id": ""}, "id: it must not be empty"),
        ({"id": 5}, "id: it must be a string, and is 5"),
        ({"id": "a\x07"}, "id: the character U+0007 is not allowed, and stands at 1"),
        ({"source": ""}, "source: it must not be empty"),
        ({"source": "a b"}, "source: it must be a URI-reference (RFC 3986, 4.1), and is 'a b'"),
        ({"source": ["/a"]}, "source: it must be a string, and is a value of type list"),
        ({"type": False}, "type: it must be a string, and is false"),
        ({"specversion": 1.0}, "specversion: it must be '1.0', and is 1.0"),
        ({"time": 1522949460}, "time: it must be a time, and is 1522949460"),
        ({"time": "2018-04-05T17:31:00"}, "time: it must be an RFC 3339 time with its offset"),
        ({"subject": ""}, "subject: it must not be empty"),
        ({"subject": "\ufdd0"}, "subject: the character U+FDD0 is not allowed, and stands at 0"),
        ({"dataschema": "schema"}, "dataschema: it must be an absolute URI"),
        ({"dataschema": "http://x/y#z"}, "dataschema: it must be an absolute URI without a fragment"),
        ({"datacontenttype": "json"}, "datacontenttype: it must be a media type (RFC 2046), and is 'json'"),
        ({"a_b": "x"}, "extension 'a_b': the name 'a_b' must be 1 to 20 characters"),
        ({"a" * 21: "x"}, "must be 1 to 20 characters"),
        ({"n": -(2**31) - 1}, "extension n: a whole number must fit 32 bits, and it is -2147483649"),
        ({"n": 42.42}, "extension n: it must be a string, a whole number or a boolean, and is 42.42"),
        ({"n": {}}, "extension n: it must be a string, a whole number or a boolean"),
        ({"n": "\ud800"}, "extension n: the character U+D800 is not allowed"),
        ({"data_base64": 5}, "data_base64: it must be a string, and is 5"),
        ({"data_base64": "e30"}, "data_base64: it is not Base64"),
        ({"data_base64": "e 30="}, "data_base64: it is not Base64"),
        ({"data_base64": "bm90IGpzb24=", "datacontenttype": "application/json"}, "data: it is not JSON"),
        ({"data": {}, "datacontenttype": "text/plain"}, "data: with 'text/plain' it must be text or bytes"),
        ({"data": "x", "datacontenttype": "text/plain; charset=utf-16"}, "text must be in UTF-8"),
        ({"data": float("nan")}, "data: it is nan"),
    ],
)  # fmt: skip
def test_each_rule_has_its_fault(change, fault) -> None:
    found = faults({name: value for name, value in (LEAST | change).items() if value is not None})
    assert len(found) == 1
    assert fault in found[0]


@pytest.mark.parametrize("document", [None, 5, "x", [], [LEAST]])
def test_what_is_no_object_is_no_event(document) -> None:
    assert "it must be a JSON object" in faults(document)[0]


def test_a_null_attribute_is_an_absent_one() -> None:
    assert event_from_json(LEAST | {"subject": None, "time": None, "any": None, "data_base64": None}) == event()


def test_a_builder_gets_the_faults_of_python_values_too() -> None:
    with pytest.raises(InvalidEvent) as fault:
        Event(
            id="1", source="/s", type="t", time=datetime(2018, 1, 1), extensions={"id": "2", "data": "x"}, data={1, 2}
        )
    assert [text.split(":")[0] for text in fault.value.details["faults"]] == [
        "extension id",
        "extension 'data'",
        "time",
        "data",
    ]


def test_one_event_has_one_form_whichever_way_it_came() -> None:
    given_value = event(datacontenttype="application/json", data={"a": 1})
    assert event(data={"a": 1}) == given_value
    assert event(datacontenttype="application/json", data=b'{"a": 1}') == given_value
    encoded = base64.b64encode(b'{"a":1}').decode()
    assert event_from_json(LEAST | {"datacontenttype": "application/json", "data_base64": encoded}) == given_value
    text = event(datacontenttype="text/plain", data="Euro €")
    assert event(datacontenttype="text/plain", data="Euro €".encode()) == text
    assert event(datacontenttype="image/png", data="x") == event(datacontenttype="image/png", data=b"x")
    assert event(datacontenttype="text/plain", data=b"") == event(datacontenttype="text/plain")
    assert event(time="2018-04-05T19:31:00+02:00") == event(time=datetime(2018, 4, 5, 17, 31, tzinfo=UTC))
    assert event(time=datetime(2018, 4, 5, 19, 31, tzinfo=timezone(timedelta(hours=2)))).time.tzinfo is UTC


@pytest.mark.parametrize(
    ("media_type", "form"),
    [
        ("application/json", dict), ("TEXT/JSON", dict), ("application/vnd.x+JSON; v=1", dict), ("text/plain", str),
        ("application/xml", str), ("image/svg+xml", str), ("application/octet-stream", bytes), ("application/jsonx", bytes), (None, bytes),
        ("text/plain; charset=iso-8859-1", bytes), ('text/plain; charset="UTF-8"', str),
    ],
)  # fmt: skip
def test_the_media_type_decides_the_form_of_data(media_type, form) -> None:
    assert type(event(datacontenttype=media_type, data=b'{"a":1}').data) is form


def test_bytes_that_are_no_utf_8_stay_bytes_in_a_text_type() -> None:
    assert event(datacontenttype="text/plain", data=b"\xff").data == b"\xff"


def test_no_media_type_is_guessed_for_bytes() -> None:
    # "even though the data happens to be a valid JSON document when interpreted as text, no content type is inferred."
    assert event_from_json(LEAST | {"data_base64": "eyAieHl6IjogMTIzIH0="}).data == b'{ "xyz": 123 }'


def test_attributes_are_given_in_their_canonical_string_form() -> None:
    given_event = event(time="2018-04-05T17:31:00.5+00:00", extensions={"yes": True, "n": -7, "s": "x"})
    assert [given_event.attribute(name) for name in ("id", "time", "yes", "n", "s", "subject", "none")] == [
        "1", "2018-04-05T17:31:00.500000Z", "true", "-7", "x", None, None,
    ]  # fmt: skip


def test_source_and_id_are_the_identity() -> None:
    assert event(id="a").identity == ("/site", "a")
    assert hash(event(data=[1])) == hash(event(data=[2]))


def test_an_event_cannot_be_changed() -> None:
    with pytest.raises(AttributeError, match="immutable"):
        event().id = "2"
    extensions = {"a": "x"}
    made = event(extensions=extensions)
    extensions["b"] = "y"
    assert made.extensions == {"a": "x"}


def test_the_digest_tells_other_data_apart() -> None:
    values = [None, {}, [], "x", 1, 1.5, True, {"a": 1}, {"a": 2}, [1, 2], [2, 1]]
    digests = {event(data=value).data_digest() for value in values} | {event(data=b"x").data_digest()}
    assert len(digests) == len(values) + 1


def test_the_payload_is_written_as_its_media_type_has_it() -> None:
    assert event().data_bytes() is None
    assert event(data="é").data_bytes() == '"é"'.encode()
    assert event(data="é", datacontenttype="text/plain").data_bytes() == "é".encode()
    assert event(data=b"\xff").data_bytes() == b"\xff"
