"""The inbox: what was received, what was decided about it, and what is in quarantine, as people look at it.

The reading side of promise 5: whatever came in can be found with its outcome and the reason, newest first. `ledger` writes these rows, this module only reads them.

::

    ledger.record -> events, decisions, quarantine -> list_events -> command line, HTTP
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

import msgspec
import sqlalchemy as sa

from hindscan import times
from hindscan.runs import schema
from hindscan.runs.held import is_held

if TYPE_CHECKING:
    from hindscan.runs.store import Store

__all__ = ["event_attributes", "list_events"]


def list_events(store: Store, *, quarantined: bool = False, limit: int = 100) -> list[dict[str, Any]]:
    """Describe what was received, newest first.

    Parameters
    ----------
    quarantined : bool
        Only what is in quarantine: as a whole, or by a trigger's decision.
    limit : int
        How many at most.

    Returns
    -------
    list of dict
        ``event`` (its handle: ``event:12``, or ``record:5`` for what lies in quarantine whole), ``received_at, way, source, id, type, subject, position, outcome,
        reason, conflict, gone, decisions``; each decision has ``trigger, outcome, reason, run``. What is no event has its bytes' digest and size, and no decisions.
    """
    with store.read() as connection:
        found = _events(connection, quarantined, limit) + _quarantine(connection, limit)
    found.sort(key=lambda row: row["received_at"], reverse=True)
    return [{**row, "received_at": times.to_text(row["received_at"])} for row in found[:limit]]


def event_attributes(store: Store, source: str | None, identity: str | None) -> tuple[dict[str, Any], str]:
    """Give the context attributes of an event and the digest of its data; nothing for no event."""
    table = schema.events
    if source is None or identity is None:
        return {}, ""
    query = sa.select(table.c.attributes, table.c.data_digest).where(table.c.source == source, table.c.id == identity)
    with store.read() as connection:
        row = connection.execute(query).first()
    return ({}, "") if row is None else (msgspec.json.decode(row[0]), str(row[1]))


def _events(connection: sa.Connection, quarantined: bool, limit: int) -> list[dict[str, Any]]:
    events, decisions = schema.events, schema.decisions
    query = sa.select(events).order_by(events.c.seq.desc()).limit(limit)
    if quarantined:
        query = query.where(is_held())
    rows = connection.execute(query).mappings().all()
    by_event: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        of_event = sa.select(decisions).where(decisions.c.source == row["source"], decisions.c.id == row["id"])
        for decision in connection.execute(of_event.order_by(decisions.c.trigger)).mappings():
            by_event[row["source"], row["id"]].append(
                {name: decision[name] for name in ("trigger", "outcome", "reason", "run")}
            )
    return [
        {
            "event": f"event:{row['seq']}",
            "received_at": row["received_at"],
            "way": row["way"],
            "source": row["source"],
            "id": row["id"],
            "type": row["type"],
            "subject": row["subject"],
            "position": _position(row),
            "outcome": "taken",
            "reason": "",
            "conflict": bool(row["conflict"]),
            "gone": row["gone"],
            "decisions": by_event[row["source"], row["id"]],
        }
        for row in rows
    ]


def _quarantine(connection: sa.Connection, limit: int) -> list[dict[str, Any]]:
    table = schema.quarantine
    rows = connection.execute(sa.select(table).order_by(table.c.seq.desc()).limit(limit)).mappings()
    return [
        {
            "event": f"record:{row['seq']}",
            "received_at": row["received_at"],
            "way": row["way"],
            "source": row["source"],
            "id": row["id"],
            "type": None,
            "subject": None,
            "position": _position(row),
            "outcome": "quarantined",
            "reason": row["reason"],
            "conflict": row["error"] == "Conflict",
            "gone": row["gone"],
            "error": row["error"],
            "body_digest": row["body_digest"],
            "body_bytes": len(row["body"] or b""),
            "decisions": [],
        }
        for row in rows
    ]


def _position(row: sa.RowMapping) -> str | None:
    """Write a place in a topic as people do: ``topic[partition]@offset``."""
    if row["offset"] is None or row["way"] == "schedule":
        # A schedule's place is its instant, which is the event's id and time.
        return None
    return f"{row['topic']}[{row['partition']}]@{row['offset']}"
