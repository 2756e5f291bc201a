"""Where each trigger stands in each topic: offsets that are explicit before the first poll and move only with what was recorded.

Keeps promise 4's order (record, then commit): the row moves in the transaction that records the events, so the broker's committed offset can only be behind it,
never ahead. A new trigger's start is resolved once and stored; whoever comes second gets the stored one. A recreated topic has another id and therefore no position.

::

    start_at, take_over -> Place, Place, ... -> listener's first assignment;   ledger.record -> advance
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import msgspec
import sqlalchemy as sa

from hindscan.runs import schema
from hindscan.runs.statement import Statement, insert_many, insert_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from hindscan.history.snapshot import Position
    from hindscan.runs.store import Store

__all__ = ["Place", "advance", "places", "start_at", "take_over"]


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where one trigger stands in one partition: all before `next_offset` is recorded."""

    trigger: str
    cluster: str
    topic: str
    topic_id: str
    partition: int
    start_offset: int
    next_offset: int


def start_at(store: Store, starts: Sequence[Place]) -> list[Place]:
    """Store where triggers begin, unless that is stored already; give what is stored, in the same order."""
    table = schema.positions
    now = store.now()
    with store.write(turn="record") as connection:
        insert_many(connection, table, [msgspec.structs.asdict(start) | {"updated_at": now} for start in starts])
        return [Place(**_STORED.records(connection, **_named(_key(start)))[0]) for start in starts]


def take_over(store: Store, trigger: str, was: str, cluster: str, topic: str) -> None:
    """Have a trigger go on where it stood in a topic under another name, where that is further; what lies before is none of its own."""
    table = schema.positions
    now = store.now()
    with store.write(turn="record") as connection:
        mine = {_key(place)[1:]: place for place in _places(connection, trigger)}
        for left in _places(connection, was):
            key = _key(left)[1:]
            if key[:2] != (cluster, topic) or (key in mine and mine[key].next_offset >= left.next_offset):
                continue
            # It begins anew there: what the other name decided is not for it to account for.
            begun: dict[str, Any] = {
                "start_offset": left.next_offset,
                "next_offset": left.next_offset,
                "updated_at": now,
            }
            row = msgspec.structs.asdict(left) | {"trigger": trigger} | begun
            make = insert_of(connection)(table).values(**row)
            connection.execute(
                make.on_conflict_do_update(index_elements=[column.name for column in table.primary_key], set_=begun)
            )


def places(store: Store, trigger: str) -> list[Place]:
    """Give all places of a trigger, by topic and partition; of a recreated topic, those of its former life too."""
    with store.read() as connection:
        return _places(connection, trigger)


def _places(connection: sa.Connection, trigger: str) -> list[Place]:
    table = schema.positions
    query = sa.select(*_columns()).where(table.c.trigger == trigger)
    found = connection.execute(query.order_by(table.c.topic, table.c.topic_id, table.c.partition))
    return [Place(**row) for row in found.mappings()]


def _columns() -> list[sa.Column[Any]]:
    return [schema.positions.c[name] for name in Place.__struct_fields__]


def _key(place: Place) -> tuple[str, str, str, str, int]:
    return place.trigger, place.cluster, place.topic, place.topic_id, place.partition


def _named(key: tuple[str, str, str, str, int]) -> dict[str, Any]:
    return dict(zip(_KEY, key, strict=True))


def advance(connection: sa.Connection, passed: Iterable[tuple[str, Position]], now: int) -> None:
    """Move triggers past positions, inside the transaction that records what stood there; never backwards."""
    spans: dict[tuple[str, str, str, str, int], tuple[int, int]] = {}
    for trigger, at in passed:
        key = (trigger, at.cluster, at.topic, at.topic_id, at.partition)
        low, high = spans.get(key, (at.offset, at.offset))
        spans[key] = (min(low, at.offset), max(high, at.offset))
    # One order for all writers: on PostgreSQL two that meet in opposite orders would wait for each other.
    for key, (low, high) in sorted(spans.items()):
        _ADVANCE.run(connection, **_named(key), start_offset=low, next_offset=high + 1, updated_at=now)


_KEY: Final = ("trigger", "cluster", "topic", "topic_id", "partition")


def _upsert(connection: sa.Connection) -> Any:
    table = schema.positions
    insert = insert_of(connection)(table)
    return insert.on_conflict_do_update(
        index_elements=[table.c[name] for name in _KEY],
        set_={"next_offset": insert.excluded.next_offset, "updated_at": insert.excluded.updated_at},
        where=table.c.next_offset < insert.excluded.next_offset,
    )


_ADVANCE: Final = Statement(_upsert)
_STORED: Final = Statement(
    lambda _: sa.select(*_columns()).where(*(schema.positions.c[name] == sa.bindparam(name) for name in _KEY))
)
