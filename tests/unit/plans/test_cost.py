"""Promise 10: a plan over a limit is refused before it starts; promise 8: grouping covers every slice once."""

from __future__ import annotations

import base64

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hindscan.errors import PlanRefused
from hindscan.history.snapshot import FilePin, ParquetPin, ParquetSlice, RowGroup, Snapshot, Window
from hindscan.jobs.job import JobSpec, Step
from hindscan.plans import cost as costs
from hindscan.plans.cost import Limits, cost_of, refuse_over
from hindscan.plans.make import make_plan
from hindscan.plans.pace import Pace, weight_of
from hindscan.plans.plan import Plan

SCHEMA = base64.b64encode(pa.schema({"a": pa.int64(), "b": pa.string(), "c": pa.float32()}).serialize()).decode()
JOB = JobSpec(
    name="scan",
    kind="scan",
    table="bids",
    history="bids",
    tables={"auctions": "auctions"},
    steps={"slice": Step(digest="s")},
    combine="concat",
    code="bundle",
)


def pin(count: int, rows: int, size: int) -> ParquetPin:
    files = tuple(
        FilePin(path=f"{i:03}", size=1, identity="i", row_groups=(RowGroup(rows=rows, bytes=size),))
        for i in range(count)
    )
    return ParquetPin(root="/data", files=files, schema=SCHEMA, time="t")


def plan(job: JobSpec = JOB, *, reuse: int = 0) -> Plan:
    data = Snapshot(pins={"bids": pin(10, 100, 9000), "auctions": pin(1, 10, 700)}, window=Window(), pinned_at=0)
    identities = {"bids": {}, "auctions": {}}
    first = make_plan(job, {}, data, identities=identities)
    return make_plan(job, {}, data, identities=identities, existing=set(first.stages[0].keys[:reuse]))


def group(slices: list[ParquetSlice], **how) -> list[tuple[ParquetSlice, ...]]:
    return list(costs.group(slices, **how))


def pieces(*sizes: int) -> list[ParquetSlice]:
    return [
        ParquetSlice(position=i, path="p", size=1, identity="i", first=i, last=i + 1, rows=1, bytes=size)
        for i, size in enumerate(sizes)
    ]


def test_a_cost_counts_what_is_there_and_what_is_still_to_be_read():
    cost = cost_of(plan(reuse=4), workers=2)
    assert (cost.slices, cost.rows, cost.bytes) == (10, 1000, 90_000)
    assert (cost.reused, cost.rows_to_read, cost.bytes_to_read) == (4, 600, 54_000)
    assert cost.table_bytes == 700
    assert cost.worker_bytes == 3 * 9000 + 700


def test_memory_is_reckoned_from_the_schema_where_the_footer_claims_less():
    data = Snapshot(pins={"bids": pin(1, 1_000_000, 100), "auctions": pin(1, 10, 700)}, window=Window(), pinned_at=0)
    cost = cost_of(make_plan(JOB, {}, data, identities={"bids": {}, "auctions": {}}), workers=1)
    assert cost.worker_bytes == 3 * 1_000_000 * (8 + 32 + 4) + 700


def test_a_plan_within_its_limits_is_let_through():
    whole = plan()
    refuse_over(whole, cost_of(whole, workers=1), Limits(max_bytes=90_000, max_slices=10, max_table_bytes=700))


def test_a_refusal_names_every_broken_limit_with_its_figures():
    whole = plan()
    limits = Limits(max_bytes=100, max_slices=5, max_table_bytes=10, worker_bytes=1000)
    with pytest.raises(PlanRefused) as caught:
        refuse_over(whole, cost_of(whole, workers=1), limits)
    text = str(caught.value)
    assert "max_bytes is 100, and the plan needs 90,000" in text
    assert "max_slices is 5, and the plan needs 10" in text
    assert "max_table_bytes is 10, and the plan needs 700" in text
    assert "memory of a worker is 1,000, and the plan needs 27,700" in text
    assert caught.value.details["over"] == ["max_bytes", "max_slices", "max_table_bytes", "memory of a worker"]


def test_the_limits_of_the_job_come_first_and_what_is_reused_is_not_read():
    strict = plan(msgspec.structs.replace(JOB, max_bytes=9_000))
    with pytest.raises(PlanRefused, match="max_bytes is 9,000"):
        refuse_over(strict, cost_of(strict, workers=1), Limits(max_bytes=10**9))
    warm = plan(msgspec.structs.replace(JOB, max_bytes=9_000), reuse=9)
    refuse_over(warm, cost_of(warm, workers=1), Limits())


