"""Tries: what is being decided about, written down before it is, so that an event that kills the process is found and set aside.

Keeps promise 5 where the process itself is the victim. Before a batch is read and decided, one row for each of its lanes says from where to where it goes; a process
that lives on overwrites it with the next batch. What another process has left behind covers either what is recorded already, which nobody asks about
again, or what it died on. The latter is then taken one by one, each with a row of its own: the culprit is alone the second time, and what has been begun
`TRIES_MOST` times is set aside undecided. All others go on.

The rows need to outlive the process, not the machine: they are not flushed, which makes them cheap enough to be written before every batch.

::

    batch -> Tries.groups -> Group, Group, ... each marked -> intake decides and records -> settle
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import sqlalchemy as sa

from hindscan.runs import schema
from hindscan.runs.statement import Statement, insert_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from hindscan.runs.store import Store

__all__ = ["TRIES_MOST", "Group", "Place", "Tries", "settle"]

#: A process may die for reasons of its own while it decides; three that die on one event are no accident.
TRIES_MOST: Final = 3
#: With the process's number, names it in its marks: a number alone comes again, in a container at every start; a fork has the same token.
_TOKEN: Final = secrets.token_hex(8)

#: A lane, and where in it; None for what nothing is decided about.
Place = tuple[str, int] | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Part `[first, last)` of a batch, to be taken now."""

    first: int
    last: int
    #: How many processes have died on it.
    died: int

    @property
    def poison(self) -> bool:
        """Whether it must not be tried again."""
        return self.died >= TRIES_MOST


@dataclass(frozen=True, slots=True)
class _Mark:
    first: int
    last: int
    tries: int


class Tries:
    """Marks what this process is about to decide; safe to call from several threads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._process = f"{_TOKEN}:{os.getpid()}"

    def groups(self, places: Sequence[Place]) -> Iterator[Group]:
        """Cut a batch into what is taken together, and mark each part before it is given.

        Parameters
        ----------
        places : sequence of Place
            Of each thing in the batch; those of one lane in rising order.

        Raises
        ------
        hindscan.errors.StoreUnavailable
            The marks cannot be written; nothing more must be decided.
        """
        left = self._begin(places)
        if not left:
            # The common case: `_begin` has marked it.
            yield Group(first=0, last=len(places), died=0)
            return
        at = 0
        while at < len(places):
            died = _died(places[at], left)
            end = at + 1
            while not died and end < len(places) and not _died(places[end], left):
                end += 1
            group = Group(first=at, last=end, died=died)
            if not group.poison:
                with self._store.write(turn="tries", durable=False) as connection:
                    self._mark(connection, places[at:end], died + 1)
            yield group
            at = end

    def _begin(self, places: Sequence[Place]) -> dict[str, _Mark]:
        """Give what other processes have left in these lanes and this batch meets; if there is nothing, mark the whole batch."""
        lanes = sorted({place[0] for place in places if place is not None})
        if not lanes:
            return {}
        with self._store.write(turn="tries", durable=False) as connection:
            left = {lane: mark for lane in lanes if (mark := self._left(connection, lane)) is not None}
            if not any(_died(place, left) for place in places):
                self._mark(connection, places, 1)
                return {}
        return left

    def _mark(self, connection: sa.Connection, places: Sequence[Place], tries: int) -> None:
        spans: dict[str, tuple[int, int]] = {}
        for place in places:
            if place is not None:
                spans[place[0]] = (spans.get(place[0], (place[1], 0))[0], place[1])
        if not spans:
            return
        now = self._store.now()
        rows = [
            {"lane": lane, "first": first, "last": last, "tries": tries, "process": self._process, "at": now}
            for lane, (first, last) in sorted(spans.items())
        ]
        _MARK.many(connection, rows)

    def _left(self, connection: sa.Connection, lane: str) -> _Mark | None:
        found = _LEFT.first(connection, of=lane, living=self._process)
        return None if found is None else _Mark(*found)


def settle(connection: sa.Connection, lanes: Collection[str]) -> None:
    """Take back the marks of events that came without an order, inside the transaction that records them: there is no next one in their lane."""
    if lanes:
        _SETTLE.many(connection, ({"done": lane} for lane in sorted(lanes)))


def _upsert(connection: sa.Connection) -> Any:
    insert = insert_of(connection)(schema.tries)
    changed = {name: insert.excluded[name] for name in ("first", "last", "tries", "process", "at")}
    return insert.on_conflict_do_update(index_elements=[schema.tries.c.lane], set_=changed)


_MARK: Final = Statement(_upsert)
_LEFT: Final = Statement(
    lambda _: sa.select(schema.tries.c.first, schema.tries.c.last, schema.tries.c.tries).where(
        schema.tries.c.lane == sa.bindparam("of"), schema.tries.c.process != sa.bindparam("living")
    )
)
_SETTLE: Final = Statement(lambda _: sa.delete(schema.tries).where(schema.tries.c.lane == sa.bindparam("done")))


def _died(place: Place, left: dict[str, _Mark]) -> int:
    """Tell how many processes have died on what stands there."""
    mark = None if place is None else left.get(place[0])
    return mark.tries if mark is not None and place is not None and mark.first <= place[1] <= mark.last else 0
