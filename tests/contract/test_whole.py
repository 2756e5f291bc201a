"""A job that gets its history as a whole: Dask code over slices that are read and proven one by one, in a worker, reused by key."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import hindscan as hs
from contract.running import ROWS, Site, make_site
from hindscan.errors import HistoryError, JobDefinitionError, JobFailed
from hindscan.plans.cost import cost_of
from hindscan.progress import Fact, SliceFinished
from hindscan.runs.partials import proofs_of
from hindscan.tasks.executor import InlineExecutor
from hindscan.tasks.threads import ThreadsExecutor

SLICES = 9


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return make_site(tmp_path, SLICES)


@hs.job(history="numbers", whole=True)
def frame(numbers: hs.Whole, modulus: int = 7) -> Any:
    rows = numbers.dask()
    rows["class"] = rows["i"] % modulus
    return rows.groupby("class")["x"].agg(["sum", "count"]).reset_index().sort_values("class")


@hs.job(history="numbers", whole=True)
def bag(numbers: hs.Whole) -> Any:
    kept = numbers.bag(["n"]).map(lambda row: row["n"]).filter(lambda n: n != 2)
    return kept.frequencies().map(lambda pair: {"n": pair[0], "rows": pair[1]})


@hs.job(history="numbers", whole=True)
def delayed(numbers: hs.Whole) -> Any:
    return {"rows": [table.num_rows for table in numbers.delayed()], "pid": [os.getpid()] * len(numbers.delayed())}


@hs.job(history="numbers", whole=True, tables={"others": "numbers"})
def joined(numbers: hs.Whole, others: hs.Data) -> Any:
    return {"both": numbers.dask(["i"])["i"].max() + others.sql("SELECT max(i) AS most FROM others")["most"][0].as_py()}


@hs.job(history="numbers", whole=True)
def nothing(numbers: hs.Whole) -> pa.Table:
    return pa.table({"columns": numbers.schema.names})


@hs.job(history="numbers", whole=True)
def array(numbers: hs.Whole) -> Any:
    return numbers.dask(["n"]).to_dask_array(lengths=True).max(axis=0)


@hs.job(history="numbers", whole=True)
def failing(numbers: hs.Whole) -> Any:
    return numbers.dask().map_partitions(lambda rows: rows["x"] / {}["not there"], meta=("x", float))


def result(site: Site, executor: Any, job: Any, **options: Any) -> pa.Table:
    return site.partials.read(site.run(executor, job, **options).finished)


def oracle(site: Site, query: str) -> list[dict[str, Any]]:
    numbers = pq.read_table(site.root / "numbers" / "numbers.parquet")
    with duckdb.connect() as connection:
        connection.register("numbers", numbers)
        return connection.sql(query).to_arrow_table().to_pylist()


def test_data_frames_bags_arrays_and_delayed_tables_give_what_duckdb_computes(site: Site) -> None:
    with InlineExecutor() as executor:
        found = result(site, executor, frame, modulus=4).to_pylist()
        wanted = oracle(
            site, "SELECT i % 4 AS class, sum(x) AS sum, count(*) AS count FROM numbers GROUP BY ALL ORDER BY class"
        )
        assert [(row["class"], row["count"]) for row in found] == [(row["class"], row["count"]) for row in wanted]
        assert [row["sum"] for row in found] == pytest.approx([row["sum"] for row in wanted], rel=1e-9)
        assert sorted(result(site, executor, bag).to_pylist(), key=str) == oracle(
            site, "SELECT n, count(*) AS rows FROM numbers WHERE n <> 2 GROUP BY n ORDER BY n"
        )
        assert result(site, executor, array).to_pylist() == oracle(site, "SELECT max(n) AS value FROM numbers")
        assert result(site, executor, joined).to_pylist() == oracle(site, "SELECT 2 * max(i) AS both FROM numbers")


def test_the_whole_is_computed_once_and_not_again_while_nothing_changes(site: Site) -> None:
    facts: list[Fact] = []
    with InlineExecutor() as executor:
        plan = site.plan(frame)
        cost = cost_of(plan, workers=4)
        assert (cost.slices, cost.tasks, cost.rows, cost.reused) == (SLICES, 1, SLICES * ROWS, 0)
        first = site.run(executor, frame, facts=facts)
        assert (first.computed, first.reused) == (SLICES, 0)
        assert [(f.slice, f.rows) for f in facts if isinstance(f, SliceFinished)] == [(n, ROWS) for n in range(SLICES)]
        again = site.run(executor, frame)
        assert (again.computed, again.reused, again.finished) == (0, SLICES, first.finished)
        assert cost_of(site.plan(frame), workers=4).tasks == 0
        other = site.run(executor, frame, modulus=3)
        assert other.computed == SLICES
        assert other.finished != first.finished
        fresh = site.run(executor, frame, fresh=True)
        assert (fresh.computed, fresh.finished) == (SLICES, first.finished)
        # What a run of these bytes read, slice by slice, is with the partial.
        for job in (frame, nothing):
            meta = site.partials.read_meta(site.run(executor, job).finished)
            assert {position: proof.records for position, proof in proofs_of(meta).items()} == dict.fromkeys(
                range(SLICES), ROWS
            )


def test_a_history_of_no_rows_gives_what_dask_makes_of_none(tmp_path: Path) -> None:
    site = make_site(tmp_path, 1)
    file = site.root / "numbers" / "numbers.parquet"
    pq.write_table(pq.read_table(file).slice(0, 0), file)
    with InlineExecutor() as executor:
        assert result(site, executor, frame).num_rows == 0
        assert result(site, executor, nothing).num_rows == 3


def test_it_runs_in_a_worker_and_every_bit_is_the_same(site: Site) -> None:
    with ThreadsExecutor(2) as executor:
        made = result(site, executor, delayed)
        in_worker = result(site, executor, frame)
    assert set(made["pid"].to_pylist()) != {os.getpid()}
    assert made["rows"].to_pylist() == [ROWS] * SLICES
    with InlineExecutor() as executor:
        assert result(site, executor, frame, fresh=True).equals(in_worker)


def test_data_that_is_not_what_was_pinned_fails_the_run(site: Site) -> None:
    plan = site.plan(frame)
    file = site.root / "numbers" / "numbers.parquet"
    pq.write_table(pq.read_table(file).slice(0, 30), file, row_group_size=ROWS)
    with InlineExecutor() as executor, pytest.raises(HistoryError):
        site.run(executor, frame, plan=plan)


def test_what_the_function_raises_comes_with_its_traceback(site: Site) -> None:
    with InlineExecutor() as executor, pytest.raises(JobFailed) as raised:
        site.run(executor, failing)
    assert "not there" in str(raised.value)
    assert not site.partials.has(site.plan(failing).stages[0].combined)


def test_a_run_that_is_stopped_ends_the_work(site: Site) -> None:
    stop = threading.Event()
    stop.set()
    with ThreadsExecutor(1) as executor, pytest.raises(Exception, match="stopped"):
        site.run(executor, frame, stop=stop)
    assert not site.partials.has(site.plan(frame).stages[0].combined)


def test_a_declaration_that_contradicts_itself_is_refused() -> None:
    def every(numbers: hs.Whole) -> Any: ...

    with pytest.raises(JobDefinitionError, match="neither combine nor finish"):
        hs.job(history="numbers", whole=True, combine="concat")(every)
    with pytest.raises(JobDefinitionError, match="both whole=True and order="):
        hs.job(history="numbers", whole=True, order="partition", state=lambda: {"a": 1})(lambda numbers, state: numbers)
    made = hs.job(history="numbers", whole=True)(every)
    with pytest.raises(JobDefinitionError, match="neither combine nor finish"):
        made.finish(lambda combined: combined)
    with pytest.raises(JobDefinitionError, match="computed slice by slice"):
        hs.simulation(calibrate=made)(lambda block, model: block)
