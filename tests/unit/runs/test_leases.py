"""Whatever owners do, live or dead, in whatever order, a run has one effective owner and moves only along its table (promises 4 and 13)."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from collections import Counter
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from hindscan.errors import Conflict, Fenced
from hindscan.progress import StateChanged
from hindscan.runs import leases, log, opening, register, schema
from hindscan.runs.run import MOVES, RunRequest
from hindscan.runs.store import Store, open_store

LEASE_SECONDS = 10


@functools.cache
def _opened() -> Store:
    folder = tempfile.mkdtemp()
    store = open_store("sqlite:///s.db", folder)
    atexit.register(shutil.rmtree, folder)
    atexit.register(store.close)
    return store


class Runs(RuleBasedStateMachine):
    """A model of runs and owners beside the store: what it says must be what the store says."""

    runs = Bundle("runs")
    claims = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_700_000_000_000_000
        # One store for all examples, emptied: making one takes longer than an example.
        self.store = _opened()
        self.store._clock = lambda: self.now
        with self.store.write() as connection:
            for table in (schema.runs, schema.leases, schema.facts):
                connection.execute(sa.delete(table))
        #: By run: state, number of claims so far, end of the lease, key, whether a cancel was asked for.
        self.state: dict[str, str] = {}
        self.tokens: Counter[str] = Counter()
        self.ends: dict[str, int] = {}
        self.key: dict[str, str | None] = {}
        self.cancelling: set[str] = set()
        self.moves: dict[str, list[str]] = {}

    def went(self, run: str, state: str) -> None:
        assert state in MOVES[self.state[run]]  # type: ignore[index]
        if self.state[run] == "running":
            del self.ends[run]
        self.state[run] = state
        self.moves[run].append(state)

    def may_start(self, run: str) -> bool:
        if self.state[run] != "pending":
            return False
        same = [other for other in self.state if self.key[other] is not None and self.key[other] == self.key[run]]
        earlier = same[: same.index(run)] if same else []
        return not any(self.state[other] == "running" for other in same) and not any(
            self.state[other] == "pending" for other in earlier
        )

    @initialize(target=runs, keys=st.lists(st.sampled_from([None, "a", "a", "b"]), min_size=2, max_size=3))
    def open_some(self, keys: list[str | None]) -> Any:
        return multiple(*(self.open(key) for key in keys))

    @precondition(lambda self: len(self.state) < 4)
    @rule(target=runs, key=st.sampled_from([None, "a", "b"]))
    def open(self, key: str | None) -> str:
        run = opening.open_run(self.store, RunRequest(job="j"), order_key=key).id
        self.state[run], self.key[run], self.moves[run] = "pending", key, []
        return run

    @rule(target=claims, named=st.sampled_from([False, False, True]), run=runs)
    def claim(self, named: bool, run: str) -> Any:
        taken = leases.claim(self.store, "owner", LEASE_SECONDS, run if named else None)
        free = [one for one in self.state if self.may_start(one) and (not named or one == run)]
        if taken is None:
            assert free == []
            return multiple()
        assert taken.run.id == free[0], "the oldest that may start"
        self.tokens[taken.run.id] += 1
        self.ends[taken.run.id] = self.now + LEASE_SECONDS * 1_000_000
        self.went(taken.run.id, "running")
        assert (taken.token, taken.run.attempt) == (self.tokens[taken.run.id], self.tokens[taken.run.id])
        return taken

    def holds(self, claim: leases.Claimed) -> bool:
        return self.state[claim.run.id] == "running" and self.tokens[claim.run.id] == claim.token

    @rule(claim=claims)
    def heartbeat(self, claim: leases.Claimed) -> None:
        run = claim.run.id
        if self.holds(claim):
            assert leases.heartbeat(self.store, claim, LEASE_SECONDS) is (run in self.cancelling)
            self.ends[run] = self.now + LEASE_SECONDS * 1_000_000
        else:
            with pytest.raises(Fenced):
                leases.heartbeat(self.store, claim, LEASE_SECONDS)

    @rule(claim=claims, state=st.sampled_from(sorted(MOVES)))
    def move(self, claim: leases.Claimed, state: Any) -> None:
        run = claim.run.id
        if not self.holds(claim):
            with pytest.raises(Fenced):
                register.move(self.store, run, state, token=claim.token)
        elif state == "running":
            with pytest.raises(Conflict):
                register.move(self.store, run, state, token=claim.token)
        else:
            assert register.move(self.store, run, state, token=claim.token).state == state
            self.went(run, state)

    @rule(claim=consumes(claims))
    def forget(self, claim: leases.Claimed) -> None:
        """Lose an owner: only the clock can end what it held."""

    @rule(run=runs)
    def cancel(self, run: str) -> None:
        if self.state[run] in ("pending", "running"):
            register.request_cancel(self.store, run)
            self.cancelling.add(run)
            if self.state[run] == "pending":
                self.went(run, "cancelled")
        else:
            with pytest.raises(Conflict):
                register.request_cancel(self.store, run)

    @rule(run=runs)
    def retry(self, run: str) -> None:
        if self.state[run] in ("failed", "cancelled"):
            register.retry(self.store, run)
            self.cancelling.discard(run)
            self.went(run, "pending")
        else:
            with pytest.raises(Conflict):
                register.retry(self.store, run)

    @rule(seconds=st.sampled_from([5, LEASE_SECONDS]))
    def wait(self, seconds: int) -> None:
        self.now += seconds * 1_000_000

    @rule()
    def die(self) -> None:
        """Let all owners be silent for too long."""
        self.wait(LEASE_SECONDS)
        self.sweep()

    @rule()
    def sweep(self) -> None:
        dead = {run for run, end in self.ends.items() if end <= self.now}
        assert {run.id for run in leases.release_expired(self.store)} == dead
        for run in dead:
            self.went(run, "cancelled" if run in self.cancelling else "pending")

    @invariant()
    def the_store_says_the_same(self) -> None:
        found = {run.id: run for run in register.list_runs(self.store, limit=1000)}
        assert {run: one.state for run, one in found.items()} == self.state
        for run, one in found.items():
            assert one.cancel_requested == (run in self.cancelling)
        running = Counter(self.key[run] for run, state in self.state.items() if state == "running" and self.key[run])
        assert not running or max(running.values()) == 1

    def teardown(self) -> None:
        """Look at the end whether the log has every move."""
        for run, moves in self.moves.items():
            facts = [logged.fact for logged in log.facts(self.store, run)]
            assert [fact.state for fact in facts if isinstance(fact, StateChanged)] == moves


TestRuns = Runs.TestCase
TestRuns.settings = settings(max_examples=80, stateful_step_count=40, suppress_health_check=[HealthCheck.too_slow])
