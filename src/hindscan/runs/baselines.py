"""What a trigger of files has before it: the versions that were there when it began, and those that are recorded (promise 4).

The first list that is stored counts, whoever comes second: so a crash after it, or another dispatcher, moves no start. What was recorded since is in the decisions, so
together they are all that is not new.

::

    begin, take_over -> the list that counts;   known -> that list + recorded versions
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import msgspec
import sqlalchemy as sa

from hindscan.runs import schema
from hindscan.runs.statement import insert_many

if TYPE_CHECKING:
    from collections.abc import Collection

    from hindscan.runs.store import Store

__all__ = ["begin", "beginning", "known", "take_over"]


def begin(store: Store, trigger: str, source: str, versions: Collection[str]) -> None:
    """Store what was there when a trigger began, unless that is stored already."""
    row = {"trigger": trigger, "source": source, "versions": _packed(versions), "began_at": store.now()}
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
    with store.read() as connection:
        return _known(connection, trigger, source, event_source)


def take_over(store: Store, trigger: str, was: str, source: str, event_source: str) -> None:
    """Have a trigger go on where it stood under another name: what was not new to that one is not new to it, from the beginning on."""
    table = schema.baselines
    with store.write(turn="record") as connection:
        left = _known(connection, was, source, event_source)
        if left is None:
            return
        mine = _known(connection, trigger, source, event_source)
        if mine is not None and left <= mine:
            return
        row = {
            "trigger": trigger,
            "source": source,
            "versions": _packed(left | (mine or set())),
            "began_at": store.now(),
        }
        connection.execute(sa.delete(table).where(table.c.trigger == trigger, table.c.source == source))
        insert_many(connection, table, [row])


def beginning(store: Store, trigger: str, source: str) -> tuple[set[str], int] | None:
    """Give the versions that were there when a trigger began, and when that was; None if it has not begun."""
    table = schema.baselines
    query = sa.select(table.c.versions, table.c.began_at).where(table.c.trigger == trigger, table.c.source == source)
    with store.read() as connection:
        found = connection.execute(query).one_or_none()
    return None if found is None else (_unpacked(found[0]), int(found[1]))


def _known(connection: sa.Connection, trigger: str, source: str, event_source: str) -> set[str] | None:
    table, decisions = schema.baselines, schema.decisions
    stored = sa.select(table.c.versions).where(table.c.trigger == trigger, table.c.source == source)
    recorded = sa.select(decisions.c.id).where(decisions.c.source == event_source, decisions.c.trigger == trigger)
    body = connection.execute(stored).scalar_one_or_none()
    return None if body is None else {*_unpacked(body), *connection.execute(recorded).scalars()}


def _packed(versions: Collection[str]) -> bytes:
    return zlib.compress(msgspec.json.encode(sorted(versions)), 1)


def _unpacked(body: bytes) -> set[str]:
    return set(msgspec.json.decode(zlib.decompress(body), type=list[str]))
