"""Events that were received, in the order of their times: what a backtest goes through.

::

    events of a type, [since, until) -> past_events -> dicts, oldest first
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import sqlalchemy as sa

from hindscan.runs import schema

if TYPE_CHECKING:
    from hindscan.runs.store import Store

__all__ = ["past_events"]


def past_events(
    store: Store, type: str | None = None, *, since: int | None = None, until: int | None = None
) -> list[dict[str, Any]]:
    """Give events of a type whose bodies are there by the time their runs are as of: their own, else their record's, else that of their receipt.

    Parameters
    ----------
    type : str, optional
        Default: of any.
    since, until : int, optional
        Microseconds since the epoch, half-open.

    Returns
    -------
    list of dict
        ``id, source, time, attributes, data`` (bytes or None) and ``position``: where it stood in its topic, as `history.snapshot.Position` has it, or None.
    """
    table = schema.events
    time = sa.func.coalesce(table.c.time, table.c.record_time, table.c.received_at)
    query = sa.select(table, time.label("at")).where(table.c.gone.is_(None)).order_by(time, table.c.source, table.c.id)
    if type is not None:
        query = query.where(table.c.type == type)
    if since is not None:
        query = query.where(time >= since)
    if until is not None:
        query = query.where(time < until)
    with store.read() as connection:
        return [_event(row) for row in connection.execute(query).mappings()]


def _event(row: sa.RowMapping) -> dict[str, Any]:
    place = ("cluster", "topic", "topic_id", "partition", "offset")
    return {
        "id": row["id"],
        "source": row["source"],
        "time": row["at"],
        "attributes": msgspec.json.decode(row["attributes"]),
        "data": row["data"],
        "position": None if row["offset"] is None else {name: row[name] for name in place},
    }
