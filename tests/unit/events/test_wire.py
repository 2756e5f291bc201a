"""Both bindings: what a mode is told by, what is refused and why, what is written. Round trips are in `test_round_trips`."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hindscan.errors import InvalidEvent
from hindscan.events.event import Event
from hindscan.events.wire import (
    MAX_BODY_BYTES,
    encode_http,
    encode_http_batch,
    encode_kafka,
    parse_http,
    parse_kafka,
)

LEAST = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t"}
STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"
CE = [("ce_specversion", b"1.0"), ("ce_id", b"1"), ("ce_source", b"/s"), ("ce_type", b"t")]
JSON_TYPE = ("content-type", b"application/json")


def body(**changes) -> bytes:
    return json.dumps({name: value for name, value in (LEAST | changes).items() if value is not ...}).encode()


def raw(text: str) -> bytes:
    return body().replace(b"}", b", " + text.encode() + b"}")


def without(name: str) -> list[tuple[str, bytes]]:
    return [header for header in CE if header[0] != name]


def nested(depth: int) -> bytes:
    return b"[" * depth + b"1" + b"]" * depth


S = [("content-type", STRUCTURED.encode())]

#: Records that are no events: value, headers, and a piece of the reason.
MALFORMED: dict[str, tuple[bytes | None, list[tuple[str, bytes | None]] | None, str]] = {
    "nothing at all": (None, None, "it has neither, but no value of content-type unknown"),
    "no headers": (b"x", [], "it has neither, but 1 bytes"),
    "plain json": (b"{}", [JSON_TYPE], "it has neither, but 2 bytes of content-type 'application/json'"),
    "structured tombstone": (None, S, "must hold a JSON document, and is empty"),
    "structured empty": (b"", S, "must hold a JSON document, and is empty"),
    "not utf-8": (b'{"id": "\xff"}', S, "it is not UTF-8: byte 0xff at 8"),
    "utf-16": (body().decode().encode("utf-16"), S, "it is not UTF-8"),
    "byte order mark": (b"\xef\xbb\xbf" + body(), S, "byte order mark"),
    "not json": (b"<xml/>", S, "it is not JSON"),
    "cut off": (body()[:-5], S, "it is not JSON"),
    "two documents": (body() + body(), S, "it is not JSON: Extra data"),
    "an array": (b"[" + body() + b"]", S, "it must be a JSON object"),
    "a string": (b'"x"', S, "it must be a JSON object, not 'x'"),
    "null": (b"null", S, "it must be a JSON object, not null"),
    "NaN in data": (raw('"data": NaN'), S, "it has NaN, which JSON does not have"),
    "infinity in data": (raw('"data": [Infinity]'), S, "it has Infinity"),
    "1e999": (raw('"data": 1e999'), S, "beyond the range of a double"),
    "5000 digits": (raw('"data": ' + "9" * 5000), S, "a whole number of 5000 digits"),
    "4000 digits": (raw('"data": ' + "9" * 4000), S, "a whole number of 4000 digits"),
    "duplicate attribute": (raw('"id": "2"'), S, "it has the key 'id' twice"),
    "duplicate key in data": (raw('"data": {"a": 1, "a": 2}'), S, "it has the key 'a' twice"),
    "lone surrogate in data": (raw('"data": "\\ud800"'), S, "half of a surrogate pair"),
    "lone surrogate in a key": (raw('"data": {"\\udc00": 1}'), S, "half of a surrogate pair"),
    "lone surrogate in id": (body(id="\ud800"), S, "id: the character U+D800 is not allowed"),
    "65 deep": (raw('"data": ' + nested(65).decode()), S, "nested deeper than 64"),
    "100000 deep": (nested(100_000), S, "nested deeper than 64"),
    "no id": (body(id=...), S, "id: it is required and missing"),
    "no source": (body(source=...), S, "source: it is required and missing"),
    "no type": (body(type=...), S, "type: it is required and missing"),
    "no specversion": (body(specversion=...), S, "specversion: it is required and missing"),
    "version 0.3": (body(specversion="0.3"), S, "specversion: it must be '1.0', and is '0.3'"),
    "version 2": (body(specversion="2.0"), S, "specversion: it must be '1.0'"),
    "numeric id": (body(id=1), S, "id: it must be a string, and is 1"),
    "null id": (body(id=None), S, "id: it is required and missing"),
    "source with a space": (body(source="a b"), S, "source: it must be a URI-reference"),
    "control character": (body(subject="a\nb"), S, "subject: the character U+000A is not allowed"),
    "time without offset": (body(time="2018-04-05T17:31:00"), S, "time: it must be an RFC 3339 time"),
    "time that is a number": (body(time=1522949460), S, "time: it must be a time"),
    "29 February 2018": (body(time="2018-02-29T00:00:00Z"), S, "time: it is not a time that exists"),
    "upper case extension": (body(traceParent="x"), S, "extension 'traceParent'"),
    "long extension": (body(**{"a" * 21: "x"}), S, "must be 1 to 20 characters"),
    "object extension": (body(ext={"a": 1}), S, "extension ext: it must be a string"),
    "data twice": (body(data={}, data_base64="e30="), S, "mutually exclusive"),
    "bad base64": (body(data_base64="@@@"), S, "data_base64: it is not Base64"),
    "avro format": (body(), [("content-type", b"application/cloudevents+avro")], "the only format that can be read here is"),
    "batch over kafka": (b"[]", [("content-type", BATCH.encode())], "the only format that can be read here is"),
    "latin-1 json": (body(), [("content-type", b"application/cloudevents+json; charset=latin1")], "JSON must be in UTF-8"),
    "too large": (body(data="x" * MAX_BODY_BYTES), S, "it must have at most 1048576 bytes"),
    "too large headers": (b"", [*CE, ("ce_x", b"x" * MAX_BODY_BYTES)], "it must have at most 1048576 bytes"),
    "content-type not utf-8": (body(), [("content-type", b"\xff")], "header 'content-type': it is not UTF-8"),
    "content-type twice": (b"{}", [*CE, JSON_TYPE, JSON_TYPE], "header 'content-type': it must appear at most once"),
    "binary without id": (b"{}", [*without("ce_id"), JSON_TYPE], "id: it is required and missing"),
    "binary without specversion": (b"{}", [*without("ce_specversion"), JSON_TYPE], "specversion: it is required"),
    "binary id twice": (b"{}", [*CE, ("ce_id", b"2")], "'id': it must appear at most once"),
    "binary null header": (b"{}", [*CE, ("ce_subject", None)], "header 'ce_subject': it has no value"),
    "binary header not utf-8": (b"{}", [*CE, ("ce_subject", b"\xff")], "header 'ce_subject': it is not UTF-8"),
    "binary upper case": (b"{}", [*without("ce_id"), ("ce_Id", b"1")], "extension 'Id'"),
    "binary data attribute": (b"{}", [*CE, ("ce_data", b"x")], "the name `data` is reserved"),
    "binary datacontenttype": (b"{}", [*CE, ("ce_datacontenttype", b"text/plain")], "as the header content-type"),
    "binary bad json": (b"{", [*CE, JSON_TYPE], "data: it is not JSON"),
    "binary NaN": (b"NaN", [*CE, JSON_TYPE], "data: it has NaN"),
    "binary deep": (nested(65), [*CE, JSON_TYPE], "data: it is nested deeper than 64"),
    "binary bad media type": (b"x", [*CE, ("content-type", b"json")], "datacontenttype: it must be a media type"),
    "binary bad time": (b"{}", [*CE, ("ce_time", b"now")], "time: it must be an RFC 3339 time"),
}  # fmt: skip


def faults_of(value, headers) -> list[str]:
    with pytest.raises(InvalidEvent) as fault:
        parse_kafka(value, headers)
    return fault.value.details["faults"]


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_record_is_refused_with_its_reason(name) -> None:
    value, headers, reason = MALFORMED[name]
    assert any(reason in fault for fault in faults_of(value, headers)), faults_of(value, headers)


def test_every_malformed_record_between_good_ones_leaves_the_good_ones_whole() -> None:
    good = encode_kafka(Event(id="1", source="/s", type="t", data={}))
    read = refused = 0
    for value, headers, _ in MALFORMED.values():
        assert parse_kafka(good.value, good.headers).id == "1"
        read += 1
        with pytest.raises(InvalidEvent):
            parse_kafka(value, headers)
        refused += 1
    assert read == refused == len(MALFORMED) > 40


def test_all_faults_of_a_binary_record_are_told_at_once() -> None:
    headers = [
        ("ce_id", b"1"),
        ("ce_id", b"2"),
        ("ce_source", b"a b"),
        ("ce_time", None),
        ("ce_Up", b"x"),
        ("content-type", b"json"),
    ]
    found = faults_of(b"x", headers)
    assert [fault.split(":")[0] for fault in found] == [
        "'id'", "header 'ce_time'", "type", "specversion", "source", "datacontenttype", "extension 'Up'",
    ]  # fmt: skip


def taken(parse):
    """Give what it gives, or the refusal; any other exception is a failure of the test."""
    try:
        return parse()
    except InvalidEvent as refusal:
        return refusal


header = st.tuples(
    st.sampled_from(["ce_id", "ce_source", "ce_x", "content-type", "other"]) | st.text(max_size=6),
    st.none() | st.binary(max_size=12),
)
typed = st.sampled_from([S, [*CE, JSON_TYPE], CE])


@given(st.none() | st.binary(max_size=40), typed | st.lists(header, max_size=6) | st.none())
def test_whatever_a_record_holds_it_is_an_event_or_an_invalid_event(value, headers) -> None:
    outcome = taken(lambda: parse_kafka(value, headers))
    assert isinstance(outcome, Event) or (outcome.details["faults"] and str(outcome).isprintable())


@given(
    st.lists(
        st.tuples(st.sampled_from(["ce-id", "CE-Source", "ce-x", "Content-Type"]), st.text(max_size=10)), max_size=5
    ),
    st.binary(max_size=30),
)
def test_whatever_a_request_holds_it_is_events_or_an_invalid_event(headers, content) -> None:
    outcome = taken(lambda: parse_http(headers, content))
    assert isinstance(outcome, tuple) or (outcome.details["faults"] and str(outcome).isprintable())


# --- What a mode is told by ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "media_type",
    [STRUCTURED, "Application/CloudEvents+JSON", STRUCTURED + ";charset=utf-8", STRUCTURED + ' ; charset="UTF-8"'],
)
@pytest.mark.parametrize("name", ["content-type", "Content-Type"])
def test_structured_mode_is_told_by_the_content_type_whatever_its_case(media_type, name) -> None:
    expected = Event(id="1", source="/s", type="t")
    assert parse_kafka(body(), [(name, media_type.encode())]) == expected
    assert parse_http([(name, media_type)], body()) == (expected,)


def test_in_structured_mode_the_document_counts_and_not_the_headers() -> None:
    assert parse_kafka(body(), [*S, ("ce_id", b"other")]).id == "1"
    assert parse_http([("content-type", STRUCTURED), ("ce-id", "other")], body())[0].id == "1"


def test_a_binary_record_without_a_value_is_an_event_without_data() -> None:
    # "In binary mode, the Kafka representation of a CloudEvent with no `data` is a Kafka message with no value."
    assert parse_kafka(None, CE).data is None
    assert encode_kafka(Event(id="1", source="/s", type="t"), "binary").value is None


def test_headers_that_are_not_of_the_event_are_left_alone() -> None:
    assert parse_kafka(b"", [*CE, ("x-trace", b"\xff"), ("trace", None)]).extensions == {}


# --- HTTP ------------------------------------------------------------------------------------------------------------------

HTTP_CE = [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/s"), ("ce-type", "t")]


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        # http-protocol-binding.md, 3.1.3.2
        ("Euro%20%E2%82%AC%20%F0%9F%98%80", "Euro € 😀"),
        ("Euro%20%e2%82%ac", "Euro €"),
        ("%41%62c", "Abc"),
        ('"quoted \\"text\\" \\\\ %25"', 'quoted "text" \\ %'),
        ("with space", "with space"),
        ("  padded\t", "padded"),
        ("100%25", "100%"),
        ("%2525", "%25"),
    ],
)
def test_a_header_is_unquoted_and_percent_decoded_once(sent, meant) -> None:
    (event,) = parse_http([*HTTP_CE, ("Ce-Subject", sent)], b"")
    assert event.subject == meant


@pytest.mark.parametrize("sent", ["%C0%A0", "%FF", "100%", "%4", "%zz", "€", "a\x00b", "%00"])
def test_a_header_that_cannot_be_decoded_is_refused(sent) -> None:
    with pytest.raises(InvalidEvent) as fault:
        parse_http([*HTTP_CE, ("ce-subject", sent)], b"")
    assert len(fault.value.details["faults"]) == 1
    assert "subject" in fault.value.details["faults"][0]


def test_what_must_be_percent_encoded_is() -> None:
    event = Event(id='a "b" 100%', source="/s", type="t", subject="Euro € 😀")
    headers = encode_http(event, "binary").headers
    assert headers["ce-id"] == "a%20%22b%22%20100%25"
    assert headers["ce-subject"] == "Euro%20%E2%82%AC%20%F0%9F%98%80"


def test_raw_headers_of_a_server_are_read() -> None:
    raw_headers = [(name.encode(), value.encode()) for name, value in HTTP_CE] + [
        (b"Content-Type", b"application/json")
    ]
    assert parse_http(raw_headers, b'{"a": 1}')[0].data == {"a": 1}


def test_a_batch_is_taken_whole_or_not_at_all() -> None:
    documents = [LEAST, LEAST | {"id": ""}, LEAST | {"id": "3"}, 5, LEAST | {"source": "a b", "type": 1}]
    with pytest.raises(InvalidEvent) as fault:
        parse_http([("content-type", BATCH)], json.dumps(documents).encode())
    assert [text.partition(", and is")[0] for text in fault.value.details["faults"]] == [
        "event 1: id: it must not be empty",
        "event 3: it must be a JSON object, not 5",
        "event 4: type: it must be a string",
        "event 4: source: it must be a URI-reference (RFC 3986, 4.1)",
    ]


def test_an_empty_batch_is_no_fault() -> None:
    # "An example of an empty batch of CloudEvents (typically used in a response, but also valid in a request)"
    assert parse_http([("content-type", BATCH)], b"[]") == ()
    assert encode_http_batch([]).body == b"[]"


@pytest.mark.parametrize(
    ("content", "reason"), [(b"{}", "it must be a JSON array"), (b"", "it is not JSON"), (b"[1,]", "it is not JSON")]
)
def test_what_is_no_batch_is_refused(content, reason) -> None:
    with pytest.raises(InvalidEvent) as fault:
        parse_http([("content-type", BATCH)], content)
    assert reason in fault.value.details["faults"][0]


def test_a_request_that_is_no_event_is_refused_with_a_hint() -> None:
    with pytest.raises(InvalidEvent) as fault:
        parse_http([("content-type", "application/json")], b"{}")
    assert "content-type application/cloudevents+json or headers ce-id, ce-source, ce-type and ce-specversion" in str(
        fault.value
    )


def test_a_body_over_the_limit_is_refused_before_it_is_read() -> None:
    with pytest.raises(InvalidEvent) as fault:
        parse_http([("content-type", BATCH)], b"[" * (MAX_BODY_BYTES + 1))
    assert "its body must have at most 1048576 bytes, and has 1048577" in str(fault.value)
