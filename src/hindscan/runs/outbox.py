"""The outbox: what runs say of themselves, written with their moves and sent afterwards.

Keeps promise 4 outwards. The event of a move is a row of the transaction that makes the move, so there is neither a move without its event nor an event of a
move that did not happen. Its id is made here, once: however often it is sent, it is the same event. A sender holds an outlet by a lease while it sends; whoever dies
between sending and marking lets the next one send again. Of one run nothing is sent before what came earlier.

Which outlets there are stands in the store, so that a run moved by any process (a dispatcher, the command line, a notebook) is announced.

::

    declare -> outlets;  register.move, leases.claim -> announce -> outbox -> hold, due -> outgoing.Sender -> mark, put_off
    outbox -> entries, backlogs -> people;  send_again, purge
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import msgspec
import sqlalchemy as sa

from hindscan import times
from hindscan.events.chain import chain_of
from hindscan.runs import schema
from hindscan.runs.statement import Statement, insert_many

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hindscan.runs.run import Run, State
    from hindscan.runs.store import Store

__all__ = [
    "TYPES",
    "Backlog",
    "Waiting",
    "announce",
    "backlogs",
    "declare",
    "due",
    "entries",
    "hold",
    "mark",
    "purge",
    "put_off",
    "send_again",
    "waiting_count",
]

#: Type of the event that each move of a run makes; back to waiting is none.
TYPES: Final[Mapping[State, str]] = {
    "running": "hindscan.run.started",
    "succeeded": "hindscan.run.succeeded",
    "failed": "hindscan.run.failed",
    "cancelled": "hindscan.run.cancelled",
}
#: Characters of a failure's message that go out.
MESSAGE_MOST: Final = 2_000
#: The wait after a first failed try, and the longest one, microseconds.
FIRST_WAIT: Final = 200_000
LAST_WAIT: Final = 300_000_000
#: Rows that are deleted in one transaction: others want to write too.
ROWS_AT_ONCE: Final = 1_000


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """One event that is to be sent."""

    seq: int
    run: str
    #: The event in the JSON format.
    event: str
    tries: int


def declare(store: Store, sources: Mapping[str, str]) -> None:
    """Make these the outlets there are: from now on moves of runs are written for them.

    Parameters
    ----------
    sources : mapping
        The `source` of the events, by the outlet's name.
    """
    table = schema.outlets
    now = store.now()
    rows = [{"name": name, "source": source, "declared_at": now} for name, source in sorted(sources.items())]
    with store.read() as connection:
        # A restart changes nothing, mostly.
        if {name: source for name, source in connection.execute(sa.select(table.c.name, table.c.source))} == sources:  # noqa: C416 - rows are no pairs to dict's types
            return
    with store.write(turn="outlets") as connection:
        insert_many(connection, table, rows)
        for row in rows:
            connection.execute(sa.update(table).where(table.c.name == row["name"]).values(source=row["source"]))
        connection.execute(sa.delete(table).where(table.c.name.not_in(sorted(sources))))


_OUTLETS: Final = Statement(lambda _: sa.select(schema.outlets.c.name, schema.outlets.c.source))


def announce(connection: sa.Connection, run: Run, now: int, summary: Mapping[str, Any] | None = None) -> None:
    """Write the event of a run's move for every outlet, inside the transaction that makes the move.

    Parameters
    ----------
    run : Run
        As it is after the move.
    summary : mapping, optional
        What is said of a result.
    """
    if run.state not in TYPES:
        return
    outlets = _OUTLETS.rows(connection)
    if not outlets:
        return
    body = _body(connection, run, now, summary) | {"id": secrets.token_hex(16)}
    rows = [
        {"outlet": name, "run": run.id, "event": msgspec.json.encode(body | {"source": source}).decode(), "written_at": now}
        for name, source in sorted(outlets)
    ]  # fmt: skip
    insert_many(connection, schema.outbox, rows)


def _body(connection: sa.Connection, run: Run, now: int, summary: Mapping[str, Any] | None) -> dict[str, Any]:
    cause = None
    if run.event_id is not None:
        table = schema.events
        found = connection.execute(
            sa.select(table.c.attributes).where(table.c.source == run.event_source, table.c.id == run.event_id)
        ).scalar_one_or_none()
        # An event that is no more in the store is still known by its identity.
        cause = {"id": run.event_id} if found is None else msgspec.json.decode(found)
    return {
        "specversion": "1.0",
        "type": TYPES[run.state],
        "subject": run.job,
        "time": times.to_text(now),
        "datacontenttype": "application/json",
        **chain_of(run.id, cause),
        "data": {
            "run": run.id,
            "job": run.job,
            "state": run.state,
            "attempt": run.attempt,
            "parameters": run.request.parameters,
            "trigger": run.trigger,
            "event": None if run.event_id is None else {"source": run.event_source, "id": run.event_id},
            "parent": run.parent,
            "requested_by": run.requested_by,
            "error": run.error,
            "message": None if run.message is None else run.message[-MESSAGE_MOST:],
            "result": run.result,
            "manifest": None if run.result is None else f"{run.result}/manifest.json",
            "summary": None if summary is None else dict(summary),
        },
    }


def hold(store: Store, outlet: str, owner: str, lease_seconds: float) -> bool:
    """Take or renew the right to send for an outlet; tell whether it is this owner's."""
    table = schema.outlets
    now = store.now()
    mine = sa.or_(table.c.owner == owner, table.c.expires_at <= now)
    with store.write() as connection:
        taken = connection.execute(
            sa.update(table)
            .where(table.c.name == outlet, mine)
            .values(owner=owner, expires_at=now + int(lease_seconds * 1_000_000))
        )
    return bool(taken.rowcount == 1)


