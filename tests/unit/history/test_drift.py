"""Files that differ in their columns: an error unless it is meant, and then every value is what it was; Python's own values are the oracle."""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hindscan import files
from hindscan.data import Data
from hindscan.errors import ConfigError, SchemaMismatch
from hindscan.history.columns import schema_from_columns
from hindscan.history.declared import history_from_toml
from hindscan.history.parquet import ParquetHistory
from hindscan.history.snapshot import Window
from hindscan.history.unify import common_type
from hindscan.plans.cut import cut_whole

US = pa.timestamp("us", "UTC")


def history(folder: Path, **options: Any) -> ParquetHistory:
    return ParquetHistory(name="h", location=str(folder), place=files.place(folder), **options)


def write(folder: Path, *tables: pa.Table, **options: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, table in enumerate(tables):
        pq.write_table(table, folder / f"{number}.parquet", row_group_size=2, **options)
    return folder


def rows(of: ParquetHistory, window: Window | None = None, query: str = "") -> pa.Table:
    pin = of.pin(window or Window())
    with of.reader(pin).open(cut_whole(pin)) as source:
        data = Data("h", {"h": source})
        table = data.sql(query) if query else data.arrow()
        source.proofs()
    return table


UTC = dt.UTC
DRIFTS = [
    (pa.array([1, None], pa.int8()), pa.array([300], pa.int32()), pa.int32(), [1, None, 300]),
    (pa.array([255], pa.uint8()), pa.array([-1], pa.int8()), pa.int16(), [255, -1]),
    (pa.array([2**32 - 1], pa.uint32()), pa.array([-1], pa.int32()), pa.int64(), [2**32 - 1, -1]),
    (pa.array([1.5], pa.float32()), pa.array([0.1], pa.float64()), pa.float64(), [1.5, 0.1]),
    (pa.array([2**31 - 1], pa.int32()), pa.array([0.5], pa.float32()), pa.float64(), [2**31 - 1, 0.5]),
    (
        pa.array([2**63 - 1], pa.int64()),
        pa.array([Decimal("1.25")], pa.decimal128(5, 2)),
        pa.decimal128(22, 2),
        [Decimal(2**63 - 1), Decimal("1.25")],
    ),
    (
        pa.array([Decimal("1.5")], pa.decimal128(3, 1)),
        pa.array([Decimal("0.0001")], pa.decimal128(4, 4)),
        pa.decimal128(6, 4),
        [Decimal("1.5"), Decimal("0.0001")],
    ),
    (
        pa.array([dt.datetime(2018, 1, 1)], pa.timestamp("ms")),
        pa.array([dt.datetime(2018, 1, 1, 1, 0, 0, 1, tzinfo=UTC)], pa.timestamp("us", "Europe/Berlin")),
        US,
        [dt.datetime(2018, 1, 1, tzinfo=UTC), dt.datetime(2018, 1, 1, 1, 0, 0, 1, tzinfo=UTC)],
    ),
    (pa.array([dt.time(1)], pa.time32("ms")), pa.array([dt.time(0, 0, 0, 1)], pa.time64("us")), pa.time64("us"), None),
    (pa.array(["x", None, "x"]).dictionary_encode(), pa.array(["y"], pa.large_string()), pa.string(), None),
    (pa.nulls(2), pa.array(["y"]), pa.string(), [None, None, "y"]),
    (
        pa.array([{"a": 1, "b": "x"}, None]),
        pa.array([{"c": 2.5, "a": 7}], pa.struct([("c", pa.float64()), ("a", pa.int64())])),
        pa.struct([("a", pa.int64()), ("b", pa.string()), ("c", pa.float64())]),
        [{"a": 1, "b": "x", "c": None}, None, {"a": 7, "b": None, "c": 2.5}],
    ),
    (
        pa.array([[{"a": 1}], None, []], pa.list_(pa.struct([("a", pa.int32())]))),
        pa.array([[{"a": 2**40, "b": True}]]),
        None,
        [[{"a": 1, "b": None}], None, [], [{"a": 2**40, "b": True}]],
    ),
]


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize(("one", "other", "kind", "expected"), DRIFTS)
def test_files_of_two_types_are_one_column_of_all_their_values(
    tmp_path: Path,
    one: pa.Array[Any],
    other: pa.Array[Any],
    kind: pa.DataType | None,
    expected: list[Any] | None,
    turned: bool,
) -> None:
    first, second = (other, one) if turned else (one, other)
    folder = write(tmp_path / "h", pa.table({"v": first}), pa.table({"v": second}))
    table = rows(history(folder, drift="widen"))
    values = expected if expected is not None else one.to_pylist() + other.to_pylist()
    if turned:
        values = values[len(one) :] + values[: len(one)]
    assert table["v"].to_pylist() == values
    if kind is not None and not (turned and pa.types.is_struct(kind)):
        assert table.schema.field("v").type == kind


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (pa.array([1], pa.int64()), pa.array([0.5])),
        (pa.array([1], pa.uint64()), pa.array([1], pa.int64())),
        (pa.array([1]), pa.array(["1"])),
        (pa.array([Decimal("0.5")]), pa.array([0.5])),
        (pa.array([dt.date(2018, 1, 1)]), pa.array([dt.datetime(2018, 1, 1)])),
        (pa.array([{"a": 1}]), pa.array([{"a": "x"}])),
        (pa.array([b"x"]), pa.array(["x"])),
    ],
)
def test_what_no_type_holds_exactly_is_refused_whatever_is_declared(
    tmp_path: Path, one: pa.Array[Any], other: pa.Array[Any]
) -> None:
    folder = write(tmp_path / "h", pa.table({"v": one}), pa.table({"v": other}))
    with pytest.raises(SchemaMismatch, match=r"1\.parquet: column 'v' is .*, in 0\.parquet it is[\s\S]*No type holds"):
        history(folder, drift="widen").pin(Window())


