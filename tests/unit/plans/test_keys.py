"""Promise 7: a key covers all that a step can see, and nothing else."""

from __future__ import annotations

import datetime as dt
import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hindscan.errors import ParameterError
from hindscan.history.snapshot import DrawPin, FilePin, KafkaPin, ParquetPin, PartitionPin, RowGroup
from hindscan.jobs.job import Step
from hindscan.plans.cut import cut
from hindscan.plans.keys import digest_of, finish_key, node_key, slice_keys, table_digest

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.datetimes() | st.dates(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=3) | st.sampled_from(["$date", "$float"]), inner, max_size=3)
    ),
    max_leaves=8,
)


def exact(value: object) -> object:
    """An independent notion of "the same value": type and all parts, floats by their text."""
    match value:
        case float():
            return ("float", repr(value))
        case dict():
            return ("dict", tuple(sorted((k, exact(v)) for k, v in value.items())))
        case list():
            return ("list", tuple(exact(v) for v in value))
    return (type(value).__name__, repr(value))


@given(json_values, json_values)
def test_digests_are_equal_exactly_when_values_are(one, other):
    assert (digest_of(one) == digest_of(other)) == (exact(one) == exact(other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0),
        (1, True),
        (0.0, -0.0),
        ("nan", math.nan),
        ({"$float": "nan"}, math.nan),
        ({"$$float": "nan"}, {"$float": "nan"}),
        ("2018-01-01", dt.date(2018, 1, 1)),
        (dt.datetime(2018, 1, 1), dt.date(2018, 1, 1)),
        (["a", "b"], ["ab"]),
        (None, "null"),
        ({"a": None}, {}),
    ],
)
def test_values_that_look_alike_have_different_digests(one, other):
    assert digest_of(one) != digest_of(other)


def test_the_order_of_a_mapping_does_not_show():
    assert digest_of({"a": 1, "b": {"c": 2, "d": 3}}) == digest_of({"b": {"d": 3, "c": 2}, "a": 1})


def test_what_has_no_canonical_form_is_refused():
    with pytest.raises(TypeError, match="object has no canonical form"):
        digest_of([object()])
    with pytest.raises(TypeError, match="its keys must be texts, not 1"):
        digest_of({1: 2})


FILES = ParquetPin(
    root="/here",
    files=tuple(
        FilePin(
            path=name,
            size=9,
            identity="mtime_ns:7",
            row_groups=(RowGroup(rows=4, bytes=40, least_time=0, greatest_time=9),) * 2,
            partition_values={"year": "2018"},
        )
        for name in ("a", "b")
    ),
    schema="",
    time="t",
)
TOPIC = KafkaPin(
    cluster="default",
    cluster_id="c",
    topic="bids",
    topic_id="id",
    isolation="read_committed",
    partitions=(PartitionPin(partition=0, start=0, end=30, log_start=0, high_watermark=30),),
    format="json",
    schema="",
    schema_from="declared",
    time="t",
)
DRAWS = DrawPin(draws=1000, seed=3, block_size=100)
STEP = Step(digest="code", parameters=("year",), tables=("auctions",))
BASE = {
    "step": STEP,
    "parameters": {"year": 2018, "other": 1},
    "reader": {"schema": "s", "verify": True},
    "tables": {"auctions": "t1", "persons": "t2"},
}


def keys_of(pin=FILES, slice_rows=4, **changes):
    return slice_keys(cut(pin, slice_rows), pin=pin, **{**BASE, **changes})


def with_files(**changes):
    return msgspec.structs.replace(FILES, files=tuple(msgspec.structs.replace(f, **changes) for f in FILES.files))


replace = msgspec.structs.replace


