"""Promise 7: a plan says why what is not reused is not."""

from __future__ import annotations

import msgspec
import pytest

from hindscan.data import Proof
from hindscan.history.snapshot import FilePin, ParquetPin, RowGroup, Snapshot, Window
from hindscan.jobs.estimators import Mean
from hindscan.jobs.job import JobSpec, Step
from hindscan.plans.make import make_plan
from hindscan.plans.plan import Plan
from hindscan.plans.reuse import why_not_reused

replace = msgspec.structs.replace

JOB = JobSpec(
    name="draw",
    kind="simulation",
    table="bids",
    history="bids",
    tables={"auctions": "auctions"},
    steps={
        "slice": Step(digest="s"),
        "calibrate": Step(digest="k", parameters=("year",), tables=("auctions",)),
        "calibrate_combine": Step(digest="c"),
    },
    combine="statistics",
    calibrate_combine="function",
    block_size=1000,
    draws=600_000,
    code="bundle",
)


def pin(*names: str, before: int | None = None, schema: str = "") -> ParquetPin:
    groups = (RowGroup(rows=10, bytes=10, least_time=0, greatest_time=9),)
    files = tuple(FilePin(path=n, size=1, identity="i", row_groups=groups) for n in names)
    return ParquetPin(root="/data", files=files, schema=schema, time="t", before=before)


def plan(job: JobSpec = JOB, bids: ParquetPin | None = None, tables: ParquetPin | None = None, **options) -> Plan:
    pins = {"bids": bids or pin("a", "b"), "auctions": tables or pin("x")}
    options = {"parameters": {"year": 2018}, "seed": 1} | options
    return make_plan(
        job,
        snapshot=Snapshot(pins=pins, window=Window(), pinned_at=0),
        identities={"bids": {"schema": pins["bids"].schema}, "auctions": {}},
        **options,
    )


BASE = plan()
KEYS = frozenset(key for stage in BASE.stages for key in stage.keys)
DRAWS = len(BASE.stages[1].keys)
#: All slices but the last one of the shorter plan, which was cut short, are in the longer one.
LONGER = plan(draws=1_000_000)
HALVES = plan(replace(JOB, block_size=500))


def steps(**changed: Step) -> JobSpec:
    return replace(JOB, steps=JOB.steps | changed)


@pytest.mark.parametrize(
    ("now", "reasons"),
    [
        (plan(existing=KEYS), {}),
        (plan(), {"its partial is gone": 2 + DRAWS}),
        (plan(fresh=True), {"everything was asked for anew": 2 + DRAWS}),
        (plan(bids=pin("a", "b", "c"), existing=KEYS), {"new data": 1, "the model changed": DRAWS}),
        (
            plan(bids=pin("a", "b", before=5), existing=KEYS),
            {"as_of, since or until cuts it elsewhere": 2, "the model changed": DRAWS},
        ),
        (plan(parameters={"year": 2019}, existing=KEYS), {"parameter year changed": 2, "the model changed": DRAWS}),
        (plan(tables=pin("y"), existing=KEYS), {"table auctions changed": 2, "the model changed": DRAWS}),
        (
            plan(bids=pin("a", "b", schema="other"), existing=KEYS),
            {"how bids is read changed": 2, "the model changed": DRAWS},
        ),
        (plan(seed=2, existing=KEYS), {"the seed changed": DRAWS}),
        (plan(draws=1_000_000, existing=KEYS), {"new data": len(LONGER.stages[1].keys) - (DRAWS - 1)}),
        (
            plan(replace(JOB, block_size=500), existing=KEYS),
            {"the size of a block changed": len(HALVES.stages[1].keys)},
        ),
        (
            plan(replace(JOB, generator="Philox", statistics={"x": Mean(batch=10)}), existing=KEYS),
            {"the generator or the sampling changed": DRAWS},
        ),
        (plan(steps(slice=Step(digest="s2")), existing=KEYS), {"the code of its step (slice) changed": DRAWS}),
        (
            plan(steps(calibrate=replace(JOB.steps["calibrate"], digest="k2")), parameters={"year": 1}, existing=KEYS),
            {"the code of its step (calibrate) changed; parameter year changed": 2, "the model changed": DRAWS},
        ),
    ],
)
def test_each_change_is_named_for_the_slices_it_concerns(now: Plan, reasons: dict[str, int]):
    assert why_not_reused(now, BASE) == reasons


def test_without_an_earlier_plan_that_is_the_reason():
    assert why_not_reused(BASE, None) == {"no earlier run to compare with": 2 + DRAWS}


def test_another_split_by_key_is_named():
    scan = replace(JOB, kind="scan", tables={}, steps={"slice": Step(digest="s")}, combine="concat", by=("bidder",))
    whole, other = replace(scan, by=()), replace(scan, parts=5)
    before, *now = (plan(job, parameters={}, seed=None) for job in (scan, whole, other))
    assert [why_not_reused(one, before) for one in now] == [{"the split by key changed": 2}] * 2
    assert why_not_reused(plan(scan, parameters={}, seed=None), before) == {"its partial is gone": 2}


def test_a_table_that_t_does_not_cut_has_not_changed() -> None:
    def as_of(before: int, **options) -> Plan:
        groups = (RowGroup(rows=10, bytes=10),)
        files = (FilePin(path="x", size=1, identity="i", row_groups=groups),)
        table = ParquetPin(root="/data", files=files, schema="", time="t", before=before)
        return plan(tables=table, bids=pin("a"), **options)

    before = as_of(100)
    (key,) = before.table_proofs.values()
    proofs = {key: Proof(slice=0, records=10, greatest_time=50)}.get
    assert why_not_reused(as_of(110), before) == {"table auctions changed": 1, "the model changed": DRAWS}
    assert why_not_reused(as_of(110, existing={key}, proofs=proofs), before) == {"its partial is gone": 1 + DRAWS}
