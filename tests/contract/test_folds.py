"""Ordered jobs on every executor: the same bits, nothing computed twice, and a failure that stops its own partition only (promises 6, 7, 8, 11)."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contract.running import ROWS, Site, make_site, pids, until
from hindscan.errors import BadPartial, JobFailed, RunCancelled, WorkerDied
from hindscan.progress import SliceFailed, SliceFinished, TaskLost
from hindscan.tasks.dask import DaskExecutor
from hindscan.tasks.executor import Executor, InlineExecutor
from hindscan.tasks.threads import ThreadsExecutor

SLICES = 14
OTHERS = {"threads": lambda: ThreadsExecutor(2), "distributed": lambda: DaskExecutor(2)}
MAKERS = {
    "inline": InlineExecutor,
    "threads-1": lambda: ThreadsExecutor(1),
    "threads-5": lambda: ThreadsExecutor(5),
    **OTHERS,
}


@pytest.fixture(scope="module", params=MAKERS)
def any_executor(request):
    with MAKERS[request.param]() as executor:
        yield executor


@pytest.fixture(scope="module", params=OTHERS)
def executor(request):
    """One whose tasks are in other processes."""
    with OTHERS[request.param]() as executor:
        yield executor


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return make_site(tmp_path, SLICES)


def expected(site: Site) -> list[dict[str, object]]:
    """Compute the running sums by one loop over all rows."""
    found, total, before = [], 0.0, -1
    for n, i, x in zip(
        *(pq.read_table(site.root / "numbers")[name].to_pylist() for name in ("n", "i", "x")), strict=True
    ):
        total = total * 0.75 + x
        if i % ROWS == ROWS - 1:
            found.append({"n": n, "before": before, "by_sql": None if before < 0 else before, "total": total})
            before = i
    return [*found, {"n": -1, "before": before, "by_sql": before, "total": total}]


def computed(site: Site) -> list[int]:
    """Give the slices whose function was called since this was last asked, in that order."""
    file = site.root / "marks" / "computed"
    numbers = [int(word) for word in file.read_text().split()] if file.exists() else []
    file.unlink(missing_ok=True)
    return numbers


def test_each_slice_gets_what_the_one_before_it_left_whoever_does_the_work(any_executor: Executor, site: Site):
    digests = set()
    for grouping in (None, 1, 3, 100):
        done = site.run(any_executor, "running", fresh=True, slices_per_task=grouping, folder=str(site.root / "marks"))
        assert computed(site) == list(range(SLICES))
        assert site.partials.read(done.finished).to_pylist() == expected(site)
        digests.add(site.partials.read_meta(done.finished).digest)
        assert (done.computed, done.reused) == (SLICES, 0)
    assert len(digests) == 1


def test_a_state_in_a_dict_keeps_arrays_and_json_values_apart(any_executor: Executor, site: Site):
    done = site.run(any_executor, "counting", slices_per_task=4)
    assert site.partials.read(done.finished).to_pylist() == [
        {"n": n, "before": n, "even": float(sum(range(0, n + 1, 2)))} for n in range(SLICES)
    ]


def test_a_history_that_grows_is_worked_on_from_the_last_checkpoint(any_executor: Executor, site: Site, tmp_path: Path):
    folder = str(site.root / "marks")
    site.run(any_executor, "running", folder=folder)
    assert computed(site) == list(range(SLICES))
    more = make_site(tmp_path / "more", SLICES + 3)
    pq.write_table(
        pq.read_table(more.root / "numbers").slice(SLICES * ROWS),
        site.root / "numbers" / "zebra.parquet",
        row_group_size=ROWS,
    )
    plan = site.plan("running", folder=folder)
    assert plan.reused_count == SLICES
    grown = site.run(any_executor, "running", folder=folder)
    assert computed(site) == [SLICES, SLICES + 1, SLICES + 2]
    assert site.partials.read(grown.finished).to_pylist() == expected(site)
    again = site.run(any_executor, "running", folder=folder)
    assert (again.computed, computed(site)) == (0, [])


def test_what_is_gone_is_computed_from_the_checkpoint_before_it(site: Site):
    inline, folder = InlineExecutor(), str(site.root / "marks")
    wanted = site.partials.read_meta(site.run(inline, "running", folder=folder).finished).digest
    computed(site)
    (stage,) = site.plan("running", folder=folder).stages
    (chain,) = stage.chains

    def remove(*keys: str) -> list[int]:
        for key in (*keys, stage.combined, stage.finished):
            site.partials.remove(key)
        done = site.run(inline, "running", folder=folder)
        assert site.partials.read_meta(done.finished).digest == wanted
        assert [one.position for one in done.stages[0].slices] == sorted(computed(site))
        return [one.position for one in done.stages[0].slices]

    assert remove(stage.keys[4]) == [4]
    assert remove(stage.keys[4], chain.after(3), chain.after(2), stage.keys[9]) == [2, 3, 4, 9]
    assert remove(chain.after(7)) == []
    assert remove(chain.close or "") == []
    assert remove(chain.close or "", chain.states[-1], chain.states[-2]) == [SLICES - 2, SLICES - 1]


def test_a_damaged_checkpoint_is_found_and_made_again_once(any_executor: Executor, site: Site):
    folder = str(site.root / "marks")
    wanted = site.partials.read_meta(site.run(any_executor, "running", folder=folder).finished).digest
    computed(site)
    (stage,) = site.plan("running", folder=folder).stages
    (chain,) = stage.chains
    path = site.partials.path(chain.after(5))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    for key in (stage.keys[6], stage.combined, stage.finished):
        site.partials.remove(key)
    done = site.run(any_executor, "running", folder=folder)
    assert computed(site) == [5, 6]
    assert site.partials.read_meta(done.finished).digest == wanted


def test_a_slice_that_raises_stops_what_comes_after_it_and_fails_by_name(any_executor: Executor, site: Site):
    facts, folder = [], str(site.root / "marks")
    with pytest.raises(
        JobFailed, match=r"^Traceback(.|\n)*LookupError: slice 6 is bad(.|\n)*computing slice 6"
    ) as caught:
        site.run(any_executor, "running", bad=6, folder=folder, facts=facts, slices_per_task=4)
    assert caught.value.details["slice"] == 6
    assert computed(site) == list(range(7))
    assert [f.slice for f in facts if isinstance(f, SliceFailed)] == [6]
    assert site.plan("running", bad=6, folder=folder).stages[0].reused == set(range(6))


@pytest.mark.parametrize("grouping", [1, 5])
def test_a_worker_that_dies_costs_the_slice_it_was_at(executor: Executor, site: Site, grouping: int):
    facts, folder = [], str(site.root / "marks")
    done = site.run(executor, "counting", how="die once", folder=folder, facts=facts, slices_per_task=grouping)
    assert done.computed == SLICES
    assert done.retried == 3  # slices 3, 8 and 13 died once
    assert [row["before"] for row in site.partials.read(done.finished).to_pylist()] == list(range(SLICES))
    assert sorted(f.slice for f in facts if isinstance(f, SliceFinished)) == list(range(SLICES))
    assert [f.slices[0] for f in facts if isinstance(f, TaskLost)] == [3, 8, 13]


def test_a_slice_that_kills_its_worker_fails_by_name_and_what_came_before_is_kept(executor: Executor, site: Site):
    with pytest.raises(WorkerDied, match=r"Computing slice 3: .*died 3 times"):
        site.run(executor, "counting", how="die", slices_per_task=6)
    assert site.plan("counting", how="die").stages[0].reused == {0, 1, 2}


def test_a_cancelled_run_keeps_its_checkpoints(executor: Executor, site: Site):
    stop, caught, folder = threading.Event(), [], str(site.root / "marks")

    def go():
        try:
            site.run(executor, "counting", how="sleep", bad=4, folder=folder, stop=stop, slices_per_task=2)
        except RunCancelled as cancelled:
            caught.append(cancelled)

    thread = threading.Thread(target=go)
    thread.start()
    kept = site.plan("counting", how="sleep", bad=4, folder=folder).stages[0].chains[0].after(3)
    assert until(lambda: bool(pids(site.root / "marks")) and site.partials.has(kept), 20)
    began = time.monotonic()
    stop.set()
    thread.join(10)
    assert time.monotonic() - began < 6
    assert "partials that were done are kept" in str(caught[0])
    assert site.plan("counting", how="sleep", bad=4, folder=folder).stages[0].reused == {0, 1, 2, 3}


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("no pair", r"returns a pair, its partial and the state for the next slice; it gave a dict"),
        ("other form", r"its names are \['seen'\], and must be \['seen', 'sum', 'at'\]"),
    ],
)
def test_what_is_no_partial_with_a_state_is_refused(site: Site, how: str, said: str):
    with pytest.raises(BadPartial, match=said):
        site.run(InlineExecutor(), "counting", how=how)


def test_a_history_without_rows_gives_the_columns_the_job_always_has(site: Site):
    empty = pa.table({"n": pa.array([0], pa.int64())}).slice(0, 0)
    pq.write_table(empty, site.root / "numbers" / "numbers.parquet")
    assert site.plan("running").stages[0].chains == ()
    with pytest.raises(JobFailed, match="index out of bounds"):
        # This job looks at its first row; that it was called shows that the step over no rows is what is computed.
        site.run(InlineExecutor(), "running")
