"""What S3 says of its objects, as CloudEvents: one for each object (promise 4).

Two forms: the notification with its `Records`, as S3 and stores like it send it to queues, topics and webhooks, which the adapter specification of CloudEvents maps
(cloudevents/adapters/aws-s3.md), and EventBridge's, which it does not know and which is mapped alike, so that one filter takes both. Either may lie in an envelope
of SNS. The message by which S3 tries a new notification is an event too, of a type of its own.

::

    notification -> s3_events -> Event, Event, ...
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Final

from hindscan.events.event import Event, build_each, build_event, invalid_event
from hindscan.events.sns import unwrapped
from hindscan.events.strict import shown

__all__ = ["s3_events"]

_DOING: Final = "reading a notification of S3"
#: Names of events whose request may be about many objects: then the request's ids alone do not tell them apart.
_OF_MANY: Final = ("ObjectRemoved", "LifecycleExpiration", "LifecycleTransition")


def s3_events(document: object) -> list[Event]:
    """Make the events of a notification.

    Raises
    ------
    InvalidEvent
        With every fault of every record: a notification is taken whole or not at all.
    """
    try:
        document = unwrapped(document)
    except ValueError as fault:
        raise invalid_event(_DOING, [str(fault)]) from None
    if isinstance(document, Mapping) and isinstance(document.get("Records"), list) and document["Records"]:
        records: list[Any] = document["Records"]
        make: Callable[[object], Event] = _from_record
    elif isinstance(document, Mapping) and "detail-type" in document:
        records, make = [document], _from_bridge
    elif isinstance(document, Mapping) and document.get("Event") == "s3:TestEvent":
        records, make = [document], _from_test
    else:
        raise invalid_event(
            _DOING,
            [f"it must be an object with Records, or with detail-type as EventBridge has it, not {shown(document)}"],
        )
    return build_each("record", records, make, _DOING)


def _from_record(record: object) -> Event:
    found = _Fields(record)
    name = found.text("eventName")
    # "`id`: "responseElements.x-amz-request-id" + `.` + "responseElements.x-amz-id-2""
    request = f"{found.text('responseElements', 'x-amz-request-id')}.{found.text('responseElements', 'x-amz-id-2')}"
    key = found.text("s3", "object", "key")
    if name.startswith(_OF_MANY):
        request += f".{_digest(key)}"
    attributes = {
        "specversion": "1.0",
        "id": request,
        # "`source`: "eventSource" value + `.` + "awsRegion" value + `.` + "s3.buckets.name" value"
        "source": f"{found.text('eventSource')}.{found.text('awsRegion', empty=True)}.{found.text('s3', 'bucket', 'name')}",
        # "`type`: `com.amazonaws.s3.` + "eventName" value"
        "type": f"com.amazonaws.s3.{name.removeprefix('s3:')}",
        # "`subject`: "s3.object.key" value", which S3 writes as in a query: `+` for a space, the rest percent-encoded.
        "subject": key,
        "time": found.text("eventTime"),
        "datacontenttype": "application/json",
    }
    return build_event(attributes, record, found.faults, _DOING)  # type: ignore[arg-type]


def _from_bridge(document: object) -> Event:
    found = _Fields(document)
    attributes = {
        "specversion": "1.0",
        "id": found.text("id"),
        "source": f"{found.text('source').replace('.', ':', 1)}.{found.text('region')}.{found.text('detail', 'bucket', 'name')}",
        # "Object Created" is what notifications call ObjectCreated; their second half (Put, Copy) is in detail.reason.
        "type": f"com.amazonaws.s3.{found.text('detail-type').replace(' ', '')}",
        "subject": found.text("detail", "object", "key"),
        "time": found.text("time"),
        "datacontenttype": "application/json",
    }
    return build_event(attributes, document, found.faults, _DOING)  # type: ignore[arg-type]


def _from_test(document: object) -> Event:
    found = _Fields(document)
    time = found.text("Time")
    attributes = {
        "specversion": "1.0",
        # Some stores like S3 leave the request out; nobody tries one notification twice at one time.
        "id": f"{found.text('RequestId')}.{found.text('HostId')}" if found.has("RequestId") else time,
        # It does not tell the region.
        "source": f"aws:s3..{found.text('Bucket')}",
        "type": "com.amazonaws.s3.TestEvent",
        "time": time,
        "datacontenttype": "application/json",
    }
    return build_event(attributes, document, found.faults, _DOING)  # type: ignore[arg-type]


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()[:16]


class _Fields:
    """Takes texts out of a foreign document, and keeps what is wrong."""

    def __init__(self, document: object) -> None:
        self._document = document
        self.faults: list[str] = []

    def has(self, name: str) -> bool:
        return isinstance(self._document, Mapping) and name in self._document

    def text(self, *path: str, empty: bool = False) -> str:
        value: Any = self._document
        for name in path:
            value = value.get(name) if isinstance(value, Mapping) else None
        if isinstance(value, str) and (value or empty):
            return value
        self.faults.append(f"{'.'.join(path)}: it must be a text, and is {shown(value)}")
        return "-"
