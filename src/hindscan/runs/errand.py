"""Errands as the store remembers them: what was asked for over HTTP, who does it, and what became of it.

Of one name there is one at a time, on however many servers: the row is taken in one transaction. A server says from time to time that it is alive; one that does not
any more has left its errands undone, and whoever looks then is told so.

::

    begin (waiting) -> run (running) -> end (done | failed);   alive, while it is under way;   look
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec
import sqlalchemy as sa

from hindscan.errors import Conflict, ExecutionError
from hindscan.runs import schema
from hindscan.runs.statement import insert_many

if TYPE_CHECKING:
    from hindscan.runs.store import Store

__all__ = ["Errand", "abandon", "alive", "begin", "end", "look", "run"]

#: How many are remembered after their end.
KEPT: Final = 100
#: How many may be under way: each holds little, but whoever asks for more will not come back for all.
UNDER_WAY_MOST: Final = 100

_GONE: Final = "The server that did it was stopped or restarted before its end. What it has done by then is in the store, and is not done twice: ask for it again."
_table = schema.errands
_under_way: Final = _table.c.state.in_(("waiting", "running"))


class Errand(msgspec.Struct, frozen=True, kw_only=True):
    """One piece of work."""

    #: What it is called: "replay scan@again".
    name: str
    #: What was asked for, JSON-able.
    asked: dict[str, Any]
    state: Literal["waiting", "running", "done", "failed"] = "waiting"
    #: What came of it, once it is done.
    outcome: dict[str, Any] | None = None
    #: Name of the class in `hindscan.errors`, and its text, once it has failed.
    error: str | None = None
    message: str | None = None


def begin(store: Store, name: str, asked: dict[str, Any], owner: str, lease_seconds: float) -> tuple[Errand, bool]:
    """Write that an errand is to be done, unless the same is under way; tell whether this did.

    Raises
    ------
    hindscan.errors.Conflict
        Something else of that name is under way, or too much is.
    """
    now = store.now()
    with store.write(turn="errands") as connection:
        known = _find(connection, name, now)
        if known is not None and known.state in ("waiting", "running"):
            if known.asked == asked:
                return known, False
            raise Conflict(f"Beginning {name}: one of that name is under way with other settings. Wait for its end, or give another name.")  # fmt: skip
        living = sa.select(sa.func.count()).where(_under_way, _table.c.expires_at > now)
        if (others := connection.execute(living).scalar_one()) >= UNDER_WAY_MOST:
            raise Conflict(f"Beginning {name}: {others} others are under way, and no more may wait. Come back when some are done.")  # fmt: skip
        newest = sa.select(_table.c.name).order_by(_table.c.begun_at.desc(), _table.c.name).limit(KEPT + others)
        over = sa.or_(~_under_way, _table.c.expires_at <= now)
        connection.execute(sa.delete(_table).where(over, sa.or_(_table.c.name == name, _table.c.name.not_in(newest))))
        row = {"name": name, "asked": msgspec.json.encode(asked).decode(), "state": "waiting", "begun_at": now}
        row |= {"owner": owner, "expires_at": now + int(lease_seconds * 1e6)}
        insert_many(connection, _table, [row])
    return Errand(name=name, asked=asked), True


def run(store: Store, name: str, owner: str) -> bool:
    """Write that it is being done; False: it is not this server's any more, and is not to be done."""
    return _change(store, name, owner, {"state": "running"})


def end(store: Store, errand: Errand, owner: str) -> bool:
    """Write what became of it: its state, outcome, error and message; False: it is not this server's any more."""
    outcome = None if errand.outcome is None else msgspec.json.encode(errand.outcome).decode()
    values = {"state": errand.state, "outcome": outcome, "error": errand.error, "message": errand.message}
    return _change(store, errand.name, owner, values)


def alive(store: Store, owner: str, lease_seconds: float) -> None:
    """Say that a server is alive and does what it has begun."""
    until = store.now() + int(lease_seconds * 1e6)
    with store.write() as connection:
        connection.execute(sa.update(_table).where(_table.c.owner == owner, _under_way).values(expires_at=until))


def abandon(store: Store, owner: str) -> None:
    """Say that a server ends and leaves undone what it has begun."""
    with store.write() as connection:
        connection.execute(sa.update(_table).where(_table.c.owner == owner, _under_way).values(_UNDONE))


def look(store: Store, name: str) -> Errand | None:
    """Give what is known of an errand; None: nothing."""
    with store.read() as connection:
        return _find(connection, name, store.now())


_UNDONE: Final = {"state": "failed", "error": ExecutionError.__name__, "message": _GONE}


def _change(store: Store, name: str, owner: str, values: dict[str, Any]) -> bool:
    mine = (_table.c.name == name, _table.c.owner == owner, _under_way)
    with store.write() as connection:
        return connection.execute(sa.update(_table).where(*mine).values(values)).rowcount == 1


def _find(connection: sa.Connection, name: str, now: int) -> Errand | None:
    row = connection.execute(sa.select(_table).where(_table.c.name == name)).mappings().one_or_none()
    if row is None:
        return None
    told = {field: row[field] for field in ("state", "error", "message")}
    if told["state"] in ("waiting", "running") and row["expires_at"] <= now:
        told = _UNDONE
    outcome = None if row["outcome"] is None else msgspec.json.decode(row["outcome"])
    return msgspec.convert(
        {"name": name, "asked": msgspec.json.decode(row["asked"]), "outcome": outcome, **told}, Errand
    )
