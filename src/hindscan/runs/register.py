"""The register of runs: finding, moving, cancelling, retrying.

Keeps promises 4, 11 and 13 together with `leases`. A run moves only along `run.MOVES`, in one transaction with the fact that says so. Out of `running` it moves
only under the token of the claim that made it run: whoever lost the run is told so (`Fenced`) and changes nothing.

::

    opening.open_run -> Run(pending) -> leases.claim -> Run(running) -> move -> Run(succeeded | failed | cancelled) -> retry -> Run(pending)

Points of failure: `store.moved` (a run has moved).
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import msgspec
import sqlalchemy as sa

from hindscan.errors import Conflict, Fenced, Gone, NotFound
from hindscan.faults import point
from hindscan.progress import StateChanged
from hindscan.runs import log, outbox, schema
from hindscan.runs.run import FINAL, Run, RunRequest, State, check_move
from hindscan.runs.statement import Statement

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hindscan.runs.store import Store

__all__ = [
    "cancel_requested",
    "get_run",
    "list_runs",
    "move",
    "put_off",
    "refuse_forgotten",
    "request_cancel",
    "retry",
    "run_in",
]

_request = msgspec.json.Decoder(RunRequest)
_FIELDS: Final = tuple(
    name for name in Run.__struct_fields__ if name not in ("request", "cancel_requested", "forgotten", "blocks")
)


def from_row(row: Mapping[str, Any] | sa.RowMapping) -> Run:
    """Read a run from its row."""
    return Run(
        **{name: row[name] for name in _FIELDS},
        request=_request.decode(row["request"]),
        cancel_requested=row["cancel_requested_at"] is not None,
        blocks=bool(row["blocks"]),
        forgotten=row["forgotten_at"] is not None,
    )


def refuse_forgotten(run: Run, doing: str) -> None:
    """Refuse what takes the request, the snapshot or the result of a run that is forgotten.

    Raises
    ------
    hindscan.errors.Gone
        It is.
    """
    if run.forgotten:
        raise Gone(
            f"{doing} run {run.id}: what it was asked for must be there; it was deleted on request (`hindscan forget`). It does not come back.",
            run=run.id,
        )


def _row(connection: sa.Connection, run: str) -> Mapping[str, Any]:
    rows = _BY_ID.records(connection, of=run)
    if not rows:
        raise NotFound(
            f"While looking up a run: its id must be one of the store's; there is no run {run!r}. `hindscan runs` lists them.",
            run=run,
        )
    return rows[0]


_BY_ID: Final = Statement(lambda _: sa.select(schema.runs).where(schema.runs.c.id == sa.bindparam("of")))
_END_LEASE: Final = Statement(lambda _: sa.delete(schema.leases).where(schema.leases.c.run == sa.bindparam("of")))


@lru_cache(maxsize=64)
def _change(columns: tuple[str, ...]) -> Statement:
    """Write the move that sets these columns, of a run in one state under one claim."""
    table = schema.runs
    held = (
        table.c.id == sa.bindparam("of"),
        table.c.state == sa.bindparam("before"),
        table.c.token == sa.bindparam("held"),
    )
    return Statement(
        lambda _: sa.update(table).where(*held).values({name: sa.bindparam(f"new_{name}") for name in columns})
    )


def run_in(connection: sa.Connection, run: str) -> Run:
    """Give one run, inside a transaction: see `get_run`."""
    return from_row(_row(connection, run))


def get_run(store: Store, run: str) -> Run:
    """Give one run.

    Raises
    ------
    hindscan.errors.NotFound
        There is none of that id.
    """
    with store.read() as connection:
        return run_in(connection, run)


def list_runs(
    store: Store,
    *,
    job: str | None = None,
    state: State | None = None,
    trigger: str | None = None,
    event: tuple[str, str] | None = None,
    limit: int = 100,
) -> list[Run]:
    """Give runs, the newest first.

    Parameters
    ----------
    event : (str, str), optional
        Source and id of the event that opened it.
    """
    table = schema.runs
    query = sa.select(table).order_by(table.c.seq.desc()).limit(limit)
    for column, value in ((table.c.job, job), (table.c.state, state), (table.c.trigger, trigger)):
        if value is not None:
            query = query.where(column == value)
    if event is not None:
        # By the decisions, whose key begins with the event: the runs need no index of their own for it.
        decided = schema.decisions
        of_event = sa.select(decided.c.run).where(decided.c.source == event[0], decided.c.id == event[1])
        query = query.where(table.c.id.in_(of_event))
    with store.read() as connection:
        return [from_row(row) for row in connection.execute(query).mappings()]


def move(
    store: Store,
    run: str,
    state: State,
    *,
    token: int | None = None,
    reason: str = "",
    error: str | None = None,
    message: str | None = None,
    result: str | None = None,
    summary: Mapping[str, Any] | None = None,
) -> Run:
    """Move a run to another state, log it, and write its event for every outlet.

    Parameters
    ----------
    token : int, optional
        Token of the claim, for a run that is running; None for one that is not.
    reason : str
        For the log.
    error, message : str, optional
        Name of the class in `hindscan.errors`, and its text.
    result : str, optional
        Folder of the published result.
    summary : mapping, optional
        What its event says of the result.

    Raises
    ------
    hindscan.errors.Fenced
        The run runs under another claim, or no longer under this one.
    hindscan.errors.Conflict
        The move is not legal.
    """
    with store.write() as connection:
        moved = move_in(
            connection,
            run,
            state,
            now=store.now(),
            token=token,
            reason=reason,
            values={"error": error, "message": message, "result": result},
            summary=summary,
        )
    point("store.moved")
    return moved


def put_off(store: Store, run: Run, *, token: int, wait: int, error: str, message: str, reason: str) -> Run:
    """Let a run that failed wait for its next try; it keeps its claim's end, its error and its place among the runs of its key.

    Parameters
    ----------
    wait : int
        How long, in microseconds.

    Raises
    ------
    hindscan.errors.Fenced
        The run runs under another claim, or no longer under this one.
    """
    now = store.now()
    values = {"error": error, "message": message, "failures": run.failures + 1, "not_before": now + wait}
    with store.write() as connection:
        moved = move_in(connection, run.id, "pending", now=now, token=token, reason=reason, values=values)
    point("store.moved")
    return moved


def move_in(
    connection: sa.Connection,
    run: str,
    state: State,
    *,
    now: int,
    token: int | None,
    reason: str,
    values: dict[str, Any],
    summary: Mapping[str, Any] | None = None,
) -> Run:
    """Move a run inside a transaction: see `move`."""
    row = _row(connection, run)
    before: State = row["state"]
    if before == "running" or token is not None:
        if before != "running" or row["token"] != token:
            raise _fenced(row, state, token)
    elif state == "running":
        raise Conflict(f"Moving run {run} from {before} to running: only a claim does that. Use leases.claim.", run=run)
    check_move(run, before, state)
    new = {"state": state, "updated_at": now, **values}
    if (
        _change(tuple(new)).run(
            connection,
            of=run,
            before=before,
            held=row["token"],
            **{f"new_{name}": value for name, value in new.items()},
        )
        != 1
    ):
        raise _fenced(row, state, token)
    if before == "running":
        _END_LEASE.run(connection, of=run)
    log.write_facts(connection, [StateChanged(run=run, state=state, at=now, reason=reason)], now)
    moved = run_in(connection, run)
    outbox.announce(connection, moved, now, summary)
    return moved


def _fenced(row: Mapping[str, Any], state: State, token: int | None) -> Fenced:
    run = row["id"]
    return Fenced(
        f"While moving run {run} to {state}: that must be done under the claim that holds it; claim {token} does not, the run is "
        f"{row['state']} and its last claim is {row['token']}. Stop this work: it has another owner or an end.",
        run=run,
        token=token,
        state=row["state"],
    )


def request_cancel(store: Store, run: str) -> Run:
    """Cancel a run that waits, at once; ask the owner of one that runs to stop it; let those go that wait behind a failed one.

    Raises
    ------
    hindscan.errors.Conflict
        It is in a final state and holds no other back.
    """
    now = store.now()
    with store.write() as connection:
        table = schema.runs
        # Writing first takes the row: a claim cannot come between the look at the state and the move.
        connection.execute(
            sa.update(table)
            .where(table.c.id == run, table.c.state.in_(("pending", "running")))
            .values(cancel_requested_at=sa.func.coalesce(table.c.cancel_requested_at, now))
        )
        row = _row(connection, run)
        if row["state"] == "failed" and row["blocks"]:
            values = {"error": row["error"], "message": row["message"]}
            reason = "cancelled: it holds back no other run of its key any more"
            return move_in(connection, run, "cancelled", now=now, token=None, reason=reason, values=values)
        if row["state"] in FINAL:
            raise Conflict(
                f"While cancelling run {run}: it must be pending or running; it is {row['state']}. There is nothing left to cancel.",
                run=run,
                state=row["state"],
            )
        if row["state"] == "running":
            return from_row(row)
        cancelled = move_in(connection, run, "cancelled", now=now, token=None, reason="cancelled", values={})
    point("store.moved")
    return cancelled


def cancel_requested(store: Store, run: str) -> bool:
    """Tell whether somebody asked for the run to stop."""
    with store.read() as connection:
        asked = connection.execute(
            sa.select(schema.runs.c.cancel_requested_at).where(schema.runs.c.id == run)
        ).scalar_one_or_none()
    return asked is not None


def retry(store: Store, run: str) -> Run:
    """Put a failed or cancelled run back to wait for a new attempt, over the same snapshot.

    Raises
    ------
    hindscan.errors.Gone
        What it was asked for was forgotten.
    hindscan.errors.Conflict
        It has not failed and was not cancelled.
    """
    cleared: dict[str, Any] = {
        "error": None, "message": None, "result": None, "cancel_requested_at": None,
        "failures": 0, "not_before": 0, "superseded_by": None,
    }  # fmt: skip
    with store.write() as connection:
        row = _row(connection, run)
        refuse_forgotten(from_row(row), "Retrying")
        if row["state"] not in ("failed", "cancelled"):
            raise Conflict(
                f"While retrying run {run}: it must have failed or been cancelled; it is {row['state']}. "
                + (
                    "Use `hindscan rerun` for another run."
                    if row["state"] == "succeeded"
                    else "Wait for its end, or cancel it first."
                ),
                run=run,
                state=row["state"],
            )
        retried = move_in(connection, run, "pending", now=store.now(), token=None, reason="retry", values=cleared)
    point("store.moved")
    return retried
