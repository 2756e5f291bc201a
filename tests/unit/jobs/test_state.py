"""A state comes back as it was left, or is refused: nothing of it is lost on the way through a checkpoint."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hindscan.errors import BadPartial
from hindscan.jobs import state as states
from hindscan.jobs.state import check_next, from_state, to_state
from hindscan.runs.partials import Partials

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec="utf-8"), max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)
kinds = st.sampled_from(
    ["bool", "int8", "int64", "uint64", "float32", "float64", "datetime64[us]", "datetime64[ns]", "timedelta64[s]"]
)
arrays = hnp.arrays(kinds, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))


def same(one: Any, other: Any) -> bool:
    """Types and all; NaN is NaN."""
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    return type(one) is type(other) and repr(one) == repr(other)


@given(st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=5), json_values | arrays, min_size=1, max_size=4))
def test_a_dict_of_arrays_and_json_values_comes_back_as_it_was(value):
    back = from_state(to_state(value, "slice"))
    assert isinstance(back, dict)
    assert list(back) == list(value)
    assert all(same(value[name], back[name]) for name in value)


def test_a_state_read_from_its_checkpoint_is_the_one_that_was_stored(tmp_path: Path):
    texts = np.array(["a", "bc"])
    for value in (
        {"t": texts, "n": {"k": [1, None, 0.1]}, "x": np.zeros((0, 2))},
        pa.table({"a": [1, None], "b": ["x", "y"]}),
    ):
        table = to_state(value, "slice")
        Partials(tmp_path).write(
            "k" * 40, table, metadata={k.decode(): v.decode() for k, v in (table.schema.metadata or {}).items()}
        )
        read = Partials(tmp_path).read("k" * 40)
        back = read.replace_schema_metadata(
            dict(Partials(tmp_path).read_meta("k" * 40).metadata) or None
        ).combine_chunks()
        assert back.equals(table, check_metadata=True)
        assert [c.num_chunks for c in back.columns] == [c.num_chunks for c in table.columns]


@pytest.mark.parametrize("kind", ["int64", "datetime64[us]"])
def test_arrays_are_the_functions_own_and_may_be_written_to(kind: str):
    table = to_state({"x": np.arange(3).astype(kind)}, "slice")
    one = from_state(table)
    one["x"] += 5
    assert from_state(table)["x"].astype("int64").tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"at": dt.datetime(2018, 1, 1)}, "'at' is a datetime.datetime"),
        ({"pair": [1, (2, 3)]}, r"'pair\[1\]' is a tuple"),
        ({"by": {1: 2}}, "'by' has the key 1"),
        ({1: 2}, "1 is no name"),
        ({"x": np.array([object()])}, "'x' is an array of object"),
        ({"deep": {"x": np.zeros(2)}}, r"'deep.x' is a numpy.ndarray"),
        ({}, "it is empty"),
        ({"a": {1, 2}, "b": b"x"}, "'a' is a set; 'b' is a bytes"),
    ],
)
def test_what_would_come_back_as_something_else_is_refused_by_name(value, said):
    with pytest.raises(BadPartial, match=said):
        to_state(value, "slice")


def test_a_state_that_is_no_table_is_refused():
    with pytest.raises(BadPartial, match="Taking what the step 'start' returned"):
        to_state(None, "start")


def test_a_state_that_keeps_the_data_is_refused(monkeypatch):
    monkeypatch.setattr(states, "STATE_BYTES_MOST", 100)
    with pytest.raises(BadPartial, match="at most 100 bytes are allowed, and it has 160"):
        to_state(pa.table({"x": range(20)}), "slice")


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (pa.table({"a": [1]}), pa.table({"a": [1.5]}), "column 'a' is double, and must be int64"),
        (pa.table({"a": [1]}), pa.table({"b": [1]}), r"its columns are \['b'\], and must be \['a'\]"),
        (pa.table({"a": [1]}), {"a": 1}, "it was a table and is a dict now"),
        ({"a": 1}, {"a": 1, "b": 2}, r"its names are \['a', 'b'\], and must be \['a'\]"),
    ],
)
def test_a_state_keeps_the_form_it_began_with(before, after, said):
    with pytest.raises(BadPartial, match=said):
        check_next(to_state(before, "start"), to_state(after, "slice"))


def test_values_of_a_dict_may_become_others():
    check_next(
        to_state({"a": None, "x": np.zeros(2)}, "start"), to_state({"a": [1], "x": np.zeros((3, 3), "int8")}, "slice")
    )
    check_next(pa.table({"a": [1]}), pa.table({"a": pa.array([], pa.int64())}))
