"""Every move of a run is announced with it, in every store; what waits is given out in order, to one sender at a time (promise 4 outwards)."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from hindscan.events.event import Event, event_from_json
from hindscan.runs import leases, opening, outbox, register
from hindscan.runs.ledger import Decision, Entry, record
from hindscan.runs.run import RunRequest
from hindscan.runs.store import Store

Rows = Callable[..., list[dict[str, Any]]]
REQUEST = RunRequest(job="bidder_scan", parameters={"year": 2018})


def events(rows: Rows, outlet: str = "topic") -> list[dict[str, Any]]:
    found = sorted(rows("outbox", f"outlet = '{outlet}'"), key=lambda row: row["seq"])
    return [json.loads(row["event"]) for row in found]


def claimed(store: Store) -> leases.Claimed:
    found = leases.claim(store, "me", 10.0)
    assert found is not None
    return found


def test_each_move_makes_one_event_for_each_outlet_under_one_id(store: Store, rows: Rows) -> None:
    outbox.declare(store, {"topic": "/hindscan/site", "hook": "/other"})
    run = opening.open_run(store, REQUEST, requested_by="cli")
    claim = claimed(store)
    register.move(store, run.id, "succeeded", token=claim.token, result="r/x", summary={"rows": 3})
    started, succeeded = events(rows)
    assert [started["type"], succeeded["type"]] == ["hindscan.run.started", "hindscan.run.succeeded"]
    assert (succeeded["subject"], succeeded["source"]) == ("bidder_scan", "/hindscan/site")
    assert succeeded["data"] | {"run": "", "summary": None} == {
        "run": "", "job": "bidder_scan", "state": "succeeded", "attempt": 1, "parameters": {"year": 2018}, "trigger": None, "event": None,
        "parent": None, "requested_by": "cli", "error": None, "message": None, "result": "r/x", "manifest": "r/x/manifest.json", "summary": None,
    }  # fmt: skip
    assert (succeeded["data"]["run"], succeeded["data"]["summary"]) == (run.id, {"rows": 3})
    others = events(rows, "hook")
    assert [one["id"] for one in others] == [started["id"], succeeded["id"]]
    assert {one["source"] for one in others} == {"/other"}
    assert started["id"] != succeeded["id"]
    for one in (started, succeeded, *others):
        event_from_json(one)


def test_a_retry_and_a_second_cancel_are_events_of_their_own(store: Store, rows: Rows) -> None:
    outbox.declare(store, {"topic": "/s"})
    run = opening.open_run(store, REQUEST)
    for _ in range(2):
        register.request_cancel(store, run.id)
        register.retry(store, run.id)
    register.move(
        store, run.id, "failed", token=claimed(store).token, error="JobFailed", message="x" * 5_000 + "the end"
    )
    found = events(rows)
    assert [one["type"].rpartition(".")[2] for one in found] == ["cancelled", "cancelled", "started", "failed"]
    assert len({one["id"] for one in found}) == 4
    assert found[-1]["data"]["error"] == "JobFailed"
    assert found[-1]["data"]["message"].endswith("the end")
    assert len(found[-1]["data"]["message"]) == outbox.MESSAGE_MOST


def test_a_run_given_back_to_wait_says_nothing_and_its_next_claim_does(store: Store, rows: Rows, clock: Any) -> None:
    outbox.declare(store, {"topic": "/s"})
    opening.open_run(store, REQUEST)
    claimed(store)
    clock.sleep(11)
    assert [run.state for run in leases.release_expired(store)] == ["pending"]
    claimed(store)
    assert [one["data"]["attempt"] for one in events(rows)] == [1, 2]
    assert {one["type"] for one in events(rows)} == {"hindscan.run.started"}


def test_a_move_that_does_not_happen_is_not_announced(store: Store, rows: Rows, monkeypatch: Any) -> None:
    outbox.declare(store, {"topic": "/s"})
    run = opening.open_run(store, REQUEST)
    claim = claimed(store)
    monkeypatch.setattr(register, "run_in", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        register.move(store, run.id, "succeeded", token=claim.token)
    monkeypatch.undo()
    assert register.get_run(store, run.id).state == "running"
    assert [one["type"] for one in events(rows)] == ["hindscan.run.started"]


def test_what_happened_before_an_outlet_was_declared_or_after_it_was_removed_is_not_written(
    store: Store, rows: Rows
) -> None:
    first, second, third = (opening.open_run(store, REQUEST) for _ in range(3))
    register.request_cancel(store, first.id)
    outbox.declare(store, {"topic": "/s"})
    register.request_cancel(store, second.id)
    outbox.declare(store, {"topic": "/t"})
    outbox.declare(store, {})
    register.request_cancel(store, third.id)
    assert [one["data"]["run"] for one in events(rows)] == [second.id]


@pytest.mark.parametrize(
    ("extensions", "correlation", "depth"),
    [({}, "e1", 1), ({"correlationid": "order-7", "chaindepth": 2}, "order-7", 3), ({"chaindepth": "5"}, "e1", 6)],
)
def test_cause_correlation_and_depth_are_carried_on(
    store: Store, rows: Rows, extensions: dict[str, Any], correlation: str, depth: int
) -> None:
    outbox.declare(store, {"topic": "/s"})
    event = Event(id="e1", source="/a", type="t", extensions=extensions)
    decision = Decision(trigger="scan", outcome="matched", request=REQUEST)
    record(store, [Entry(event=event, way="http", decisions=(decision,))])
    claimed(store)
    (started,) = events(rows)
    assert (started["causationid"], started["correlationid"], started["chaindepth"]) == ("e1", correlation, depth)
    assert started["data"]["event"] == {"source": "/a", "id": "e1"}


def test_a_run_that_no_event_opened_begins_a_chain(store: Store, rows: Rows) -> None:
    outbox.declare(store, {"topic": "/s"})
    run = opening.open_run(store, REQUEST)
    register.request_cancel(store, run.id)
    (cancelled,) = events(rows)
    assert (cancelled["correlationid"], cancelled["chaindepth"], cancelled.get("causationid")) == (run.id, 1, None)


def two_runs(store: Store) -> list[str]:
    """Two runs that have started and failed, one after the other's start: events 1, 2 of the first and 3, 4 of the second, mixed."""
    outbox.declare(store, {"topic": "/s"})
    runs = [opening.open_run(store, REQUEST).id for _ in range(2)]
    claims = [claimed(store), claimed(store)]
    for run, claim in zip(runs, claims, strict=True):
        register.move(store, run, "failed", token=claim.token, error="X", message="x")
    return runs


