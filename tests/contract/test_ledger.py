"""Events, decisions and runs are recorded together, each once, and nothing is dropped (promises 4 and 5), in every store."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest

from hindscan.events.event import Event, build_event
from hindscan.history.snapshot import Position
from hindscan.runs import positions, register
from hindscan.runs.ledger import Decision, Entry, Recorded, Unreadable, record
from hindscan.runs.positions import Place
from hindscan.runs.run import RunRequest
from hindscan.runs.store import Store

Rows = Callable[..., list[dict[str, Any]]]


def an_event(number: int = 1, **changes: Any) -> Event:
    values: dict[str, Any] = {
        "id": f"e{number}",
        "source": "/auctions",
        "type": "auction.closed",
        "data": {"n": number},
    }
    return Event(**values | changes)


def a_match(trigger: str = "scan", **changes: Any) -> Decision:
    request = changes.pop("request", RunRequest(job="bidder_scan", parameters={"year": 2018}))
    return Decision(trigger=trigger, outcome="matched", request=request, **changes)


def an_entry(event: Event | int = 1, *decisions: Decision, **changes: Any) -> Entry:
    event = an_event(event) if isinstance(event, int) else event
    return Entry(**{"event": event, "way": "http", "decisions": decisions or (a_match(),)} | changes)


def at(offset: int, partition: int = 0, topic_id: str = "id-1") -> Position:
    return Position(cluster="default", topic="events", topic_id=topic_id, partition=partition, offset=offset)


def test_a_match_writes_event_decision_and_run_and_says_which_run(store: Store, rows: Rows) -> None:
    (recorded,) = record(store, [an_entry(7, a_match(code="c0de", order_key="k", not_before=5))])
    run = register.get_run(store, recorded.opened["scan"])
    assert recorded == Recorded(identity=("/auctions", "e7"), opened={"scan": run.id})
    assert (run.state, run.job, run.code, run.order_key, run.attempt) == ("pending", "bidder_scan", "c0de", "k", 0)
    assert (run.trigger, run.event_source, run.event_id) == ("scan", "/auctions", "e7")
    assert run.request.parameters == {"year": 2018}
    (decision,) = rows("decisions")
    assert (decision["outcome"], decision["run"]) == ("matched", run.id)
    assert json.loads(decision["parameters"]) == {"year": 2018}


@pytest.mark.parametrize(
    "data",
    [None, {"a": [1, None, "ü"]}, "text", b"\x00\xff", 0, False, []],
    ids=lambda data: type(data).__name__ + str(data)[:8],
)
def test_an_event_can_be_built_again_from_its_row(store: Store, rows: Rows, data: Any) -> None:
    event = an_event(
        time="2018-12-31T23:59:59.123456Z", subject="s/1", extensions={"flag": True, "n": 7, "t": "x"}, data=data
    )
    record(store, [an_entry(event, a_match())])
    (row,) = rows("events")
    body = row["data"]
    again = build_event(json.loads(row["attributes"]), None if body is None else bytes(body), [], "reading it back")
    assert again == event
    assert (row["time"], row["subject"]) == (1_546_300_799_123_456, "s/1")


def test_an_event_that_comes_again_finds_its_run(store: Store, rows: Rows) -> None:
    (first,) = record(store, [an_entry()])
    again = record(store, [an_entry(), an_entry()])
    assert [(one.opened, one.existing, one.conflict) for one in again] == [({}, first.opened, False)] * 2
    assert len(rows("events")) == len(rows("decisions")) == len(rows("runs")) == 1


def test_an_event_twice_in_one_batch_opens_one_run(store: Store, rows: Rows) -> None:
    first, second, _ = record(store, [an_entry(1), an_entry(1), an_entry(2)])
    assert second.existing == first.opened
    assert not second.opened
    assert len(rows("runs")) == 2


def test_each_trigger_decides_for_itself_and_a_later_one_adds_its_run(store: Store, rows: Rows) -> None:
    record(store, [an_entry(1, a_match("a"), Decision(trigger="b", outcome="unmatched", reason="type differs"))])
    (again,) = record(store, [an_entry(1, a_match("a"), a_match("b"), a_match("c"))])
    assert set(again.existing) == {"a"}
    assert set(again.opened) == {"c"}
    outcomes = {row["trigger"]: (row["outcome"], row["reason"]) for row in rows("decisions")}
    assert outcomes == {"a": ("matched", ""), "b": ("unmatched", "type differs"), "c": ("matched", "")}


def test_runs_are_opened_in_the_order_the_events_came_in(store: Store) -> None:
    numbers = [5, 3, 9, 1, 7]
    record(store, [an_entry(number) for number in numbers])
    opened = register.list_runs(store, limit=10)
    assert [run.event_id for run in reversed(opened)] == [f"e{number}" for number in numbers]


def test_a_decision_in_quarantine_opens_nothing_and_keeps_its_reason(store: Store, rows: Rows) -> None:
    held = Decision(trigger="scan", outcome="quarantined", reason="FilterError: data.price is a text")
    (first,) = record(store, [an_entry(1, held)])
    (again,) = record(store, [an_entry(1, a_match())])
    assert first.quarantined == again.quarantined == {"scan": "FilterError: data.price is a text"}
    assert rows("runs") == []


def test_a_redrive_replaces_a_decision_in_quarantine_and_no_other(store: Store) -> None:
    held = Decision(trigger="scan", outcome="quarantined", reason="FilterError")
    record(store, [an_entry(1, held, Decision(trigger="other", outcome="unmatched"))])
    (redriven,) = record(store, [an_entry(1, a_match(), a_match("other"))], redrive=True)
    assert set(redriven.opened) == {"scan"}
    (again,) = record(store, [an_entry(1, a_match())], redrive=True)
    assert again.existing == redriven.opened


def test_the_first_body_under_an_identity_counts_and_another_is_kept_apart(store: Store, rows: Rows) -> None:
    (first,) = record(store, [an_entry(1)])
    other = an_event(1, data={"n": "another"})
    for _ in range(2):
        (second,) = record(store, [an_entry(other, a_match(), a_match("late"))])
        assert second.conflict
        assert second.existing == first.opened
        assert not second.opened, "a body that does not count decides nothing"
        assert "one event" in second.quarantined[""]
    (event,) = rows("events")
    assert event["conflict"] == 1
    assert json.loads(bytes(event["data"])) == {"n": 1}
    (kept,) = rows("quarantine")
    assert (kept["source"], kept["id"]) == ("/auctions", "e1")
    assert json.loads(bytes(kept["body"]))["data"] == {"n": "another"}


def test_a_conflict_within_one_batch_is_seen(store: Store) -> None:
    first, second = record(store, [an_entry(1), an_entry(an_event(1, data=2))])
    assert (first.conflict, second.conflict) == (False, True)
    assert second.existing == first.opened


def test_what_is_no_event_is_kept_with_bytes_headers_place_and_reason(store: Store, rows: Rows) -> None:
    unreadable = Unreadable(
        reason="not JSON",
        error="InvalidEvent",
        way="kafka",
        body=b"\x00{",
        key=b"k",
        headers=(("content-type", b"application/json"), ("empty", None), ("bad\x00", b"\xff")),
        position=at(41),
        triggers=("scan",),
    )
    for _ in range(2):
        (recorded,) = record(store, [unreadable])
        assert recorded == Recorded(identity=None, quarantined={"": "not JSON"})
    (row,) = rows("quarantine")
    assert (bytes(row["body"]), bytes(row["key"]), row["reason"], row["error"]) == (
        b"\x00{",
        b"k",
        "not JSON",
        "InvalidEvent",
    )
    assert (row["topic"], row["topic_id"], row["partition"], row["offset"]) == ("events", "id-1", 0, 41)
    headers = [(name, None if text is None else base64.b64decode(text)) for name, text in json.loads(row["headers"])]
    assert headers == list(unreadable.headers)
    assert positions.places(store, "scan")[0].next_offset == 42


def test_unreadable_records_of_two_places_are_two(store: Store, rows: Rows) -> None:
    for place in (at(1), at(2), at(1, partition=1), at(1, topic_id="id-2"), None, None):
        record(store, [Unreadable(reason="r", error="InvalidEvent", way="kafka", body=b"same", position=place)])
    assert len(rows("quarantine")) == 6


def poison() -> list[Entry]:
    """Entries that are fine events and that no database can hold as they are."""
    beyond = 2**63
    return [
        an_entry(100, position=at(beyond)),
        an_entry(101, a_match(request=RunRequest(job="j", parameters={"set": object()}))),
        an_entry(102, a_match(not_before=beyond)),
        an_entry(103, a_match(code="half a pair: \ud800")),
    ]


@pytest.mark.parametrize("which", range(4))
def test_a_row_that_the_database_refuses_blocks_no_other(store: Store, rows: Rows, which: int) -> None:
    bad = poison()[which]
    batch = [an_entry(number, position=at(number)) for number in range(8)]
    batch.insert(5, bad)
    recorded = record(store, batch)
    assert [one.identity for one in recorded] == [
        entry.event.identity if entry is not bad else one.identity for entry, one in zip(batch, recorded, strict=True)
    ]
    assert sum(len(one.opened) for one in recorded) == 8
    assert len(rows("runs")) == 8
    (reason,) = recorded[5].quarantined.values()
    assert "refused it" in reason
    # It is somewhere, with the reason: as an event whose decision is held, or as its bytes.
    held = [row["reason"] for row in rows("decisions") if row["outcome"] == "quarantined"]
    held += [row["reason"] for row in rows("quarantine")]
    assert [text for text in held if "refused it" in text]
    assert positions.places(store, "scan")[0].next_offset >= 8


def test_a_poison_event_that_can_be_stored_is_stored_with_its_decision_held(store: Store, rows: Rows) -> None:
    (recorded,) = record(store, [poison()[1]])
    assert recorded.identity == ("/auctions", "e101")
    assert set(recorded.quarantined) == {"scan"}
    (again,) = record(store, [an_entry(101)], redrive=True)
    assert set(again.opened) == {"scan"}


def test_a_batch_of_nothing_but_poison_is_all_kept(store: Store, rows: Rows) -> None:
    recorded = record(store, poison())
    assert all(one.quarantined for one in recorded)
    assert rows("runs") == []


def test_positions_move_with_what_was_recorded_and_never_back(store: Store) -> None:
    record(store, [an_entry(n, a_match("a"), a_match("b"), position=at(n)) for n in (3, 4, 5)])
    record(store, [an_entry(4, a_match("a"), position=at(4))])
    record(store, [an_entry(9, a_match("a"), position=at(2, partition=1))])
    found = {
        (place.trigger, place.partition): (place.start_offset, place.next_offset)
        for trigger in "ab"
        for place in positions.places(store, trigger)
    }
    assert found == {("a", 0): (3, 6), ("b", 0): (3, 6), ("a", 1): (2, 3)}


def test_a_trigger_starts_where_it_was_first_told_to(store: Store) -> None:
    def place(offset: int, partition: int = 0) -> Place:
        return Place(
            trigger="t",
            cluster="c",
            topic="events",
            topic_id="id-1",
            partition=partition,
            start_offset=offset,
            next_offset=offset,
        )

    assert positions.start_at(store, [place(5), place(7, 1)]) == [place(5), place(7, 1)]
    assert positions.start_at(store, [place(9, 1), place(100)]) == [place(7, 1), place(5)]
    recreated = Place(
        trigger="t", cluster="c", topic="events", topic_id="id-2", partition=0, start_offset=0, next_offset=0
    )
    assert positions.start_at(store, [recreated]) == [recreated]


def test_a_failure_before_the_commit_leaves_nothing_behind(
    store: Store, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    class PowerCut(BaseException):
        pass

    def cut(name: str) -> None:
        if name == "ledger.writing":
            raise PowerCut

    monkeypatch.setattr("hindscan.runs.ledger.point", cut)
    with pytest.raises(PowerCut):
        record(store, [an_entry(1, position=at(1))])
    assert [rows(table) for table in ("events", "decisions", "runs", "positions", "quarantine")] == [[]] * 5


def test_a_decision_without_what_it_needs_cannot_exist() -> None:
    with pytest.raises(ValueError, match="if and only if"):
        Decision(trigger="t", outcome="matched")
    with pytest.raises(ValueError, match="if and only if"):
        Decision(trigger="t", outcome="unmatched", request=RunRequest(job="j"))
