"""What a trigger of files has before it: the versions that were there when it began, and those that are recorded (promise 4).

The first list that is stored counts, whoever comes second: so a crash after it, or another dispatcher, moves no start. What was recorded since is in the decisions, so
together they are all that is not new.

::

    begin -> the list that counts;   known -> that list + recorded versions
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import msgspec
import sqlalchemy as sa

from hindscan.runs import schema
from hindscan.runs.store import insert_many

if TYPE_CHECKING:
    from collections.abc import Collection

    from hindscan.runs.store import Store

__all__ = ["begin", "known"]


def begin(store: Store, trigger: str, source: str, versions: Collection[str]) -> None:
    """Store what was there when a trigger began, unless that is stored already."""
    body = zlib.compress(msgspec.json.encode(sorted(versions)), 1)
    row = {"trigger": trigger, "source": source, "versions": body, "began_at": store.now()}
    with store.write(turn="record") as connection:
        insert_many(connection, schema.baselines, [row])


def known(store: Store, trigger: str, source: str, event_source: str) -> set[str] | None:
    """Give the versions that are not new to a trigger; None if it has not begun.

    Parameters
    ----------
    trigger, source : str
        Whose.
    event_source : str
        What its events call the source.
    """
    table, decisions = schema.baselines, schema.decisions
    stored = sa.select(table.c.versions).where(table.c.trigger == trigger, table.c.source == source)
    recorded = sa.select(decisions.c.id).where(decisions.c.source == event_source, decisions.c.trigger == trigger)
    with store.read() as connection:
        body = connection.execute(stored).scalar_one_or_none()
        if body is None:
            return None
        return {*msgspec.json.decode(zlib.decompress(body), type=list[str]), *connection.execute(recorded).scalars()}