def test_after_a_failed_try_the_rest_of_that_run_waits_and_other_runs_do_not(store: Store, clock: Any) -> None:
    first, second = two_runs(store)
    waiting = outbox.due(store, "topic", 10)
    assert [one.run for one in waiting] == [first, second, first, second]
    outbox.put_off(store, waiting[0], "no answer")
    assert [one.run for one in outbox.due(store, "topic", 10)] == [second, second]
    clock.sleep(0.2)
    again = outbox.due(store, "topic", 10)
    assert [(one.seq, one.tries) for one in again[:1]] == [(waiting[0].seq, 1)]
    assert len(again) == 4


def test_the_wait_doubles_up_to_five_minutes(store: Store, clock: Any) -> None:
    two_runs(store)
    waits = []
    for _ in range(14):
        (one, *_) = outbox.due(store, "topic", 10)
        next_at = outbox.put_off(store, one, "no answer")
        waits.append((next_at - clock.now) / 1_000_000)
        clock.now = next_at
    assert waits == [0.2 * 2**n for n in range(11)] + [300.0] * 3


def test_what_is_marked_is_not_given_out_again(store: Store, rows: Rows) -> None:
    two_runs(store)
    waiting = outbox.due(store, "topic", 10)
    outbox.mark(store, [waiting[0].seq, waiting[1].seq])
    outbox.mark(store, [waiting[2].seq], "refused", "410")
    assert [one.seq for one in outbox.due(store, "topic", 10)] == [waiting[3].seq]
    assert outbox.waiting_count(store, "topic") == 1
    assert [row["state"] for row in sorted(rows("outbox"), key=lambda row: row["seq"])] == [
        "sent",
        "sent",
        "refused",
        "waiting",
    ]


def test_one_sender_at_a_time_holds_an_outlet_until_its_lease_ends(store: Store, clock: Any) -> None:
    outbox.declare(store, {"topic": "/s", "hook": "/s"})
    assert outbox.hold(store, "topic", "a", 8)
    assert not outbox.hold(store, "topic", "b", 8)
    assert outbox.hold(store, "hook", "b", 8)
    clock.sleep(7)
    assert outbox.hold(store, "topic", "a", 8)
    clock.sleep(7)
    assert not outbox.hold(store, "topic", "b", 8)
    clock.sleep(1)
    assert outbox.hold(store, "topic", "b", 8)
    assert not outbox.hold(store, "topic", "a", 8)
    assert not outbox.hold(store, "unknown", "a", 8)
