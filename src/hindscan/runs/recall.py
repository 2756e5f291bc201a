"""Recorded events as they were received, and what a trigger made of them: what a replay goes through and an audit compares with.

The reading side of promises 3 and 4 for events of the past: an event comes out of the store equal to how it came in, with its place and its times, so that deciding about
it again is deciding about the same. "When it came in" is the time of its record in the topic, of a schedule its instant, of a file that of its last change, else
of its receipt.

::

    events -> past_events -> dicts by the time their runs are as of, for backtests
    events, decisions, runs -> recorded -> Received, Received, ... -> replaying, auditing
                            -> known -> Known (by identity)
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

import msgspec
import sqlalchemy as sa

from hindscan.events.files import event_source
from hindscan.events.received import Received
from hindscan.events.trigger import Source
from hindscan.runs import schema
from hindscan.runs.forgotten import forgotten_among
from hindscan.runs.held import stored_event
from hindscan.runs.statement import keys_in_parts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from hindscan.runs.store import Store

__all__ = [
    "Kept",
    "Known",
    "at_places",
    "doubled",
    "first_receipt",
    "known",
    "orphaned",
    "outcomes",
    "past_events",
    "quarantined_places",
    "recorded",
    "without_body",
]

#: Events taken from the store at once.
BATCH: Final = 500

_Identity = tuple[str, str]


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """What the store has of one event and one trigger."""

    #: None: the trigger has not decided about it.
    outcome: str | None = None
    #: The run that its decision names.
    run: str | None = None
    #: The job of that run; None: there is no such run.
    job: str | None = None
    #: Digest of the snapshot that was pinned first.
    snapshot: str | None = None


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """Which of the recorded events came to one trigger."""

    sources: tuple[Source, ...]
    #: Of its schedules.
    time_zone: str = "UTC"
    #: The trigger, by its names, if bodies are posted to it alone: its are those that it decided about.
    posted_to: tuple[str, ...] = ()
    #: The other triggers that bodies are posted to alone: what these decided about came to nobody else.
    posted_elsewhere: tuple[str, ...] = ()


def recorded(store: Store, kept: Kept, since: int | None, until: int | None) -> Iterator[list[Received]]:
    """Give the events that came to a trigger and whose bodies are there, in the order they were recorded.

    Parameters
    ----------
    since, until : int, optional
        When they came in, half-open, microseconds since the epoch.
    """
    table = schema.events
    chosen = _chosen(kept, since, until)
    query = sa.select(table).where(*chosen, table.c.gone.is_(None)).order_by(table.c.seq).limit(BATCH)
    last = 0
    while True:
        with store.read() as connection:
            rows = connection.execute(query.where(table.c.seq > last)).mappings().all()
        if not rows:
            return
        last = rows[-1]["seq"]
        yield [_received(row) for row in rows]


def without_body(store: Store, kept: Kept, since: int | None, until: int | None) -> int:
    """Count the events that came to a trigger and whose bodies were deleted; of a forgotten one only the receipt tells when."""
    table = schema.events
    query = sa.select(sa.func.count()).where(*_chosen(kept, since, until), table.c.gone.is_not(None))
    with store.read() as connection:
        return connection.execute(query).scalar_one()


def _chosen(kept: Kept, since: int | None, until: int | None) -> list[sa.ColumnElement[bool]]:
    table = schema.events
    # Of a schedule its instant, of a file its last change: both are the event's own time.
    own = sa.case((table.c.way.in_(("schedule", "files")), table.c.time))
    came = sa.func.coalesce(table.c.record_time, own, table.c.received_at)
    bounds = [*([came >= since] if since is not None else []), *([came < until] if until is not None else [])]
    return [sa.or_(sa.false(), *(_of_source(source, kept) for source in kept.sources)), *bounds]


def _of_source(source: Source, kept: Kept) -> sa.ColumnElement[bool]:
    table = schema.events
    match source.kind:
        case "kafka":
            return sa.and_(table.c.cluster == source.cluster, table.c.topic == source.topic)
        case "cron":
            at = (table.c.topic == source.text, table.c.topic_id == kept.time_zone)
            return sa.and_(table.c.way == "schedule", *at)
        case "files":
            return sa.and_(table.c.way == "files", table.c.source == event_source(source.text))
    return sa.and_(
        table.c.way == "http", _decided_by(kept.posted_to) if kept.posted_to else ~_decided_by(kept.posted_elsewhere)
    )


def _decided_by(triggers: Sequence[str]) -> sa.ColumnElement[bool]:
    """Tell of an event over HTTP whether one of these triggers has decided about it, by its decisions or by what its own row says."""
    events, decisions = schema.events, schema.decisions
    decided = sa.select(sa.literal(1)).where(
        decisions.c.source == events.c.source, decisions.c.id == events.c.id, decisions.c.trigger.in_(triggers)
    )
    # LIKE is blind to the case of letters in SQLite; to replace a text tells exactly, in both databases, whether it is there.
    said = [sa.func.replace(events.c.triggers, f'"{trigger}"', "") != events.c.triggers for trigger in triggers]
    return sa.or_(decided.exists(), *(sa.and_(events.c.triggers.is_not(None), one) for one in said))


def _received(row: sa.RowMapping) -> Received:
    names = ("way", "cluster", "topic", "topic_id", "partition", "offset", "record_time", "received_at")
    decided_by = () if row["triggers"] is None else tuple(msgspec.json.decode(row["triggers"]))
    return Received(event=stored_event(row), decided_by=decided_by, **{name: row[name] for name in names})


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
        return [_as_dict(row) for row in connection.execute(query).mappings()]


def _as_dict(row: sa.RowMapping) -> dict[str, Any]:
    place = ("cluster", "topic", "topic_id", "partition", "offset")
    return {
        "id": row["id"],
        "source": row["source"],
        "time": row["at"],
        "attributes": msgspec.json.decode(row["attributes"]),
        "data": row["data"],
        "position": None if row["offset"] is None else {name: row[name] for name in place},
    }


def known(store: Store, trigger: str, identities: Iterable[_Identity]) -> dict[_Identity, Known]:
    """Tell what is recorded of these events and this trigger; an event that is not recorded is missing."""
    events, decisions, runs = schema.events, schema.decisions, schema.runs
    decided = sa.and_(
        decisions.c.source == events.c.source, decisions.c.id == events.c.id, decisions.c.trigger == trigger
    )
    joined = events.outerjoin(decisions, decided).outerjoin(runs, runs.c.id == decisions.c.run)
    columns = (
        events.c.source,
        events.c.id,
        decisions.c.outcome,
        decisions.c.run,
        runs.c.job,
        sa.func.coalesce(runs.c.snapshot, decisions.c.snapshot),
    )
    identities = set(identities)
    found: dict[_Identity, Known] = {}
    with store.read() as connection:
        forgotten = forgotten_among(connection, identities)
        for part in keys_in_parts(identities):
            query = (
                sa.select(*columns).select_from(joined).where(sa.tuple_(events.c.source, events.c.id).in_(list(part)))
            )
            for source, identity, outcome, run, job, snapshot in connection.execute(query):
                found[source, identity] = Known(outcome=outcome, run=run, job=job, snapshot=snapshot)
    # There is nothing about them that could be done once more.
    return found | dict.fromkeys(forgotten, Known(outcome="forgotten"))


def outcomes(store: Store, trigger: str) -> dict[str, int]:
    """Count the decisions of a trigger, or of a replay as ``TRIGGER@NAME``, by outcome. Looks at all decisions."""
    table = schema.decisions
    query = sa.select(table.c.outcome, sa.func.count()).where(table.c.trigger == trigger).group_by(table.c.outcome)
    with store.read() as connection:
        return {outcome: count for outcome, count in connection.execute(query.order_by(table.c.outcome))}  # noqa: C416 - rows are no pairs to dict's types


def doubled(store: Store, trigger: str) -> dict[_Identity, list[str]]:
    """Give the events for which a trigger has more than one run, with these; there must be none. One look at all runs of the trigger."""
    runs = schema.runs
    same = (runs.c.event_source, runs.c.event_id)
    of_trigger = runs.c.trigger == trigger
    several = sa.select(*same).where(of_trigger).group_by(*same).having(sa.func.count() > 1)
    query = sa.select(*same, runs.c.id).where(of_trigger, sa.tuple_(*same).in_(several)).order_by(runs.c.seq)
    found: dict[_Identity, list[str]] = defaultdict(list)
    with store.read() as connection:
        for source, identity, run in connection.execute(query):
            found[source, identity].append(run)
    return dict(found)


def orphaned(store: Store, trigger: str) -> list[_Identity]:
    """Give the events that a trigger has decided about and that are not in the store; there must be none."""
    events, decisions = schema.events, schema.decisions
    there = sa.exists().where(events.c.source == decisions.c.source, events.c.id == decisions.c.id)
    query = (
        sa.select(decisions.c.source, decisions.c.id)
        .where(decisions.c.trigger == trigger, ~there)
        .order_by(decisions.c.decided_at, decisions.c.source, decisions.c.id)
    )
    with store.read() as connection:
        return [(source, identity) for source, identity in connection.execute(query)]


def first_receipt(store: Store, trigger: str) -> int | None:
    """Tell when the first event came in that a trigger has decided about; None: it never has."""
    events, decisions = schema.events, schema.decisions
    same = sa.and_(decisions.c.source == events.c.source, decisions.c.id == events.c.id)
    query = (
        sa.select(sa.func.min(events.c.received_at))
        .select_from(decisions.join(events, same))
        .where(decisions.c.trigger == trigger)
    )
    with store.read() as connection:
        return connection.execute(query).scalar_one()  # type: ignore[no-any-return]


def at_places(store: Store, places: Iterable[tuple[str, int, int]]) -> dict[tuple[str, int, int], set[_Identity]]:
    """Give the events that were recorded of records at these places (id of the topic, partition, offset)."""
    table = schema.events
    columns = (table.c.topic_id, table.c.partition, table.c.offset)
    found: dict[tuple[str, int, int], set[_Identity]] = defaultdict(set)
    with store.read() as connection:
        for part in keys_in_parts(places):
            query = sa.select(*columns, table.c.source, table.c.id).where(sa.tuple_(*columns).in_(list(part)))
            for topic_id, partition, offset, source, identity in connection.execute(query):
                found[topic_id, partition, offset].add((source, identity))
    return dict(found)


def quarantined_places(store: Store, cluster: str, topic: str, topic_id: str) -> set[tuple[int, int]]:
    """Give the places (partition, offset) of a topic whose records are in quarantine as a whole."""
    table = schema.quarantine
    query = sa.select(table.c.partition, table.c.offset).where(
        table.c.cluster == cluster, table.c.topic == topic, table.c.topic_id == topic_id
    )
    with store.read() as connection:
        return {(partition, offset) for partition, offset in connection.execute(query)}
