"""Runs are opened, claimed, moved and given back under tokens (promises 3, 4, 6, 11 and 13), in every store."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from hindscan.errors import Conflict, Fenced, NotFound
from hindscan.events.event import Event
from hindscan.history.materialised import Kept
from hindscan.history.snapshot import DrawPin, KafkaPin, PartitionPin, Snapshot, Window
from hindscan.jobs.job import Code, JobSpec, Step
from hindscan.progress import RunPlanned, StateChanged
from hindscan.runs import codes, leases, log, opening, register, snapshots
from hindscan.runs.ledger import Decision, Entry, record
from hindscan.runs.retention import KeptRecords
from hindscan.runs.run import FINAL, MOVES, Run, RunRequest, Settled, State
from hindscan.runs.settled import settle
from hindscan.runs.store import Store

REQUEST = RunRequest(
    job="bidder_scan", parameters={"year": 2018, "category": "cars"}, as_of=17, histories={"bids": "log"}
)


def opened(store: Store, **options: Any) -> Run:
    return opening.open_run(store, REQUEST, **options)


def triggered(store: Store, number: int, **options: Any) -> Run:
    event = Event(id=f"e{number}", source="/a", type="t")
    decision = Decision(trigger="scan", outcome="matched", request=REQUEST, **options)
    (recorded,) = record(store, [Entry(event=event, way="http", decisions=(decision,))])
    return register.get_run(store, recorded.opened["scan"])


def claimed(store: Store, run: str | None = None, owner: str = "me") -> leases.Claimed:
    taken = leases.claim(store, owner, 10, run)
    assert taken is not None
    return taken


def in_state(store: Store, state: State) -> tuple[Run, int | None]:
    """A run in a state, with the token that moves it from there."""
    run = opened(store)
    if state == "pending":
        return run, None
    if state == "cancelled":
        return register.request_cancel(store, run.id), None
    taken = claimed(store, run.id)
    if state == "running":
        return taken.run, taken.token
    return register.move(store, run.id, state, token=taken.token), None


def a_snapshot(draws: int) -> Snapshot:
    return Snapshot(pins={"bids": DrawPin(draws=draws, seed=2**40, block_size=3)}, window=Window(as_of=4), pinned_at=5)


class TestOpening:
    def test_a_run_is_found_as_it_was_opened(self, store: Store) -> None:
        parent = opened(store)
        run = opened(store, code="c0de", requested_by="cli", parent=parent.id, order_key="k", not_before=3)
        assert run == register.get_run(store, run.id)
        assert (run.state, run.attempt, run.job, run.request) == ("pending", 0, "bidder_scan", REQUEST)
        assert (run.code, run.requested_by, run.parent, run.order_key) == ("c0de", "cli", parent.id, "k")

    def test_ids_sort_as_the_runs_were_opened(self, store: Store, clock: Any) -> None:
        ids = []
        for _ in range(50):
            clock.sleep(0.001)
            ids.append(opened(store).id)
        assert ids == sorted(set(ids))

    def test_a_run_that_is_not_there_is_named(self, store: Store) -> None:
        for ask in (register.get_run, register.retry, register.request_cancel):
            with pytest.raises(NotFound, match="no run 'nobody'"):
                ask(store, "nobody")

    def test_an_idempotency_key_opens_one_run(self, store: Store) -> None:
        first = opened(store, idempotency_key="k")
        assert opened(store, idempotency_key="k").id == first.id
        assert opened(store, idempotency_key="other").id != first.id
        assert len(register.list_runs(store)) == 2

    def test_an_idempotency_key_with_another_request_is_refused_and_opens_nothing(self, store: Store) -> None:
        first = opened(store, idempotency_key="k")
        with pytest.raises(Conflict, match=first.id):
            opening.open_run(store, RunRequest(job="bidder_scan"), idempotency_key="k")
        assert len(register.list_runs(store)) == 1

    def test_runs_are_listed_newest_first_and_by_job_state_trigger_and_event(self, store: Store) -> None:
        one, two = opened(store), opened(store)
        other = opening.open_run(store, RunRequest(job="hot_items"))
        by_event = triggered(store, 1)
        register.request_cancel(store, one.id)

        def ids(**by: Any) -> list[str]:
            return [run.id for run in register.list_runs(store, **by)]

        assert ids() == [by_event.id, other.id, two.id, one.id]
        assert ids(limit=2) == [by_event.id, other.id]
        assert ids(job="hot_items") == [other.id]
        assert ids(state="cancelled") == [one.id]
        assert ids(trigger="scan") == ids(event=("/a", "e1")) == [by_event.id]
        assert ids(event=("/a", "e2")) == []


class TestMoving:
    @pytest.mark.parametrize("before", MOVES)
    @pytest.mark.parametrize("after", MOVES)
    def test_only_moves_of_the_table_are_made(self, store: Store, before: State, after: State) -> None:
        run, token = in_state(store, before)
        legal = after in MOVES[before] and after != "running"
        if legal:
            assert register.move(store, run.id, after, token=token).state == after
        else:
            with pytest.raises(Conflict):
                register.move(store, run.id, after, token=token)
            assert register.get_run(store, run.id) == run

    def test_every_move_is_a_fact_with_its_reason(self, store: Store, clock: Any) -> None:
        run = opened(store)
        taken = claimed(store, run.id)
        clock.sleep(1)
        register.move(store, run.id, "failed", token=taken.token, reason="JobFailed", error="JobFailed", message="text")
        failed = register.get_run(store, run.id)
        assert (failed.error, failed.message) == ("JobFailed", "text")
        clock.sleep(1)
        register.retry(store, run.id)
        facts = [logged.fact for logged in log.facts(store, run.id)]
        assert [(fact.state, fact.reason) for fact in facts if isinstance(fact, StateChanged)] == [
            ("running", "claimed by me"),
            ("failed", "JobFailed"),
            ("pending", "retry"),
        ]
        assert [logged.at for logged in log.facts(store, run.id)] == [
            clock.now - 2_000_000,
            clock.now - 1_000_000,
            clock.now,
        ]

    def test_a_result_is_kept_with_the_run(self, store: Store) -> None:
        run, token = in_state(store, "running")
        done = register.move(store, run.id, "succeeded", token=token, result="results/j/r")
        assert (done.state, done.result) == ("succeeded", "results/j/r")

    def test_a_retry_clears_what_the_attempt_left_and_counts_a_new_one(self, store: Store) -> None:
        run, token = in_state(store, "running")
        register.request_cancel(store, run.id)
        register.move(store, run.id, "cancelled", token=token, error="RunCancelled", message="stopped")
        again = register.retry(store, run.id)
        assert (again.state, again.error, again.message, again.cancel_requested) == ("pending", None, None, False)
        second = claimed(store, run.id)
        assert (second.run.attempt, second.token) == (2, 2)

    @pytest.mark.parametrize("state", ["pending", "running", "succeeded"])
    def test_only_what_has_failed_or_was_cancelled_is_retried(self, store: Store, state: State) -> None:
        run, _ = in_state(store, state)
        with pytest.raises(Conflict, match=f"it is {state}"):
            register.retry(store, run.id)


class TestClaims:
    def test_the_oldest_pending_run_is_claimed_first_and_each_once(self, store: Store) -> None:
        first, second = opened(store), opened(store)
        assert [claimed(store).run.id for _ in range(2)] == [first.id, second.id]
        assert leases.claim(store, "me", 10) is None

    def test_a_named_run_is_claimed_or_none(self, store: Store) -> None:
        opened(store)
        second = opened(store)
        taken = claimed(store, second.id)
        assert (taken.run.id, taken.run.state, taken.run.attempt, taken.token) == (second.id, "running", 1, 1)
        assert leases.claim(store, "other", 10, second.id) is None

    def test_a_run_that_must_wait_is_not_claimed_before(self, store: Store, clock: Any) -> None:
        run = opened(store, not_before=clock.now + 2_000_000)
        assert leases.claim(store, "me", 10) is None
        clock.sleep(2)
        assert claimed(store).run.id == run.id

    def test_a_heartbeat_keeps_the_lease_and_hears_of_a_cancel(self, store: Store, clock: Any) -> None:
        taken = claimed(store, opened(store).id)
        for _ in range(5):
            clock.sleep(9)
            assert leases.heartbeat(store, taken, 10) is False
            assert leases.release_expired(store) == []
        assert register.cancel_requested(store, taken.run.id) is False
        assert register.request_cancel(store, taken.run.id).state == "running"
        assert leases.heartbeat(store, taken, 10) is True
        assert register.cancel_requested(store, taken.run.id) is True

    def test_a_run_whose_owner_died_waits_again_and_the_dead_one_changes_nothing(
        self, store: Store, clock: Any
    ) -> None:
        dead = claimed(store, opened(store).id, owner="dead")
        clock.sleep(10)
        (released,) = leases.release_expired(store)
        assert (released.id, released.state) == (dead.run.id, "pending")
        assert leases.release_expired(store) == []

        def zombie_is_fenced() -> None:
            with pytest.raises(Fenced, match="must still hold it"):
                leases.heartbeat(store, dead, 10)
            for state in ("succeeded", "failed", "cancelled", "pending"):
                with pytest.raises(Fenced, match="another owner or an end"):
                    register.move(store, dead.run.id, state, token=dead.token, result="zombie's")  # type: ignore[arg-type]

        zombie_is_fenced()
        alive = claimed(store, dead.run.id, owner="alive")
        assert alive.token == dead.token + 1
        zombie_is_fenced()
        register.move(store, dead.run.id, "succeeded", token=alive.token, result="right")
        zombie_is_fenced()
        assert register.get_run(store, dead.run.id).result == "right"

    def test_a_run_cancelled_while_its_owner_was_dead_is_cancelled(self, store: Store, clock: Any) -> None:
        dead = claimed(store, opened(store).id)
        register.request_cancel(store, dead.run.id)
        clock.sleep(10)
        assert [run.state for run in leases.release_expired(store)] == ["cancelled"]

    def test_a_running_run_is_not_moved_without_its_token(self, store: Store) -> None:
        run, _ = in_state(store, "running")
        for token in (None, 0, 2):
            with pytest.raises(Fenced):
                register.move(store, run.id, "failed", token=token)

    def test_an_owner_that_stops_in_order_gives_the_run_back(self, store: Store) -> None:
        taken = claimed(store, opened(store).id)
        register.move(store, taken.run.id, "pending", token=taken.token, reason="stopped")
        again = claimed(store)
        assert (again.run.id, again.token) == (taken.run.id, 2)


class TestCancelling:
    def test_a_waiting_run_is_cancelled_at_once(self, store: Store) -> None:
        run = register.request_cancel(store, opened(store).id)
        assert run.state == "cancelled"
        assert leases.claim(store, "me", 10) is None

    @pytest.mark.parametrize("state", sorted(FINAL))
    def test_a_run_that_has_ended_cannot_be_cancelled(self, store: Store, state: State) -> None:
        run, _ = in_state(store, state)
        with pytest.raises(Conflict, match=f"it is {state}"):
            register.request_cancel(store, run.id)
        assert register.get_run(store, run.id) == run


class TestOrder:
    def test_runs_of_one_key_go_one_after_another_and_others_pass_them(self, store: Store) -> None:
        first, second = triggered(store, 1, order_key="k"), triggered(store, 2, order_key="k")
        other, free = triggered(store, 3, order_key="other"), triggered(store, 4)
        took = [claimed(store) for _ in range(3)]
        assert [one.run.id for one in took] == [first.id, other.id, free.id]
        assert leases.claim(store, "me", 10) is None
        assert leases.claim(store, "me", 10, second.id) is None
        register.move(store, first.id, "failed", token=took[0].token)
        assert claimed(store).run.id == second.id

    def test_a_released_or_retried_run_goes_before_later_ones_of_its_key(self, store: Store, clock: Any) -> None:
        first, second, third = (triggered(store, n, order_key="k") for n in range(3))
        claimed(store)
        clock.sleep(10)
        leases.release_expired(store)
        taken = claimed(store)
        assert taken.run.id == first.id
        register.move(store, first.id, "failed", token=taken.token)
        taken = claimed(store)
        assert taken.run.id == second.id
        register.retry(store, first.id)
        assert leases.claim(store, "me", 10) is None, "the second one runs"
        register.move(store, second.id, "succeeded", token=taken.token)
        assert claimed(store).run.id == first.id
        assert leases.claim(store, "me", 10, third.id) is None

    def test_a_run_that_waits_for_late_events_holds_back_later_ones_of_its_key(self, store: Store, clock: Any) -> None:
        first = triggered(store, 1, order_key="k", not_before=clock.now + 1_000_000)
        triggered(store, 2, order_key="k")
        assert leases.claim(store, "me", 10) is None
        clock.sleep(1)
        assert claimed(store).run.id == first.id


class TestSnapshots:
    def test_the_first_pin_of_a_run_counts(self, store: Store) -> None:
        run = opened(store)
        assert snapshots.load_snapshot(store, run.id) is None
        assert snapshots.save_snapshot(store, run.id, a_snapshot(1)) == a_snapshot(1)
        assert snapshots.save_snapshot(store, run.id, a_snapshot(2)) == a_snapshot(1)
        assert snapshots.load_snapshot(store, run.id) == a_snapshot(1)

    def test_the_first_pin_of_a_triggered_run_is_its_events(self, store: Store) -> None:
        run = triggered(store, 1)
        snapshots.save_snapshot(store, run.id, a_snapshot(1))
        assert snapshots.load_event_snapshot(store, "scan", "/a", "e1") == a_snapshot(1)
        assert snapshots.load_event_snapshot(store, "scan", "/a", "e2") is None
        assert snapshots.load_event_snapshot(store, "other", "/a", "e1") is None

    def test_another_run_of_the_event_reads_what_the_first_one_pinned(self, store: Store) -> None:
        run = triggered(store, 1)
        snapshots.save_snapshot(store, run.id, a_snapshot(1))
        with store.write() as connection:
            connection.execute(sa.text("UPDATE runs SET snapshot = NULL"))
        assert snapshots.load_snapshot(store, run.id) == a_snapshot(1)
        assert snapshots.save_snapshot(store, run.id, a_snapshot(2)) == a_snapshot(1)
        assert snapshots.load_event_snapshot(store, "scan", "/a", "e1") == a_snapshot(1)

    def test_kept_records_go_when_no_run_that_may_be_repeated_has_pinned_them_and_nobody_reads_them(
        self, store: Store, clock: Any, tmp_path: Path
    ) -> None:
        day = 86_400
        records = KeptRecords(store, tmp_path, 10 * day * 1_000_000)
        began = clock.now // 1_000_000

        def kept(start: int, end: int, topic_id: str = "id", used: int = began) -> Path:
            path = Kept(folder=tmp_path, topic_id=topic_id, partition=0, start=start, end=end, isolation="any").path
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"12345")
            os.utime(path, (used, used))
            return path

        def pins(start: int, end: int) -> Snapshot:
            part = PartitionPin(partition=0, start=start, end=end, log_start=0, high_watermark=99)
            pin = KafkaPin(
                cluster="c", cluster_id="i", topic="t", topic_id="id", isolation="any", partitions=(part,), format="json",
                schema="", schema_from="declared",
            )  # fmt: skip
            return Snapshot(pins={"bids": pin}, window=Window(), pinned_at=5)

        waits, fails = opened(store), opened(store)
        snapshots.save_snapshot(store, waits.id, pins(0, 12))
        snapshots.save_snapshot(store, fails.id, pins(20, 30))
        waiting, beside = [kept(0, 10), kept(10, 20)], [kept(30, 40), kept(0, 10, "other")]
        failed, used = kept(20, 30), kept(40, 50, used=began + 5 * day)
        left = waiting[0].with_name(".0-10.any.records.0123")
        left.write_bytes(b"1")
        os.utime(left, (began, began))
        clock.sleep(5 * day)
        assert records.enforce() == (0, 0)
        register.move(store, fails.id, "failed", token=claimed(store, fails.id).token)
        clock.sleep(6 * day)
        assert KeptRecords(store, tmp_path, None).enforce() == (0, 0)
        assert KeptRecords(store, tmp_path, 10 * day * 1_000_000).enforce() == (2, 10)
        assert not any(path.exists() for path in [*beside, left])
        clock.sleep(6 * day)
        assert KeptRecords(store, tmp_path, 10 * day * 1_000_000).enforce() == (2, 10)
        assert not failed.exists()
        assert not used.exists()
        assert all(path.exists() for path in waiting), "its run is not over"

    def test_a_run_can_be_opened_with_its_snapshot(self, store: Store) -> None:
        run = opened(store, snapshot=a_snapshot(3))
        assert snapshots.save_snapshot(store, run.id, a_snapshot(4)) == a_snapshot(3)

    def test_a_pin_of_no_run_is_refused(self, store: Store) -> None:
        with pytest.raises(NotFound):
            snapshots.save_snapshot(store, "nobody", a_snapshot(1))


class TestCodes:
    spec = JobSpec(
        name="j", kind="scan", table="bids", history="bids", steps={"slice": Step(digest="d")}, combine="none", code="c"
    )
    code = Code(digest="c", modules={"m": "x = 1"}, payload=b"\x80\x00")

    def test_where_a_simulation_stopped_is_kept_under_the_token_and_only_under_it(self, store: Store) -> None:
        taken = claimed(store, opened(store).id)
        settled = Settled(draws=4096, why="max_seconds", looks=1)
        settle(store, taken.run.id, taken.token, settled)
        assert register.get_run(store, taken.run.id).request == msgspec.structs.replace(REQUEST, settled=settled)
        with pytest.raises(Fenced, match="its claim must be held"):
            settle(store, taken.run.id, taken.token + 1, msgspec.structs.replace(settled, draws=1))
        assert register.get_run(store, taken.run.id).request.settled == settled

    def test_code_is_found_as_it_was_stored(self, store: Store) -> None:
        for _ in range(2):
            assert codes.save_code(store, self.spec, self.code) == "c"
        assert codes.load_code(store, "c", "j") == (self.spec, self.code)

    def test_the_newest_declaration_of_the_same_functions_counts(self, store: Store) -> None:
        codes.save_code(store, self.spec, self.code)
        limited = JobSpec(
            **{name: getattr(self.spec, name) for name in self.spec.__struct_fields__} | {"max_slices": 3}
        )
        codes.save_code(store, limited, self.code)
        assert codes.load_code(store, "c", "j")[0].max_slices == 3

    def test_code_that_is_not_there_is_named(self, store: Store) -> None:
        with pytest.raises(NotFound, match="digest absent"):
            codes.load_code(store, "absent", "j")


def test_the_log_is_read_on_from_the_last_fact_seen(store: Store) -> None:
    run, other = opened(store), opened(store)
    plan = RunPlanned(run=run.id, slices=3, reused=1, tasks=2, rows=10, bytes=20)
    log.log_facts(store, [plan, StateChanged(run=other.id, state="running", at=1)])
    (seen,) = log.facts(store, run.id)
    assert seen.fact == plan
    log.log_facts(store, [StateChanged(run=run.id, state="running", at=2)])
    assert [logged.fact for logged in log.facts(store, run.id, after=seen.seq)] == [
        StateChanged(run=run.id, state="running", at=2)
    ]
