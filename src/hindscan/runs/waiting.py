"""Runs that wait: which of them starts next, why the others do not, and what a newer event does to them.

Keeps promise 13, and promise 4 where events share a run. All of it happens in the transaction of whoever asks: the claim's, or the one that records an event.

A run may start when its time has come, its trigger and its job have room (`limits`), and nothing of its order key is before it: none running, none earlier that
waits, and none earlier that failed and blocks. Of those that may, the one of the highest priority starts, and of these the one that came first. A run that may
not start lets those of other keys pass.

::

    ledger -> enqueue (joins a waiting run, opens a new one, replaces waiting ones) -> pending -> next_to_start -> leases.claim
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import msgspec
import sqlalchemy as sa

from hindscan.progress import StateChanged
from hindscan.runs import log, outbox, register, schema
from hindscan.runs.statement import Statement, insert_many

if TYPE_CHECKING:
    from hindscan.runs.run import Run
    from hindscan.runs.store import Store

__all__ = ["Coming", "Limit", "Quiet", "Waiting", "enqueue", "next_to_start", "set_limits", "why_waiting"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Limit:
    """How many runs may run at once; None: any number."""

    total: int | None = None
    per_key: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Quiet:
    """A run waits until no event of its key has come for so long, and then is the run of all of them. Microseconds."""

    for_: int
    #: The run waits no longer than this after its first event; None: as long as events come.
    at_most: int | None = None

    def until(self, first: int, now: int, not_before: int) -> int:
        """Tell when the run may start if nothing else comes."""
        ends = now + self.for_
        if self.at_most is not None:
            ends = min(ends, first + self.at_most)
        return max(ends, not_before)


# --- What starts next -----------------------------------------------------------------------------------------------


def set_limits(store: Store, limits: Mapping[str, Limit]) -> None:
    """Put limits in force for what waits already, too.

    Parameters
    ----------
    limits : mapping
        By ``trigger:NAME`` or ``job:NAME``; all that are not named have none any more.
    """
    table = schema.limits
    rows = [
        {"name": name, "total": limit.total, "per_key": limit.per_key}
        for name, limit in sorted(limits.items())
        if limit != Limit()
    ]
    with store.read() as connection:
        # Every start of a server says it again, and mostly nothing has changed.
        if [dict(row) for row in connection.execute(sa.select(table).order_by(table.c.name)).mappings()] == rows:
            return
    with store.write(turn="claim") as connection:
        connection.execute(sa.delete(table))
        insert_many(connection, table, rows)


def next_to_start(
    connection: sa.Connection, now: int, run: str | None = None, held: Collection[str] = ()
) -> tuple[str, int] | None:
    """Find which run starts next: its id and token.

    What is running is counted first: it is little, while many may wait. So the look at each one that waits is a comparison with what is full, and only the runs of keys
    that are free are asked for what is before them.

    Parameters
    ----------
    connection : sqlalchemy.Connection
        The claim's.
    run : str, optional
        Only this one.
    held : collection of str
        Triggers whose runs stay where they are.
    """
    busy = _busy(connection)
    keys: dict[str, list[str]] = {}
    for trigger, key in busy.keys:
        keys.setdefault(trigger, []).append(key)
    full = {"trigger": sorted({*busy.triggers, *held}), "job": busy.jobs, "order_key": busy.order_keys}
    values: dict[str, object] = {"now": now, "run": run}
    for name, found in full.items():
        values |= {f"{name}_{place}": one for place, one in enumerate(found)}
    for number, (trigger, of_trigger) in enumerate(keys.items()):
        values[f"of_{number}"] = trigger
        values |= {f"key_{number}_{place}": one for place, one in enumerate(of_trigger)}
    ask = _ask_next(run is not None, *(len(found) for found in full.values()), tuple(map(len, keys.values())))
    row = ask.first(connection, **values)
    return None if row is None else (row[0], row[1])


@lru_cache(maxsize=256)
def _ask_next(named: bool, triggers: int, jobs: int, order_keys: int, keys: tuple[int, ...]) -> Statement:
    """Write the question for so many of each that are full, of keys for each of so many triggers: it is the same one most of the time."""
    runs, value = schema.runs, sa.bindparam
    # Said as a constant: an index of a part of the rows is used only where the database sees that the question is about that part.
    query = sa.select(runs.c.id, runs.c.token).where(
        sa.text("runs.state = 'pending'"), runs.c.not_before <= value("now")
    )
    if named:
        query = query.where(runs.c.id == value("run"))
    for column, count in ((runs.c.trigger, triggers), (runs.c.job, jobs), (runs.c.order_key, order_keys)):
        if count:
            names = [f"{column.name}_{place}" for place in range(count)]
            query = query.where(sa.or_(column.is_(None), column.not_in([value(name) for name in names])))
    for number, count in enumerate(keys):
        names = [f"key_{number}_{place}" for place in range(count)]
        free = sa.or_(runs.c.trigger.is_(None), runs.c.trigger != value(f"of_{number}"))
        query = query.where(sa.or_(free, runs.c.key.is_(None), runs.c.key.not_in([value(name) for name in names])))
    query = query.where(_first_of_its_key()).order_by(runs.c.rank, runs.c.seq).limit(1)
    return Statement(lambda _: query)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Busy:
    """What has no room for another run."""

    triggers: Sequence[str]
    jobs: Sequence[str]
    keys: Sequence[tuple[str, str]]
    order_keys: Sequence[str]


_RUNNING: Final = Statement(
    lambda _: sa.select(schema.runs.c.trigger, schema.runs.c.job, schema.runs.c.key, schema.runs.c.order_key).where(
        schema.runs.c.state == "running"
    )
)
_LIMITS: Final = Statement(lambda _: sa.select(schema.limits))


def _busy(connection: sa.Connection) -> _Busy:
    running = _RUNNING.rows(connection)
    most = {name: (total, per_key) for name, total, per_key in _LIMITS.rows(connection)} if running else {}
    triggers = Counter(trigger for trigger, *_ in running if trigger is not None)
    jobs = Counter(job for _, job, *_ in running)
    keys = Counter((trigger, key) for trigger, _, key, _ in running if trigger is not None and key is not None)

    def full(name: str, count: int, which: int = 0) -> bool:
        limit = most.get(name, (None, None))[which]
        return limit is not None and count >= limit

    return _Busy(
        triggers=sorted(name for name, count in triggers.items() if full(f"trigger:{name}", count)),
        jobs=sorted(name for name, count in jobs.items() if full(f"job:{name}", count)),
        keys=sorted(pair for pair, count in keys.items() if full(f"trigger:{pair[0]}", count, 1)),
        order_keys=sorted({order_key for *_, order_key in running if order_key is not None}),
    )


def _first_of_its_key() -> sa.ColumnElement[bool]:
    """Hold back a run while an earlier one of its order key waits, or failed and blocks."""
    runs, other = schema.runs, schema.runs.alias("other")
    earlier = sa.and_(other.c.order_key == runs.c.order_key, other.c.seq < runs.c.seq)
    # Two questions, because each is one step in the index (order_key, state, seq).
    waits = sa.exists().where(earlier, other.c.state == "pending")
    blocks = sa.exists().where(earlier, other.c.state == "failed", other.c.blocks == 1)
    return sa.or_(runs.c.order_key.is_(None), sa.and_(~waits, ~blocks))


# --- Why the others wait --------------------------------------------------------------------------------------------


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """Why a pending run does not start."""

    reason: str
    #: The run it waits for, if it is one.
    run: str | None = None
    #: Until when, if it is a time.
    until: int | None = None


def why_waiting(store: Store, run: Run) -> Waiting | None:
    """Tell why a pending run does not start; None where it could, and waits for a free slot only, or does not wait at all."""
    if run.state != "pending":
        return None
    with store.read() as connection:
        ahead = None if run.order_key is None else _ahead(connection, run)
        if ahead is not None:
            return ahead
        now = store.now()
        if run.not_before > now:
            reason = "it is tried again later" if run.failures else "its time has not come"
            return Waiting(reason=reason, until=run.not_before)
        busy = _busy(connection)
    if run.trigger in busy.triggers:
        return Waiting(reason=f"trigger {run.trigger} has as many running as it may")
    if run.job in busy.jobs:
        return Waiting(reason=f"job {run.job} has as many running as it may")
    if (run.trigger, run.key) in busy.keys:
        return Waiting(reason=f"trigger {run.trigger} has as many running of key {run.key!r} as it may")
    return None


def _ahead(connection: sa.Connection, run: Run) -> Waiting | None:
    """Find what is before a run of its order key: what blocks, else what runs, else the first that waits."""
    runs = schema.runs
    same = sa.select(runs.c.id).where(runs.c.order_key == run.order_key, runs.c.id != run.id)
    own = sa.select(runs.c.seq).where(runs.c.id == run.id).scalar_subquery()
    for reason, query in (
        (
            "an earlier run of its key failed",
            same.where(runs.c.state == "failed", runs.c.blocks == 1, runs.c.seq < own),
        ),
        ("a run of its key is running", same.where(runs.c.state == "running")),
        ("an earlier run of its key waits", same.where(runs.c.state == "pending", runs.c.seq < own)),
    ):
        found = connection.execute(query.order_by(runs.c.seq).limit(1)).scalar_one_or_none()
        if found is not None:
            return Waiting(reason=reason, run=found)
    return None


# --- What a newer event does ----------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Coming:
    """A run about to be opened: its row, and what it does to those of its key that wait."""

    row: dict[str, Any]
    supersede: bool = False
    quiet: Quiet | None = None


def enqueue(connection: sa.Connection, coming: Sequence[Coming], now: int) -> dict[str, str]:
    """Write new runs in the order of their events, inside the transaction that records these.

    Returns
    -------
    dict
        Runs that were not opened, each to the one that its event shares instead.
    """
    joined: dict[str, str] = {}
    opened: dict[tuple[str, str], dict[str, Any]] = {}
    rows: list[dict[str, Any]] = []
    newest: dict[tuple[str, str], str] = {}
    for one in coming:
        row, quiet = one.row, one.quiet
        pair = (row["trigger"], row["key"])
        if quiet is not None:
            shared = _join_new(opened.get(pair), one, quiet, now) or _join_waiting(connection, one, quiet, now)
            if shared is not None:
                joined[row["id"]] = shared
                continue
            row["not_before"] = quiet.until(now, now, row["not_before"])
            opened[pair] = row
        if one.supersede:
            newest[pair] = row["id"]
        rows.append(row)
    insert_many(connection, schema.runs, rows)
    for (trigger, key), run in newest.items():
        _supersede(connection, trigger, key, run, now)
    return joined


#: What of a run's row the newest of its events decides.
_OF_NEWEST = ("request", "code", "event_source", "event_id", "parent", "snapshot", "rank")


def _join_new(earlier: dict[str, Any] | None, one: Coming, quiet: Quiet, now: int) -> str | None:
    """Join a run of the same batch."""
    if earlier is None:
        return None
    earlier |= {name: one.row[name] for name in _OF_NEWEST}
    earlier["not_before"] = quiet.until(now, now, max(earlier["not_before"], one.row["not_before"]))
    return str(earlier["id"])


def _join_waiting(connection: sa.Connection, one: Coming, quiet: Quiet, now: int) -> str | None:
    """Join a run that waits for quiet and was never begun."""
    runs, row = schema.runs, one.row
    found = connection.execute(
        sa.select(runs.c.id, runs.c.created_at)
        .where(runs.c.trigger == row["trigger"], runs.c.key == row["key"])
        .where(sa.text("runs.state = 'pending'"), runs.c.attempt == 0)
        .order_by(runs.c.seq.desc())
        .limit(1)
        # PostgreSQL: a claim that comes between waits, and then sees the later time; one that was first has the run, and this finds none.
        .with_for_update()
    ).first()
    if found is None:
        return None
    values = {name: row[name] for name in _OF_NEWEST}
    values["not_before"] = quiet.until(found.created_at, now, row["not_before"])
    connection.execute(sa.update(runs).where(runs.c.id == found.id).values(updated_at=now, **values))
    return str(found.id)


def _supersede(connection: sa.Connection, trigger: str, key: str, run: str, now: int) -> None:
    """Cancel the runs of a key that wait, but for the newest."""
    runs = schema.runs
    message = f"Superseded: the run of a newer event of its key took its place in the queue, {run}. Retry it if it is wanted still."
    replaced = connection.execute(
        sa.update(runs)
        .where(runs.c.trigger == trigger, runs.c.key == key, runs.c.id != run)
        .where(sa.text("runs.state = 'pending'"))
        .values(state="cancelled", superseded_by=run, error="RunCancelled", message=message, updated_at=now)
        .returning(*runs.c)
    ).mappings()
    moved = [register.from_row(row) for row in replaced]
    reason = f"superseded by {run}"
    log.write_facts(
        connection, [StateChanged(run=one.id, state="cancelled", at=now, reason=reason) for one in moved], now
    )
    for one in moved:
        outbox.announce(connection, one, now)
