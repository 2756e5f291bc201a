"""What others say CloudEvents are: the conformance features of both bindings, and the JSON vectors of the Java SDK.

They are read from `../shared/authorities` beside the project, or from where `HINDSCAN_AUTHORITIES` points; their absence is a failure in CI.
"""

from __future__ import annotations

import json
import os
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cloudevents.core.bindings import http as sdk_http
from cloudevents.core.bindings import kafka as sdk_kafka
from msgspec.structs import replace

from hindscan.errors import InvalidEvent
from hindscan.events.event import Event, event_from_json
from hindscan.events.strict import parse_json
from hindscan.events.wire import encode_http, encode_kafka, parse_http, parse_kafka

BESIDE = Path(__file__).parents[3] / "shared" / "authorities"


@pytest.fixture(scope="module")
def authorities() -> Path:
    folder = Path(os.environ.get("HINDSCAN_AUTHORITIES", BESIDE)) / "cloudevents"
    if not folder.is_dir():
        message = f"the CloudEvents authorities are not at {folder}: set HINDSCAN_AUTHORITIES"
        if os.environ.get("CI") == "true":
            pytest.fail(message, pytrace=False)
        pytest.skip(message)
    return folder


# --- Conformance features -------------------------------------------------------------------------------------------------


def scenarios(path: Path) -> list[tuple[str, str]]:
    """Give (title, text) of each scenario of a feature, its outline written out for each of its examples."""
    found = []
    for block in re.split(r"^\s*Scenario(?: Outline)?: ", path.read_text(), flags=re.MULTILINE)[1:]:
        title, _, text = block.partition("\n")
        steps, _, examples = text.partition("Examples:")
        rows = table(examples)
        for row in rows[1:] or [[]]:
            written = steps
            for name, value in zip(rows[0] if rows else [], row, strict=True):
                written = written.replace(f"<{name}>", value)
            found.append((title, written))
    return found


