"""Which run starts next, and what a newer event does to those that wait: both stores against a model that is a list and a loop (promises 4 and 13)."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from typing import Any

import hypothesis.strategies as st
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from clock import Clock
from hindscan.errors import Conflict
from hindscan.events.event import Event
from hindscan.runs import leases, register, schema
from hindscan.runs.ledger import Decision, Entry, record
from hindscan.runs.run import RunRequest
from hindscan.runs.store import Store
from hindscan.runs.waiting import Limit, Quiet, set_limits, why_waiting

SECOND = 1_000_000
#: Each trigger stands for one thing that a queue can do.
TRIGGERS = ("blocks", "skips", "limited", "newest", "gathers", "free")
LIMITS = {"trigger:limited": Limit(total=2, per_key=1), "job:counted": Limit(total=3)}
QUIET = Quiet(for_=10 * SECOND, at_most=25 * SECOND)


def decision(trigger: str, subject: str, priority: int = 0) -> Decision:
    """Decide as the trigger would, about an event with a subject."""
    ordered = trigger in ("blocks", "skips")
    return Decision(
        trigger=trigger,
        outcome="matched",
        request=RunRequest(job="counted" if trigger == "free" else "j", priority=priority),
        order_key=f"{trigger}/{subject}" if ordered else None,
        blocks=trigger == "blocks",
        key=subject if trigger in ("limited", "newest", "gathers") else None,
        supersede=trigger == "newest",
        quiet=QUIET if trigger == "gathers" else None,
    )


def entry(number: int, made: Decision) -> Entry:
    return Entry(event=Event(id=f"e{number}", source="/a", type="t"), way="http", decisions=(made,))


@dataclass
class Modelled:
    """A run as the model has it."""

    trigger: str
    subject: str
    priority: int
    opened_at: int
    event: str
    state: str = "pending"
    not_before: int = 0
    failures: int = 0
    attempts: int = 0
    superseded_by: str | None = None
    claim: leases.Claimed | None = field(default=None, repr=False)


class Machine(RuleBasedStateMachine):
    """Every operation is done to the store and to a dictionary in the order of opening; then all of it is compared."""

    def __init__(self, store: Store, clock: Clock) -> None:
        super().__init__()
        self.store, self.clock = store, clock
        with store.write() as connection:
            for table in schema.metadata.tables.values():
                if table.name != "store":
                    connection.execute(sa.delete(table))
        set_limits(store, LIMITS)
        self.runs: dict[str, Modelled] = {}
        self.decided: dict[str, str] = {}
        self.entries: list[Entry] = []

    @initialize(triggers=st.lists(st.sampled_from(TRIGGERS), min_size=1, max_size=2, unique=True))
    def begin(self, triggers: list[str]) -> None:
        """Keep to few triggers: rare sequences are about one of them."""
        self.triggers = triggers

    # --- Events -----------------------------------------------------------------------------------------------------

    @rule(
        drawn=st.lists(
            st.tuples(st.integers(0, 1), st.sampled_from("aab"), st.sampled_from([0, 0, 5, -1])),
            min_size=1,
            max_size=4,
        )
    )
    def events(self, drawn: list[tuple[int, str, int]]) -> None:
        events = [(self.triggers[which % len(self.triggers)], *rest) for which, *rest in drawn]
        batch = [
            entry(len(self.entries) + n, decision(trigger, subject, priority))
            for n, (trigger, subject, priority) in enumerate(events)
        ]
        self.entries += batch
        for (trigger, subject, priority), one, recorded in zip(events, batch, record(self.store, batch), strict=True):
            ((_, run),) = {**recorded.opened, **recorded.existing}.items()
            shared = self.waits_for_quiet(trigger, subject)
            assert bool(recorded.existing) == (shared is not None)
            if shared is None:
                self.runs[run] = Modelled(trigger, subject, priority, self.clock.now, one.event.id)
            assert run == (shared or run)
            self.decided[one.event.id] = run
            self.after_event(run, trigger, priority, one.event.id)
        # A batch replaces its own earlier ones, too, and all are linked to the last.
        for name in {
            subject: self.decided[one.event.id]
            for (trigger, subject, _), one in zip(events, batch, strict=True)
            if trigger == "newest"
        }.values():
            self.supersede(name)

    def waits_for_quiet(self, trigger: str, subject: str) -> str | None:
        found = [
            name
            for name, run in self.runs.items()
            if (run.trigger, run.subject, run.state, run.attempts) == (trigger, subject, "pending", 0)
        ]
        return found[-1] if trigger == "gathers" and found else None

    def after_event(self, name: str, trigger: str, priority: int, event: str) -> None:
        run = self.runs[name]
        run.event, run.priority = event, priority
        if trigger == "gathers":
            run.not_before = min(self.clock.now + 10 * SECOND, run.opened_at + 25 * SECOND)

    def supersede(self, name: str) -> None:
        newest = self.runs[name]
        for other in self.runs.values():
            same = (other.trigger, other.subject) == (newest.trigger, newest.subject)
            if same and other is not newest and other.state == "pending":
                other.state, other.superseded_by = "cancelled", name

    @precondition(lambda self: self.entries)
    @rule(data=st.data())
    def an_event_again(self, data: Any) -> None:
        again = data.draw(st.sampled_from(self.entries))
        (recorded,) = record(self.store, [again])
        assert recorded.opened == {}
        assert list(recorded.existing.values()) == [self.decided[again.event.id]]

    # --- Owners -----------------------------------------------------------------------------------------------------

    def may_start(self, name: str) -> bool:
        run, names = self.runs[name], list(self.runs)
        if run.state != "pending" or run.not_before > self.clock.now:
            return False
        own = [one for one in self.runs.values() if one.trigger == run.trigger]
        of_key = [one for one in own if one.subject == run.subject]
        running = [one for one in own if one.state == "running"]
        if run.trigger == "limited":
            return len(running) < 2 and not any(one.state == "running" for one in of_key)
        if run.trigger == "free":
            return len(running) < 3
        if run.trigger in ("blocks", "skips"):
            before = [self.runs[one] for one in names[: names.index(name)] if self.runs[one] in of_key]
            stops = {"pending", "failed"} if run.trigger == "blocks" else {"pending"}
            return not any(one.state == "running" for one in of_key) and not any(one.state in stops for one in before)
        return True

    @rule()
    def claim(self) -> None:
        names = list(self.runs)
        free = sorted(
            (name for name in names if self.may_start(name)),
            key=lambda one: (-self.runs[one].priority, names.index(one)),
        )
        taken = leases.claim(self.store, "me", 1_000_000)
        assert (taken.run.id if taken else None) == (free[0] if free else None)
        for name in names:
            if self.runs[name].state == "pending" and name not in free:
                assert why_waiting(self.store, register.get_run(self.store, name)) is not None
        if taken is not None:
            run = self.runs[taken.run.id]
            run.state, run.claim, run.attempts = "running", taken, run.attempts + 1

    @precondition(lambda self: any(run.state == "running" for run in self.runs.values()))
    @rule(data=st.data(), end=st.sampled_from(["succeeded", "failed", "failed", "pending", "put off"]))
    def end(self, data: Any, end: Any) -> None:
        name = data.draw(st.sampled_from([name for name, run in self.runs.items() if run.state == "running"]))
        run = self.runs[name]
        assert run.claim is not None
        token = run.claim.token
        if end == "put off":
            found = register.get_run(self.store, name)
            register.put_off(self.store, found, token=token, wait=7 * SECOND, error="WorkerDied", message="", reason="")
            run.state, run.failures, run.not_before = "pending", run.failures + 1, self.clock.now + 7 * SECOND
        else:
            register.move(self.store, name, end, token=token)
            run.state = end

    @precondition(lambda self: self.runs)
    @rule(data=st.data())
    def cancel(self, data: Any) -> None:
        name = data.draw(st.sampled_from(list(self.runs)))
        run = self.runs[name]
        if run.state == "pending" or (run.state == "failed" and run.trigger == "blocks"):
            assert register.request_cancel(self.store, name).state == "cancelled"
            run.state = "cancelled"
        elif run.state != "running":
            with pytest.raises(Conflict):
                register.request_cancel(self.store, name)

    @precondition(lambda self: any(run.state in ("failed", "cancelled") for run in self.runs.values()))
    @rule(data=st.data())
    def retry(self, data: Any) -> None:
        ended = [name for name, run in self.runs.items() if run.state in ("failed", "cancelled")]
        name = data.draw(st.sampled_from(ended))
        register.retry(self.store, name)
        run = self.runs[name]
        run.state, run.failures, run.not_before, run.superseded_by = "pending", 0, 0, None

    @rule(seconds=st.sampled_from([1, 7, 10]))
    def wait(self, seconds: int) -> None:
        self.clock.sleep(seconds)

    # --- Always -----------------------------------------------------------------------------------------------------

    @invariant()
    def the_store_is_what_the_model_is(self) -> None:
        found = {
            run.id: (run.state, run.event_id, run.not_before, run.failures, run.superseded_by, run.request.priority)
            for run in register.list_runs(self.store, limit=1000)
        }
        assert found == {
            name: (run.state, run.event, run.not_before, run.failures, run.superseded_by, run.priority)
            for name, run in self.runs.items()
        }
        with self.store.read() as connection:
            decided = {event: run for event, run in connection.execute(sa.text("SELECT id, run FROM decisions"))}  # noqa: C416 - rows
        assert decided == self.decided

    @invariant()
    def runs_of_one_key_never_run_together(self) -> None:
        for trigger in ("blocks", "skips", "limited"):
            for subject in "ab":
                assert (
                    sum(
                        (run.trigger, run.subject, run.state) == (trigger, subject, "running")
                        for run in self.runs.values()
                    )
                    <= 1
                )


def test_the_claim_and_the_events_do_what_the_model_does(store: Store, clock: Clock) -> None:
    examples = 40 if "sqlite" in store.url else 20
    chosen = settings(
        max_examples=examples,
        stateful_step_count=25,
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    run_state_machine_as_test(functools.partial(Machine, store, clock), settings=chosen)


def opened_by(store: Store, number: int, trigger: str) -> str:
    (recorded,) = record(store, [entry(number, decision(trigger, "a"))])
    ((_, run),) = {**recorded.opened, **recorded.existing}.items()
    return run


def test_an_event_does_not_share_a_run_that_was_begun_and_waits_again(store: Store, clock: Clock) -> None:
    first = opened_by(store, 1, "gathers")
    assert opened_by(store, 2, "gathers") == first
    clock.sleep(10)
    taken = leases.claim(store, "me", 60)
    assert taken is not None
    register.move(store, first, "pending", token=taken.token)
    assert opened_by(store, 3, "gathers") != first


def test_a_failed_run_holds_back_its_key_only_where_it_blocks(store: Store) -> None:
    for number, (trigger, passes) in enumerate((("blocks", False), ("skips", True))):
        first, second = opened_by(store, 10 * number, trigger), opened_by(store, 10 * number + 1, trigger)
        taken = leases.claim(store, "me", 60, first)
        assert taken is not None
        register.move(store, first, "failed", token=taken.token)
        assert (leases.claim(store, "me", 60, second) is not None) is passes
