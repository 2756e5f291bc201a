"""What the metrics count is what happened, whenever and how often anybody looks, in every store."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from clock import Clock
from hindscan.events.event import Event
from hindscan.progress import Progressed, RunPlanned, SliceFailed
from hindscan.runs import figures, leases, log, opening, register, schema
from hindscan.runs.figures import BOUNDS, Counter, Figures, Histogram
from hindscan.runs.ledger import Decision, Entry, Unreadable, record
from hindscan.runs.run import RunRequest
from hindscan.runs.store import Store

REQUEST = RunRequest(job="bidder_scan")


def arrive(
    store: Store, number: int, *, way: str = "http", trigger: str = "scan", data: Any = 1, **options: Any
) -> str:
    decision = Decision(trigger=trigger, outcome="matched", request=REQUEST, **options)
    event = Event(id=f"e{number}", source="/a", type="t", data=data)
    (recorded,) = record(store, [Entry(event=event, way=way, decisions=(decision,))])
    return {**recorded.opened, **recorded.existing}.get(trigger, "")


def held(store: Store, number: int, trigger: str) -> None:
    event = Event(id=f"e{number}", source="/a", type="t")
    record(
        store,
        [Entry(event=event, way="http", decisions=(Decision(trigger=trigger, outcome="quarantined", reason="r"),))],
    )


def begin(store: Store, run: str) -> int:
    taken = leases.claim(store, "me", 10, run)
    assert taken is not None
    return taken.token


def progress(store: Store, run: str, done: int) -> None:
    log.log_facts(store, [Progressed(run=run, stage="bids", done=done, rows=done)])


def planned(store: Store, run: str, reused: int) -> None:
    log.log_facts(store, [RunPlanned(run=run, slices=9, reused=reused, tasks=1, rows=9, bytes=9)])


def test_nothing_that_happened_is_nothing_counted(store: Store) -> None:
    found = Counter(store).read()
    assert found.runs == dict.fromkeys(("pending", "running", "succeeded", "failed", "cancelled"), 0)
    assert (found.received, found.quarantined, sum(found.slices.values())) == ({}, {"": 0}, 0)
    assert found.event_to_start == Histogram()


def test_events_are_counted_by_way_once_each_and_what_is_set_aside_by_trigger(store: Store) -> None:
    counter = Counter(store)
    for _ in range(2):
        arrive(store, 1)
        arrive(store, 2, way="kafka")
    held(store, 3, "other")
    counter.read()
    arrive(store, 1, data="another body")
    record(store, [Unreadable(reason="no JSON", error="InvalidEvent", way="kafka", body=b"{")])
    for found in (counter.read(), counter.read(), Counter(store).read()):
        assert found.received == {"http": 3, "kafka": 2}
        assert found.quarantined == {"": 2, "other": 1}


def test_a_redriven_event_does_not_make_the_counter_fall(store: Store) -> None:
    counter = Counter(store)
    held(store, 1, "scan")
    assert counter.read().quarantined["scan"] == 1
    event = Event(id="e1", source="/a", type="t")
    again = Decision(trigger="scan", outcome="matched", request=REQUEST)
    record(store, [Entry(event=event, way="http", decisions=(again,))], redrive=True)
    assert counter.read().quarantined["scan"] == 1


def test_the_first_start_counts_from_the_receipt_or_from_when_the_run_may_begin(store: Store, clock: Clock) -> None:
    soon, late = arrive(store, 1), arrive(store, 2, not_before=clock.now + 60_000_000)
    by_hand = opening.open_run(store, REQUEST).id
    clock.sleep(0.02)
    register.move(store, soon, "failed", token=begin(store, soon))
    begin(store, by_hand)
    register.retry(store, soon)
    clock.sleep(100)
    begin(store, soon)
    begin(store, late)
    seen = Counter(store).read().event_to_start
    waited = [0.02, 100.02 - 60]
    assert seen.seconds == pytest.approx(sum(waited))
    assert [bound for bound, number in zip((*BOUNDS, None), seen.counts, strict=True) if number] == [0.025, 60.0]


def test_the_start_of_a_replayed_run_says_nothing_of_how_long_an_event_waits(store: Store, clock: Clock) -> None:
    first = arrive(store, 1)
    begin(store, first)
    clock.sleep(1000)
    begin(store, arrive(store, 1, trigger="scan@again"))
    seen = Counter(store).read().event_to_start
    assert (sum(seen.counts), seen.seconds) == (1, 0.0)


def test_slices_of_all_attempts_are_counted_once_each(store: Store) -> None:
    counter = Counter(store)
    run = arrive(store, 1)
    token = begin(store, run)
    planned(store, run, reused=2)
    for done in (1, 4, 4):
        progress(store, run, done)
        counter.read()
    log.log_facts(store, [SliceFailed(run=run, stage="bids", slice=5, error="E", message="m")])
    register.move(store, run, "failed", token=token)
    register.retry(store, run)
    begin(store, run)
    planned(store, run, reused=6)
    progress(store, run, 3)
    assert counter.read().slices == Counter(store).read().slices == {"computed": 7, "reused": 8, "failed": 1}


def test_a_fact_that_becomes_visible_after_a_later_one_is_counted(store: Store, clock: Clock) -> None:
    counter = Counter(store)

    def appear(seq: int, reused: int) -> None:
        fact = msgspec.json.encode(RunPlanned(run="r", slices=9, reused=reused, tasks=1, rows=9, bytes=9)).decode()
        with store.write() as connection:
            connection.execute(sa.insert(schema.facts).values(seq=seq, run="r", at=clock.now, fact=fact))

    appear(1_000, reused=1)
    assert counter.read().slices["reused"] == 1
    appear(999, reused=20)
    assert counter.read().slices["reused"] == 21
    clock.sleep(figures.SETTLED_SECONDS + 1)
    appear(1_001, reused=300)
    assert [counter.read().slices["reused"] for _ in range(2)] == [321, 321]


@pytest.mark.parametrize(("part", "seed"), [(3, 0), (50_000, 1)])
def test_who_looks_on_the_way_sees_in_the_end_what_who_looks_once_sees(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch, part: int, seed: int
) -> None:
    monkeypatch.setattr(figures, "_PART", part)
    chance = random.Random(seed)
    counter, tokens, runs = Counter(store), dict[str, int](), list[str]()
    for number in range(25):
        clock.sleep(chance.choice((0.01, 1, figures.SETTLED_SECONDS)))
        runs.append(arrive(store, number, way=chance.choice(("http", "kafka"))))
        run = chance.choice(runs)
        if run in tokens:
            progress(store, run, chance.randrange(9))
            if chance.random() < 0.5:
                register.move(store, run, chance.choice(("succeeded", "failed", "pending")), token=tokens.pop(run))
        elif register.get_run(store, run).state == "pending":
            tokens[run] = begin(store, run)
            planned(store, run, reused=chance.randrange(5))
        if chance.random() < 0.5:
            counter.read()
    found: Figures = counter.read()
    assert found == Counter(store).read()
    assert sum(found.event_to_start.counts) == len({run for run in runs if register.get_run(store, run).attempt})
    assert sum(found.runs.values()) == len(runs)