def test_added_and_removed_columns_are_null_where_a_file_lacks_them(tmp_path: Path) -> None:
    folder = write(tmp_path / "h", pa.table({"a": [1], "old": ["x"]}), pa.table({"new": [True], "a": [2]}))
    assert rows(history(folder, drift="widen")).to_pylist() == [
        {"a": 1, "old": "x", "new": None},
        {"a": 2, "old": None, "new": True},
    ]
    with pytest.raises(SchemaMismatch) as refused:
        history(folder).pin(Window())
    assert refused.value.details["faults"] == [
        "0.parquet: no column 'new'; 1.parquet has it",
        "1.parquet: no column 'old'; 0.parquet has it",
    ]


def test_order_nullability_and_encodings_are_never_a_difference(tmp_path: Path) -> None:
    one = pa.table({"a": ["x"], "b": [1]}, schema=pa.schema([pa.field("a", pa.string(), False), ("b", pa.int64())]))
    other = pa.table({"b": [2], "a": pa.array(["y"], pa.large_string()).dictionary_encode()})
    table = rows(history(write(tmp_path / "h", one, other)))
    assert table.to_pylist() == [{"a": "x", "b": 1}, {"a": "y", "b": 2}]
    assert table.schema.field("a").nullable


def test_a_renamed_column_is_one_column_in_all_ways_of_reading(tmp_path: Path) -> None:
    old = pa.table({"cost": pa.array([5, 6, 7], pa.int32()), "ts": pa.array([1, 2, 3], pa.timestamp("us"))})
    new = pa.table({"date_time": pa.array([4, 5], US), "price": pa.array([8, 9], pa.int64())})
    folder = write(tmp_path / "h", old, new)
    of = history(folder, drift="widen", rename={"cost": "price", "ts": "date_time"}, time="date_time")
    assert rows(of)["price"].to_pylist() == [5, 6, 7, 8, 9]
    assert rows(of, Window(since=2, until=5))["price"].to_pylist() == [6, 7, 8]
    query = "SELECT price FROM h WHERE price > 5 AND date_time < '1970-01-01 00:00:00.000005+00' ORDER BY 1 DESC"
    assert rows(of, None, query)["price"].to_pylist() == [8, 7, 6]
    groups = [group for file in of.pin(Window()).files for group in file.row_groups]
    assert [(g.least_time, g.greatest_time) for g in groups] == [(1, 2), (3, 3), (4, 5)]


