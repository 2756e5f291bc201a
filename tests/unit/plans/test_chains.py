"""Promises 6, 7 and 8 for ordered jobs: a slice's key covers all before it in its partition, and only what no checkpoint covers is computed."""

from __future__ import annotations

import base64
import itertools

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hindscan.data import Proof
from hindscan.errors import JobDefinitionError
from hindscan.history.snapshot import DrawPin, FilePin, KafkaPin, ParquetPin, PartitionPin, RowGroup, Snapshot, Window
from hindscan.jobs.job import JobSpec, Step
from hindscan.plans.chains import in_order, needed, runs_of
from hindscan.plans.cost import cost_of, group_in_order
from hindscan.plans.keys import state_key
from hindscan.plans.make import make_plan
from hindscan.plans.plan import Plan, Stage

replace = msgspec.structs.replace

FOLD = JobSpec(
    name="fold",
    kind="scan",
    table="bids",
    history="bids",
    order="partition",
    steps={
        "slice": Step(digest="s", parameters=("gap",)),
        "start": Step(digest="b", parameters=("first",)),
        "close": Step(digest="e", parameters=("last",)),
        "combine": Step(digest="c"),
    },
    combine="function",
    code="bundle",
)
SCHEMA = base64.b64encode(pa.schema({"price": pa.int64()}).serialize().to_pybytes()).decode()
PARAMETERS = {"gap": 30, "first": 0, "last": 0}
ROWS = 10


def topic(*ends: int, starts: tuple[int, ...] = ()) -> KafkaPin:
    return KafkaPin(
        cluster="default",
        cluster_id="c",
        topic="bids",
        topic_id="id",
        isolation="read_committed",
        partitions=tuple(
            PartitionPin(
                partition=number,
                start=starts[number] if starts else 0,
                end=end,
                log_start=0,
                high_watermark=end,
            )
            for number, end in enumerate(ends)
        ),
        format="json",
        schema=SCHEMA,
        schema_from="declared",
    )


def files(
    *names: str, time: str | None = "t", spans: dict[str, tuple[int | None, int | None]] | None = None
) -> ParquetPin:
    def pinned(at: int, name: str) -> FilePin:
        least, greatest = (spans or {}).get(name, (at * 10, at * 10 + 9))
        group = RowGroup(rows=ROWS, bytes=ROWS, least_time=least, greatest_time=greatest)
        return FilePin(path=name, size=1, identity="i", row_groups=(group, group))

    return ParquetPin(root="/d", files=tuple(pinned(*one) for one in enumerate(names)), schema="", time=time)


def plan(pin: KafkaPin | ParquetPin, job: JobSpec = FOLD, **options: object) -> Plan:
    parameters = options.pop("parameters", PARAMETERS)
    return make_plan(
        job,
        parameters,  # type: ignore[arg-type]
        Snapshot(pins={"bids": pin}, window=Window(), pinned_at=0),
        identities={"bids": {"v": 1}},
        slice_rows={"bids": ROWS},
        **options,  # type: ignore[arg-type]
    )


def stage(pin: KafkaPin | ParquetPin, job: JobSpec = FOLD, **options: object) -> Stage:
    (only,) = plan(pin, job, **options).stages
    return only


def stored_by(one: Stage) -> set[str]:
    """Give all keys that are there after a run."""
    closes = {chain.close for chain in one.chains if chain.close is not None}
    return {*one.keys, *closes, *(key for chain in one.chains for key in chain.states)}


def by_data(one: Stage) -> dict[tuple[int, int, int], str]:
    return {(s.partition, s.start, s.end): key for s, key in zip(one.slices, one.keys, strict=True)}  # type: ignore[union-attr]


ends = st.lists(st.integers(0, 75), min_size=1, max_size=4)


@given(ends, st.data())
def test_after_growth_exactly_what_is_new_is_computed(before, data):
    after = [end + data.draw(st.integers(0, 40)) for end in before]
    old = stage(topic(*before))
    grown = stage(topic(*after), existing=stored_by(old))
    for partition, (was, is_now) in enumerate(zip(before, after, strict=True)):
        computed = {
            (s.start, s.end)  # type: ignore[union-attr]
            for s in grown.slices
            if s.partition == partition and s.position not in grown.reused  # type: ignore[union-attr]
        }
        # The oracle: the slices that end at a full multiple below the old end were there, and the tail if nothing came to it.
        whole = was // ROWS * ROWS
        cuts = [*range(whole, is_now, ROWS), is_now]
        expected = set() if was == is_now else {(a, b) for a, b in itertools.pairwise(cuts) if a < b}
        assert computed == expected
    # Closing partials are of the last states, and no slice hangs on them.
    assert not {
        chain.close for chain in grown.chains if after[int(chain.name[-1])] != before[int(chain.name[-1])]
    } & stored_by(old)


