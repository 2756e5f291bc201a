"""What steps return becomes one kind of table, whichever library made it."""

from __future__ import annotations

import datetime as dt
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from hindscan.errors import BadPartial
from hindscan.jobs.returned import to_model, to_model_table, to_table

MOMENT = dt.datetime(2018, 1, 31, 12, 30, 0, 250)


@pytest.mark.parametrize(
    "value",
    [
        pa.table({"n": [1, 2], "at": pa.array([MOMENT, None], pa.timestamp("us"))}),
        pa.record_batch({"n": [1, 2], "at": pa.array([MOMENT, None], pa.timestamp("ns", "UTC"))}),
        pd.DataFrame({"n": [1, 2], "at": pd.to_datetime([MOMENT, None])}),
        pd.DataFrame({"at": pd.to_datetime([MOMENT, None])}, index=pd.Index([1, 2], name="n")),
        pd.DataFrame({"n": [1, 2], "at": pd.to_datetime([MOMENT, None]).tz_localize("UTC").tz_convert("Asia/Tokyo")}),
        pl.DataFrame({"n": [1, 2], "at": [MOMENT, None]}),
        pl.LazyFrame({"n": [1, 2], "at": [MOMENT, None]}),
        {"n": np.array([1, 2]), "at": np.array([MOMENT, None], "datetime64[us]")},
        {"n": [1, 2], "at": pd.Series([MOMENT, None])},
        {"n": pl.Series([1, 2]), "at": [MOMENT, None]},
    ],
)
def test_every_kind_of_table_becomes_the_same(value: Any) -> None:
    table = to_table(value, "slice")
    assert table.schema == pa.schema({"n": pa.int64(), "at": pa.timestamp("us", "UTC")})
    assert table.to_pydict() == {"n": [1, 2], "at": [MOMENT.replace(tzinfo=dt.UTC), None]}
    assert not table.schema.metadata


def test_a_dict_of_scalars_is_one_row() -> None:
    table = to_table(
        {
            "n": np.int32(3),
            "x": np.float64(0.5),
            "s": "abc",
            "t": np.datetime64(MOMENT),
            "a": pa.scalar(1),
            "z": np.array(2),
        },
        "finish",
    )
    assert table.to_pylist() == [{"n": 3, "x": 0.5, "s": "abc", "t": MOMENT.replace(tzinfo=dt.UTC), "a": 1, "z": 2}]


def test_encodings_of_one_library_are_not_stored() -> None:
    frame = pl.DataFrame({"c": pl.Series(["a", "b"], dtype=pl.Categorical), "s": ["x", "y"], "l": [["p"], []]})
    assert to_table(frame, "slice").schema == pa.schema(
        {"c": pa.string(), "s": pa.string(), "l": pa.list_(pa.string())}
    )
    assert to_table(pd.DataFrame({"c": pd.Categorical(["a", "b"])}), "slice").schema == pa.schema({"c": pa.string()})


def test_encodings_of_arrow_are_not_stored_either() -> None:
    runs = pc.run_end_encode(pa.array([1, 1, None]))
    texts = pc.run_end_encode(pa.array(["a", "a", "b"]).dictionary_encode().cast(pa.string()))
    maps = pa.array([[("k", MOMENT)], None, []], pa.map_(pa.string_view(), pa.timestamp("ns")))
    table = to_table(pa.table({"runs": runs, "texts": texts, "maps": maps}), "slice")
    moments = pa.map_(pa.string(), pa.timestamp("us", "UTC"))
    assert table.schema == pa.schema({"runs": pa.int64(), "texts": pa.string(), "maps": moments})
    assert table.to_pydict() == {
        "runs": [1, 1, None],
        "texts": ["a", "a", "b"],
        "maps": [[("k", MOMENT.replace(tzinfo=dt.UTC))], None, []],
    }


def test_an_array_of_rows_is_a_column_of_lists() -> None:
    assert to_table({"m": np.arange(6).reshape(3, 2)}, "slice").to_pydict() == {"m": [[0, 1], [2, 3], [4, 5]]}


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (None, r"nothing \(None\)\. A step must end with `return`"),
        (3, "gave a int"),
        ([1, 2], "gave a list"),
        ({}, "an empty one"),
        ({1: 2}, "1 as a name"),
        ({"a": [1, 2], "b": 1}, "lengths a: 2, b: a scalar"),
        ({"a": [1, 2], "b": [1]}, "lengths a: 2, b: 1"),
        ({"a": [1, "x"]}, "does not become one"),
        ({"a": object()}, "does not become one"),
        (pa.Table.from_arrays([pa.array([1]), pa.array([2])], ["a", "a"]), r"\['a'\] twice"),
        (pa.table({"a": pa.array([1], pa.timestamp("ns"))}), "would lose data"),
        (pd.DataFrame({"a": [1, "x"]}), "does not become one"),
        ({"a": [{}, None]}, "a struct without fields"),
        (object(), "gave a object"),
    ],
)
def test_what_is_no_table_is_refused_with_step_and_kind(value: Any, found: str) -> None:
    with pytest.raises(BadPartial, match=rf"(?s)the step 'slice' returned.*{found}"):
        to_table(value, "slice")


def test_a_model_comes_back_in_its_shape() -> None:
    given = {
        "prices": np.array([3.0, 1.0]),
        "covariance": np.arange(6).reshape(2, 3),
        "n": 5,
        "empty": np.zeros((0, 2)),
        "name": "cars",
    }
    model = to_model(to_model_table(given, "calibrate"))
    assert isinstance(model, dict)
    assert list(model) == list(given)
    for name, value in given.items():
        assert np.array_equal(model[name], value), name
        assert np.shape(model[name]) == np.shape(value)  # type: ignore[arg-type]
    for value in (b"ab\0c\0", "a\0b\0", 2**63):
        assert to_model(to_model_table({"a": value}, "calibrate")) == {"a": value}
    two = to_model(to_model_table({"a": [[b"x\0y\0"], [b"zz"]]}, "calibrate"))
    assert two["a"].tolist() == [[b"x\0y\0"], [b"zz"]]
    table = pa.table({"a": [1, 2]})
    assert to_model(to_model_table(table, "calibrate")) == table
    with pytest.raises(BadPartial, match="a object as 'a'"):
        to_model_table({"a": object()}, "calibrate")
    with pytest.raises(BadPartial, match="a int as 'a'"):
        to_model_table({"a": 2**70}, "calibrate")


def test_a_zero_ends_no_bytes_and_no_text() -> None:
    table = to_table(
        {"b": np.array([b"x\0y", b"z"]), "t": np.array(["x\0y", "z"]), "w": np.array([[b"x\0y"], [b"z"]])}, "slice"
    )
    assert table.to_pydict() == {"b": [b"x\0y", b"z"], "t": ["x\0y", "z"], "w": [[b"x\0y"], [b"z"]]}
