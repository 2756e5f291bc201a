"""A whole site in one thread: dispatchers, a log, clients and time, all driven by one seed; only the store and what writes to it are real.

The store is SQLite in memory, a copy of one that was made on disk: that it reaches the disk is not what is asked here.

One schedule is a few dozen moves drawn from a seed: records are produced (some again, some that are no events), polled, recorded and committed;
partitions move from member to member, and one that has lost a partition may not know it yet; requests come by HTTP and are sent again until they are
answered; runs are claimed, published and moved; leases run out, runs are cancelled; the store is away before a commit, or after one; a dispatcher dies at
a named side effect or between two moves. At the end all heal, what is left is done, and what hindscan promises is checked. The same seed gives the same
schedule.
"""

from __future__ import annotations

import dataclasses
import json
import random
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from clock import Clock
from hindscan.config import Project
from hindscan.config_file import load_project
from hindscan.errors import Conflict, Fenced, StoreUnavailable
from hindscan.events.event import Event, event_from_json
from hindscan.events.received import Received, received_from_kafka, received_over_http
from hindscan.intake import Intake
from hindscan.jobs.job import JobSpec
from hindscan.runs import leases, ledger, positions, register, schema, sqlite, store
from hindscan.runs.statement import Statement
from scan_job import CATEGORY, DECLARED, scan_spec

MOVES = 24
LEASE_SECONDS = 8.0
PARTITIONS = 2
#: Modules that hold the points at which a dispatcher may die.
PLACES = (store, ledger, leases, register)
DEATHS = (
    "intake.received", "ledger.writing", "store.committed", "ledger.recorded", "intake.recorded",
    "store.claimed", "store.moved", "store.released",
)  # fmt: skip

TRIGGERS = """
[triggers.scan]
on = ["http", "kafka:closings"]
filter = { exact = { type = "closed" } }
job = "scan"
parameters = { category = "data.category" }
[triggers.all]
on = "kafka:closings"
job = "scan"
parameters = { category = { value = "all" } }
"""
SPEC = scan_spec(CATEGORY)

# What is asked in every schedule, many times: compiled once.
STORED = Statement(
    lambda _: sa.select(schema.positions.c.next_offset).where(
        schema.positions.c.topic_id == sa.bindparam("of"), schema.positions.c.partition == sa.bindparam("at")
    )
)
RUNS = Statement(
    lambda _: sa.select(*(schema.runs.c[name] for name in ("id", "trigger", "event_id", "state", "result"))).where(
        schema.runs.c.event_source == sa.bindparam("of")
    )
)
DECIDED = Statement(
    lambda _: (
        sa.select(schema.decisions.c.trigger)
        .where(schema.decisions.c.source == sa.bindparam("of"), schema.decisions.c.id == sa.bindparam("event"))
        .limit(1)
    )
)
SET_APART = Statement(
    lambda _: sa.select(schema.quarantine.c.offset).where(schema.quarantine.c.topic_id == sa.bindparam("of"))
)


class Death(BaseException):
    """A power cut, as far as one dispatcher is concerned."""


@dataclasses.dataclass
class Trouble:
    """What goes wrong at the next point of that name: an exception, or nothing."""

    at: str = ""
    kind: Callable[[], BaseException] = Death

    def point(self, name: str) -> None:
        if name == self.at:
            self.at = ""
            raise self.kind()


@contextmanager
def points(trouble: Trouble) -> Iterator[None]:
    """Have every named point ask for trouble."""
    import hindscan.faults

    real = hindscan.faults.point
    for module in (*PLACES, hindscan.faults):
        module.point = trouble.point  # type: ignore[attr-defined]
    try:
        yield
    finally:
        for module in (*PLACES, hindscan.faults):
            module.point = real  # type: ignore[attr-defined]


@dataclasses.dataclass
class Dispatcher:
    """What one process has in memory, and so loses."""

    name: str
    up: bool = True
    #: Where it reads on, by partition that it believes to be its own.
    reading: dict[int, int] = dataclasses.field(default_factory=dict)
    claimed: leases.Claimed | None = None
    published: bool = False

    def die(self) -> None:
        self.up, self.claimed, self.published = False, None, False
        self.reading.clear()


class Broken(AssertionError):
    """A promise was broken."""


def prepare(root: Path) -> None:
    """Make the project and the store that schedules begin with."""
    (root / "hindscan.toml").write_text(DECLARED + TRIGGERS)
    store.open_store(_URL, root).close()


