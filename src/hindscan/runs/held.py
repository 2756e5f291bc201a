"""What is held in quarantine, found again so that it can be decided once more.

The other half of promise 5: nothing in quarantine is lost as long as its bytes are there. An event is held by the triggers whose filter or mapping failed on
it; a record that could not be read is held whole. Both have a handle, ``event:12`` or ``record:5``, that people and programs name them by. This module reads;
what is decided anew is written by `ledger.record`.

::

    ID, handle, TOPIC[P]@OFFSET -> find -> Handle -> held_events, held_records -> redriving -> ledger.record
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import msgspec
import sqlalchemy as sa

from hindscan.errors import NotFound, UsageError
from hindscan.events.event import Event, build_event
from hindscan.runs import schema

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from hindscan.runs.store import Store

__all__ = ["Handle", "HeldEvent", "HeldRecord", "find", "held_events", "held_records", "is_held", "stored_event"]

_HANDLE: Final = re.compile(r"(event|record):(\d{1,18})")
_POSITION: Final = re.compile(r"([a-zA-Z0-9._-]+)\[(\d{1,9})\]@(\d{1,18})")


class Handle(NamedTuple):
    """One row of the inbox: of `events` ("event") or of `quarantine` ("record")."""

    kind: str
    number: int

    def __str__(self) -> str:
        return f"{self.kind}:{self.number}"


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldEvent:
    """An event with the triggers that could not decide about it."""

    handle: Handle
    source: str
    id: str
    triggers: tuple[str, ...]
    #: None where its body is gone; then `gone` says why.
    event: Event | None
    gone: str | None
    way: str
    #: cluster, topic, topic_id, partition, offset: where it stands in its topic.
    place: dict[str, Any]
    record_time: int | None
    received_at: int


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldRecord:
    """What was not read as an event, or has an identity that another one had first."""

    handle: Handle
    reason: str
    #: Name of the class in `hindscan.errors`.
    error: str
    gone: str | None
    way: str
    body: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    key: bytes | None
    place: dict[str, Any]
    record_time: int | None
    received_at: int


def find(store: Store, name: str, source: str | None = None) -> Handle:
    """Find what is called so: a handle, the id of an event, or a place in a topic. Reads all events unless it is a handle or `source` is given.

    Parameters
    ----------
    name : str
        ``event:12``, ``record:5``, an event's id, or ``TOPIC[PARTITION]@OFFSET``.
    source : str, optional
        Source of the event, where several have the id.

    Raises
    ------
    hindscan.errors.NotFound
        Nothing is.
    hindscan.errors.UsageError
        Several are.
    """
    with store.read() as connection:
        found = _candidates(connection, name, source)
    if not found:
        raise NotFound(
            f"Looking up {name!r}: it must be a handle that `hindscan events` shows (event:12, record:5), the id of an event, or TOPIC[PARTITION]@OFFSET. "
            "Nothing that was received is called so.",
            event=name,
        )
    if len(found) > 1:
        handles = ", ".join(map(str, found[:10]))
        raise UsageError(
            f"Looking up {name!r}: it must be one; {len(found)} are called so: {handles}. Name its handle, or give its source.",
            event=name,
            found=[str(one) for one in found],
        )
    return found[0]


def _candidates(connection: sa.Connection, name: str, source: str | None) -> list[Handle]:
    events, quarantine = schema.events, schema.quarantine
    handle = _HANDLE.fullmatch(name)
    if handle and source is None:
        table = events if handle[1] == "event" else quarantine
        found = connection.execute(sa.select(table.c.seq).where(table.c.seq == int(handle[2])))
        if numbers := [int(seq) for seq in found.scalars()]:
            return [Handle(handle[1], numbers[0])]
    query = sa.select(events.c.seq).where(events.c.id == name)
    if source is not None:
        query = query.where(events.c.source == source)
    candidates = [Handle("event", seq) for seq in connection.execute(query.limit(100)).scalars()]
    at = _POSITION.fullmatch(name)
    if at and not candidates:
        for kind, table in (("event", events), ("record", quarantine)):
            there = (table.c.topic == at[1], table.c.partition == int(at[2]), table.c.offset == int(at[3]))
            candidates += [
                Handle(kind, seq) for seq in connection.execute(sa.select(table.c.seq).where(*there)).scalars()
            ]
    return candidates


def held_events(
    store: Store, *, number: int | None = None, trigger: str | None = None, after: int = 0, limit: int = 500
) -> list[HeldEvent]:
    """Give events that triggers hold, by their numbers.

    Parameters
    ----------
    number : int, optional
        Only this one; given also where nothing holds it.
    trigger : str, optional
        Only what this trigger holds.
    after : int
        Only those with a greater number.
    """
    events, decisions = schema.events, schema.decisions
    query = sa.select(events).where(events.c.seq > after).order_by(events.c.seq).limit(limit)
    query = query.where(is_held(trigger) if number is None else events.c.seq == number)
    with store.read() as connection:
        rows = connection.execute(query).mappings().all()
        of_event = sa.select(decisions.c.trigger).where(
            decisions.c.source == sa.bindparam("s"), decisions.c.id == sa.bindparam("i"), *_holds(trigger)
        )
        holding = [
            tuple(sorted(connection.execute(of_event, {"s": row["source"], "i": row["id"]}).scalars())) for row in rows
        ]
    return [
        HeldEvent(
            handle=Handle("event", row["seq"]),
            source=row["source"],
            id=row["id"],
            triggers=triggers,
            event=None if row["gone"] else stored_event(row),
            gone=row["gone"],
            way=row["way"],
            place=_place(row),
            record_time=row["record_time"],
            received_at=row["received_at"],
        )
        for row, triggers in zip(rows, holding, strict=True)
    ]


def is_held(trigger: str | None = None) -> sa.ColumnElement[bool]:
    """Say of an event that a trigger, or this one, holds it: the few that are held are gone through, not all events."""
    events, decisions = schema.events, schema.decisions
    held = sa.select(decisions.c.source, decisions.c.id).where(*_holds(trigger))
    return sa.tuple_(events.c.source, events.c.id).in_(held)


def _holds(trigger: str | None) -> list[sa.ColumnElement[bool]]:
    decisions = schema.decisions
    # Said as a constant: an index of a part of the rows is used only where the database sees that the question is about that part.
    held: sa.ColumnElement[bool] = sa.literal_column("decisions.outcome = 'quarantined'")
    return [held] if trigger is None else [held, decisions.c.trigger == trigger]


def held_records(
    store: Store, *, number: int | None = None, after: int = 0, limit: int = 500, unlike: Collection[str] = ()
) -> list[HeldRecord]:
    """Give what is held whole, by its numbers.

    Parameters
    ----------
    number : int, optional
        Only this one.
    after : int
        Only those with a greater number.
    unlike : collection of str
        Names of errors: what is held because of them is left out.
    """
    table = schema.quarantine
    query = sa.select(table).where(table.c.seq > after).order_by(table.c.seq).limit(limit)
    if number is not None:
        query = query.where(table.c.seq == number)
    if unlike:
        query = query.where(table.c.error.not_in(sorted(unlike)))
    with store.read() as connection:
        rows = connection.execute(query).mappings().all()
    return [
        HeldRecord(
            handle=Handle("record", row["seq"]),
            reason=row["reason"],
            error=row["error"],
            gone=row["gone"],
            way=row["way"],
            body=None if row["body"] is None else bytes(row["body"]),
            headers=_headers(row["headers"]),
            key=None if row["key"] is None else bytes(row["key"]),
            place=_place(row),
            record_time=row["record_time"],
            received_at=row["received_at"],
        )
        for row in rows
    ]


def stored_event(row: sa.RowMapping) -> Event:
    """Build an event again from its row."""
    attributes = msgspec.json.decode(row["attributes"])
    return build_event(
        attributes, None if row["data"] is None else bytes(row["data"]), [], "reading an event from the store"
    )


def _place(row: sa.RowMapping) -> dict[str, Any]:
    return {name: row[name] for name in ("cluster", "topic", "topic_id", "partition", "offset")}


def _headers(text: str) -> tuple[tuple[str, bytes | None], ...]:
    written: Sequence[tuple[str, str | None]] = msgspec.json.decode(text)
    return tuple((name, None if value is None else base64.b64decode(value)) for name, value in written)
