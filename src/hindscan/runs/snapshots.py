"""Snapshots as they were first pinned, for a run and for the trigger and event that opened it.

Keeps promises 1 and 3: the first pin is stored before anything is read, and whoever asks again, a retry, a second owner of the run, a replay of the event,
gets that one, whatever has arrived meanwhile. In a store on this machine a pin is flushed no earlier than the lease before a result is published: until then nobody has
seen what was read by it.

::

    History.pin -> Snapshot -> save_snapshot -> the Snapshot that counts;   load_snapshot, load_event_snapshot

Points of failure: `store.pinned`.
"""

from __future__ import annotations

import hashlib
import zlib
from typing import TYPE_CHECKING, Final

import msgspec
import sqlalchemy as sa

from hindscan.errors import NotFound
from hindscan.faults import point
from hindscan.history.snapshot import Snapshot
from hindscan.runs import schema
from hindscan.runs.run import FINAL
from hindscan.runs.statement import Statement, insert_many

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hindscan.runs.store import Store

__all__ = ["load_event_snapshot", "load_snapshot", "save_snapshot", "snapshots_in_use", "write_snapshot"]

_snapshot = msgspec.json.Decoder(Snapshot)

_runs, _decisions, _value = schema.runs.c, schema.decisions.c, sa.bindparam
_OF_RUN: Final = Statement(
    lambda _: sa.select(_runs.snapshot, _runs.trigger, _runs.event_source, _runs.event_id).where(
        _runs.id == _value("of")
    )
)
_FIRST_OF_RUN: Final = Statement(
    lambda _: sa.update(schema.runs).where(_runs.id == _value("of")).values(snapshot=_value("counts"))
)
_same_event = (_decisions.trigger == _value("by"), _decisions.source == _value("of"), _decisions.id == _value("under"))
_OF_EVENT: Final = Statement(lambda _: sa.select(_decisions.snapshot).where(*_same_event))
_FIRST_OF_EVENT: Final = Statement(
    lambda _: sa.update(schema.decisions).where(*_same_event).values(snapshot=_value("counts"))
)
_BODY: Final = Statement(lambda _: sa.select(schema.snapshots.c.body).where(schema.snapshots.c.digest == _value("of")))


def save_snapshot(store: Store, run: str, snapshot: Snapshot) -> Snapshot:
    """Store a run's snapshot unless it has one; give the one that counts, which is the first.

    The first pin of a run that an event opened is that event's and trigger's too; if they have one already, it becomes the run's.

    Raises
    ------
    hindscan.errors.NotFound
        There is no such run.
    """
    with store.write(turn="pin", durable=store.shared) as connection:
        row = _OF_RUN.first(connection, of=run)
        if row is None:
            raise NotFound(f"While storing a snapshot: its run must be in the store; there is no run {run!r}.", run=run)
        of_run, trigger, source, identity = row
        of_event = _of_event(connection, trigger, source, identity)
        counts = of_run or of_event
        first = counts is None
        if counts is None:
            counts = write_snapshot(connection, snapshot, store.now())
        if of_run is None:
            _FIRST_OF_RUN.run(connection, of=run, counts=counts)
        if trigger is not None and of_event is None:
            _FIRST_OF_EVENT.run(connection, by=trigger, of=source, under=identity, counts=counts)
        stored = snapshot if first else _load(connection, counts)
    point("store.pinned")
    return stored


def write_snapshot(connection: sa.Connection, snapshot: Snapshot, now: int) -> str:
    """Write a snapshot inside a transaction; give its digest."""
    body = msgspec.json.encode(snapshot, order="deterministic")
    digest = hashlib.sha256(body).hexdigest()
    insert_many(connection, schema.snapshots, [{"digest": digest, "body": zlib.compress(body, 1), "saved_at": now}])
    return digest


def load_snapshot(store: Store, run: str) -> Snapshot | None:
    """Give the snapshot a run must read: its own, else the first of its trigger and event; None if nothing was pinned yet."""
    with store.read() as connection:
        row = _OF_RUN.first(connection, of=run)
        if row is None:
            return None
        digest = row[0] or _of_event(connection, *row[1:])
        return None if digest is None else _load(connection, digest)


def load_event_snapshot(store: Store, trigger: str, source: str, identity: str) -> Snapshot | None:
    """Give the first snapshot that was pinned for a trigger and an event; None if there is none."""
    with store.read() as connection:
        digest = _of_event(connection, trigger, source, identity)
        return None if digest is None else _load(connection, digest)


def snapshots_in_use(store: Store, since: int) -> Iterator[Snapshot]:
    """Give the snapshots of runs that are not over, and of all that were pinned, opened or moved since a time."""
    runs, snapshots = schema.runs, schema.snapshots
    of_runs = sa.select(runs.c.snapshot).where(
        runs.c.snapshot.is_not(None), sa.or_(runs.c.state.not_in(FINAL), runs.c.updated_at >= since)
    )
    query = sa.select(snapshots.c.body).where(sa.or_(snapshots.c.saved_at >= since, snapshots.c.digest.in_(of_runs)))
    with store.read() as connection:
        bodies = connection.execute(query).scalars().all()
    return (_snapshot.decode(zlib.decompress(body)) for body in bodies)


def _of_event(connection: sa.Connection, trigger: str | None, source: str | None, identity: str | None) -> str | None:
    if trigger is None:
        return None
    found = _OF_EVENT.first(connection, by=trigger, of=source, under=identity)
    return None if found is None else found[0]


def _load(connection: sa.Connection, digest: str) -> Snapshot:
    ((body,),) = _BODY.rows(connection, of=digest)
    return _snapshot.decode(zlib.decompress(body))
