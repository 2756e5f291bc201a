"""What came in, event or not: the value that listeners hand on and that quarantine keeps (promise 5).

A record or request that is no event must be kept as it was, with the reason, so that it can be looked at and sent again. So everything that is received
becomes a `Received`: the event or its faults, beside the bytes, headers and place it came with. Between the listeners and the ledger. A listener hands on
`Unread`s: reading can kill the process too, so the intake writes down what it is about to read.

Times are microseconds since the epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import msgspec

from hindscan import times
from hindscan.errors import InvalidEvent
from hindscan.events.event import Event
from hindscan.events.wire import parse_kafka
from hindscan.events.wrapping import RecordPlace

__all__ = ["Received", "Unread", "Wrapped", "received_from_kafka", "received_over_http"]

#: Makes the events of a value at a place; raises `InvalidEvent`.
Wrapped: TypeAlias = "Callable[[bytes | None, RecordPlace | None], list[Event]]"


class Received(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One thing received: an event, or what is wrong with it.

    Parameters
    ----------
    event : Event | None
        The event, or None if it is not one.
    reason : str
        Why it is not one, the whole message; empty for an event.
    faults : tuple[str, ...]
        The faults one by one.
    way : str
        "kafka", "http", "schedule" or "files".
    body : bytes | None
        The record's value or the request's body, as it came; None over HTTP, where what cannot be parsed is refused and not kept.
    headers : tuple[tuple[str, bytes | None], ...]
        The record's headers, as they came.
    key : bytes | None
        The record's key.
    cluster, topic, topic_id : str | None
        Where the record stood; the id tells a recreated topic from the one before.
    partition, offset : int | None
        Where the record stood.
    record_time : int | None
        The record's own time.
    received_at : int
        When it came in.
    trigger : str | None
        The only trigger that it is for: schedules and files are watched for each trigger, from its own start. None: all that listen there.
    decided_by : tuple[str, ...]
        Of what came over HTTP and is read from the store: the triggers that decided about it when it came.
    """

    event: Event | None
    reason: str = ""
    faults: tuple[str, ...] = ()
    way: str
    body: bytes | None = None
    headers: tuple[tuple[str, bytes | None], ...] = ()
    key: bytes | None = None
    cluster: str | None = None
    topic: str | None = None
    topic_id: str | None = None
    partition: int | None = None
    offset: int | None = None
    record_time: int | None = None
    received_at: int
    trigger: str | None = None
    decided_by: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.event is None) != bool(self.reason):
            raise ValueError(f"it is either an event or has a reason why not; found {self.event!r} and {self.reason!r}")

    @property
    def time(self) -> int:
        """The T of "as of T": the event's time, else that of its record, else when it came in (promise 3)."""
        if self.event is not None and self.event.time is not None:
            return times.from_datetime(self.event.time)
        return self.received_at if self.record_time is None else self.record_time


class Unread(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A record as it came, not looked at yet; fields as in `Received`."""

    way: str = "kafka"
    body: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    key: bytes | None
    cluster: str
    topic: str
    topic_id: str | None
    partition: int
    offset: int
    record_time: int | None
    #: Reads it: one, but for a notification about several objects.
    read: Callable[[], list[Received]]


def received_from_kafka(
    value: bytes | None,
    headers: Sequence[tuple[str, bytes | None]] | None,
    *,
    key: bytes | None,
    cluster: str,
    topic: str,
    topic_id: str | None,
    partition: int,
    offset: int,
    record_time: int | None,
    wrapped: Wrapped | None = None,
) -> list[Received]:
    """Make a record what was received, whatever it holds: one, but for a notification about several objects.

    Parameters
    ----------
    wrapped : callable, optional
        Makes the events of a record that is no CloudEvent.
    """
    events: list[Event | None]
    reason = ""
    faults: tuple[str, ...] = ()
    try:
        if wrapped is None:
            events = [parse_kafka(value, headers)]
        else:
            place = RecordPlace(
                cluster=cluster, topic=topic, topic_id=topic_id or "", partition=partition, offset=offset
            )
            events = [*wrapped(value, place)]
    except InvalidEvent as fault:
        events, reason, faults = [None], str(fault), _faults(fault)
    return [
        Received(
            event=event,
            reason=reason,
            faults=faults,
            way="kafka",
            body=value,
            headers=tuple(headers or ()),
            key=key,
            cluster=cluster,
            topic=topic,
            topic_id=topic_id,
            partition=partition,
            offset=offset,
            record_time=record_time,
            received_at=times.now(),
        )
        for event in events
    ]


def received_over_http(event: Event, trigger: str | None = None) -> Received:
    """Make an event what was received, by all triggers or by one; one that cannot be parsed never gets here."""
    return Received(event=event, way="http", trigger=trigger, received_at=times.now())


def _faults(fault: InvalidEvent) -> tuple[str, ...]:
    found = fault.details.get("faults")
    return tuple(str(text) for text in found) if isinstance(found, list) else ()