def table(text: str) -> list[list[str]]:
    lines = [line.strip() for line in text.splitlines() if line.strip().startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def quoted(text: str) -> list[str]:
    """Give the texts between triple quotes, without their indentation."""
    blocks = re.findall(r'"""\n(.*?)\n\s*"""', text, flags=re.DOTALL)
    return [re.sub(r"(?m)^ {8}", "", block) for block in blocks]


def expected_attributes(text: str) -> dict[str, str]:
    after = text.partition("Then the attributes are:")[2].partition("And the data")[0]
    return dict(table(after)[1:])


def check(event: Event, text: str) -> None:
    expected = expected_attributes(text)
    assert {name: event.attribute(name) for name in expected} == expected
    assert event.data == json.loads(quoted(text)[-1])


def test_every_scenario_of_the_kafka_binding_holds(authorities) -> None:
    cases = scenarios(authorities / "features" / "kafka-protocol-binding.feature")
    assert len(cases) == 3
    for _, text in cases:
        headers = table(text.partition("Kafka headers:")[2].partition("When parsed")[0])[1:]
        event = parse_kafka(quoted(text)[0].encode(), [(name, value.encode()) for name, value in headers])
        check(event, text)


def test_every_scenario_of_the_http_binding_holds(authorities) -> None:
    cases = scenarios(authorities / "features" / "http-protocol-binding.feature")
    assert len(cases) == 4
    for _, text in cases:
        head, _, body = quoted(text)[0].partition("\n\n")
        headers = [tuple(line.split(": ", 1)) for line in head.splitlines()[1:]]
        (event,) = parse_http(headers, body.encode())
        check(event, text)


# --- Vectors of the Java SDK ------------------------------------------------------------------------------------------------

FULL = {
    "id": "1",
    "type": "mock.test",
    "source": "http://localhost/source",
    "dataschema": "http://localhost/schema",
    "subject": "sub",
    "time": datetime(2018, 4, 26, 12, 48, 9, tzinfo=UTC),
}
LEAST = {"id": "1", "type": "mock.test", "source": "http://localhost/source"}
NO_SCHEMA = {name: value for name, value in FULL.items() if name != "dataschema"}
EXTENSIONS = {"astring": "aaa", "aboolean": True, "anumber": 10}

GOOD = {
    "base64_json_data.json": Event(**FULL, datacontenttype="application/json", data={}),
    "base64_json_data_with_ext.json": Event(**FULL, datacontenttype="application/json", data={}, extensions=EXTENSIONS),
    "base64_text_data.json": Event(**NO_SCHEMA, datacontenttype="text/plain", data="Hello World Lorena!"),
    "base64_xml_data.json": Event(**NO_SCHEMA, datacontenttype="application/xml", data="<stuff></stuff>"),
    "binary_attr.json": Event(**LEAST, extensions={"binary": "4P8ARKo="}),
    "json_data.json": Event(**FULL, datacontenttype="application/json", data={}),
    "json_data_with_ext.json": Event(**FULL, datacontenttype="application/json", data={}, extensions=EXTENSIONS),
    "json_data_with_fractional_time.json": Event(
        **(FULL | {"time": datetime(2018, 4, 26, 14, 48, 9, 123400, tzinfo=UTC)}),
        datacontenttype="application/json",
        data={},
    ),
    "min.json": Event(**LEAST),
    "min_subject_null.json": Event(**LEAST),
    "numeric_ext.json": Event(**LEAST, extensions={"integer": 42, "decimal": "42.42", "float": "4.2", "long": "4200"}),
    "text_data.json": Event(**NO_SCHEMA, datacontenttype="text/plain", data="Hello World Lorena!"),
    "xml_data.json": Event(**NO_SCHEMA, datacontenttype="application/xml", data="<stuff></stuff>"),
}
BAD = {
    "fail_numeric_decimal.json": ["extension decimal: it must be a string, a whole number or a boolean, and is 42.42"],
    "fail_numeric_long.json": ["extension long: a whole number must fit 32 bits, and it is 4247483647"],
    "json_data_with_ext_invalid.json": [
        "extension 'a_invalid_name': the name 'a_invalid_name' must be 1 to 20 characters"
    ],
    "json_data_with_ext_upper_case.json": ["extension 'aString'", "extension 'aBoolean'", "extension 'aNumber'"],
}


def test_every_vector_is_known(authorities) -> None:
    assert {path.name for path in (authorities / "sdk-java-json" / "v1").iterdir()} == GOOD.keys() | BAD.keys()


@pytest.mark.parametrize("name", GOOD)
def test_a_good_vector_is_its_event(authorities, name) -> None:
    body = (authorities / "sdk-java-json" / "v1" / name).read_bytes()
    assert event_from_json(parse_json(body)) == GOOD[name]
    assert parse_kafka(body, [("content-type", b"application/cloudevents+json")]) == GOOD[name]
    assert parse_http([("Content-Type", "application/cloudevents+json")], body) == (GOOD[name],)


@pytest.mark.parametrize("name", BAD)
def test_a_bad_vector_is_refused_with_its_faults(authorities, name) -> None:
    body = (authorities / "sdk-java-json" / "v1" / name).read_bytes()
    with pytest.raises(InvalidEvent) as fault:
        event_from_json(parse_json(body))
    found = fault.value.details["faults"]
    assert len(found) == len(BAD[name])
    assert all(text.startswith(start) for text, start in zip(found, BAD[name], strict=True))


def test_an_event_of_version_0_3_is_refused_by_its_version(authorities) -> None:
    for path in (authorities / "sdk-java-json" / "v03").iterdir():
        with pytest.raises(InvalidEvent) as fault:
            event_from_json(parse_json(path.read_bytes()))
        if "0.3" in path.read_text():  # two of them say 1.0 and are bad for what their names say
            assert "specversion: it must be '1.0', and is '0.3'" in fault.value.details["faults"]


# --- The official Python SDK reads what we write, and we read what it writes ---------------------------------------------------


@pytest.mark.parametrize("mode", ["structured", "binary"])
@pytest.mark.parametrize("name", GOOD)
def test_the_official_sdk_understands_what_is_sent(name, mode) -> None:
    event = GOOD[name]
    record = encode_kafka(event, mode)
    request = encode_http(event, mode)
    if mode == "structured" or event.data is not None:
        sent = sdk_kafka.KafkaMessage(headers=dict(record.headers), key=None, value=record.value or b"")
        assert_same(sdk_kafka.from_kafka_event(sent), event, mode)
        assert_same(
            sdk_http.from_http_event(sdk_http.HTTPMessage(headers=dict(request.headers), body=request.body)),
            event,
            mode,
        )


def assert_same(theirs, event: Event, mode: str) -> None:
    # The SDK invents a time for an event that has none.
    invented = set() if event.time else {"time"}
    attributes = {
        name: value for name, value in theirs.get_attributes().items() if value is not None and name not in invented
    }
    ours = event.to_json() | ({"time": event.time} if event.time else {})
    ours.pop("data", None)
    if mode == "binary":
        ours |= {name: event.attribute(name) for name in event.extensions}
    assert attributes == ours
    assert theirs.get_data() == event.data


@pytest.mark.parametrize("mode", ["structured", "binary"])
def test_what_the_official_sdk_sends_is_understood(mode) -> None:
    from cloudevents.core.v1.event import CloudEvent

    event = replace(GOOD["json_data.json"], subject="Euro € 100 %", data={"a": [1, "ü"]}, extensions={"e": "x y"})
    attributes = {name: value for name, value in event.to_json().items() if name != "data"} | {"time": event.time}
    theirs = CloudEvent(attributes, event.data)
    write_http, write_kafka = {
        "structured": (sdk_http.to_structured_event, sdk_kafka.to_structured_event),
        "binary": (sdk_http.to_binary_event, sdk_kafka.to_binary_event),
    }[mode]
    request, record = write_http(theirs), write_kafka(theirs)
    assert parse_http(request.headers.items(), request.body) == (event,)
    assert parse_kafka(record.value, list(record.headers.items())) == event