@given(st.lists(st.integers(0, 10**9), max_size=60), st.integers(1, 16), st.none() | st.integers(1, 9))
def test_groups_hold_every_slice_once_in_order(sizes, workers, fixed):
    slices = pieces(*sizes)
    tasks = group(slices, workers=workers, slices_per_task=fixed)
    assert [s for task in tasks for s in task] == slices
    assert all(tasks)


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_each_worker_gets_about_four_tasks_of_equal_weight(workers):
    tasks = group(pieces(*[20 * 2**20] * 120), workers=workers)
    # But for the last half of what each has, which comes in ever smaller ones.
    assert len({len(task) for task in tasks[: 2 * workers]}) == 1
    assert 4 * workers - 1 <= 120 / len(tasks[0]) <= 5 * workers
    assert len(tasks) <= 9 * workers


@given(
    workers=st.integers(2, 8),
    each=st.floats(0.001, 0.1),
    speeds=st.lists(st.floats(0.8, 1.2), min_size=8, max_size=8),
)
def test_workers_that_are_not_equally_fast_are_done_at_about_the_same_time(workers, each, speeds):
    tasks = group(pieces(*[1000] * 2_000), workers=workers, pace=Pace(each, 1000))
    ends = [0.0] * workers
    for task in tasks:
        first = ends.index(min(ends))
        ends[first] += len(task) * each * speeds[first]
    # The least task is an eighth of half a second, or one slice.
    assert max(ends) - min(ends) <= 1.2 * max(1.5 * 0.5 / 8, 1.5 * each) + 1e-9


def test_small_runs_keep_every_worker_busy_and_make_few_tasks():
    assert len(group(pieces(*[1000] * 40), workers=2)) == 2
    assert len(group(pieces(1000, 1000), workers=2)) == 2


def test_heavy_slices_are_tasks_of_their_own_and_tasks_stay_bounded():
    assert len(group(pieces(*[600 * 2**20] * 50), workers=1)) == 50
    tasks = group(pieces(*[100 * 2**20] * 100), workers=1)
    assert max(sum(s.bytes for s in task) for task in tasks) <= 600 * 2**20


@given(
    sizes=st.lists(st.integers(0, 10**9), max_size=60),
    workers=st.integers(1, 40),
    seconds=st.floats(1e-4, 1e4),
)
def test_groups_by_a_pace_hold_every_slice_once_in_order_and_none_takes_too_long(sizes, workers, seconds):
    slices = pieces(*sizes)
    pace = Pace(seconds, 10**9)
    tasks = group(slices, workers=workers, pace=pace)
    assert [s for task in tasks for s in task] == slices
    for task in tasks:
        # Half of the last slice may lie beyond the aim.
        most = 5 + pace.seconds(weight_of(task[-1])) / 2
        assert len(task) == 1 or pace.seconds(sum(map(weight_of, task))) <= most * 1.001


def test_a_task_takes_half_a_second_to_five_whatever_its_slices_weigh():
    def seconds(count: int, each: float, workers: int = 2) -> set[float]:
        tasks = group(pieces(*[1000] * count), workers=workers, pace=Pace(each, 1000))
        return {round(len(task) * each, 1) for task in tasks[:4]}

    assert seconds(100_000, 0.0005) == {1.0}  # no more than 2048 slices
    assert seconds(2_000, 0.01) == {2.5}  # eight tasks, the last of them in pieces
    assert seconds(10_000, 0.1) == {5.0}
    assert seconds(400, 0.01) == {0.5}
    assert seconds(100, 30.0) == {30.0}


def test_grouping_follows_a_pace_that_is_learnt_while_tasks_are_done():
    slices = pieces(*[1000] * 2_000)
    pace = Pace()
    tasks = costs.group(slices, workers=2, pace=pace)
    assert len(next(tasks)) == 256
    pace.add(slices[0], 0.25)
    assert len(next(tasks)) == 20
    pace.add(slices[1], 0.001)
    assert len(next(tasks)) in range(38, 42)


def test_a_plan_over_the_seconds_that_earlier_runs_tell_is_refused_with_the_figures():
    whole = plan(reuse=4)
    known = cost_of(whole, workers=1, paces={"slice": Pace(2.0, 9000)})
    assert known.seconds == pytest.approx(12.0)
    refuse_over(whole, known, Limits(max_seconds=12.0))
    with pytest.raises(PlanRefused, match=r"max_seconds is 11\.5, and the plan needs 12 \(read less") as caught:
        refuse_over(whole, known, Limits(max_seconds=11.5))
    assert caught.value.details["over"] == ["max_seconds"]
    strict = plan(msgspec.structs.replace(JOB, max_seconds=3))
    with pytest.raises(PlanRefused, match="max_seconds is 3, and the plan needs 20"):
        refuse_over(strict, cost_of(strict, workers=1, paces={"slice": Pace(2.0, 9000)}), Limits(max_seconds=100))
    unknown = cost_of(whole, workers=1)
    assert unknown.seconds is None
    refuse_over(whole, unknown, Limits(max_seconds=0.001))
