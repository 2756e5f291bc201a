"""Promises 7 and 8: a plan follows from job, parameters and snapshot alone, and says what is reused."""

from __future__ import annotations

import msgspec
import pytest

from hindscan.data import Proof
from hindscan.errors import JobDefinitionError, ParameterError
from hindscan.history.snapshot import FilePin, KafkaPin, ParquetPin, PartitionPin, RowGroup, Snapshot, Window
from hindscan.jobs.job import JobSpec, Step
from hindscan.plans.idle import is_idle
from hindscan.plans.make import make_plan
from hindscan.plans.plan import Plan

replace = msgspec.structs.replace


def pin(*names: str, rows: int = 10) -> ParquetPin:
    return ParquetPin(
        root="/data",
        files=tuple(
            FilePin(
                path=n,
                size=1,
                identity="i",
                row_groups=(RowGroup(rows=rows, bytes=rows, least_time=0, greatest_time=9),),
            )
            for n in names
        ),
        schema="",
        time="t",
    )


def snapshot(**pins: ParquetPin) -> Snapshot:
    return Snapshot(pins=dict(pins), window=Window(), pinned_at=0)


SCAN = JobSpec(
    name="scan",
    kind="scan",
    table="bids",
    history="bids",
    tables={"auctions": "auctions"},
    steps={
        "slice": Step(digest="s", parameters=("year",), tables=("auctions",)),
        "combine": Step(digest="c"),
        "finish": Step(digest="f", parameters=("top",)),
    },
    combine="function",
    code="bundle",
)
DATA = snapshot(bids=pin("a", "b", "c"), auctions=pin("x"))
IDENTITIES = {"bids": {"v": 1}, "auctions": {"v": 1}}
PARAMETERS = {"year": 2018, "top": 3}
SIMULATION = JobSpec(
    name="draw",
    kind="simulation",
    table="bids",
    history="bids",
    steps={"slice": Step(digest="s"), "calibrate": Step(digest="k"), "calibrate_combine": Step(digest="kc")},
    combine="statistics",
    calibrate_combine="function",
    block_size=1000,
    draws=600_000,
    code="bundle",
)


def plan(job: JobSpec = SCAN, data: Snapshot = DATA, parameters=PARAMETERS, **options) -> Plan:
    return make_plan(job, parameters, data, identities=IDENTITIES, **options)


def test_a_scan_has_one_stage_with_a_tree_over_its_slices():
    (stage,) = plan().stages
    assert (stage.step, stage.table, len(stage.slices)) == ("slice", "bids", 3)
    assert stage.levels[-1][0].children == stage.keys
    assert stage.combined == stage.levels[-1][0].key
    assert stage.finished not in {stage.combined, *stage.keys}
    assert plan() == plan()


def test_a_plan_goes_through_json_unchanged():
    whole = plan(existing={plan().stages[0].keys[1]})
    assert msgspec.json.decode(msgspec.json.encode(whole), type=Plan) == whole


def test_another_finish_or_a_parameter_only_it_names_recomputes_no_slice():
    base = plan().stages[0]
    for other in (
        plan(replace(SCAN, steps={**SCAN.steps, "finish": Step(digest="f2")})),
        plan(parameters={"year": 2018, "top": 5}),
    ):
        assert other.stages[0].keys == base.keys
        assert other.stages[0].combined == base.combined
        assert other.stages[0].finished != base.finished


def test_another_combine_recomputes_the_tree_and_no_slice():
    other = plan(replace(SCAN, steps={**SCAN.steps, "combine": Step(digest="c2")})).stages[0]
    assert other.keys == plan().stages[0].keys
    assert other.combined != plan().stages[0].combined


def test_slices_whose_partials_exist_are_reused_unless_the_run_is_fresh():
    keys = plan().stages[0].keys
    assert plan(existing={keys[0], keys[2]}).stages[0].reused == {0, 2}
    assert plan(existing=lambda key: key == keys[1]).reused_count == 1
    fresh = plan(existing=set(keys), fresh=True)
    assert (fresh.reused_count, fresh.fresh, fresh.stages[0].keys) == (0, True, keys)


def test_new_data_leaves_the_old_keys():
    grown = plan(data=snapshot(bids=pin("a", "b", "bb", "c"), auctions=pin("x")), existing=set(plan().stages[0].keys))
    assert grown.stages[0].reused == {0, 1, 3}


