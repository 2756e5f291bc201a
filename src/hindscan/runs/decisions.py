"""Decisions: what each trigger made of an event, written once, and the runs that come of it.

Carries promise 4: the primary key of the table lets one of all that ever decide insert its row, and only with it the run. All of it happens inside the transaction of
`ledger.record`.

::

    Entry, Entry, ... -> write_decisions -> decisions + runs (waiting.enqueue) -> Stored
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import sqlalchemy as sa

from hindscan.runs import schema
from hindscan.runs.opening import new_run_id, run_row
from hindscan.runs.statement import insert_many, keys_in_parts
from hindscan.runs.waiting import Coming, enqueue

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hindscan.runs.entries import Decision, Entry

__all__ = ["Stored", "find", "look_up", "write_decisions"]

_Key = tuple[str, str, str]
#: What the store has decided, by (trigger, source, id): outcome, reason, run, and whether this transaction wrote it.
Stored = dict[_Key, tuple[str, str, str | None, bool]]


def write_decisions(connection: sa.Connection, entries: Sequence[Entry], now: int, redrive: bool) -> Stored:
    """Write the decisions about these events and open their runs; give what the store has decided about them then."""
    decisions: dict[_Key, Decision] = {}
    rows: list[dict[str, object]] = []
    stored: Stored = {}
    for entry in entries:
        source, identity = entry.event.identity
        for decision in entry.decisions:
            key = (decision.trigger, source, identity)
            if key in decisions:
                continue
            decisions[key] = decision
            run = None if decision.request is None else new_run_id(now)
            rows.append(_decision_row(key, decision, run, now))
            stored[key] = (decision.outcome, decision.reason, run, True)
    if insert_many(connection, schema.decisions, rows) != len(rows):
        proposed = dict(stored)
        find(connection, stored)
        for key, (outcome, reason, run, _) in stored.items():
            # A run's id was made here: whose it is, wrote the decision. Without a run nobody needs to know.
            stored[key] = (outcome, reason, run, run is not None and run == proposed[key][2])
            if redrive and outcome == "quarantined":
                _replace_decision(connection, key, decisions[key], proposed[key][2], now)
                stored[key] = proposed[key]
    coming = [
        _coming(key, decisions[key], run, now) for key, (_, _, run, mine) in stored.items() if mine and run is not None
    ]
    joined = enqueue(connection, coming, now)
    if joined:
        _share(connection, stored, joined)
    return stored


def _coming(key: _Key, decision: Decision, run: str, now: int) -> Coming:
    row = run_row(
        run=run,
        request=decision.request,
        now=now,
        code=decision.code,
        trigger=key[0],
        event=key[1:],
        order_key=decision.order_key,
        not_before=decision.not_before,
        parent=decision.parent,
        requested_by=f"trigger:{key[0]}",
        blocks=decision.blocks,
        key=decision.key,
    )
    return Coming(row=row | {"snapshot": decision.snapshot}, supersede=decision.supersede, quiet=decision.quiet)


def _share(connection: sa.Connection, stored: Stored, joined: dict[str, str]) -> None:
    """Let the decisions of events that share a run name that one."""
    table = schema.decisions
    for key, (outcome, reason, run, _) in stored.items():
        if run in joined:
            connection.execute(
                sa.update(table)
                .where(table.c.trigger == key[0], table.c.source == key[1], table.c.id == key[2])
                .values(run=joined[run])
            )
            stored[key] = (outcome, reason, joined[run], False)


def _decision_row(key: _Key, decision: Decision, run: str | None, now: int) -> dict[str, object]:
    parameters = None if decision.request is None else msgspec.json.encode(decision.request.parameters).decode()
    return {
        "trigger": key[0],
        "source": key[1],
        "id": key[2],
        "outcome": decision.outcome,
        "reason": decision.reason,
        "parameters": parameters,
        "run": run,
        "snapshot": decision.snapshot,
        "decided_at": now,
    }


def _replace_decision(connection: sa.Connection, key: _Key, decision: Decision, run: str | None, now: int) -> None:
    table = schema.decisions
    connection.execute(
        sa.update(table)
        .where(table.c.trigger == key[0], table.c.source == key[1], table.c.id == key[2])
        .values(_decision_row(key, decision, run, now))
    )


def find(connection: sa.Connection, stored: Stored) -> None:
    """Put in what the store has decided about these keys."""
    table = schema.decisions
    columns = (table.c.source, table.c.id, table.c.trigger)
    for part in keys_in_parts((source, identity, trigger) for trigger, source, identity in list(stored)):
        query = sa.select(*columns, table.c.outcome, table.c.reason, table.c.run).where(sa.tuple_(*columns).in_(part))
        for source, identity, trigger, outcome, reason, run in connection.execute(query):
            stored[trigger, source, identity] = (outcome, reason, run, False)


def look_up(connection: sa.Connection, entries: Sequence[Entry], stored: Stored) -> None:
    """Find what was decided about events whose first body counts; this body decides nothing."""
    wanted: Stored = {}
    for entry in entries:
        for decision in entry.decisions:
            key = (decision.trigger, *entry.event.identity)
            if key not in stored:
                wanted[key] = ("unmatched", "", None, False)
    if wanted:
        find(connection, wanted)
        stored |= wanted
