"""Carrying out a plan: the same bits whoever does the work, nothing computed twice, failures where they belong (promises 6, 7, 8, 11)."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import duckdb
import msgspec
import pyarrow.parquet as pq
import pytest

from contract.running import ROWS, Site, Unreliable, make_site, pids, until
from hindscan.errors import BadPartial, CorruptPartial, JobFailed, RunCancelled, WorkerDied
from hindscan.progress import SliceFailed, SliceFinished, StageFinished, TaskLost
from hindscan.runs.partials import Partials
from hindscan.tasks.bench import Bench
from hindscan.tasks.dask import DaskExecutor
from hindscan.tasks.executor import Executor, InlineExecutor
from hindscan.tasks.threads import ThreadsExecutor

SLICES = 40


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return make_site(tmp_path, SLICES)


@pytest.fixture
def inline() -> Executor:
    return InlineExecutor()


def result(site: Site, done):
    return site.partials.read(done.finished)


EXECUTORS = {
    "inline": InlineExecutor,
    "threads-1": lambda: ThreadsExecutor(1),
    "threads-2": lambda: ThreadsExecutor(2),
    "threads-5": lambda: ThreadsExecutor(5),
    "distributed-1": lambda: DaskExecutor(1),
    "distributed-2": lambda: DaskExecutor(2),
    "distributed-5": lambda: DaskExecutor(5),
}


def test_results_are_the_same_bits_whoever_does_the_work_and_however_it_is_grouped(site: Site, tmp_path: Path):
    found = {}
    for name, make in EXECUTORS.items():
        with make() as executor:
            for grouping in (None, 1, 7) if executor.workers == 2 else (None,):
                done = site.run(executor, "sums", fresh=True, slices_per_task=grouping)
                stored = [d.digest for d in done.stages[0].slices]
                found[name, grouping] = (*stored, site.partials.read_meta(done.finished).digest)
                assert done.computed == SLICES
    assert len(set(found.values())) == 1


def test_a_result_is_what_duckdb_computes_from_the_files(site: Site, inline: Executor):
    table = result(site, site.run(inline, "sums", modulus=5))
    wanted = duckdb.sql(
        f"SELECT i % 5 AS class, fsum(x) AS total, count(*) AS rows, max(max(i)) OVER () AS last "
        f"FROM '{site.root}/numbers/*.parquet' GROUP BY class ORDER BY class"
    ).fetchall()
    got = sorted((r["class"], r["total"], r["rows"]) for r in table.to_pylist())
    assert [(c, n) for c, _, n in got] == [(c, n) for c, _, n, _ in wanted]
    assert [t for _, t, _ in got] == pytest.approx([t for _, t, _, _ in wanted], rel=1e-9)
    assert set(table["last"].to_pylist()) == {SLICES * ROWS - 1}


def test_concatenated_rows_come_in_the_order_of_the_history(site: Site, inline: Executor):
    assert result(site, site.run(inline, "rows", slices_per_task=3))["i"].to_pylist() == list(range(SLICES * ROWS))


def test_what_exists_is_not_computed_again(site: Site, inline: Executor):
    first = site.run(inline, "sums")
    again = site.run(inline, "sums")
    assert (first.computed, first.reused) == (SLICES, 0)
    assert (again.computed, again.reused, again.finished) == (0, SLICES, first.finished)
    other = site.run(inline, "sums", least=1)
    assert (other.computed, other.reused) == (0, SLICES)
    fresh = site.run(inline, "sums", fresh=True)
    assert (fresh.computed, fresh.reused, fresh.finished) == (SLICES, 0, first.finished)


def test_only_what_is_missing_is_computed(site: Site, inline: Executor):
    plan = site.plan("sums")
    first = site.run(inline, "sums")
    for key in (plan.stages[0].keys[5], plan.stages[0].keys[30], plan.stages[0].combined, plan.stages[0].finished):
        site.partials.remove(key)
    again = site.run(inline, "sums")
    assert [d.position for d in again.stages[0].slices] == [5, 30]
    assert again.finished == first.finished


def test_damaged_partials_are_made_again_once_and_never_used(site: Site, inline: Executor):
    first = site.run(inline, "sums")
    wanted = site.partials.read_meta(first.finished).digest
    plan = site.plan("sums")
    stage = plan.stages[0]
    for key in (stage.keys[7], stage.levels[0][1].key):
        for gone in (stage.finished, stage.combined, stage.levels[0][0].key):
            site.partials.remove(gone)
        path = site.partials.path(key)
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 255
        path.write_bytes(content)
        again = site.run(inline, "sums")
        assert site.partials.read_meta(again.finished).digest == wanted


def test_a_partial_that_stays_damaged_ends_the_run(site: Site, inline: Executor, monkeypatch):
    key = site.plan("sums").stages[0].keys[7]
    read = Partials.read

    def damaged(self: Partials, wanted: str):
        if wanted == key:
            raise CorruptPartial("it is damaged again", key=wanted)
        return read(self, wanted)

    monkeypatch.setattr(Partials, "read", damaged)
    with pytest.raises(CorruptPartial, match="damaged again"):
        site.run(inline, "sums")


def test_a_slice_that_raises_fails_the_run_with_the_users_traceback_and_the_others_are_kept(
    site: Site, inline: Executor
):
    facts = []
    with pytest.raises(JobFailed) as caught:
        site.run(inline, "raising", facts=facts)
    assert str(caught.value).startswith("Traceback")
    assert "LookupError: slice 3 is bad" in str(caught.value)
    assert caught.value.details["slice"] == 3
    assert "/hindscan/" not in str(caught.value)
    assert [f.slice for f in facts if isinstance(f, SliceFailed)] == [3]
    assert len([f for f in facts if isinstance(f, SliceFinished)]) == SLICES - 1
    retried = site.plan("raising")
    assert retried.stages[0].reused == set(range(SLICES)) - {3}


def test_a_job_that_always_raises_is_stopped_after_a_few_slices(site: Site, inline: Executor):
    facts = []
    with pytest.raises(JobFailed, match=r"always(.|\n)*9 more failed"):
        site.run(inline, "always", facts=facts, slices_per_task=1)
    assert len([f for f in facts if isinstance(f, SliceFailed)]) == 10


@pytest.mark.parametrize("make", [lambda: ThreadsExecutor(2), lambda: DaskExecutor(2)], ids=["threads", "distributed"])
def test_a_poison_slice_fails_by_name_and_its_neighbours_are_kept(site: Site, make):
    facts = []
    folder = site.root / "marks"
    with (
        make() as executor,
        pytest.raises(WorkerDied, match=r"Computing slice 3: .*died 3 times.*exit code 9") as caught,
    ):
        site.run(executor, "deadly", folder=str(folder), facts=facts)
    assert caught.value.details["slice"] == 3
    assert (folder / "deaths").read_text() == "xxx"
    assert [f.slice for f in facts if isinstance(f, SliceFailed)] == [3]
    assert any(isinstance(f, TaskLost) and 3 in f.slices for f in facts)
    assert site.plan("deadly", folder=str(folder)).stages[0].reused == set(range(SLICES)) - {3}


@pytest.mark.parametrize("make", [lambda: ThreadsExecutor(2), lambda: DaskExecutor(2)], ids=["threads", "distributed"])
def test_slices_whose_worker_died_are_tried_again(site: Site, make):
    with make() as executor:
        done = site.run(executor, "dying_once", folder=str(site.root / "marks"), slices_per_task=4)
    assert done.computed == SLICES
    assert done.retried >= 4
    assert result(site, done)["n"].to_pylist() == list(range(SLICES))


def test_a_cancelled_run_keeps_what_is_done(site: Site):
    stop = threading.Event()
    caught = []

    def go():
        with ThreadsExecutor(2) as executor:
            try:
                site.run(executor, "sleeping", folder=str(site.root / "marks"), stop=stop)
            except RunCancelled as cancelled:
                caught.append(cancelled)

    thread = threading.Thread(target=go)
    thread.start()
    assert until(lambda: bool(pids(site.root / "marks")), 20)
    stop.set()
    thread.join(40)
    assert not thread.is_alive()
    assert "partials that were done are kept" in str(caught[0])


def test_a_run_without_slices_has_the_result_of_no_rows(site: Site, inline: Executor):
    empty = pq.read_table(site.root / "numbers" / "numbers.parquet").slice(0, 0)
    pq.write_table(empty, site.root / "numbers" / "numbers.parquet")
    done = site.run(inline, "sums")
    assert done.computed == 0
    table = result(site, done)
    assert (table.num_rows, table.column_names) == (0, ["class", "total", "rows", "last"])


def test_partials_that_do_not_fit_together_are_named(site: Site, inline: Executor):
    with pytest.raises(BadPartial, match=r"column 'n' is double, and must be int64"):
        site.run(inline, "unlike")
    with pytest.raises(
        BadPartial, match=r"what combine returned column 'total' is decimal128\(38, 0\), and must be int64"
    ):
        site.run(inline, "widening")


def test_a_column_that_is_null_in_some_partials_takes_the_type_of_the_others(site: Site, inline: Executor):
    table = result(site, site.run(inline, "sometimes_null"))
    assert table["n"].to_pylist() == [n if n % 3 == 0 else None for n in range(SLICES)]
    assert str(table.schema.field("n").type) == "int64"


def test_facts_tell_every_slice_once_with_its_rows(site: Site, inline: Executor):
    facts = []
    done = site.run(inline, "sums", facts=facts)
    finished = [f for f in facts if isinstance(f, SliceFinished)]
    assert [f.slice for f in finished] == list(range(SLICES))
    assert {f.rows for f in finished} == {ROWS}
    assert [f.stage for f in facts if isinstance(f, StageFinished)] == ["slice"]
    assert done.bytes_read == sum(d.proof.bytes for d in done.stages[0].slices) > 0
    assert all(d.proof.records == ROWS and d.proof.slice == d.position for d in done.stages[0].slices)


@pytest.fixture
def one_slice(tmp_path: Path) -> Site:
    return make_site(tmp_path, 1)


def test_a_simulation_draws_the_same_numbers_on_any_executor_and_its_mean_is_the_models(one_slice: Site):
    found = {}
    for name in ("inline", "threads-2", "distributed-2"):
        with EXECUTORS[name]() as executor:
            for grouping in (None, 1):
                plan = one_slice.plan("draw", fresh=True, seed=7)
                done = one_slice.run(executor, "draw", plan=plan, slices_per_task=grouping)
                found[name, grouping] = one_slice.partials.read_meta(done.finished).digest
    assert len(set(found.values())) == 1
    (row,) = result(one_slice, done).to_pylist()
    assert row["draws"] == 600_000
    assert row["mean"] == pytest.approx(4.5, abs=5 * 2.0 / 600_000**0.5)
    assert row["std"] == pytest.approx(2.0, rel=0.01)
    longer = one_slice.plan("draw", seed=7)
    assert longer.reused_count == longer.slice_count


@pytest.mark.parametrize("seed", range(6))
def test_losses_in_any_order_change_no_bit(site: Site, inline: Executor, seed: int):
    wanted = site.partials.read_meta(site.run(inline, "sums").finished).digest
    done = site.run(Unreliable(seed), "sums", fresh=True, slices_per_task=1 + seed % 5)
    assert site.partials.read_meta(done.finished).digest == wanted
    assert len(done.stages[0].slices) == SLICES


def test_user_code_never_runs_in_the_caller(site: Site):
    with ThreadsExecutor(1) as executor:
        facts = []
        site.run(executor, "rows", facts=facts)
    assert not any(f.worker.endswith(f":{os.getpid()}") for f in facts if isinstance(f, SliceFinished))


class Twice(InlineExecutor):
    """Does each task twice and tells of the second time, as Dask does where it lost the first worker with all it had computed."""

    def run(self, tasks, stop, *, alone=False):
        for task in tasks:
            list(super().run(iter([task]), stop))
            yield from super().run(iter([task]), stop)


def test_a_task_that_is_done_again_computes_no_slice_whose_partial_is_stored(site: Site, monkeypatch):
    calls: list[int] = []
    real = Bench._scan
    monkeypatch.setattr(Bench, "_scan", lambda self, pieces, at, key: calls.append(at) or real(self, pieces, at, key))
    done = site.run(Twice(), "sums", slices_per_task=7)
    assert sorted(calls) == list(range(SLICES))
    assert done.computed == SLICES
    assert [d.proof.slice for d in done.stages[0].slices if d.proof is not None] == list(range(SLICES))
    expected = result(site, done)
    # Computed anew is computed, whatever is stored; and what is damaged is not taken for stored.
    calls.clear()
    site.run(Twice(), "sums", slices_per_task=7, fresh=True)
    assert len(calls) == 2 * SLICES
    calls.clear()
    for key in list(done.stages[0].slices)[:3]:
        site.partials.path(key.key).write_bytes(b"damaged")
    plan = msgspec.structs.replace(site.plan("sums"), fresh=False)
    stage = msgspec.structs.replace(plan.stages[0], reused=frozenset(range(3, SLICES)))
    site.partials.remove(done.finished)
    site.partials.remove(done.stages[0].combined)
    done = site.run(Twice(), "sums", slices_per_task=7, plan=msgspec.structs.replace(plan, stages=(stage,)))
    assert sorted(calls) == [0, 1, 2]
    assert result(site, done) == expected


def test_a_worker_that_dies_over_and_over_computes_only_what_it_was_at_again(site: Site, tmp_path: Path):
    with ThreadsExecutor(1) as executor:
        facts: list = []
        done = site.run(executor, "dying_once", folder=str(tmp_path), slices_per_task=SLICES, facts=facts)
    assert done.computed == SLICES
    lost = [fact.slices for fact in facts if isinstance(fact, TaskLost)]
    assert lost[0] == tuple(range(3, SLICES)), "what it had stored is not lost"
