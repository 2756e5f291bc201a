"""Ordered jobs on every executor: the same bits, nothing computed twice, and a failure that stops its own partition only (promises 6, 7, 8, 11)."""

from __future__ import annotations

import base64
import threading
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from contract.running import ROWS, Site, make_site, pids, until
from contract.test_execution import Unreliable
from hindscan.data import Proof, Source, TableSource
from hindscan.errors import BadPartial, JobFailed, RunCancelled, WorkerDied
from hindscan.history.snapshot import KafkaPin, KafkaSlice, PartitionPin, Snapshot, Window
from hindscan.plans.make import make_plan
from hindscan.progress import SliceFailed, SliceFinished, TaskLost
from hindscan.tasks.dask import DaskExecutor
from hindscan.tasks.execution import execute
from hindscan.tasks.executor import Executor, InlineExecutor
from hindscan.tasks.threads import ThreadsExecutor

SLICES = 14
OTHERS = {"threads": lambda: ThreadsExecutor(2), "distributed": lambda: DaskExecutor(2)}
MAKERS = {
    "inline": InlineExecutor,
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
    for grouping in (None, 1, 3):
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
    content = path.read_bytes()
    # More than Arrow fills up a buffer with: a byte that is no content may be any.
    middle = slice(len(content) // 2, len(content) // 2 + 64)
    path.write_bytes(content[: middle.start] + bytes(255 - byte for byte in content[middle]) + content[middle.stop :])
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


def test_a_worker_that_dies_costs_the_slice_it_was_at(executor: Executor, site: Site):
    facts, folder = [], str(site.root / "marks")
    done = site.run(executor, "counting", how="die once", folder=folder, facts=facts, slices_per_task=5)
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
    stop.set()
    thread.join(40)
    assert not thread.is_alive()
    assert "partials that were done are kept" in str(caught[0])
    assert site.plan("counting", how="sleep", bad=4, folder=folder).stages[0].reused == {0, 1, 2, 3}


def test_a_state_may_be_handed_on_as_it_came(site: Site):
    done = site.run(InlineExecutor(), "passing", slices_per_task=3)
    assert site.partials.read(done.finished).to_pylist() == [{"n": n, "columns": 3} for n in range(SLICES)]


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


class Numbered(msgspec.Struct, frozen=True, kw_only=True):
    """A reader of a topic without a broker: the rows of a partition are its offsets."""

    def open(self, slices: Sequence[KafkaSlice]) -> Source:
        rows = [(s.partition, offset) for s in slices for offset in range(s.start, s.end)]
        return Proven(pa.table({"partition": [p for p, _ in rows], "offset": [o for _, o in rows]}))

    def identity(self) -> dict[str, object]:
        return {}


class Proven(TableSource):
    def proofs(self) -> list[Proof]:
        return [Proof(slice=0, records=self._table.num_rows)]


def topic_of(*ends: int) -> KafkaPin:
    pinned = tuple(
        PartitionPin(partition=p, start=0, end=end, log_start=0, high_watermark=end) for p, end in enumerate(ends)
    )
    schema = base64.b64encode(
        pa.schema({"partition": pa.int64(), "offset": pa.int64()}).serialize().to_pybytes()
    ).decode()
    return KafkaPin(
        cluster="default", cluster_id="c", topic="t", topic_id="i", isolation="read_committed", partitions=pinned, format="json",
        schema=schema, schema_from="declared",
    )  # fmt: skip


def folded(
    site: Site,
    executor: Executor,
    pin: KafkaPin,
    *,
    fresh: bool = False,
    grouping: int | None = None,
    reader: Numbered | None = None,
    **parameters: object,
):
    """Run `offsets` over a topic of slices of ten offsets."""
    spec, code = site.packed("offsets")
    plan = make_plan(
        spec,
        {p.name: p.default for p in spec.parameters} | parameters,
        Snapshot(pins={"numbers": pin}, window=Window(), pinned_at=0),
        identities={"numbers": {}},
        slice_rows={"numbers": 10},
        existing=site.partials.has,
        proofs=lambda key: site.partials.read_meta(key).proof,
        fresh=fresh,
    )
    return plan, lambda: execute(
        plan, run="run", code=code, readers={"numbers": reader or Numbered()}, partials=site.partials, executor=executor, observe=lambda _: None,
        stop=threading.Event(), slices_per_task=grouping,
    )  # fmt: skip


ENDS = (35, 0, 60, 8)


def offsets_oracle(*ends: int) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for partition, end in enumerate(ends):
        for start in range(0, end, 10):
            stop = min(end, start + 10)
            found.append({"partition": partition, "from": start, "sum": sum(range(stop)), "closed": False})
        if end:
            found.append({"partition": partition, "from": -1, "sum": sum(range(end)), "closed": True})
    return found


@pytest.mark.parametrize("seed", range(5))
def test_partitions_are_folded_each_on_its_own_whatever_is_lost_and_in_whatever_order(site: Site, seed: int):
    _, run = folded(site, Unreliable(seed), topic_of(*ENDS), fresh=seed % 2 == 0, grouping=(None, 1, 2, 3, 9)[seed])
    assert site.partials.read(run().finished).to_pylist() == offsets_oracle(*ENDS)
    plan, run = folded(site, InlineExecutor(), topic_of(35, 15, 60, 12))
    assert {s.position for s in plan.stages[0].slices if s.position not in plan.stages[0].reused} == {4, 5, 12, 13}
    done = run()
    assert done.computed == 4
    assert site.partials.read(done.finished).to_pylist() == offsets_oracle(35, 15, 60, 12)


class Timed(Numbered):
    """A record's time is its offset."""

    def open(self, slices: Sequence[KafkaSlice]) -> Source:
        [s] = slices
        end = s.end if s.before is None else min(s.end, s.before)
        rows = pa.table({"partition": [s.partition] * (end - s.start), "offset": range(s.start, end)})
        return Until(rows, s)


class Until(TableSource):
    def __init__(self, rows: pa.Table, s: KafkaSlice) -> None:
        super().__init__(rows)
        self._proof = Proof(slice=s.position, records=s.end - s.start, greatest_time=s.end - 1, disorder=0)

    def proofs(self) -> list[Proof]:
        return [self._proof]


def test_runs_as_of_later_times_go_on_from_the_last_slice_that_no_time_has_cut(site: Site):
    def as_of(before: int, end: int) -> int:
        pin = msgspec.structs.replace(topic_of(end), before=before)
        _plan, run = folded(site, InlineExecutor(), pin, reader=Timed())
        done = run()
        rows = [
            {"partition": 0, "from": start, "sum": sum(range(min(start + 10, before))), "closed": False}
            for start in range(0, end, 10)
        ]
        closed = {"partition": 0, "from": -1, "sum": sum(range(before)), "closed": True}
        assert site.partials.read(done.finished).to_pylist() == [*rows, closed]
        again, _ = folded(site, InlineExecutor(), pin, reader=Timed())
        assert len(again.stages[0].reused) == len(again.stages[0].keys), "a run as of the same time computes nothing"
        return done.computed

    assert as_of(33, 35) == 4
    assert as_of(34, 35) == 1
    assert as_of(36, 38) == 1
    assert as_of(44, 49) == 2, "the slice that has grown, and the new one"
    assert as_of(45, 49) == 1
    assert as_of(22, 29) == 1, "an earlier time goes on from where it cuts"


def test_a_failure_stops_its_own_partition_and_the_others_are_kept(site: Site):
    _, run = folded(site, InlineExecutor(), topic_of(*ENDS), bad=20)
    with pytest.raises(JobFailed, match="offset 20 of partition 0 is bad"):
        run()
    plan, _ = folded(site, InlineExecutor(), topic_of(*ENDS), bad=20)
    done = {(s.partition, s.start) for s in plan.stages[0].slices if s.position in plan.stages[0].reused}
    assert done == {(0, 0), (0, 10), *((2, start) for start in range(0, 60, 10)), (3, 0)}


def test_a_close_that_raises_is_named_by_its_partition(site: Site):
    _, run = folded(site, InlineExecutor(), topic_of(*ENDS), open_ended=2)
    with pytest.raises(JobFailed, match=r"LookupError: no end(.|\n)*While closing partition 2 of job offsets"):
        run()
    assert folded(site, InlineExecutor(), topic_of(*ENDS), open_ended=2)[0].reused_count == 11


def test_checkpoints_that_are_damaged_in_several_partitions_are_all_made_again(site: Site):
    plan, run = folded(site, InlineExecutor(), topic_of(*ENDS))
    wanted = site.partials.read_meta(run().finished).digest
    (stage,) = plan.stages
    for chain in (stage.chains[0], stage.chains[1]):
        path = site.partials.path(chain.after(chain.first + 1))
        path.write_bytes(path.read_bytes()[:-100])
        site.partials.remove(stage.keys[chain.first + 2])
    for key in (stage.combined, stage.finished):
        site.partials.remove(key)
    done = folded(site, InlineExecutor(), topic_of(*ENDS))[1]()
    assert [one.position for one in done.stages[0].slices] == [1, 2, 5, 6]
    assert site.partials.read_meta(done.finished).digest == wanted
