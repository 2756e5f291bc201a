"""Leases: who works on a run, and for how long that is believed without a sign of life.

Keeps promises 4, 6 and 13. A claim takes the first of the runs that may start (`waiting` says which), raises its token and writes a lease; the owner renews it. A run
whose lease has expired goes back to pending, and whoever still works on it finds out at the next heartbeat or move: the token is no longer the newest (`Fenced`).
Claims go one after another in both databases, so that what one has seen running is what is running when it takes its own.

A claim in a store on this machine is not flushed: a loss of power that takes it takes its owner with it, and before a result can be seen its owner renews the
lease, which is.

::

    claim -> Claimed(run, token) -> heartbeat, heartbeat, ... -> register.move(token)
                                  `-> owner died -> release_expired -> pending

Points of failure: `store.claimed`, `store.released`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import sqlalchemy as sa

from hindscan.errors import Fenced
from hindscan.faults import point
from hindscan.progress import StateChanged
from hindscan.runs import log, outbox, register, schema, waiting
from hindscan.runs.statement import Statement, insert_many

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
    """Take the first of the runs that may start, or the one named.

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
    now = store.now()
    expires_at = now + int(lease_seconds * 1_000_000)
    with store.read() as connection:
        # Owners ask often and mostly in vain: that must not take turns from those who write.
        if waiting.next_to_start(connection, now, run, held) is None:
            return None
        # What is announced is sent to others, who would know of a claim that is gone.
        told = _ANY_OUTLET.first(connection) is not None
    with store.write(turn="claim", durable=store.shared or told) as connection:
        found = waiting.next_to_start(connection, now, run, held)
        if found is None:
            return None
        chosen, token = found[0], found[1] + 1
        rows = _TAKE.records(connection, chosen=chosen, before=token - 1, now=now)
        if not rows:
            # PostgreSQL only: it was cancelled between the two statements.
            return None
        lease = {"run": chosen, "owner": owner, "token": token, "heartbeat_at": now, "expires_at": expires_at}
        if insert_many(connection, schema.leases, [lease]) != 1:
            raise AssertionError(f"run {chosen} waits and has a lease")
        log.write_facts(
            connection, [StateChanged(run=chosen, state="running", at=now, reason=f"claimed by {owner}")], now
        )
        taken = register.from_row(rows[0])
        if told:
            outbox.announce(connection, taken, now)
    point("store.claimed")
    return Claimed(run=taken, token=token, owner=owner, expires_at=expires_at)


_TAKE: Final = Statement(
    lambda _: (
        sa.update(schema.runs)
        .where(
            schema.runs.c.id == sa.bindparam("chosen"),
            schema.runs.c.state == "pending",
            schema.runs.c.token == sa.bindparam("before"),
        )
        .values(
            state="running",
            token=schema.runs.c.token + 1,
            attempt=schema.runs.c.attempt + 1,
            updated_at=sa.bindparam("now"),
        )
        .returning(*schema.runs.c)
    )
)
_ANY_OUTLET: Final = Statement(lambda _: sa.select(schema.outlets.c.name).limit(1))
_RENEW: Final = Statement(
    lambda _: (
        sa.update(schema.leases)
        .where(schema.leases.c.run == sa.bindparam("of"), schema.leases.c.token == sa.bindparam("held"))
        .values(heartbeat_at=sa.bindparam("now"), expires_at=sa.bindparam("until"))
    )
)
_ASKED: Final = Statement(
    lambda _: sa.select(schema.runs.c.cancel_requested_at).where(schema.runs.c.id == sa.bindparam("run"))
)
_EXPIRED: Final = Statement(
    lambda _: sa.select(schema.leases.c.run).where(schema.leases.c.expires_at <= sa.bindparam("now")).limit(1)
)
_ALL_EXPIRED: Final = Statement(
    lambda _: (
        sa.select(schema.leases.c.run, schema.leases.c.owner, schema.leases.c.token)
        .where(schema.leases.c.expires_at <= sa.bindparam("now"))
        .order_by(schema.leases.c.run)
        .with_for_update()
    )
)


def heartbeat(store: Store, claimed: Claimed, lease_seconds: float) -> bool:
    """Renew a lease; tell whether somebody asked for the run to stop.

    Raises
    ------
    hindscan.errors.Fenced
        The claim no longer holds.
    """
    now = store.now()
    run = claimed.run.id
    with store.write() as connection:
        until = now + int(lease_seconds * 1_000_000)
        renewed = _RENEW.run(connection, of=run, held=claimed.token, now=now, until=until)
        if renewed != 1:
            raise Fenced(
                f"While renewing the lease of run {run}: claim {claimed.token} of {claimed.owner} must still hold it; it does not. "
                "Stop this work: the run has another owner or an end.",
                run=run,
                token=claimed.token,
            )
        return _ASKED.rows(connection, run=run) != [(None,)]


def release_expired(store: Store) -> list[Run]:
    """Put the runs whose owner gives no sign of life back to wait; those somebody cancelled meanwhile are cancelled."""
    released: list[Run] = []
    now = store.now()
    with store.read() as connection:
        # The common case must not cost a write transaction.
        if _EXPIRED.first(connection, now=now) is None:
            return released
    with store.write(turn="claim") as connection:
        for run, owner, token in _ALL_EXPIRED.rows(connection, now=now):
            state: State = "pending" if _ASKED.rows(connection, run=run) == [(None,)] else "cancelled"
            reason = f"{owner} gave no sign of life until its lease ended"
            released.append(register.move_in(connection, run, state, now=now, token=token, reason=reason, values={}))
    point("store.released")
    return released