def due(store: Store, outlet: str, limit: int) -> list[Waiting]:
    """Give what is to be sent now, oldest first; nothing of a run of which something earlier has to wait."""
    table, earlier = schema.outbox, schema.outbox.alias("earlier")
    now = store.now()
    held_back = sa.exists().where(
        earlier.c.outlet == outlet,
        earlier.c.run == table.c.run,
        earlier.c.state == "waiting",
        earlier.c.seq < table.c.seq,
        earlier.c.next_at > now,
    )
    columns = [table.c[name] for name in Waiting.__struct_fields__]
    query = sa.select(*columns).where(
        table.c.outlet == outlet, table.c.state == "waiting", table.c.next_at <= now, ~held_back
    )
    with store.read() as connection:
        return [Waiting(**row) for row in connection.execute(query.order_by(table.c.seq).limit(limit)).mappings()]


def mark(store: Store, seqs: Sequence[int], state: str = "sent", reason: str = "") -> None:
    """Say that events need not be sent any more.

    Parameters
    ----------
    state : "sent", "unmatched" or "refused"
        The outlet's filter says no, or it can never be sent.
    """
    table = schema.outbox
    now = store.now()
    with store.write() as connection:
        connection.execute(
            sa.update(table).where(table.c.seq.in_(list(seqs))).values(state=state, reason=reason, sent_at=now)
        )


def put_off(store: Store, waiting: Waiting, reason: str, at_least: int = 0) -> int:
    """Note a failed try; give the time of the next one, each twice as far as the last up to five minutes.

    Parameters
    ----------
    at_least : int
        How long the receiver asked to be left alone, in microseconds; five minutes of it count.
    """
    table = schema.outbox
    wait = min(max(FIRST_WAIT << min(waiting.tries, 20), at_least), LAST_WAIT)
    next_at = store.now() + wait
    with store.write() as connection:
        connection.execute(
            sa.update(table)
            .where(table.c.seq == waiting.seq)
            .values(tries=waiting.tries + 1, next_at=next_at, reason=reason)
        )
    return next_at