def test_a_changed_broadcast_table_changes_every_key_of_a_step_that_takes_it():
    other = plan(data=snapshot(bids=pin("a", "b", "c"), auctions=pin("x", "y")))
    assert not set(other.stages[0].keys) & set(plan().stages[0].keys)
    without = replace(SCAN, steps={**SCAN.steps, "slice": Step(digest="s", parameters=("year",))})
    assert (
        plan(without).stages[0].keys
        == plan(without, data=snapshot(bids=pin("a", "b", "c"), auctions=pin("y"))).stages[0].keys
    )


def test_several_slices_without_a_combine_are_refused_and_one_is_not():
    alone = replace(SCAN, combine="none", steps={"slice": SCAN.steps["slice"]})
    with pytest.raises(JobDefinitionError, match=r'cut into 3 slices.*@scan.combine, say combine="concat"'):
        plan(alone)
    (stage,) = plan(alone, data=snapshot(bids=pin("a"), auctions=pin("x"))).stages
    assert stage.keys == (stage.combined,) == (stage.finished,)
    assert plan(replace(alone, combine="concat")).stages[0].levels[0][0].children == plan().stages[0].keys


def test_a_plan_without_slices_still_has_a_result():
    (stage,) = plan(data=snapshot(bids=pin(), auctions=pin("x"))).stages
    assert (stage.slices, stage.levels) == ((), ())
    assert stage.combined
    assert stage.finished != stage.combined


def test_a_simulation_calibrates_first_and_its_draws_depend_on_the_model():
    calibrate, draws = plan(SIMULATION, parameters={}).stages
    assert (calibrate.step, calibrate.table, len(calibrate.slices)) == ("calibrate", "bids", 3)
    assert (draws.step, draws.table, sum(s.rows for s in draws.slices)) == ("slice", None, 600_000)
    assert [s.rows for s in draws.slices[:33]] == [4000] * 32 + [8000]
    other = plan(
        replace(SIMULATION, steps={**SIMULATION.steps, "calibrate_combine": Step(digest="kc2")}), parameters={}
    )
    assert other.stages[0].keys == calibrate.keys
    assert not set(other.stages[1].keys) & set(draws.keys)


def test_a_simulation_without_a_model_has_one_stage():
    alone = replace(SIMULATION, table=None, history=None, steps={"slice": Step(digest="s")}, calibrate_combine="none")
    (stage,) = plan(alone, data=snapshot(), parameters={}).stages
    assert stage.table is None
    assert stage.finished != stage.combined  # the built-in statistics finish what they combined


def test_the_default_seed_follows_from_job_parameters_and_data():
    seed = plan(SIMULATION, parameters={"n": 1}).seed
    assert seed == plan(SIMULATION, parameters={"n": 1}).seed
    assert 0 <= seed < 2**48
    later = replace(DATA, pinned_at=99)
    assert plan(SIMULATION, data=later, parameters={"n": 1}).seed == seed
    assert plan(SIMULATION, parameters={"n": 2}).seed != seed
    assert plan(replace(SIMULATION, name="other"), parameters={"n": 1}).seed != seed
    assert plan(SIMULATION, data=snapshot(bids=pin("a"), auctions=pin("x")), parameters={"n": 1}).seed != seed
    assert plan(SIMULATION, parameters={}, seed=7).seed == 7


def test_longer_simulations_reuse_the_shorter_ones():
    short = plan(SIMULATION, parameters={}, seed=7)
    stored = {key for stage in short.stages for key in stage.keys}
    longer = plan(SIMULATION, parameters={}, seed=7, draws=1_000_000, existing=stored)
    whole = len(short.stages[1].slices) - (600_000 % 32_000 != 0)
    assert longer.stages[1].reused >= set(range(whole - 1))


def test_options_of_simulations_are_refused_elsewhere():
    with pytest.raises(ParameterError, match="seed and draws are options of a simulation"):
        plan(seed=1)
    with pytest.raises(ParameterError, match="draws must be at least 1, and whole, not 0"):
        plan(SIMULATION, parameters={}, draws=0)


def test_a_table_without_a_pin_is_named():
    with pytest.raises(JobDefinitionError, match="auctions are not"):
        plan(data=snapshot(bids=pin("a")))


# --- Bounds that cut off nothing --------------------------------------------------------------------------------------


def as_of(before: int | None) -> Snapshot:
    topic = KafkaPin(
        cluster="c",
        cluster_id="id",
        topic="t",
        topic_id="t-id",
        isolation="read_committed",
        partitions=(PartitionPin(partition=0, start=0, end=30, log_start=0, high_watermark=30),),
        format="json",
        schema="",
        schema_from="declared",
        before=before,
    )
    return Snapshot(pins={"bids": topic, "auctions": pin("x")}, window=Window(as_of=before), pinned_at=0)