@given(st.integers(1, 3), st.integers(1, 8), st.data())
def test_a_changed_slice_changes_all_later_ones_of_its_partition_and_no_other(partitions, slices, data):
    victim = data.draw(st.integers(0, partitions - 1))
    at = data.draw(st.integers(0, slices - 1))
    pin = topic(*[slices * ROWS] * partitions)
    old = stage(pin)
    # One slice of one partition is cut by a bound it had not.
    known = {"bids": {(victim, at * ROWS, at * ROWS + ROWS): 5}}
    changed = stage(replace(pin, before=10), known=known)
    base = stage(replace(pin, before=10))
    one, other = by_data(base), by_data(changed)
    differ = {(p, start // ROWS) for (p, start, _), key in one.items() if other[p, start, start + ROWS] != key}
    assert differ == {(victim, i) for i in range(at, slices)}
    assert set(old.keys).isdisjoint(base.keys)


@given(st.integers(1, 9), st.data())
def test_what_is_computed_leads_from_a_checkpoint_to_all_that_is_missing_and_is_no_more(slices, data):
    whole = stage(topic(slices * ROWS))
    (chain,) = whole.chains
    there = set(data.draw(st.lists(st.sampled_from(sorted(stored_by(whole))))))
    computed = set(needed(chain, whole.keys, there.__contains__))
    assert stage(topic(slices * ROWS), existing=there).reused == set(range(slices)) - computed

    def is_enough(chosen: set[int]) -> bool:
        """Play it through: each chosen slice needs the state before it, which is there or was just made."""
        has = set(there)
        for position in sorted(chosen):
            before = chain.before(position)
            if before is not None and before not in has:
                return False
            has |= {whole.keys[position], chain.after(position)}
        return set(whole.keys) <= has and (chain.close in has or chain.states[-1] in has)

    assert is_enough(computed)
    # Smallest: without any one of them it does not come out.
    assert not any(is_enough(computed - {position}) for position in computed)


def test_each_partition_of_a_topic_is_a_chain_in_the_order_of_offsets():
    made = stage(topic(25, 0, 30))
    assert [(chain.name, chain.first, chain.last) for chain in made.chains] == [
        ("partition 0", 0, 3),
        ("partition 2", 3, 6),
    ]
    assert [(s.partition, s.start) for s in made.slices] == [(0, 0), (0, 10), (0, 20), (2, 0), (2, 10), (2, 20)]  # type: ignore[union-attr]
    closed = [chain.close for chain in made.chains]
    leaves = [*made.keys[:3], closed[0], *made.keys[3:], closed[1]]
    assert list(made.levels[0][0].children) == leaves
    assert len(stored_by(made)) == 6 + 6 + 2


def test_a_chain_that_begins_elsewhere_is_another_one():
    made, moved = stage(topic(50)), stage(topic(50, starts=(10,)))
    assert set(made.keys).isdisjoint(moved.keys)


def test_files_are_one_chain_in_the_order_of_their_times_whatever_they_are_called():
    spans = {"a": (20, 29), "b": (0, 9), "c": (10, 20)}
    made = stage(files("a", "b", "c", spans=spans))
    assert [s.path for s in made.slices] == ["b", "b", "c", "c", "a", "a"]  # type: ignore[union-attr]
    assert [s.position for s in made.slices] == list(range(6))
    assert [(chain.name, chain.first, chain.last) for chain in made.chains] == [("all files", 0, 6)]
    without_time = stage(files("a", "b", "c", spans=spans, time=None))
    assert [s.path for s in without_time.slices] == ["a", "a", "b", "b", "c", "c"]  # type: ignore[union-attr]


def test_a_new_file_at_the_end_leaves_all_that_was_there_and_one_in_between_changes_what_follows():
    old = stored_by(stage(files("a", "b", "c")))
    assert stage(files("a", "b", "c", "d"), existing=old).reused == {0, 1, 2, 3, 4, 5}
    between = stage(
        files("a", "ab", "b", "c", spans={"a": (0, 9), "ab": (9, 10), "b": (10, 19), "c": (20, 29)}), existing=old
    )
    assert between.reused == {0, 1}


@pytest.mark.parametrize(
    ("spans", "said"),
    [
        ({"a": (0, 11), "b": (10, 19)}, "b begins before a ends"),
        ({"a": (0, 9), "b": (None, 19)}, "b say nothing of their times"),
    ],
)
def test_files_without_a_sure_order_are_refused_by_name(spans, said):
    with pytest.raises(JobDefinitionError, match=f"{said}.*leave out the history's `time`"):
        plan(files("a", "b", spans=spans))
    assert plan(files("a", "b", spans=spans, time=None)).stages[0].chains


def test_draws_have_no_order():
    with pytest.raises(JobDefinitionError, match="DrawPin has none"):
        in_order(DrawPin(draws=1, seed=1, block_size=1), (), job="x")


@pytest.mark.parametrize("step", ["slice", "start"])
def test_the_code_and_the_parameters_of_the_start_are_in_every_key(step):
    pin = topic(30, 30)
    base = stage(pin)
    other = stage(pin, replace(FOLD, steps={**FOLD.steps, step: replace(FOLD.steps[step], digest="new")}))
    assert stored_by(base).isdisjoint(stored_by(other))
    (name,) = FOLD.steps[step].parameters
    assert stored_by(base).isdisjoint(stored_by(stage(pin, parameters=PARAMETERS | {name: 7})))


def test_another_close_changes_closing_partials_only():
    base = stage(topic(30, 30))
    other = stage(topic(30, 30), parameters=PARAMETERS | {"last": 7})
    assert other.keys == base.keys
    assert [chain.states for chain in other.chains] == [chain.states for chain in base.chains]
    assert {chain.close for chain in other.chains}.isdisjoint({chain.close for chain in base.chains})
    assert other.combined != base.combined


def test_a_job_in_order_shares_no_key_with_the_same_function_without_order():
    alone = replace(FOLD, order=None, steps={name: FOLD.steps[name] for name in ("slice", "combine")})
    assert set(stage(topic(30), alone).keys).isdisjoint(stage(topic(30)).keys)
    assert stage(topic(0), alone).combined != stage(topic(0)).combined
    assert stage(topic(0)).chains == ()


def test_a_plan_with_chains_goes_through_json_and_a_fresh_one_reuses_nothing():
    whole = plan(topic(30, 25))
    assert msgspec.json.decode(msgspec.json.encode(whole), type=Plan) == whole
    assert plan(topic(30, 25), existing=stored_by(whole.stages[0]), fresh=True).reused_count == 0


def test_the_cost_says_what_must_be_done_one_after_another():
    old = stored_by(stage(topic(30, 20)))
    cost = cost_of(plan(topic(30, 50, 10), existing=old), workers=4)
    assert (cost.chains, cost.longest_slices, cost.slices, cost.reused) == (2, 3, 9, 5)
    assert cost.tasks == 2  # small slices of one partition are one task
    assert cost_of(plan(topic(30, 50, 10), existing=old), workers=4, slices_per_task=1).tasks == 4
    assert cost_of(plan(topic(30, 50, 10), fresh=True), workers=4).tasks == 9


@given(st.sets(st.integers(0, 7)), st.sampled_from([None, 1, 2, 3]), st.booleans())
def test_lines_hold_each_slice_once_in_order_and_never_cross_a_gap_or_a_partition(chosen, per_task, fresh):
    whole = stage(topic(50, 30))
    lines = group_in_order(whole, sorted(chosen), per_task, fresh=fresh)
    assert [s.position for line in lines for task in line for s in task] == sorted(chosen)
    for line in lines:
        positions = [s.position for task in line for s in task]
        assert positions == list(range(positions[0], positions[-1] + 1))
        assert positions[-1] < 5 or positions[0] >= 5
        assert all(len(task) <= (per_task or (1 if fresh else 99)) for task in line)
    assert sum(len(run) for run in runs_of(sorted(chosen))) == len(chosen)


# --- Bounds that cut off nothing --------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    times=st.lists(st.integers(0, 9), min_size=1, max_size=6),
    befores=st.lists(st.integers(0, 10), min_size=1, max_size=4),
    more=st.integers(0, 2),
)
def test_runs_as_of_later_times_go_on_from_the_last_checkpoint_before_the_first_bound_that_cuts_something(
    times: list[int], befores: list[int], more: int
) -> None:
    """`times`: the greatest time of each slice; after each run what its proofs show is stored under the other names, too."""
    stored: dict[str, Proof] = {}
    names: dict[str, tuple[object, ...]] = {}
    known = 0
    for number, before in enumerate(befores):
        greatest = [*times, *[0] * (more if number == len(befores) - 1 else 0)]
        pin = replace(topic(len(greatest) * ROWS), before=before)
        (stage,) = plan(pin, existing=set(stored), proofs=stored.get).stages
        (chain,) = stage.chains
        first = next((at for at, time in enumerate(greatest) if time >= before), len(greatest))
        assert len(stage.reused) >= min(first, known), "what lies before all bounds so far is there"
        other = stage.without_idle_bounds(chain, first) if stage.unbounded else {}
        for at, key in enumerate(stage.keys):
            # What a key stands for: the rows of all slices up to its own, as they are cut.
            meaning = tuple((time, before if time >= before else None) for time in greatest[: at + 1])
            for one in {key, other.get(key, key)}:
                assert names.setdefault(one, meaning) == meaning
                assert {one, state_key(one)} <= stage.made
                stored[one] = Proof(slice=at, records=5, greatest_time=greatest[at], disorder=0)
                stored[state_key(one)] = stored[one]
        known = max(known, first)
        (again,) = plan(pin, existing=set(stored), proofs=stored.get).stages
        assert len(again.reused) == len(greatest), "a run as of the same time computes nothing"
