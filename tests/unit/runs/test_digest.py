"""A table's digest is of its content: equal for equal rows however they are stored, another for any other content."""

from __future__ import annotations

import datetime as dt
import decimal
import itertools
import math
import struct
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pyarrow import feather

from hindscan.runs.digest import table_digest

_MICROS = st.integers(-(2**50), 2**50)


def _nullable(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


#: A type and values for it.
_LEAVES: list[tuple[pa.DataType, st.SearchStrategy[Any]]] = [
    (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    (pa.uint8(), st.integers(0, 255)),
    (pa.float64(), st.floats()),
    (pa.float32(), st.floats(width=32)),
    (pa.float16(), st.floats(width=16)),
    (pa.bool_(), st.booleans()),
    (pa.string(), st.text(max_size=5)),
    (pa.large_string(), st.text(max_size=5)),
    (pa.binary(), st.binary(max_size=5)),
    (pa.binary(3), st.binary(min_size=3, max_size=3)),
    (pa.timestamp("us", "UTC"), _MICROS),
    (pa.date32(), st.integers(-50_000, 50_000)),
    (pa.decimal128(9, 2), st.integers(-(10**9) + 1, 10**9 - 1).map(lambda n: decimal.Decimal(n).scaleb(-2))),
    (pa.null(), st.none()),
]


def _columns(depth: int = 2) -> st.SearchStrategy[tuple[pa.DataType, st.SearchStrategy[Any]]]:
    leaf = st.sampled_from(_LEAVES)
    if depth == 0:
        return leaf
    inner = _columns(depth - 1)
    return st.one_of(
        leaf,
        inner.map(lambda made: (pa.list_(made[0]), st.lists(_nullable(made[1]), max_size=3))),
        inner.map(lambda made: (pa.list_(made[0], 2), st.lists(_nullable(made[1]), min_size=2, max_size=2))),
        st.tuples(inner, inner).map(
            lambda pair: (
                pa.struct([pa.field("a", pair[0][0]), pa.field("b", pair[1][0])]),
                st.fixed_dictionaries({"a": _nullable(pair[0][1]), "b": _nullable(pair[1][1])}),
            )
        ),
        inner.map(
            lambda made: (
                pa.map_(pa.string(), made[0]),
                st.lists(st.tuples(st.text(max_size=2), _nullable(made[1])), max_size=3),
            )
        ),
    )


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    """A table of one to three columns of any type, nested ones too, with nulls."""
    made = draw(st.lists(_columns(), min_size=1, max_size=3))
    rows = draw(st.integers(0, 6))
    return pa.table(
        {
            f"c{index}": pa.array(draw(st.lists(_nullable(values), min_size=rows, max_size=rows)), kind)
            for index, (kind, values) in enumerate(made)
        }
    )


def in_pieces(table: pa.Table, cuts: list[int]) -> pa.Table:
    """The same rows in other chunks, some empty, each with bytes before and after it in its buffers."""
    edges = sorted({0, table.num_rows, *(cut % (table.num_rows + 1) for cut in cuts)})
    pieces = [table.slice(0, 0)] + [table.slice(a, b - a) for a, b in itertools.pairwise(edges)]
    return pa.concat_tables(pieces)


def plain(value: Any) -> Any:
    """A value as Python compares it: NaN equal to itself, 0.0 unlike -0.0, a time by its number."""
    if isinstance(value, float):
        return "nan" if math.isnan(value) else struct.pack(">d", value)
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return (type(value).__name__, value)


def content(table: pa.Table) -> Any:
    kinds = [
        (name, str(kind).replace("large_", ""))
        for name, kind in zip(table.column_names, table.schema.types, strict=True)
    ]
    return kinds, [plain(column.to_pylist()) for column in table.columns]


@given(table=tables(), cuts=st.lists(st.integers(0, 100), max_size=4))
@settings(max_examples=150)
def test_how_rows_are_cut_does_not_show(table: pa.Table, cuts: list[int]) -> None:
    assert table_digest(in_pieces(table, cuts)) == table_digest(table)


@given(table=tables())
@settings(max_examples=100)
def test_a_table_that_was_stored_has_the_digest_it_had(
    table: pa.Table, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("d")
    feather.write_feather(table, folder / "t.arrow", compression="zstd", chunksize=2)
    assert table_digest(feather.read_table(folder / "t.arrow")) == table_digest(table)
    try:
        pq.write_table(table, folder / "t.parquet", row_group_size=2)
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        return  # what Parquet cannot hold (a struct of nothing but nulls) can be no result
    if pq.read_schema(folder / "t.parquet").types == table.schema.types:
        assert table_digest(pq.read_table(folder / "t.parquet")) == table_digest(table)


@given(one=tables(), two=tables())
@settings(max_examples=150)
def test_tables_have_equal_digests_if_and_only_if_their_content_is_equal(one: pa.Table, two: pa.Table) -> None:
    assert (table_digest(one) == table_digest(two)) == (content(one) == content(two))


@given(table=tables(), data=st.data())
@settings(max_examples=150)
def test_one_changed_value_or_the_order_of_rows_shows(table: pa.Table, data: st.DataObject) -> None:
    assume(table.num_rows > 0)
    order = data.draw(st.lists(st.integers(0, table.num_rows - 1), min_size=table.num_rows, max_size=table.num_rows))
    other = table.take(order)
    assert (table_digest(table) == table_digest(other)) == (content(table) == content(other))


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (pa.array(["a", None, "a"]), pa.array(["a", None, "a"]).dictionary_encode()),
        (pa.array(["a", None]), pa.array(["a", None], pa.large_string())),
        (pa.array(["a", None]), pa.array(["a", None], pa.string_view())),
        (pa.array([b"a"]), pa.array([b"a"], pa.binary_view())),
        (pa.array([[1], None]), pa.array([[1], None], pa.large_list(pa.int64()))),
        (pa.array([[1], None]), pa.array([[1], None], pa.list_view(pa.int64()))),
        (pa.array([7, 7, 8]), pa.RunEndEncodedArray.from_arrays([2, 3], [7, 8])),
        (pa.array([1000, None], pa.timestamp("ms")), pa.array([1, None], pa.timestamp("s"))),
        (pa.array([dt.date(2018, 1, 1)], pa.date32()), pa.array([dt.date(2018, 1, 1)], pa.date64())),
        (
            pa.array([[{"d": "x"}]]),
            pa.array([[{"d": "x"}]], pa.list_(pa.struct({"d": pa.dictionary(pa.int8(), pa.string())}))),
        ),
    ],
    ids=lambda array: str(array.type),
)
def test_encodings_of_the_same_values_are_one(one: pa.Array[Any], two: pa.Array[Any]) -> None:
    assert table_digest(pa.table({"c": one})) == table_digest(pa.table({"c": two}))


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ({"a": [1]}, {"b": [1]}),
        ({"a": [1], "b": [2]}, {"b": [2], "a": [1]}),
        ({"ab": ["c"]}, {"a": ["bc"]}),
        ({"a": ["ab", "c"]}, {"a": ["a", "bc"]}),
        ({"a": [[1], [2, 3]]}, {"a": [[1, 2], [3]]}),
        ({"a": [None, ""]}, {"a": ["", None]}),
        ({"a": [[], None]}, {"a": [None, []]}),
        ({"a": [None]}, {"a": [math.nan]}),
        ({"a": [0.0]}, {"a": [-0.0]}),
        ({"a": [1]}, {"a": [1.0]}),
        ({"a": [1, 2]}, {"a": [2, 1]}),
        ({"a": [0]}, {"a": [False]}),
        ({"a": [{"x": None}]}, {"a": [None]}),
        ({"a": []}, {"a": [None]}),
        ({}, {"a": []}),
    ],
    ids=str,
)
def test_what_differs_in_content_differs_in_digest(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert table_digest(pa.table(one)) != table_digest(pa.table(two))


def test_a_null_is_no_value_of_its_type() -> None:
    nulls, nans = pa.array([None], pa.float64()), pa.array([math.nan])
    assert table_digest(pa.table({"a": nulls})) != table_digest(pa.table({"a": nans}))
    structs = pa.array([None, {"x": None}], pa.struct({"x": pa.int64()}))
    assert table_digest(pa.table({"a": structs[:1]})) != table_digest(pa.table({"a": structs[1:]}))


def test_what_lies_under_a_null_does_not_count() -> None:
    def masked(values: list[int]) -> pa.Table:
        buffers = pa.array(values).buffers()
        mask = pa.array([True, False, True]).buffers()[1]
        return pa.table({"a": pa.Array.from_buffers(pa.int64(), 3, [mask, buffers[1]])})

    assert (
        table_digest(masked([1, 99, 3]))
        == table_digest(masked([1, -7, 3]))
        == table_digest(pa.table({"a": [1, None, 3]}))
    )
    inner = pa.array(["a", "hidden", "b"])
    hidden = pa.StructArray.from_arrays([inner], ["x"], mask=pa.array([False, True, False]))
    assert table_digest(pa.table({"s": hidden})) == table_digest(pa.table({"s": [{"x": "a"}, None, {"x": "b"}]}))
    lists = pa.ListArray.from_arrays([0, 1, 2, 3], inner, mask=pa.array([False, True, False]))
    assert table_digest(pa.table({"s": lists})) == table_digest(pa.table({"s": [["a"], None, ["b"]]}))
    maps = pa.MapArray.from_arrays([0, 1, 2, 3], inner, inner)
    pairs = pa.StructArray.from_arrays([maps.keys, maps.items], names=["key", "value"])
    mask = pa.array([True, False, True]).buffers()[1]
    hidden_map = pa.Array.from_buffers(maps.type, 3, [mask, maps.buffers()[1]], children=[pairs])
    shown = pa.array([[("a", "a")], None, [("b", "b")]], maps.type)
    assert table_digest(pa.table({"m": hidden_map})) == table_digest(pa.table({"m": shown}))


def test_every_nan_is_one() -> None:
    other = struct.unpack("<d", struct.pack("<Q", 0x7FF8000000000123))[0]
    assert (
        table_digest(pa.table({"a": [other]}))
        == table_digest(pa.table({"a": [math.nan]}))
        == table_digest(pa.table({"a": [-math.nan]}))
    )


def test_the_digest_is_the_one_of_earlier_releases() -> None:
    # Stored digests are compared with new ones: this value may never change.
    table = pa.table(
        {"bidder": [1, 2, None], "name": ["a", None, "ü"], "price": [1.5, math.nan, -0.0], "tags": [["x"], [], None]}
    )
    assert table_digest(table) == "xxh3:f5808cba2b4c702b5717669b4f34b2da"


def test_metadata_is_no_content() -> None:
    table = pa.table({"a": [1]})
    assert table_digest(table.replace_schema_metadata({"k": "v"})) == table_digest(table)


def test_a_type_without_a_digest_is_refused() -> None:
    with pytest.raises(TypeError, match="month_day_nano_interval"):
        table_digest(pa.table({"a": pa.array([(1, 2, 3)], pa.month_day_nano_interval())}))


class _Tags(pa.ExtensionType):
    """Lists of texts under a name of their own."""

    def __init__(self) -> None:
        super().__init__(pa.list_(pa.string()), "hindscan.test.tags")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> _Tags:
        return cls()


def test_a_slice_of_lists_has_the_digest_of_its_rows() -> None:
    rows = [["a"], ["b", "c"], None, ["d"], []]
    lists = pa.array(rows, pa.list_(pa.string()))
    for whole in (lists, pa.array([rows, rows[1:]])[:1].flatten(), pa.ExtensionArray.from_storage(_Tags(), lists)):
        for first, last in itertools.combinations(range(len(rows) + 1), 2):
            cut = pa.table({"t": whole[first:last]})
            assert table_digest(cut) == table_digest(pa.table({"t": pa.array(rows[first:last], lists.type)}))


def test_reading_a_file_again_gives_the_digest(tmp_path: Path) -> None:
    table = pa.table({"a": range(100_000), "s": [f"b{n % 7}" for n in range(100_000)]})
    pq.write_table(table, tmp_path / "t.parquet", row_group_size=1000)
    assert table_digest(pq.read_table(tmp_path / "t.parquet")) == table_digest(table)
