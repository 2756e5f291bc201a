"""What the store counts: events by way, quarantine, runs and slices by state, and how soon runs begin.

Everything comes from the rows that promises 4 and 5 write, so the figures are right over restarts and the same whichever dispatcher is asked. Rows are never read twice:
a `Counter` goes on where it stopped, by `seq`. Facts of several writers may become visible out of order in PostgreSQL, so the latest are counted
anew each time until they are `SETTLED_SECONDS` old.

::

    events, quarantine, decisions, runs, facts -> Counter.read -> Figures -> web.metrics
"""

from __future__ import annotations

import bisect
import copy
import threading
from collections import Counter as Counts
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import msgspec
import sqlalchemy as sa

from hindscan.progress import Fact, Progressed, RunPlanned, SliceFailed, StateChanged
from hindscan.runs import outbox, schema
from hindscan.runs.run import FINAL, MOVES
from hindscan.runs.statement import keys_in_parts

if TYPE_CHECKING:
    from hindscan.runs.store import Store

__all__ = ["BOUNDS", "Counter", "Figures", "Histogram", "Lag"]

#: Upper bounds of the histogram, seconds; the last bucket has none.
BOUNDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
#: Facts are counted for good when they are so old: no transaction that writes facts takes as long.
SETTLED_SECONDS: Final = 10
#: Facts that are read at a time.
_PART: Final = 50_000

_fact = msgspec.json.Decoder(Fact)


class Histogram(msgspec.Struct, kw_only=True):
    """How often each length of time was seen: one count for each of `BOUNDS`, one for all above, and the sum."""

    counts: list[int] = msgspec.field(default_factory=lambda: [0] * (len(BOUNDS) + 1))
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        """Count one; a bound belongs to what is below it."""
        self.counts[bisect.bisect_left(BOUNDS, seconds)] += 1
        self.seconds += seconds


class Lag(msgspec.Struct, frozen=True, kw_only=True):
    """How far a trigger is behind one partition."""

    trigger: str
    cluster: str
    topic: str
    partition: int
    #: Offsets between what is recorded and the end that a reader of committed records sees.
    offsets: int


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """All figures at one moment."""

    #: By way: kafka, http, schedule, files. What is no event counts, too.
    received: dict[str, int]
    #: By trigger; the empty name: what is no event, or another body under a known identity.
    quarantined: dict[str, int]
    #: Every state has its number.
    runs: dict[str, int]
    #: computed, reused, failed.
    slices: dict[str, int]
    #: From the receipt of an event (or from when its run may begin) to the run's first start.
    event_to_start: Histogram
    #: Only of clusters that answer.
    lags: tuple[Lag, ...] = ()
    #: Whether each cluster with triggers answers.
    clusters: dict[str, bool] = {}
    #: Of each outlet: events of runs that wait, how long the oldest has, in seconds, and those that were given up.
    outlets: dict[str, tuple[int, float, int]] = {}


class _Work:
    """What the facts up to one `seq` come to."""

    def __init__(self) -> None:
        self.seq = 0
        self.slices: Counts[str] = Counts(computed=0, reused=0, failed=0)
        self.event_to_start = Histogram()
        #: Slices that the running attempt of each run has finished.
        self._done: dict[str, int] = {}
        #: Runs that were put back to wait: their next start is not their first.
        self._again: set[str] = set()

    def take(self, facts: Iterable[tuple[int, Fact]], received: dict[str, int]) -> None:
        """Go on with these facts; `received` tells for a run that an event opened when it could have begun."""
        for self.seq, fact in facts:
            match fact:
                case StateChanged(run=run, state="running", at=at):
                    self._done[run] = 0
                    if run not in self._again and run in received:
                        self.event_to_start.add(max(0, at - received[run]) / 1_000_000)
                    self._again.discard(run)
                case StateChanged(run=run, state=state):
                    self._done.pop(run, None)
                    if state not in FINAL:
                        self._again.add(run)
                case RunPlanned(reused=reused):
                    self.slices["reused"] += reused
                case Progressed(run=run, done=done):
                    self.slices["computed"] += max(0, done - self._done.get(run, 0))
                    self._done[run] = done
                case SliceFailed():
                    self.slices["failed"] += 1