@pytest.mark.parametrize(
    "other",
    [
        keys_of(step=replace(STEP, digest="other code")),
        keys_of(step=replace(STEP, parameters=())),
        keys_of(step=replace(STEP, parameters=("year", "other"))),
        keys_of(parameters={"year": 2019, "other": 1}),
        keys_of(parameters={"year": "2018", "other": 1}),
        keys_of(reader={"schema": "other", "verify": True}),
        keys_of(tables={"auctions": "t9", "persons": "t2"}),
        keys_of(model="m"),
        keys_of(with_files(size=10)),
        keys_of(with_files(identity="mtime_ns:8")),
        keys_of(with_files(partition_values={"year": "2019"})),
        keys_of(replace(FILES, before=5)),
        keys_of(replace(FILES, since=5)),
        keys_of(slice_rows=8),
        keys_of(TOPIC, 10),
        keys_of(replace(TOPIC, before=5), 10),
        keys_of(replace(TOPIC, since=5), 10),
        keys_of(replace(TOPIC, topic_id="recreated"), 10),
        keys_of(replace(TOPIC, cluster_id="other"), 10),
        keys_of(DRAWS, 100),
        keys_of(replace(DRAWS, seed=4), 100),
        keys_of(replace(DRAWS, block_size=50), 100),
    ],
)
def test_whatever_a_step_can_see_changes_every_key(other):
    base = keys_of()
    assert len(set(base)) == len(base) == 4
    assert not set(base) & set(other)


def test_topics_and_draws_have_different_keys_for_whatever_changes():
    pins = [
        TOPIC,
        replace(TOPIC, before=5),
        replace(TOPIC, since=5),
        replace(TOPIC, topic_id="recreated"),
        replace(TOPIC, cluster_id="other"),
        DRAWS,
        replace(DRAWS, seed=4),
        replace(DRAWS, block_size=50),
    ]
    keys = [key for pin in pins for key in keys_of(pin, 10)]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    "other",
    [
        keys_of(replace(FILES, root="s3://moved")),
        keys_of(parameters={"year": 2018, "other": 2}),
        keys_of(tables={"auctions": "t1", "persons": "changed"}),
        keys_of(replace(FILES, before=100, since=0)),
        keys_of(replace(FILES, caveats=("may change",))),
    ],
)
def test_what_a_step_cannot_see_changes_no_key(other):
    assert other == keys_of()


def test_other_files_before_a_slice_change_its_position_and_not_its_key():
    new = replace(FILES, files=(replace(FILES.files[0], path="0"), *FILES.files))
    assert keys_of(new)[2:] == keys_of()


def test_a_cluster_may_be_renamed_in_the_project_file():
    assert keys_of(replace(TOPIC, cluster="prod"), 10) == keys_of(TOPIC, 10)


def test_a_topic_that_grows_keeps_the_keys_of_its_full_slices():
    grown = replace(TOPIC, partitions=(replace(TOPIC.partitions[0], end=47, high_watermark=47),))
    assert keys_of(grown, 10)[:3] == keys_of(TOPIC, 10)


def test_longer_simulations_keep_the_keys_of_their_full_slices():
    assert keys_of(replace(DRAWS, draws=2000), 100)[:2] == keys_of(DRAWS, 100)[:2]


def test_a_parameter_without_a_value_is_named():
    with pytest.raises(ParameterError, match="takes year, which the plan has no value for; it has other"):
        keys_of(parameters={"other": 1})


def test_nodes_and_finishes_are_keyed_by_code_parameters_tables_and_children():
    seen = {"parameters": BASE["parameters"], "tables": BASE["tables"]}
    keys = [
        node_key(["a", "b"], step=STEP, **seen),
        node_key(["b", "a"], step=STEP, **seen),
        node_key(["ab"], step=STEP, **seen),
        node_key(["a", "b"], step=replace(STEP, digest="x"), **seen),
        node_key(["a", "b"], step=STEP, parameters={"year": 2019}, tables=BASE["tables"]),
        finish_key("a", step=STEP, **seen),
        finish_key("b", step=STEP, **seen),
        finish_key("a", step=STEP, parameters=BASE["parameters"], tables={"auctions": "t9"}),
    ]
    assert len(set(keys)) == len(keys)
    assert all(len(key) == 40 for key in keys)


def test_a_broadcast_table_is_the_same_after_a_move_and_under_a_later_bound_that_cuts_nothing():
    base = table_digest(FILES, {"schema": "s"})
    assert table_digest(replace(FILES, root="s3://moved", before=100), {"schema": "s"}) == base
    assert table_digest(replace(FILES, before=5), {"schema": "s"}) != base
    assert table_digest(with_files(size=10), {"schema": "s"}) != base
    assert table_digest(FILES, {"schema": "other"}) != base