def entries(
    store: Store, *, outlet: str | None = None, state: str | None = None, limit: int = 100
) -> list[dict[str, Any]]:
    """Give what is in the outbox, the oldest first; without a state what is not sent and was to be.

    Returns
    -------
    list of dict
        ``entry, outlet, run, type, id, state, written_at, tries, next_at, sent_at, reason``; times as texts, or None.
    """
    table = schema.outbox
    chosen = [table.c.state.in_(("waiting", "refused")) if state is None else table.c.state == state]
    chosen += [] if outlet is None else [table.c.outlet == outlet]
    with store.read() as connection:
        rows = connection.execute(sa.select(table).where(*chosen).order_by(table.c.seq).limit(limit)).mappings().all()
    return [_entry(row) for row in rows]


def _entry(row: sa.RowMapping) -> dict[str, Any]:
    event = msgspec.json.decode(row["event"])
    told = {name: row[name] for name in ("outlet", "run", "state", "tries", "reason")}
    at = {name: times.to_text(row[name]) if row[name] else None for name in ("written_at", "next_at", "sent_at")}
    return {"entry": row["seq"], "type": event["type"], "id": event["id"], **told, **at}


def send_again(store: Store, *, entry: int | None = None, outlet: str | None = None) -> int:
    """Have what waits for its next try, or was refused, be sent now; give how many that are.

    Parameters
    ----------
    entry : int, optional
        This one, even if it was sent. Default: all that wait or were refused.
    outlet : str, optional
        Only of this outlet.
    """
    table = schema.outbox
    chosen = [table.c.state.in_(("waiting", "refused"))] if entry is None else [table.c.seq == entry]
    chosen += [] if outlet is None else [table.c.outlet == outlet]
    with store.write() as connection:
        changed = connection.execute(
            sa.update(table).where(*chosen).values(state="waiting", tries=0, next_at=0, sent_at=None)
        )
    return changed.rowcount


class Backlog(msgspec.Struct, frozen=True, kw_only=True):
    """What one outlet has still to send."""

    #: Events that wait, and since when the oldest does, microseconds since the epoch.
    waiting: int = 0
    oldest: int | None = None
    #: Events that were given up, and are kept.
    refused: int = 0


def backlogs(connection: sa.Connection) -> dict[str, Backlog]:
    """Count what the declared outlets have still to send, by name."""
    outlets, table = schema.outlets, schema.outbox
    found = {name: Backlog() for name in connection.execute(sa.select(outlets.c.name)).scalars()}
    counted = sa.select(table.c.outlet, sa.func.count(), sa.func.min(table.c.written_at)).group_by(table.c.outlet)
    for name, number, oldest in connection.execute(counted.where(table.c.state == "waiting")):
        if name in found:
            found[name] = Backlog(waiting=number, oldest=oldest)
    for name, number, _ in connection.execute(counted.where(table.c.state == "refused")):
        if name in found:
            found[name] = msgspec.structs.replace(found[name], refused=number)
    return found


def purge(store: Store, before: int) -> int:
    """Delete what was sent, or was not wanted, earlier than a time; what waits or was refused stays. Give how many."""
    table = schema.outbox
    old = (table.c.state.in_(("sent", "unmatched")), table.c.sent_at < before)
    deleted = 0
    while True:
        with store.read() as connection:
            some = connection.execute(sa.select(table.c.seq).where(*old).limit(ROWS_AT_ONCE)).scalars().all()
        if not some:
            return deleted
        with store.write() as connection:
            deleted += connection.execute(sa.delete(table).where(table.c.seq.in_(some), *old)).rowcount


def waiting_count(store: Store, outlet: str) -> int:
    """Count what is still to be sent."""
    table = schema.outbox
    query = sa.select(sa.func.count()).where(table.c.outlet == outlet, table.c.state == "waiting")
    with store.read() as connection:
        return int(connection.execute(query).scalar_one())