class Counter:
    """Reads the figures of one store; safe to call from several threads.

    Parameters
    ----------
    store : Store
        Open.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._turn = threading.Lock()
        self._seen = {"events": 0, "quarantine": 0}
        self._received: Counts[str] = Counts()
        self._unreadable = 0
        self._by_trigger: Counts[str] = Counts()
        self._settled = _Work()

    def read(self) -> Figures:
        """Count; the first time all, later what is new.

        Raises
        ------
        hindscan.errors.StoreUnavailable
            The database does not answer.
        """
        with self._turn, self._store.read() as connection:
            self._count_inbox(connection)
            runs = schema.runs
            found = connection.execute(sa.select(runs.c.state, sa.func.count()).group_by(runs.c.state))
            states: dict[str, int] = {**dict.fromkeys(MOVES, 0), **{row[0]: row[1] for row in found}}
            work = self._work(connection)
            now = self._store.now()
            outlets = {
                name: (one.waiting, 0.0 if one.oldest is None else max(0, now - one.oldest) / 1e6, one.refused)
                for name, one in outbox.backlogs(connection).items()
            }
        return Figures(
            received=dict(self._received),
            quarantined={"": self._unreadable, **self._by_trigger},
            runs=states,
            slices=dict(work.slices),
            event_to_start=work.event_to_start,
            outlets=outlets,
        )

    def _count_inbox(self, connection: sa.Connection) -> None:
        # Both are written in turns: the order of `seq` is that of the commits, so nothing can appear below what was seen.
        for table in (schema.events, schema.quarantine):
            query = sa.select(table.c.way, sa.func.count(), sa.func.max(table.c.seq))
            query = query.where(table.c.seq > self._seen[table.name]).group_by(table.c.way)
            for way, number, last in connection.execute(query).all():
                self._received[way] += number
                self._seen[table.name] = max(self._seen[table.name], last)
                self._unreadable += number if table is schema.quarantine else 0
        decisions = schema.decisions
        held = sa.select(decisions.c.trigger, sa.func.count()).where(decisions.c.outcome == "quarantined")
        for trigger, number in connection.execute(held.group_by(decisions.c.trigger)):
            # A redriven event leaves quarantine; what was counted stays so, as a counter must not fall.
            self._by_trigger[trigger] = max(self._by_trigger[trigger], number)

    def _work(self, connection: sa.Connection) -> _Work:
        """Count facts: the old ones for good, the latest on a copy."""
        table = schema.facts
        line = self._store.now() - SETTLED_SECONDS * 1_000_000
        work: _Work | None = None
        seq = self._settled.seq
        while True:
            query = sa.select(table.c.seq, table.c.at, table.c.fact).where(table.c.seq > seq).order_by(table.c.seq)
            rows = connection.execute(query.limit(_PART)).all()
            if not rows:
                return work or copy.deepcopy(self._settled)
            seq = rows[-1][0]
            facts = [(number, at, _fact.decode(text)) for number, at, text in rows]
            received = self._received_at(connection, [fact for _, _, fact in facts])
            # From the first fact that is not settled on, nothing is.
            fresh = next((place for place, (_, at, _) in enumerate(facts) if at > line), len(facts))
            if work is None:
                self._settled.take(((number, fact) for number, _, fact in facts[:fresh]), received)
                if fresh == len(facts):
                    continue
                work = copy.deepcopy(self._settled)
                facts = facts[fresh:]
            work.take(((number, fact) for number, _, fact in facts), received)

    def _received_at(self, connection: sa.Connection, facts: Iterable[Fact]) -> dict[str, int]:
        """Tell of the runs that begin here and that an event opened, when each could have begun; a replayed event was received for another run."""
        starting = {fact.run for fact in facts if isinstance(fact, StateChanged) and fact.state == "running"}
        runs, events = schema.runs, schema.events
        same = sa.and_(events.c.source == runs.c.event_source, events.c.id == runs.c.event_id)
        columns = (runs.c.id, events.c.received_at, runs.c.not_before)
        found: dict[str, int] = {}
        for part in keys_in_parts((run,) for run in sorted(starting)):
            query = sa.select(*columns).join(events, same).where(runs.c.id.in_([run for (run,) in part]))
            query = query.where(runs.c.trigger.not_like("%@%"))
            found |= {run: max(received, not_before) for run, received, not_before in connection.execute(query)}
        return found