def simulate(root: Path, seeds: range) -> None:
    """Go through the schedules of these seeds, one after another, over one store; say which seed broke a promise."""
    project, clock, trouble = load_project(root, {}), Clock(1_600_000_000_000_000, tick=1), Trouble()
    with points(trouble), _in_memory(root, clock) as opened:
        for seed in seeds:
            schedule = Schedule(seed, project, opened, SPEC, clock, trouble)
            try:
                schedule.run(MOVES)
            except Exception as error:
                raise Broken(
                    f"schedule {seed} (again: HINDSCAN_SEED={seed}): {error}\n" + "\n".join(schedule.history)
                ) from error


_URL = "sqlite:///made.db"


@contextmanager
def _in_memory(root: Path, clock: Clock) -> Iterator[store.Store]:
    with (
        closing(sqlite3.connect(root / "made.db")) as made,
        closing(sqlite3.connect(":memory:", isolation_level=None)) as memory,
    ):
        made.backup(memory)
        engine = sa.create_engine("sqlite://", creator=lambda: memory, poolclass=sa.StaticPool)
        sa.event.listen(engine, "begin", sqlite.begin)
        yield store.Store(engine, clock)


class Schedule:
    """One seeded schedule over a store that others may have used before, each with a topic and events of its own."""

    def __init__(
        self, seed: int, project: Project, opened: store.Store, spec: JobSpec, clock: Clock, trouble: Trouble
    ) -> None:
        self.seed, self.random = seed, random.Random(seed)
        self.store, self.clock, self.trouble = opened, clock, trouble
        self.intake = Intake(project, opened, {spec.name: spec})
        self.topic_id = f"topic-{seed}"
        self.log: list[list[tuple[bytes, str | None]]] = [[] for _ in range(PARTITIONS)]
        self.committed = [0] * PARTITIONS
        self.dispatchers = [Dispatcher(f"{seed}-{name}") for name in "ab"]
        self.owner: list[Dispatcher | None] = [None] * PARTITIONS
        self.waiting: list[Event] = []
        self.answered: set[tuple[str, str]] = set()
        self.started = 0
        #: By run: the tokens under which a result was published.
        self.results: dict[str, list[int]] = {}
        #: By run: the token of its newest claim that somebody heard of.
        self.newest: dict[str, int] = {}
        self.cancelled: set[str] = set()
        self.starts: dict[tuple[str, str, int], int] = {}
        self.history: list[str] = []
        self._place()

    # --- Doing ------------------------------------------------------------------------------------------------------

    def run(self, moves: int) -> None:
        """Do so many moves, heal, and check."""
        # Each schedule has leanings of its own: what takes many moves of one kind in a row happens, too.
        weights = [weight * self.random.choice((0.2, 1, 1, 5)) for weight in self.WEIGHTS]
        for move in self.random.choices(self.MOVES, weights, k=moves):
            self._one(move)
        self.trouble.at = ""
        self._heal()
        self._check()

    def _one(self, move: Callable[[Schedule, Dispatcher], None]) -> None:
        dispatcher = self.random.choice(self.dispatchers)
        self.history.append(f"{move.__name__} {dispatcher.name}")
        if self.random.random() < 0.15:
            self.trouble.at, self.trouble.kind = self.random.choice(DEATHS), Death
        elif self.random.random() < 0.1:
            # Before it is written, or after it is and before anybody hears so.
            self.trouble.at = self.random.choice(("ledger.writing", "store.committed"))
            self.trouble.kind = lambda: StoreUnavailable("The store is away.")
        try:
            move(self, dispatcher)
        except Death:
            self.history.append("  died")
            dispatcher.die()
        except StoreUnavailable:
            self.history.append("  store away")
            dispatcher.reading.clear()  # it takes its place again, as a listener does
        self.trouble.at = ""

    def produce(self, _: Dispatcher) -> None:
        """Put a record into the log: a new event, one that came before, or no event."""
        kind = self.random.random()
        if kind < 0.15:
            self.log[self.random.randrange(PARTITIONS)].append((b"{", None))
            return
        event = self._event(again=kind < 0.4)
        self.log[self.random.randrange(PARTITIONS)].append((json.dumps(event.to_json()).encode(), event.id))

    def ask(self, _: Dispatcher) -> None:
        """A client wants to send an event by HTTP."""
        self.waiting.append(self._event(again=self.random.random() < 0.4))

    def answer(self, dispatcher: Dispatcher) -> None:
        """A dispatcher takes a request; the client asks again until it is answered."""
        if dispatcher.up and self.waiting:
            event = self.waiting[0]
            recorded = self.intake.take([received_over_http(event)])
            self.waiting.pop(0)
            self.answered.add(event.identity)
            self._is_recorded(event.identity, "http")
            if not (recorded[0].opened or recorded[0].existing):
                raise Broken("an answer names no run")

    def assign(self, dispatcher: Dispatcher) -> None:
        """The group moves a partition; the one that had it may read on for a while."""
        self.owner[self.random.randrange(PARTITIONS)] = dispatcher if dispatcher.up else None

    def hear(self, dispatcher: Dispatcher) -> None:
        """A dispatcher hears what it has been given, and begins where the store says."""
        if not dispatcher.up:
            return
        dispatcher.reading = {
            partition: dispatcher.reading.get(partition, self._stored(partition))
            for partition in range(PARTITIONS)
            if self.owner[partition] is dispatcher
        }

    def poll(self, dispatcher: Dispatcher) -> None:
        """Record what is next in one partition, then commit."""
        for partition, at in list(dispatcher.reading.items()) if dispatcher.up else ():
            batch = self.log[partition][at : at + self.random.randint(1, 4)]
            if not batch:
                continue
            self.intake.take([self._received(partition, at + index) for index in range(len(batch))], self.starts)
            dispatcher.reading[partition] = at + len(batch)
            if self.random.random() < 0.7:
                self.committed[partition] = at + len(batch)
                if self.committed[partition] > self._stored(partition):
                    raise Broken("an offset is committed that is not in the store")

    def claim(self, dispatcher: Dispatcher) -> None:
        """Take a run that waits."""
        if not dispatcher.up or dispatcher.claimed is not None:
            return
        claimed = leases.claim(self.store, dispatcher.name, LEASE_SECONDS)
        if claimed is None:
            return
        for other in self.dispatchers:
            held = other.claimed
            if held is not None and held.run.id == claimed.run.id and held.expires_at > self.clock.now:
                raise Broken(f"{claimed.run.id} has two owners")
        dispatcher.claimed, dispatcher.published = claimed, False
        self.newest[claimed.run.id] = claimed.token

    def work(self, dispatcher: Dispatcher) -> None:
        """Go one step on with a claimed run: renew and publish, then move."""
        claimed = dispatcher.claimed
        if not dispatcher.up or claimed is None:
            return
        run = claimed.run.id
        try:
            if not dispatcher.published:
                wished = leases.heartbeat(self.store, claimed, LEASE_SECONDS)
                dispatcher.claimed = dataclasses.replace(claimed, expires_at=self.clock.now + int(LEASE_SECONDS * 1e6))
                if wished:
                    register.move(self.store, run, "cancelled", token=claimed.token)
                    dispatcher.claimed = None
                    return
                self._is_newest(claimed)
                self.results.setdefault(run, []).append(claimed.token)
                dispatcher.published = True
            else:
                register.move(self.store, run, "succeeded", token=claimed.token, result=f"results/{claimed.token}")
                self._is_newest(claimed)
                dispatcher.claimed = None
        except Fenced:
            dispatcher.claimed = None

    def wait(self, _: Dispatcher) -> None:
        """Let time pass: sometimes longer than a lease."""
        self.clock.now += self.random.choice((1_000, 1_000_000, 9_000_000, 9_000_000))

    def sweep(self, dispatcher: Dispatcher) -> None:
        """Give back runs whose owner gave no sign of life."""
        if dispatcher.up:
            leases.release_expired(self.store)

    def stall(self, dispatcher: Dispatcher) -> None:
        """Stand still for longer than a lease, while others go on; it does not know that it did."""
        self.clock.now += 9_000_000
        for other in self.dispatchers:
            if other is not dispatcher:
                self.sweep(other)
                self.claim(other)

    def cancel(self, dispatcher: Dispatcher) -> None:
        """Somebody wants a run to stop."""
        runs = self._runs()
        if dispatcher.up and runs:
            run = self.random.choice(runs)["id"]
            self.cancelled.add(run)  # it may be written though nobody hears so
            with suppress(Conflict):  # it is over
                register.request_cancel(self.store, run)

    def die(self, dispatcher: Dispatcher) -> None:
        """Die between two moves."""
        raise Death

    def begin(self, dispatcher: Dispatcher) -> None:
        """Start it again."""
        dispatcher.up = True

    MOVES = (produce, ask, answer, assign, hear, poll, claim, work, wait, sweep, stall, cancel, die, begin)
    WEIGHTS = (4, 2, 3, 2, 4, 5, 5, 5, 1, 1, 3, 0.3, 0.5, 2)

    # --- What the moves need ----------------------------------------------------------------------------------------

    def _place(self) -> None:
        """Store where the triggers begin: one at the beginning, one somewhere later."""
        for trigger, start in (("scan", 0), ("all", self.random.randrange(3))):
            for partition in range(PARTITIONS):
                self.starts[trigger, self.topic_id, partition] = start
        positions.start_at(
            self.store,
            [
                positions.Place(
                    trigger=trigger, cluster="default", topic="closings", topic_id=topic_id, partition=partition,
                    start_offset=start, next_offset=start,
                )
                for (trigger, topic_id, partition), start in self.starts.items()
            ],
        )  # fmt: skip

    def _event(self, *, again: bool) -> Event:
        if not again or not self.started:
            self.started += 1
            number = self.started
        else:
            number = self.random.randint(1, self.started)
        return event_from_json(
            {
                "specversion": "1.0", "id": str(number), "source": f"/{self.seed}", "type": "closed",
                "time": "2019-05-06T07:08:09Z", "data": {"category": "cars"},
            }
        )  # fmt: skip

    def _received(self, partition: int, offset: int) -> Received:
        (one,) = received_from_kafka(
            self.log[partition][offset][0],
            [("content-type", b"application/cloudevents+json")],
            key=None, cluster="default", topic="closings", topic_id=self.topic_id, partition=partition, offset=offset,
            record_time=self.clock.now,
        )  # fmt: skip
        return one

    def _stored(self, partition: int) -> int:
        with self.store.read() as connection:
            return min(offset for (offset,) in STORED.rows(connection, of=self.topic_id, at=partition))

    def _runs(self) -> list[dict[str, Any]]:
        with self.store.read() as connection:
            return RUNS.records(connection, of=f"/{self.seed}")

    def _is_recorded(self, identity: tuple[str, str], what: str) -> None:
        with self.store.read() as connection:
            found = DECIDED.first(connection, of=identity[0], event=identity[1])
        if found is None:
            raise Broken(f"{identity} by {what} is acknowledged and not in the store")

    def _is_newest(self, claimed: leases.Claimed) -> None:
        if claimed.token < self.newest[claimed.run.id]:
            raise Broken(f"{claimed.run.id} was moved under claim {claimed.token} of {self.newest[claimed.run.id]}")

    # --- The end ----------------------------------------------------------------------------------------------------

    def _heal(self) -> None:
        first = self.dispatchers[0]
        for dispatcher in self.dispatchers:
            dispatcher.die()
        first.up = True
        while self.waiting:
            self.answer(first)
        self.owner = [first] * PARTITIONS
        self.hear(first)
        while any(self._stored(partition) < len(self.log[partition]) for partition in range(PARTITIONS)):
            self.poll(first)
        self.clock.now += 20_000_000
        self.sweep(first)
        while True:
            self.claim(first)
            if first.claimed is None:
                break
            while first.claimed is not None:
                self.work(first)

    def _check(self) -> None:
        runs = self._runs()
        found = Counter((run["trigger"], run["event_id"]) for run in runs)
        expected = {("scan", id) for _, id in self.answered}
        for partition, records in enumerate(self.log):
            for offset, (_, id) in enumerate(records):
                for trigger in ("scan", "all"):
                    if id is not None and offset >= self.starts[trigger, self.topic_id, partition]:
                        expected.add((trigger, id))
        if found != Counter(dict.fromkeys(expected, 1)):
            raise Broken(f"runs by trigger and event: {found}, expected one each of {sorted(expected)}")
        for run in runs:
            tokens = self.results.get(run["id"], [])
            if run["state"] == "cancelled" and run["id"] in self.cancelled:
                continue
            if run["state"] != "succeeded" or run["result"] != f"results/{tokens[-1]}":
                raise Broken(f"run {run['id']} is {run['state']} with {run['result']}, published under {tokens}")
        unreadable = sum(id is None for records in self.log for _, id in records)
        with self.store.read() as connection:
            kept = len(SET_APART.rows(connection, of=self.topic_id))
        if kept != unreadable:
            raise Broken(f"{kept} of {unreadable} unreadable records are in quarantine")
