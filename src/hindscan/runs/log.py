"""The log of runs: facts, in order, as they were observed.

Part of promise 4's trace: every move of a run is written in the transaction that makes it, and progress is added by whoever watches. History, page and command line
read the same values from here.

::

    progress.Fact -> log_facts -> facts(run, after=seq) -> Logged, Logged, ...
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import sqlalchemy as sa

from hindscan.progress import Fact
from hindscan.runs import schema
from hindscan.runs.statement import insert_many

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hindscan.runs.store import Store

__all__ = ["Logged", "facts", "log_facts", "write_facts"]

_fact = msgspec.json.Decoder(Fact)


class Logged(msgspec.Struct, frozen=True, kw_only=True):
    """One fact in the log."""

    #: Grows with every fact of the store; a reader goes on after the last it has seen.
    seq: int
    at: int
    fact: Fact


def log_facts(store: Store, observed: Sequence[Fact]) -> None:
    """Write facts in the order given, in one transaction; a loss of power may take the last ones."""
    with store.write(durable=False) as connection:
        write_facts(connection, observed, store.now())


def write_facts(connection: sa.Connection, observed: Sequence[Fact], now: int) -> None:
    """Write facts inside a transaction."""
    rows = [{"run": fact.run, "at": now, "fact": msgspec.json.encode(fact).decode()} for fact in observed]
    insert_many(connection, schema.facts, rows)


def facts(store: Store, run: str, after: int = 0, limit: int = 100_000) -> list[Logged]:
    """Give the facts of a run in order.

    Parameters
    ----------
    after : int
        Only those after this `seq`.
    """
    table = schema.facts
    query = sa.select(table.c.seq, table.c.at, table.c.fact).where(table.c.run == run, table.c.seq > after)
    with store.read() as connection:
        found = connection.execute(query.order_by(table.c.seq).limit(limit)).all()
    return [Logged(seq=seq, at=at, fact=_fact.decode(text)) for seq, at, text in found]
