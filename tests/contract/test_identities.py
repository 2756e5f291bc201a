"""However events are delivered again, contradicted, redriven and forgotten: at most one run for each trigger and identity, and exactly one for each match (promise 4)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from hindscan.errors import Conflict, Gone
from hindscan.events.event import Event
from hindscan.runs import forgotten, held, leases, register
from hindscan.runs.ledger import Decision, Entry, Outcome, record
from hindscan.runs.run import RunRequest
from hindscan.runs.store import Store

_sources: Iterator[str] = (f"/{number}" for number in itertools.count())

NUMBERS = st.integers(0, 3)
OUTCOMES = st.sampled_from(["matched", "unmatched", "quarantined"])
DECISIONS = st.dictionaries(st.sampled_from("ab"), OUTCOMES, max_size=2)


def decision(trigger: str, outcome: Outcome) -> Decision:
    request = RunRequest(job="j") if outcome == "matched" else None
    return Decision(trigger=trigger, outcome=outcome, reason="" if request else outcome, request=request)


class Deliveries(RuleBasedStateMachine):
    """A store beside a dictionary; each machine has events of a source of its own."""

    def __init__(self, store: Store) -> None:
        super().__init__()
        self.store = store
        self.source = next(_sources)
        self.data: dict[int, int] = {}
        self.decided: dict[tuple[int, str], Outcome] = {}
        #: The run of each match, as it was told when it was opened.
        self.runs: dict[tuple[int, str], str] = {}
        self.forgotten: set[int] = set()

    def entry(self, number: int, data: int, decisions: dict[str, Any]) -> Entry:
        event = Event(id=str(number), source=self.source, type="t", subject=f"{self.source}#{number}", data={"n": data})
        return Entry(event=event, way="http", decisions=tuple(decision(*pair) for pair in sorted(decisions.items())))

    @rule(arrivals=st.lists(st.tuples(NUMBERS, st.integers(0, 1), DECISIONS), min_size=1, max_size=4))
    def deliver(self, arrivals: list[tuple[int, int, dict[str, Any]]]) -> None:
        batch = [self.entry(*arrival) for arrival in arrivals]
        contradicted: list[tuple[int, str, str]] = []
        for (number, data, decisions), told in zip(arrivals, record(self.store, batch), strict=True):
            conflict = number not in self.forgotten and self.data.setdefault(number, data) != data
            assert told.conflict == conflict
            if conflict or number in self.forgotten:
                assert not told.opened
                contradicted += [(number, name, run) for name, run in told.existing.items()]
                continue
            for name, outcome in decisions.items():
                if (number, name) in self.decided:
                    assert name not in told.opened
                    assert told.existing.get(name) == self.runs.get((number, name))
                    continue
                self.decided[number, name] = outcome
                if outcome == "matched":
                    self.runs[number, name] = told.opened[name]
        # A run that an arrival behind it in the batch has opened exists by then, too.
        assert all(self.runs[number, name] == run for number, name, run in contradicted)

    @rule(number=NUMBERS, outcomes=st.fixed_dictionaries({"a": OUTCOMES, "b": OUTCOMES}), times=st.integers(1, 2))
    def redrive(self, number: int, outcomes: dict[str, Any], times: int) -> None:
        found = [one for one in held.held_events(self.store, limit=10**6) if (one.source, one.id) == (self.source, str(number))]  # fmt: skip
        holding = {name for (which, name), outcome in self.decided.items() if (which, outcome) == (number, "quarantined")}  # fmt: skip
        assert {name for one in found for name in one.triggers} == (holding if number not in self.forgotten else set())
        if not found:
            return
        # Twice: whoever else read that it was held comes too late.
        entries = [self.entry(number, self.data[number], {name: outcomes[name] for name in holding})] * times
        told = record(self.store, entries, redrive=True)
        for name in holding:
            self.decided[number, name] = outcomes[name]
            if outcomes[name] == "matched":
                self.runs[number, name] = told[0].opened[name]
                assert all(again.existing == told[0].opened for again in told[1:])

    @rule(number=NUMBERS)
    def forget(self, number: int) -> None:
        found = forgotten.concerned(self.store, f"{self.source}#{number}")
        assert bool(found.events) == (number in self.data and number not in self.forgotten)
        if not found.events:
            return
        forgotten.seal(self.store, found)
        forgotten.redact(self.store, found)
        self.forgotten.add(number)
        for (which, _), run in self.runs.items():
            if which == number:
                with pytest.raises(Gone):
                    register.retry(self.store, run)
        for name in "ab":
            # What was held of it can never be decided.
            if self.decided.get((number, name)) == "quarantined":
                del self.decided[number, name]

    @rule(number=NUMBERS, name=st.sampled_from("ab"))
    def begin(self, number: int, name: str) -> None:
        run = self.runs.get((number, name))
        claimed = None if run is None else leases.claim(self.store, "me", 1e6, run)
        if claimed is not None:
            assert number not in self.forgotten, "nobody works on what is forgotten"
            with pytest.raises(Conflict):
                forgotten.seal(self.store, forgotten.concerned(self.store, f"{self.source}#{number}"))
            register.move(self.store, claimed.run.id, "failed", token=claimed.token)

    @invariant()
    def each_match_has_one_run(self) -> None:
        with self.store.read() as connection:
            every = "SELECT r.id, d.id FROM runs r LEFT JOIN decisions d ON d.run = r.id AND d.source = r.event_source AND d.id = r.event_id"
            mine = {str(run): identity for run, identity in connection.execute(sa.text(every)) if run in set(self.runs.values())}  # fmt: skip
            count = connection.execute(sa.text("SELECT count(*) FROM runs WHERE event_source = :s"), {"s": self.source})
            alive = [run for (number, _), run in self.runs.items() if number not in self.forgotten]
            assert count.scalar_one() == len(alive) == len(set(alive))
        assert set(mine) == set(self.runs.values())
        for (number, _), run in self.runs.items():
            digest = forgotten.forgotten_identity(self.source, str(number))[1]
            assert mine[run] == (digest if number in self.forgotten else str(number))


def test_one_run_for_each_match_whatever_happens_to_its_event(store: Store) -> None:
    slow = settings(max_examples=12, stateful_step_count=12, suppress_health_check=list(HealthCheck))
    run_state_machine_as_test(lambda: Deliveries(store), settings=slow)  # type: ignore[no-untyped-call]


def test_who_contradicts_is_told_of_a_run_that_the_same_batch_opens(store: Store) -> None:
    machine = Deliveries(store)
    machine.deliver([(3, 0, {}), (3, 1, {}), (3, 0, {"a": "matched"})])
    machine.each_match_has_one_run()