def test_a_row_outside_the_window_fails_no_condition(tmp_path: Path) -> None:
    table = pa.table({"cost": ["x", "2"], "at": pa.array([1, 3], US)})
    of = history(write(tmp_path / "h", table), drift="widen", rename={"cost": "price"}, time="at")
    query = "SELECT price FROM h WHERE CAST(price AS BIGINT) > 0"
    assert rows(of, Window(since=3), query)["price"].to_pylist() == ["2"]


def test_a_file_with_a_column_under_both_names_is_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "h", pa.table({"cost": [1], "price": [2]}))
    with pytest.raises(SchemaMismatch, match=r"0\.parquet.*price \(as cost\)"):
        history(folder, rename={"cost": "price"}).pin(Window())


def test_a_declared_schema_takes_what_widens_to_it_and_null_for_what_is_absent(tmp_path: Path) -> None:
    folder = write(tmp_path / "h", pa.table({"v": pa.array([1], pa.int32())}), pa.table({"w": ["x"]}))
    columns = schema_from_columns({"v": "decimal128(12, 2)", "w": "string"})
    assert rows(history(folder, drift="widen", columns=columns)).to_pylist() == [
        {"v": Decimal("1.00"), "w": None},
        {"v": None, "w": "x"},
    ]
    for faulty in ({"v": "int16"}, {"w": "string not null"}, {"w": "int64"}):
        with pytest.raises(SchemaMismatch, match=r"parquet: (no )?column"):
            history(folder, drift="widen", columns=schema_from_columns(faulty)).pin(Window())


def test_a_value_that_the_finer_unit_cannot_hold_fails_by_file_and_column(tmp_path: Path) -> None:
    far = pa.table({"v": pa.array([2**40], pa.timestamp("s"))})
    folder = write(tmp_path / "h", far, pa.table({"v": pa.array([1], pa.timestamp("ns", "UTC"))}))
    with pytest.raises(
        SchemaMismatch, match=r"column 'v' of 0\.parquet: every value must be exactly one of timestamp\[ns"
    ):
        rows(history(folder, drift="widen"))


def test_drift_is_in_no_key_and_a_rename_is(tmp_path: Path) -> None:
    folder = write(tmp_path / "h", pa.table({"a": [1]}))

    def identity(**options: Any) -> dict[str, object]:
        of = history(folder, **options)
        return of.reader(of.pin(Window())).identity()

    assert identity(drift="widen") == identity()
    assert identity(rename={"a": "b"}) != identity()


def test_a_pin_is_read_as_it_was_pinned_whatever_the_project_file_says_later(tmp_path: Path) -> None:
    folder = write(tmp_path / "h", pa.table({"a": [1]}))
    pin = history(folder, rename={"a": "b"}).pin(Window())
    with history(folder).reader(pin).open(cut_whole(pin)) as source:
        assert Data("h", {"h": source}).arrow().to_pylist() == [{"b": 1}]


def test_wrong_settings_are_all_named() -> None:
    with pytest.raises(ConfigError) as refused:
        history_from_toml(
            "h", {"parquet": "x", "drift": "guess", "rename": {"a": "b", "b": "c"}}, clusters={}, root="."
        )
    assert [field for field, _ in refused.value.details["faults"]] == ["drift", "rename"]


KINDS = st.recursive(
    st.sampled_from(
        [
            pa.int8(),
            pa.uint16(),
            pa.int32(),
            pa.int64(),
            pa.uint64(),
            pa.float32(),
            pa.float64(),
            pa.string(),
            pa.decimal128(5, 2),
            pa.decimal128(38, 0),
            pa.timestamp("s"),
            pa.timestamp("ns", "UTC"),
            pa.null(),
            pa.date32(),
        ]
    ),
    lambda inner: st.lists(inner, min_size=1, max_size=3).map(
        lambda kinds: pa.struct([pa.field(f"f{n}", kind) for n, kind in enumerate(kinds)])
    ),
    max_leaves=4,
)


@given(one=KINDS, other=KINDS)
def test_a_common_type_is_stable_and_the_same_from_both_sides(one: pa.DataType, other: pa.DataType) -> None:
    common = common_type(one, other)
    turned = common_type(other, one)
    assert (common is None) == (turned is None)
    if common is not None:
        assert common_type(common, one) == common
        assert common_type(common, other) == common
        if not pa.types.is_struct(common):
            assert common == turned
    assert common_type(one, one) == one
