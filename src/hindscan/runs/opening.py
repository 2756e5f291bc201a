"""Opening runs: what is asked for becomes a row that waits.

Keeps promise 4 where no event asks: a client's key gives one run, however often it calls. What an event opens is written by `ledger` and `waiting`, from the same row.

::

    RunRequest -> run_row -> open_run, reopen_run, ledger.record -> Run(pending)

Points of failure: `store.opened` (a run was opened).
"""

from __future__ import annotations

import hashlib
import secrets
from functools import lru_cache
from typing import TYPE_CHECKING, Final

import msgspec
import sqlalchemy as sa

from hindscan.errors import Conflict
from hindscan.faults import point
from hindscan.runs import schema
from hindscan.runs.register import run_in
from hindscan.runs.snapshots import write_snapshot
from hindscan.runs.statement import insert_many, insert_new

if TYPE_CHECKING:
    from hindscan.history.snapshot import Snapshot
    from hindscan.runs.run import Run, RunRequest
    from hindscan.runs.store import Store

__all__ = ["new_run_id", "open_run", "reopen_run", "run_row"]

#: Crockford's alphabet: no letter that reads as a digit, and ids sort as their times do.
_DIGITS: Final = "0123456789abcdefghjkmnpqrstvwxyz"


def new_run_id(now: int) -> str:
    """Make an id: ten letters of milliseconds, ten at random; later ones sort after earlier ones.

    Examples
    --------
    >>> len(new_run_id(0)), new_run_id(0)[:10]
    (20, '0000000000')
    """
    return _letters_of_time(now // 1000) + secrets.token_bytes(10).translate(_LETTERS).decode()


#: Turns each byte into a letter; 256 is a multiple of 32, so all are equally likely.
_LETTERS: Final = bytes(_DIGITS.encode()[byte & 31] for byte in range(256))


@lru_cache(maxsize=8)
def _letters_of_time(milliseconds: int) -> str:
    return "".join(_DIGITS[milliseconds >> shift & 31] for shift in range(45, -1, -5))


def open_run(
    store: Store,
    request: RunRequest,
    *,
    code: str = "",
    requested_by: str = "",
    parent: str | None = None,
    order_key: str | None = None,
    not_before: int = 0,
    idempotency_key: str | None = None,
    asked: object = None,
    snapshot: Snapshot | None = None,
) -> Run:
    """Open a run that no event asked for.

    Parameters
    ----------
    code : str
        Digest of the bundle in `codes`; empty: the project's when it starts.
    requested_by : str
        "cli:USER", "python:USER", "http:ADDRESS".
    parent : str, optional
        The run this one repeats.
    order_key : str, optional
        Runs with one key go one after another.
    not_before : int
        It starts no earlier than this.
    idempotency_key : str, optional
        A second call with the same key and request gives the same run.
    asked : object, optional
        What makes two calls with one key the same request, JSON-able. Default: `request`.
    snapshot : Snapshot, optional
        What it reads, where that is pinned already: for a rerun, which must not be claimed before it has its snapshot.

    Raises
    ------
    hindscan.errors.Conflict
        The key was used for another request.
    """
    now = store.now()
    run = new_run_id(now)
    with store.write() as connection:
        if idempotency_key is not None:
            earlier = _claim_key(connection, idempotency_key, asked or request, run, now)
            if earlier is not None:
                return run_in(connection, earlier)
        row = run_row(
            run=run,
            request=request,
            now=now,
            code=code,
            requested_by=requested_by,
            parent=parent,
            order_key=order_key,
            not_before=not_before,
        )
        if snapshot is not None:
            row["snapshot"] = write_snapshot(connection, snapshot, now)
        insert_many(connection, schema.runs, [row])
        opened = run_in(connection, run)
    point("store.opened")
    return opened


def reopen_run(
    store: Store,
    run: str,
    request: RunRequest,
    *,
    code: str,
    trigger: str,
    event: tuple[str, str],
    order_key: str | None,
    not_before: int,
    blocks: bool,
    key: str | None,
) -> bool:
    """Open the run that a decision names and that is not there, under its own id; tell whether it was opened here.

    Parameters
    ----------
    trigger : str
        Whose decision.
    event : (str, str)
        Source and id of the event it is about.
    """
    now = store.now()
    with store.write() as connection:
        row = run_row(
            run=run,
            request=request,
            now=now,
            code=code,
            trigger=trigger,
            event=event,
            order_key=order_key,
            not_before=not_before,
            requested_by=f"trigger:{trigger}",
            blocks=blocks,
            key=key,
        )
        opened = insert_many(connection, schema.runs, [row]) == 1
    point("store.opened")
    return opened


def _claim_key(connection: sa.Connection, key: str, request: object, run: str, now: int) -> str | None:
    table = schema.idempotency
    digest = hashlib.sha256(msgspec.json.encode(request, order="deterministic")).hexdigest()
    row = {"key": key, "request_digest": digest, "run": run, "created_at": now}
    if insert_new(connection, table, row, [table.c.run]) is not None:
        return None
    earlier, asked = connection.execute(sa.select(table.c.run, table.c.request_digest).where(table.c.key == key)).one()
    if asked != digest:
        raise Conflict(
            f"While opening a run: an idempotency key must come with the request it first came with; {key!r} opened run {earlier} with "
            "another one. Use a new key for a new request.",
            key=key,
            run=earlier,
        )
    return str(earlier)


def run_row(
    *,
    run: str,
    request: RunRequest | None,
    now: int,
    code: str = "",
    trigger: str | None = None,
    event: tuple[str, str] | None = None,
    parent: str | None = None,
    order_key: str | None = None,
    not_before: int = 0,
    requested_by: str = "",
    blocks: bool = False,
    key: str | None = None,
) -> dict[str, object]:
    """Make the row of a pending run."""
    if request is None:
        raise ValueError("a run needs a request")
    return {
        "id": run,
        "job": request.job,
        "state": "pending",
        "request": msgspec.json.encode(request).decode(),
        "created_at": now,
        "updated_at": now,
        "code": code,
        "trigger": trigger,
        "event_source": None if event is None else event[0],
        "event_id": None if event is None else event[1],
        "parent": parent,
        "order_key": order_key,
        "not_before": not_before,
        "requested_by": requested_by,
        "blocks": int(blocks),
        "key": key,
        "rank": -request.priority,
    }
