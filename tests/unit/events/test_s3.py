"""What S3 says of its objects becomes one CloudEvent for each, as the adapter specification has it."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from hindscan.errors import InvalidEvent
from hindscan.events.filters import Filter
from hindscan.events.s3 import s3_events

RECORD: dict[str, Any] = {
    "eventVersion": "2.1",
    "eventSource": "aws:s3",
    "awsRegion": "us-west-2",
    "eventTime": "2026-11-25T06:07:08.123Z",
    "eventName": "ObjectCreated:Put",
    "userIdentity": {"principalId": "AIDAJDPLRKLG7UEXAMPLE"},
    "requestParameters": {"sourceIPAddress": "127.0.0.1"},
    "responseElements": {"x-amz-request-id": "C3D13FE58DE4C810", "x-amz-id-2": "FMyUVURIY8/IgAtTv8xRjskZ"},
    "s3": {
        "s3SchemaVersion": "1.0",
        "configurationId": "new-bids",
        "bucket": {"name": "lake", "arn": "arn:aws:s3:::lake"},
        "object": {
            "key": "bids/year%3D2018/a+b.parquet",
            "size": 1024,
            "eTag": "d41d8c",
            "sequencer": "0055AED6DCD90281E5",
        },
    },
}
BRIDGE: dict[str, Any] = {
    "version": "0",
    "id": "17793124-05d4-b198-2fde-7ededc63b103",
    "detail-type": "Object Created",
    "source": "aws.s3",
    "account": "111122223333",
    "time": "2026-11-25T06:07:08Z",
    "region": "us-west-2",
    "resources": ["arn:aws:s3:::lake"],
    "detail": {
        "version": "0",
        "bucket": {"name": "lake"},
        "object": {"key": "bids/a b.parquet", "size": 5, "etag": "b1946a", "sequencer": "617f08299329d189"},
        "request-id": "N4N7GDK58NMKJ12R",
        "reason": "PutObject",
    },
}


def changed(document: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    made = copy.deepcopy(document)
    *parts, last = path.split(".")
    at = made
    for part in parts:
        at = at[part]
    at[last] = value
    return made


def test_a_record_is_mapped_as_the_specification_says() -> None:
    (event,) = s3_events({"Records": [RECORD]})
    assert event.to_json() == {
        "specversion": "1.0",
        "id": "C3D13FE58DE4C810.FMyUVURIY8/IgAtTv8xRjskZ",
        "source": "aws:s3.us-west-2.lake",
        "type": "com.amazonaws.s3.ObjectCreated:Put",
        "time": "2026-11-25T06:07:08.123000Z",
        "subject": "bids/year%3D2018/a+b.parquet",
        "datacontenttype": "application/json",
        "data": RECORD,
    }


def test_a_notification_of_eventbridge_passes_the_same_filter() -> None:
    (bridged,) = s3_events(BRIDGE)
    (event,) = s3_events({"Records": [RECORD]})
    same = Filter(
        {
            "all": [
                {"prefix": {"type": "com.amazonaws.s3.ObjectCreated"}},
                {"exact": {"source": "aws:s3.us-west-2.lake"}},
            ]
        }
    )
    assert same.matches(bridged)
    assert same.matches(event)
    assert (bridged.id, bridged.subject) == (BRIDGE["id"], "bids/a b.parquet")
    assert bridged.data == BRIDGE


def test_one_request_that_removes_many_objects_is_one_event_for_each() -> None:
    removed = changed(RECORD, "eventName", "ObjectRemoved:Delete")
    events = s3_events({"Records": [removed, changed(removed, "s3.object.key", "bids/b.parquet")]})
    assert len({event.identity for event in events}) == 2
    assert [event.id for event in events] == [
        event.id for event in s3_events({"Records": [removed, changed(removed, "s3.object.key", "bids/b.parquet")]})
    ]


def test_stores_like_s3_have_no_region_and_a_name_of_their_own() -> None:
    other = changed(
        changed(changed(RECORD, "awsRegion", ""), "eventSource", "minio:s3"), "eventName", "s3:ObjectCreated:Put"
    )
    (event,) = s3_events({"EventName": "s3:ObjectCreated:Put", "Key": "lake/a", "Records": [other]})
    assert (event.source, event.type) == ("minio:s3..lake", "com.amazonaws.s3.ObjectCreated:Put")


@pytest.mark.parametrize(
    ("document", "faults"),
    [
        ({"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "lake"}, ["it must be an object with Records"]),
        ({"Records": []}, ["with Records"]),
        ({"Records": {}}, ["with Records"]),
        (None, ["with Records"]),
        ([RECORD], ["with Records"]),
        ({"Records": [RECORD, 5]}, ["record 1: eventName", "record 1: s3.bucket.name"]),
        (
            {"Records": [changed(RECORD, "eventTime", "soon"), changed(RECORD, "s3.object.key", None)]},
            ["record 0: time", "record 1: s3.object.key: it must be a text"],
        ),
        (changed(BRIDGE, "detail", None), ["detail.bucket.name", "detail.object.key"]),
    ],
)
def test_every_fault_of_a_notification_is_told_and_none_of_it_taken(document, faults) -> None:
    with pytest.raises(InvalidEvent) as refused:
        s3_events(document)
    for fault in faults:
        assert fault in str(refused.value)
