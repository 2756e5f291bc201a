"""Whatever comes in, in whatever batches, the store says what a dictionary says that keeps the first of everything (promises 4 and 5)."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from hindscan.events.event import Event
from hindscan.history.snapshot import Position
from hindscan.runs.held import held_events
from hindscan.runs.inbox import list_events
from hindscan.runs.ledger import Decision, Entry, Outcome, Unreadable, record
from hindscan.runs.run import RunRequest
from hindscan.runs.store import Store, open_store

#: Too big for a column of 64 bits: the database refuses the row.
BEYOND = 2**63


def decision(trigger: str, outcome: Outcome, poison: bool = False) -> Decision:
    if outcome != "matched":
        return Decision(trigger=trigger, outcome=outcome, reason=f"{trigger} {outcome}")
    request = RunRequest(job="j", parameters={"trigger": trigger})
    return Decision(trigger=trigger, outcome="matched", request=request, not_before=BEYOND if poison else 0)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """One store for all examples, each with events of a source of its own: making a store takes longer than an example."""
    with open_store("sqlite:///s.db", tmp_path_factory.mktemp("store")) as opened:
        yield opened


_sources = (f"/{number}" for number in itertools.count())


def entry(
    source: str, number: int, data: int, decisions: Sequence[Decision], position: Position | None = None
) -> Entry:
    event = Event(id=f"e{number}", source=source, type="t", data=data)
    return Entry(event=event, way="kafka", decisions=tuple(decisions), position=position)


_DECISIONS = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from(["matched", "unmatched", "quarantined"])),
    max_size=3,
    unique_by=lambda pair: pair[0],
)
#: Number, data, decisions, and whether the database will refuse its run.
_ARRIVALS = st.tuples(st.integers(0, 5), st.integers(0, 1), _DECISIONS, st.sampled_from([False, False, False, True]))


def table(store: Store, query: str) -> list[Any]:
    with store.read() as connection:
        return list(connection.execute(sa.text(query)))


@given(batches=st.lists(st.lists(_ARRIVALS, max_size=8), max_size=4))
@settings(max_examples=60)
def test_the_first_of_everything_counts(store: Store, batches: list[list[Any]]) -> None:
    source = next(_sources)
    events: dict[int, int] = {}
    conflicts: set[int] = set()
    decided: dict[tuple[int, str], str] = {}
    for batch in batches:
        arrivals = [
            entry(source, number, data, [decision(*pair, poison) for pair in pairs])
            for number, data, pairs, poison in batch
        ]
        recorded = record(store, arrivals)
        conflicting = []
        for number, data, pairs, poison in batch:
            conflicting.append(events.setdefault(number, data) != data)
            if conflicting[-1]:
                conflicts.add(number)
            else:
                # One new match that the database refuses holds all the event's new decisions.
                new = [pair for pair in pairs if (number, pair[0]) not in decided]
                refused = poison and any(outcome == "matched" for _, outcome in new)
                decided |= {(number, trigger): "quarantined" if refused else outcome for trigger, outcome in new}
        opened: list[str] = []
        for (number, _, pairs, _), told, conflict in zip(batch, recorded, conflicting, strict=True):
            opened += told.opened.values()
            assert told.conflict == conflict
            assert not (conflict and told.opened), "a body that does not count opens nothing"
            said = dict.fromkeys((*told.opened, *told.existing), "matched")
            said |= {name: "quarantined" for name in told.quarantined if name}
            held = {
                name: decided[number, name]
                for name, _ in pairs
                if decided.get((number, name), "unmatched") != "unmatched"
            }
            # A body that does not count is told what was decided before it; some of that may have come after it in this batch.
            assert said.items() <= held.items() if conflict else said == held
        assert len(opened) == len(set(opened))
    where = f"source = '{source}'"
    found = table(store, f"SELECT id, data, conflict FROM events WHERE {where}")
    assert {int(name[1:]): (json.loads(data), flag) for name, data, flag in found} == {
        number: (data, int(number in conflicts)) for number, data in events.items()
    }
    rows = table(store, f'SELECT id, "trigger", outcome FROM decisions WHERE {where}')
    assert {(int(name[1:]), trigger): outcome for name, trigger, outcome in rows} == decided
    matches = sum(outcome == "matched" for outcome in decided.values())
    joined = f"SELECT count(*), count(DISTINCT r.id) FROM decisions d JOIN runs r ON r.id = d.run AND r.event_id = d.id WHERE d.{where}"
    assert table(store, joined) == [(matches, matches)]
    assert table(store, f"SELECT count(*) FROM runs WHERE event_source = '{source}'") == [(matches,)]


@given(bad=st.sets(st.integers(0, 29), max_size=6))
@settings(max_examples=20)
def test_any_poison_in_a_batch_is_kept_and_blocks_nothing(store: Store, bad: set[int]) -> None:
    source = next(_sources)
    batch: list[Entry | Unreadable] = []
    for number in range(30):
        offset = BEYOND + number if number in bad else number
        at = Position(cluster="c", topic=source, topic_id="i", partition=0, offset=offset)
        if number % 5:
            batch.append(entry(source, number, 0, [decision("a", "matched")], at))
        else:
            batch.append(Unreadable(reason=source, error="InvalidEvent", way="kafka", body=b"%d" % number, position=at))
    recorded = record(store, batch)
    good = [number for number in range(30) if number not in bad and number % 5]
    assert [number for number in range(30) if recorded[number].opened] == good
    assert table(store, f"SELECT count(*) FROM runs WHERE event_source = '{source}'") == [(len(good),)]
    kept = f"SELECT count(*) FROM quarantine WHERE topic = '{source}' OR reason LIKE '%topic\":\"{source}\"%'"
    assert table(store, kept) == [(30 - len(good),)]


def test_a_storm_of_events_is_recorded_quickly(tmp_path: Path) -> None:
    # A bound that a slow, busy machine keeps and row-by-row work would not (a transaction for each event takes ten times as long).
    batch = [
        entry("/storm", number, number, [decision("a", "matched"), decision("b", "unmatched")])
        for number in range(5_000)
    ]
    with open_store("sqlite:///s.db", tmp_path) as store:
        began = time.process_time()
        for at in range(0, len(batch), 1000):
            record(store, batch[at : at + 1000])
        seconds = time.process_time() - began
        assert table(store, "SELECT count(*) FROM runs") == [(5_000,)]
    assert seconds < 4


def test_what_is_held_is_found_by_an_index_and_not_by_going_through_all_that_came(tmp_path: Path) -> None:
    with open_store("sqlite:///s.db", tmp_path) as store:
        outcomes: tuple[Outcome, ...] = ("unmatched", "quarantined", "unmatched")
        record(store, [entry("/a", n, n, [decision("t", outcome)]) for n, outcome in enumerate(outcomes)])
        asked: list[tuple[str, Any]] = []
        sa.event.listen(store._engine, "before_cursor_execute", lambda *told: asked.append((told[2], told[3])))
        assert [found["id"] for found in list_events(store, quarantined=True)] == ["e1"]
        assert [found.id for found in held_events(store, trigger="t")] == ["e1"]
        of_events = [one for one in asked if "FROM events" in one[0]]
        assert len(of_events) == 2
        with store.read() as connection:
            for statement, values in of_events:
                steps = [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values)]
                assert any("decisions_held" in step for step in steps), steps
                assert not any(step.startswith("SCAN events") for step in steps), steps
