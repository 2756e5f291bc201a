"""Leases: who works on a run, and for how long that is believed without a sign of life.

Keeps promises 4, 6 and 13. A claim takes the oldest pending run, raises its token and writes a lease; the owner renews it. A run whose lease has expired goes
back to pending, and whoever still works on it finds out at the next heartbeat or move: the token is no longer the newest (`Fenced`). Of the runs with one order key
only the oldest open one can be claimed, and only while none of them runs.

::

    claim -> Claimed(run, token) -> heartbeat, heartbeat, ... -> register.move(token)
                                  `-> owner died -> release_expired -> pending

Points of failure: `store.claimed`, `store.released`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from hindscan.errors import Fenced
from hindscan.faults import point
from hindscan.progress import StateChanged
from hindscan.runs import log, outbox, register, schema

if TYPE_CHECKING:
    from collections.abc import Collection

    from hindscan.runs.run import Run, State
    from hindscan.runs.store import Store

__all__ = ["Claimed", "claim", "heartbeat", "release_expired"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Claimed:
    """A run and the right to work on it."""

    run: Run
    #: Grows with every claim of the run; names this one in every change.
    token: int
    owner: str
    #: Until when the claim holds without a heartbeat.
    expires_at: int


def claim(
    store: Store, owner: str, lease_seconds: float, run: str | None = None, held: Collection[str] = ()
) -> Claimed | None:
    """Take the oldest run that may start, or the one named.

    Parameters
    ----------
    owner : str
        Who works on it, for people: host, process, start.
    lease_seconds : float
        How long the claim holds without a heartbeat.
    run : str, optional
        Only this one.
    held : collection of str
        Triggers whose runs stay where they are.

    Returns
    -------
    Claimed or None
        None if nothing waits, or the named run is not waiting or must not start yet.
    """
    runs = schema.runs
    now = store.now()
    expires_at = now + int(lease_seconds * 1_000_000)
    query = sa.select(runs.c.id, runs.c.token).where(runs.c.state == "pending", runs.c.not_before <= now, _in_order())
    if run is not None:
        query = query.where(runs.c.id == run)
    if held:
        query = query.where(sa.or_(runs.c.trigger.is_(None), runs.c.trigger.not_in(sorted(held))))
    query = query.order_by(runs.c.seq).limit(1)
    with store.read() as connection:
        # Owners ask often and mostly in vain: that must not take turns from those who write.
        if connection.execute(query).first() is None:
            return None
    with store.write(turn="claim") as connection:
        found = connection.execute(query).first()
        if found is None:
            return None
        chosen, token = str(found[0]), int(found[1]) + 1
        changed = connection.execute(
            sa.update(runs)
            .where(runs.c.id == chosen, runs.c.state == "pending", runs.c.token == token - 1)
            .values(state="running", token=token, attempt=runs.c.attempt + 1, updated_at=now)
        )
        if changed.rowcount != 1:
            # PostgreSQL only: it was cancelled between the two statements.
            return None
        row = {"run": chosen, "owner": owner, "token": token, "heartbeat_at": now, "expires_at": expires_at}
        connection.execute(sa.insert(schema.leases).values(row))
        log.write_facts(
            connection, [StateChanged(run=chosen, state="running", at=now, reason=f"claimed by {owner}")], now
        )
        taken = register.from_row(connection.execute(sa.select(runs).where(runs.c.id == chosen)).mappings().one())
        outbox.announce(connection, taken, now)
    point("store.claimed")
    return Claimed(run=taken, token=token, owner=owner, expires_at=expires_at)


def _in_order() -> sa.ColumnElement[bool]:
    """Hold back a run while another of its key runs or an earlier one waits."""
    runs, other = schema.runs, schema.runs.alias("other")
    same = other.c.order_key == runs.c.order_key
    # Two questions, because each is one step in the index (order_key, state, seq).
    is_running = sa.exists().where(same, other.c.state == "running")
    waits_longer = sa.exists().where(same, other.c.state == "pending", other.c.seq < runs.c.seq)
    return sa.or_(runs.c.order_key.is_(None), sa.and_(~is_running, ~waits_longer))


def heartbeat(store: Store, claimed: Claimed, lease_seconds: float) -> bool:
    """Renew a lease; tell whether somebody asked for the run to stop.

    Raises
    ------
    hindscan.errors.Fenced
        The claim no longer holds.
    """
    now = store.now()
    leases = schema.leases
    run = claimed.run.id
    with store.write() as connection:
        renewed = connection.execute(
            sa.update(leases)
            .where(leases.c.run == run, leases.c.token == claimed.token)
            .values(heartbeat_at=now, expires_at=now + int(lease_seconds * 1_000_000))
        )
        if renewed.rowcount != 1:
            raise Fenced(
                f"While renewing the lease of run {run}: claim {claimed.token} of {claimed.owner} must still hold it; it does not. "
                "Stop this work: the run has another owner or an end.",
                run=run,
                token=claimed.token,
            )
        asked = sa.select(schema.runs.c.cancel_requested_at).where(schema.runs.c.id == run)
        return connection.execute(asked).scalar_one() is not None


def release_expired(store: Store) -> list[Run]:
    """Put the runs whose owner gives no sign of life back to wait; those somebody cancelled meanwhile are cancelled."""
    leases = schema.leases
    released: list[Run] = []
    now = store.now()
    query = (
        sa.select(leases.c.run, leases.c.owner, leases.c.token).where(leases.c.expires_at <= now).order_by(leases.c.run)
    )
    with store.read() as connection:
        # The common case must not cost a write transaction.
        if connection.execute(query.limit(1)).first() is None:
            return released
    with store.write(turn="claim") as connection:
        for run, owner, token in connection.execute(query.with_for_update()).all():
            asked = sa.select(schema.runs.c.cancel_requested_at).where(schema.runs.c.id == run)
            state: State = "pending" if connection.execute(asked).scalar_one() is None else "cancelled"
            reason = f"{owner} gave no sign of life until its lease ended"
            released.append(register.move_in(connection, run, state, now=now, token=token, reason=reason, values={}))
    point("store.released")
    return released