def proof(greatest: int | None, *, records: int = 5, disorder: int | None = 0) -> Proof:
    return Proof(slice=0, records=records, greatest_time=greatest, disorder=disorder)


def test_a_run_as_of_another_time_reuses_the_slices_that_lie_before_both():
    rows = {"bids": 10}
    first = plan(data=as_of(100), slice_rows=rows).stages[0]
    assert [s.before for s in first.slices] == [100, 100, 100]
    whole = plan(data=as_of(None), slice_rows=rows).stages[0]
    assert [first.unbounded[key] for key in first.keys] == list(whole.keys)
    # Its proofs show that the first two slices lie before the bound, so they are stored without it too.
    proofs = {whole.keys[0]: proof(50), whole.keys[1]: proof(99), whole.keys[2]: proof(120)}
    later = plan(data=as_of(110), slice_rows=rows, existing=set(proofs), proofs=proofs.get).stages[0]
    assert [s.before for s in later.slices] == [None, None, 110]
    assert later.keys[:2] == whole.keys[:2]
    assert later.reused == {0, 1}
    assert later.unbounded == {later.keys[2]: whole.keys[2]}
    earlier = plan(data=as_of(60), slice_rows=rows, existing=set(proofs), proofs=proofs.get).stages[0]
    assert [s.before for s in earlier.slices] == [None, 60, 60]
    fresh = plan(data=as_of(110), slice_rows=rows, existing=set(proofs), proofs=proofs.get, fresh=True).stages[0]
    assert fresh.reused == set()


def with_table(before: int | None) -> Snapshot:
    """Give files beside a topic as the broadcast table, both as of a time."""
    topic = as_of(before).pins["bids"]
    return Snapshot(pins={"bids": pin("a", "b"), "auctions": topic}, window=Window(as_of=before), pinned_at=0)


def stored(made: Plan) -> set[str]:
    """Give the keys of all slices and nodes, and of the finished table."""
    (stage,) = made.stages
    return {*stage.keys, *(node.key for level in stage.levels for node in level), stage.finished}


def test_tables_that_are_shown_to_lie_before_the_bound_leave_it_out_of_all_keys():
    first, whole = plan(data=with_table(100)), plan(data=with_table(None))
    (key,) = first.table_proofs.values()
    assert whole.table_proofs == {}
    assert whole.stages[0].alike is None
    assert not first.stages[0].tables_idle
    assert first.stages[0].alike is not None
    assert first.stages[0].alike.keys == whole.stages[0].keys != first.stages[0].keys
    existing = {*stored(whole), *stored(first), key}
    later = plan(data=with_table(110), existing=existing, proofs={key: proof(99)}.get)
    assert (later.stages[0].tables_idle, later.stages[0].reused) == (True, {0, 1})
    assert stored(later) == stored(whole)
    # Who deletes all that a run has made must find it under all names.
    assert {*stored(first), *stored(whole)} <= first.stages[0].made
    cut = plan(data=with_table(99), existing=existing, proofs={key: proof(99)}.get)
    assert (cut.stages[0].tables_idle, cut.stages[0].reused) == (False, frozenset())
    assert not stored(cut) & existing
    assert not plan(data=with_table(110), existing=existing, proofs={key: proof(9)}.get, fresh=True).stages[0].reused


def test_a_run_that_was_cut_short_has_its_own_partials_whatever_is_known_by_now():
    first, whole = plan(data=with_table(100)), plan(data=with_table(None))
    (key,) = first.table_proofs.values()
    again = plan(data=with_table(100), existing={first.stages[0].keys[0], key}, proofs={key: proof(99)}.get)
    assert (again.stages[0].keys, again.stages[0].reused) == (first.stages[0].keys, {0})
    more = {first.stages[0].keys[0], *stored(whole), key}
    assert plan(data=with_table(100), existing=more, proofs={key: proof(99)}.get).stages[0].reused == {0, 1}


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (proof(99), True),
        (proof(100), False),
        (proof(None, records=0), True),
        (proof(None), False),
        (proof(50, disorder=None), False),
        (None, False),
    ],
)
def test_a_bound_is_idle_only_if_every_row_is_shown_to_lie_before_it(shown: Proof | None, expected: bool):
    piece = plan(data=as_of(100)).stages[0].slices[0]
    assert is_idle(piece, shown) is expected
