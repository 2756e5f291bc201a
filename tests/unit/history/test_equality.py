"""Rows that an Iceberg table has deleted by what they hold: the oracle compares row by row, in Python, as the specification says."""

from __future__ import annotations

import math
import pickle
import struct
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyiceberg.catalog import load_catalog
from pyiceberg.conversions import to_bytes
from pyiceberg.io.pyarrow import _dataframe_to_data_files, schema_to_pyarrow
from pyiceberg.manifest import (
    DataFile,
    DataFileContent,
    FileFormat,
    ManifestContent,
    ManifestEntry,
    ManifestEntryStatus,
    ManifestFile,
    ManifestWriter,
    ManifestWriterV2,
)
from pyiceberg.partitioning import PartitionSpec
from pyiceberg.schema import Schema
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Operation
from pyiceberg.table.update.snapshot import _FastAppendFiles
from pyiceberg.typedef import Record
from pyiceberg.types import (
    DoubleType,
    IntegerType,
    ListType,
    LongType,
    NestedField,
    StringType,
    StructType,
    TimestampType,
)

import hindscan as hs
from hindscan.data import Data
from hindscan.errors import CorruptData, HistoryError, SourceChanged
from hindscan.history import equality
from hindscan.history.declared import history_from_toml
from hindscan.history.snapshot import History, ParquetPin, ParquetSlice, Window
from hindscan.plans.cut import cut
from hindscan.plans.keys import table_digest

SCHEMA = Schema(
    NestedField(1, "n", LongType()),
    NestedField(2, "part", StringType()),
    NestedField(3, "a", IntegerType()),
    NestedField(4, "s", StringType()),
    NestedField(5, "x", DoubleType()),
    NestedField(6, "at", TimestampType()),
)
#: What a column is compared with where it is deleted by; ids are those of the schema.
NAMES = {1: "n", 2: "part", 3: "a", 4: "s", 5: "x", 6: "at"}


def table_in(root: Path, *, partitioned: bool = False) -> Table:
    (root / "lake").mkdir(parents=True, exist_ok=True)
    catalog = load_catalog("shop", type="sql", uri=f"sqlite:///{root}/shop.db", warehouse=f"file://{root}/lake")
    catalog.create_namespace_if_not_exists("auctions")
    table = catalog.create_table("auctions.bids", schema=SCHEMA)
    if partitioned:
        with table.update_spec() as spec:
            spec.add_identity("part")
    return table


def history(root: Path, **more: Any) -> History:
    return history_from_toml("bids", {"iceberg": "lake/auctions/bids", **more}, clusters={}, root=root)


def rows_of(*rows: Mapping[str, Any], schema: Schema = SCHEMA) -> pa.Table:
    return pa.Table.from_pylist([dict(row) for row in rows], schema_to_pyarrow(schema, include_field_ids=False))


class _DeleteManifest(ManifestWriterV2):
    """A manifest of deletes, which pyiceberg reads and does not write."""

    def content(self) -> ManifestContent:
        return ManifestContent.DELETES

    @property
    def _meta(self) -> dict[str, str]:
        return {**super()._meta, "content": "deletes"}


class _Deleting(_FastAppendFiles):
    """A commit of files of deletes, in one partitioning."""

    spec_used: PartitionSpec
    #: Data that the same commit adds.
    data: Sequence[DataFile] = ()

    def _process_manifests(self, manifests: list[ManifestFile]) -> list[ManifestFile]:
        if not self.data:
            return manifests
        with super().new_manifest_writer(self.spec_used) as writer:
            for file in self.data:
                writer.add(
                    ManifestEntry.from_args(
                        status=ManifestEntryStatus.ADDED, snapshot_id=self._snapshot_id, data_file=file
                    )
                )
        return [writer.to_manifest_file(), *manifests]

    def new_manifest_writer(self, spec: PartitionSpec) -> ManifestWriter:
        output = self.new_manifest_output()
        return _DeleteManifest(self.spec_used, self.schema(), output, self._snapshot_id, self._compression)


def commit(
    table: Table,
    content: DataFileContent,
    path: str,
    partition: Record,
    spec_id: int,
    data: Sequence[DataFile] = (),
    **said: Any,
) -> None:
    deletes = DataFile.from_args(
        content=content,
        file_path=path,
        file_format=FileFormat.PARQUET,
        partition=partition,
        record_count=1,
        file_size_in_bytes=Path(path.removeprefix("file://")).stat().st_size,
        **said,
    )
    deletes.spec_id = spec_id
    with table.transaction() as change:
        append = _Deleting(Operation.OVERWRITE, change, table.io)
        append.spec_used, append.data = table.specs()[spec_id], data
        with append:
            append.append_data_file(deletes)


def delete_equal(
    table: Table,
    rows: Sequence[Mapping[int, Any]],
    ids: Sequence[int],
    *,
    part: str | None = None,
    everywhere: bool = True,
    counted: bool = False,
    types: Mapping[int, pa.DataType] | None = None,
    data: Sequence[DataFile] = (),
) -> Path:
    """Commit a file that deletes rows equal to these; `rows` have values by field id."""
    number = len(table.history())
    path = Path(table.location().removeprefix("file://")) / "data" / f"{number}-equality.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    arrow = schema_to_pyarrow(SCHEMA, include_field_ids=False)
    kinds = {at: arrow.field(name).type for at, name in NAMES.items()} | dict(types or {})
    fields = [pa.field(f"k{at}", kinds[at], metadata={"PARQUET:field_id": str(at)}) for at in ids]
    columns = [pa.array([row[at] for row in rows], kinds[at]) for at in ids]
    pq.write_table(pa.table(columns, schema=pa.schema(fields)), path, write_page_checksum=True)
    said: dict[str, Any] = {"equality_ids": list(ids), "data": data}
    if counted:
        said |= statistics({at: [row[at] for row in rows] for at in ids})
    # A delete of all partitions is one of the partitioning that has none, which a table begins with.
    spec = 0 if everywhere else table.spec().spec_id
    partition = Record() if everywhere or not table.spec().fields else Record(part)
    commit(table, DataFileContent.EQUALITY_DELETES, f"file://{path}", partition, spec, **said)
    return path


def statistics(values: Mapping[int, Sequence[Any]]) -> dict[str, Any]:
    """Say of columns what manifests do."""
    found: dict[str, Any] = {name: {} for name in ("value_counts", "null_value_counts", "lower_bounds", "upper_bounds")}
    for at, column in values.items():
        known = [value for value in column if value is not None]
        found["value_counts"][at], found["null_value_counts"][at] = len(column), len(column) - len(known)
        if known and at != 5:
            kind = SCHEMA.find_type(at)
            found["lower_bounds"][at], found["upper_bounds"][at] = (
                to_bytes(kind, min(known)),
                to_bytes(kind, max(known)),
            )
    return found


def delete_positions(table: Table, data: DataFile, *positions: int) -> None:
    path = Path(
        data.file_path.removeprefix("file://").replace(".parquet", f"-{len(table.history())}-positions.parquet")
    )
    content = {"file_path": [data.file_path] * len(positions), "pos": pa.array(positions, pa.int64())}
    pq.write_table(pa.table(content), path)
    commit(table, DataFileContent.POSITION_DELETES, f"file://{path}", data.partition, data.spec_id)


def read(of: History, query: str = "SELECT * FROM t", slice_rows: int = 1000) -> list[dict[str, Any]]:
    """Pin, travel through JSON and pickle, cut, and ask each slice alone."""
    pin = msgspec.json.decode(msgspec.json.encode(of.pin(Window())), type=ParquetPin)
    reader = pickle.loads(pickle.dumps(of.reader(pin)))
    found = []
    for piece in cut(pin, slice_rows):
        with reader.open([piece]) as source:
            asked = Data("t", {"t": source}).sql(query).to_pylist()
            whole = Data("t", {"t": source}).arrow()
            assert [proof.records for proof in source.proofs()] == [whole.num_rows]
            assert whole.num_rows <= piece.rows
            found += asked
    return found


def numbers(of: History, query: str = "SELECT n FROM t") -> list[int]:
    return sorted(row["n"] for row in read(of, query))


def slices_of(of: History) -> list[ParquetSlice]:
    found = cut(of.pin(Window()), 1000)
    return [msgspec.structs.replace(s, position=0) for s in found if isinstance(s, ParquetSlice)]


def bids(first: int, count: int, part: str = "p", **more: Any) -> pa.Table:
    return rows_of(*({"n": n, "part": part, "a": n % 3, "s": f"s{n % 2}"} | more for n in range(first, first + count)))


# --- What is deleted ------------------------------------------------------------------------------------------------


def test_rows_equal_to_a_later_delete_are_not_read(tmp_path: Path) -> None:
    table = table_in(tmp_path)
    table.append(bids(0, 9))
    delete_equal(table, [{3: 1}], [3])
    table.append(bids(9, 3))
    assert numbers(history(tmp_path)) == [0, 2, 3, 5, 6, 8, 9, 10, 11]


def test_a_commit_deletes_what_was_there_before_and_not_what_it_brings(tmp_path: Path) -> None:
    # As a stream is merged: the old row goes, and the new one with the same key comes, at once.
    table = table_in(tmp_path)
    table.append(bids(0, 3))
    new = list(_dataframe_to_data_files(table.metadata, bids(1, 2, a=7), table.io))
    delete_equal(table, [{1: 1}, {1: 2}], [1], data=new)
    found = read(history(tmp_path), "SELECT n, a FROM t")
    assert sorted((row["n"], row["a"]) for row in found) == [(0, 0), (1, 7), (2, 7)]


def test_a_delete_is_of_all_its_columns_and_asked_of_those_a_job_does_not_read(tmp_path: Path) -> None:
    table = table_in(tmp_path)
    table.append(bids(0, 12))
    delete_equal(table, [{3: 1, 4: "s0"}, {3: 2, 4: "s1"}], [3, 4])
    kept = [n for n in range(12) if (n % 3, n % 2) not in {(1, 0), (2, 1)}]
    of = history(tmp_path)
    assert numbers(of) == kept
    assert numbers(of, "SELECT n FROM t WHERE n > 4 AND part = 'p'") == [n for n in kept if n > 4]
    assert sum(row["c"] for row in read(of, "SELECT count(*) AS c FROM t")) == len(kept)


@pytest.mark.parametrize(
    ("value", "deleted"),
    [
        (math.nan, [0, 1]),
        (0.0, [2]),
        (-0.0, [3]),
        (None, [4]),
        (math.inf, [5]),
    ],
)
def test_null_equals_null_and_floats_are_equal_by_their_bits(tmp_path: Path, value: Any, deleted: list[int]) -> None:
    table = table_in(tmp_path)
    other_nan = struct.unpack("<d", struct.pack("<Q", 0x7FF8000000000001))[0]
    values = [math.nan, other_nan, 0.0, -0.0, None, math.inf]
    table.append(rows_of(*({"n": n, "x": x} for n, x in enumerate(values))))
    delete_equal(table, [{5: value}], [5])
    assert numbers(history(tmp_path)) == [n for n in range(6) if n not in deleted]


def test_columns_are_known_by_id_whatever_they_are_called_and_wherever_they_went(tmp_path: Path) -> None:
    table = table_in(tmp_path)
    table.append(bids(0, 6))
    with table.update_schema() as change:
        change.update_column("a", LongType())
        change.rename_column("a", "kind")
        change.add_column("later", StringType())
    later = table.schema().find_field("later").field_id
    of = history(tmp_path)
    # Written as wide as the column is now.
    delete_equal(table, [{3: 1}], [3], types={3: pa.int64()})
    assert numbers(of) == [0, 2, 3, 5]
    # A file that lacks a column has null in it; one that the table has dropped still counts.
    delete_equal(table, [{later: None, 1: 0}, {later: "x", 1: 2}], [later, 1], types={later: pa.string()})
    assert numbers(of) == [2, 3, 5]
    with table.update_schema(allow_incompatible_changes=True) as change:
        change.delete_column("kind")
    assert numbers(of) == [2, 3, 5]
    delete_equal(table, [{3: 2}], [3])
    assert numbers(of) == [3]


def test_a_delete_can_be_of_a_field_inside_of_structs(tmp_path: Path) -> None:
    table = table_in(tmp_path)
    table.append(bids(0, 3))  # without the structs: theirs is null
    where = StructType(NestedField(1, "city", StringType()), NestedField(2, "at", StructType(NestedField(3, "x", IntegerType()))))  # fmt: skip
    with table.update_schema() as change:
        change.add_column("place", where)
    ids = {name: table.schema().find_field(name).field_id for name in ("place", "place.city", "place.at", "place.at.x")}
    places = [{"city": "a", "at": {"x": 1}}, {"city": "b", "at": {"x": 2}}, {"city": "b", "at": None}, None, {"city": None, "at": {"x": 2}}]  # fmt: skip
    table.append(rows_of(*({"n": 10 + n, "place": place} for n, place in enumerate(places)), schema=table.schema()))

    def known(name: str, kind: pa.DataType, number: int) -> pa.Field[Any]:
        return pa.field(name, kind, metadata={"PARQUET:field_id": str(number)})

    def delete(number: int, deleted: Sequence[Mapping[str, Any] | None], *compared: str) -> None:
        inner = pa.struct([known("x", pa.int32(), ids["place.at.x"])])
        outer = pa.struct([known("city", pa.string(), ids["place.city"]), known("at", inner, ids["place.at"])])
        path = Path(table.location().removeprefix("file://")) / "data" / f"inside-{number}.parquet"
        rows = pa.table([pa.array(deleted, outer)], schema=pa.schema([known("place", outer, ids["place"])]))
        pq.write_table(rows, path, write_page_checksum=True)
        named = [ids[name] for name in compared]
        commit(table, DataFileContent.EQUALITY_DELETES, f"file://{path}", Record(), 0, equality_ids=named)

    of = history(tmp_path)
    delete(1, [{"city": "b", "at": {"x": 2}}], "place.city", "place.at.x")
    assert numbers(of) == [0, 1, 2, 10, 12, 13, 14]
    delete(2, [{"city": "?", "at": {"x": 1}}, {"city": "?", "at": {"x": 2}}], "place.at.x")
    assert numbers(of, "SELECT n FROM t WHERE n > 0") == [1, 2, 12, 13]
    delete(3, [None], "place.city")  # a struct that is null, or not there, has null in it
    assert numbers(of) == [12]


@pytest.mark.parametrize("slice_rows", [1, 7, 1000])
def test_deletes_find_their_rows_in_whatever_row_groups_a_slice_has(tmp_path: Path, slice_rows: int) -> None:
    table = table_in(tmp_path)
    with table.transaction() as change:
        change.set_properties({"write.parquet.row-group-limit": "3"})
    table.append(bids(0, 50))
    [data] = _data_files(table)
    assert pq.read_metadata(data.file_path.removeprefix("file://")).num_row_groups > 10
    gone = {0, 2, 3, 11, 29, 30, 31, 32, 49}
    delete_equal(table, [{1: n} for n in gone], [1])
    delete_positions(table, data, 4, 48)
    found = read(history(tmp_path), "SELECT n, s FROM t", slice_rows)
    kept = [n for n in range(50) if n not in {*gone, 4, 48}]
    assert [(row["n"], row["s"]) for row in found] == [(n, f"s{n % 2}") for n in kept]


def test_a_damaged_file_whose_rows_are_deleted_by_equality_fails_by_its_name(tmp_path: Path) -> None:
    table = table_in(tmp_path)
    table.append(bids(0, 2000))
    delete_equal(table, [{4: "s1"}], [4])
    of = history(tmp_path)
    path = Path(_data_files(table)[0].file_path.removeprefix("file://"))
    broken = bytearray(path.read_bytes())
    chunk = pq.read_metadata(path).row_group(0).column(3)
    for at in range(chunk.dictionary_page_offset or chunk.data_page_offset, chunk.data_page_offset + 20):
        broken[at] ^= 0xFF
    path.write_bytes(broken)
    pin = of.pin(Window())
    with of.reader(pin).open(cut(pin, 1000)) as source, pytest.raises(CorruptData, match=rf"of data/{path.name}"):
        Data("t", {"t": source}).sql("SELECT n FROM t")


def test_a_delete_counts_in_its_partition_or_in_all(tmp_path: Path) -> None:
    table = table_in(tmp_path, partitioned=True)
    table.append(pa.concat_tables([bids(0, 3, "p"), bids(3, 3, "q")]))
    of = history(tmp_path)
    before = slices_of(of)
    delete_equal(table, [{3: 1}], [3], part="p", everywhere=False)
    assert numbers(of) == [0, 2, 3, 4, 5]
    # The slices of the other partition stay what they were.
    changed = [one.partition_values["part"] for one, was in zip(slices_of(of), before, strict=True) if one != was]
    assert changed == ["p"]
    delete_equal(table, [{3: 2}], [3])
    assert numbers(of) == [0, 3, 4]
    # The partition's own column is compared as well, wherever its value lies.
    delete_equal(table, [{2: "q", 3: 0}], [2, 3])
    assert numbers(of) == [0, 4]


# --- Which slices it concerns ---------------------------------------------------------------------------------------


def test_a_delete_makes_those_slices_new_that_it_may_touch_and_no_others(tmp_path: Path) -> None:
    table = table_in(tmp_path)
    table.append(bids(0, 10))
    table.append(bids(100, 10))
    of = history(tmp_path)
    before, digest = slices_of(of), digest_of(of)
    # Its values lie outside of the second file's, by what the manifest says of both.
    delete_equal(table, [{1: 3}, {1: 50}], [1], counted=True)
    after = slices_of(of)
    assert [one == was for one, was in zip(after, before, strict=True)] == [False, True]
    assert digest_of(of) != digest
    assert (after[0].first, after[0].last, after[0].rows) == (before[0].first, before[0].last, before[0].rows)
    # What comes later is untouched, and touches nothing.
    table.append(bids(200, 2))
    assert slices_of(of)[:2] == after
    assert slices_of(of)[2].equality_deletes == ""
    # The greatest value of one file and the least of another are theirs.
    delete_equal(table, [{1: 9}], [1], counted=True)
    delete_equal(table, [{1: 100}], [1], counted=True)
    assert numbers(of) == [n for n in [*range(10), *range(100, 110), 200, 201] if n not in {3, 9, 100}]
    # Nulls meet nulls, whatever the bounds say.
    delete_equal(table, [{6: None}], [6], counted=True)
    assert numbers(of) == []
    # Bounds that nobody wrote exclude nothing.
    table.append(bids(300, 2))
    latest = slices_of(of)
    delete_equal(table, [{1: 7}], [1])
    assert all(one != was for one, was in zip(slices_of(of), latest, strict=True))
    assert numbers(of) == [300, 301]


def digest_of(of: History) -> str:
    pin = of.pin(Window())
    return table_digest(pin, of.reader(pin).identity())


def test_the_identity_of_reading_does_not_change_with_deletes(tmp_path: Path) -> None:
    table = table_in(tmp_path)
    table.append(bids(0, 10))
    of = history(tmp_path)
    before = of.reader(of.pin(Window())).identity()
    delete_equal(table, [{1: 3}], [1])
    assert of.reader(of.pin(Window())).identity() == before


def test_a_snapshot_counts_from_above_until_it_is_read_and_is_verified_with_its_deletes(tmp_path: Path) -> None:
    table = table_in(tmp_path)
    table.append(bids(0, 10))
    delete_equal(table, [{3: 1}], [3])
    (tmp_path / "hindscan.toml").write_text('[history.bids]\niceberg = "lake/auctions/bids"\n')
    whole = hs.history("bids", project=tmp_path).snapshot()
    assert (whole.rows, whole.rows.exact) == (10, False)
    read = whole.read()
    assert (read.rows, read.rows.exact) == (7, True)
    read.save(tmp_path / "bids.json")
    kept = hs.load_snapshot(tmp_path / "bids.json", project=tmp_path)
    assert list(kept.verify()) == []
    # The same snapshot, whatever was deleted since.
    delete_equal(table, [{3: 2}], [3])
    assert sorted(kept.to_arrow(["n"])["n"].to_pylist()) == [0, 2, 3, 5, 6, 8, 9]


# --- Faults ---------------------------------------------------------------------------------------------------------


def test_deletes_that_changed_or_are_damaged_fail_by_their_file(tmp_path: Path) -> None:
    table = table_in(tmp_path)
    table.append(bids(0, 10))
    path = delete_equal(table, [{1: n} for n in range(100, 2000)], [1])
    of = history(tmp_path)
    pin = of.pin(Window())

    def rows() -> list[Any]:
        with of.reader(pin).open(cut(pin, 1000)) as source:
            return Data("t", {"t": source}).sql("SELECT s FROM t").to_pylist()

    assert len(rows()) == 10
    whole = path.read_bytes()
    path.write_bytes(whole + b" ")
    with pytest.raises(SourceChanged, match=rf"deletes in data/{path.name}: the file must be the one that was pinned"):
        rows()
    with pytest.raises(SourceChanged, match=r"it has .* bytes, the table says"):
        of.pin(Window())
    broken = bytearray(whole)
    chunk = pq.read_metadata(pa.BufferReader(whole)).row_group(0).column(0)
    broken[chunk.dictionary_page_offset + chunk.total_compressed_size // 2] ^= 4
    path.write_bytes(broken)
    pin = of.pin(Window())
    with pytest.raises(
        CorruptData, match=rf"deletes in data/{path.name}: a whole Parquet file .* and the columns n is required"
    ):
        rows()
    path.unlink()
    with pytest.raises(SourceChanged, match=f"data/{path.name}: it has gone"):
        of.pin(Window())


def test_deletes_that_cannot_be_read_right_are_refused_by_the_file(tmp_path: Path) -> None:
    table = table_in(tmp_path)
    with table.update_schema() as change:
        change.add_column("sellers", ListType(1, StringType()))
    inner = table.schema().find_field("sellers.element").field_id
    table.append(bids(0, 3))
    unknown = delete_equal(table, [{1: 1}], [1])
    for ids in ([], [inner], [99]):
        commit(table, DataFileContent.EQUALITY_DELETES, f"file://{unknown}", Record(), 0, equality_ids=ids)
    elsewhere = tmp_path / "elsewhere.parquet"
    elsewhere.write_bytes(unknown.read_bytes())
    commit(table, DataFileContent.EQUALITY_DELETES, f"file://{elsewhere}", Record(), 0, equality_ids=[1])
    with pytest.raises(HistoryError) as caught:
        history(tmp_path).pin(Window())
    said = str(caught.value)
    assert f"data/{unknown.name}: it deletes rows that are equal, and does not say in which columns" in said
    assert f"data/{unknown.name}: it deletes rows that are equal in field {inner}, which is no column" in said
    assert f"data/{unknown.name}: it deletes rows that are equal in field 99, which is no column" in said
    assert f"file://{elsewhere}: it lies outside the table's folder" in said


# --- Many -----------------------------------------------------------------------------------------------------------


def test_many_deletes_are_compared_in_pieces(tmp_path: Path) -> None:
    table = table_in(tmp_path)
    table.append(bids(0, 500))
    for first in range(0, 300, 100):
        delete_equal(table, [{1: n} for n in range(first, first + 100) if n % 2], [1])
    with mock.patch.object(equality, "CHUNK_ROWS", 7), mock.patch.object(equality, "KEPT_BYTES", 500):
        pieces = numbers(history(tmp_path))
    assert pieces == numbers(history(tmp_path)) == [n for n in range(500) if n >= 300 or n % 2 == 0]


VALUES: dict[int, list[Any]] = {
    1: [0, 1, 2, 3, 4, 5, None],
    2: ["p", "q", None],
    3: [None, 0, 1, 2],
    4: [None, "", "a", "é"],
    5: [None, math.nan, 0.0, -0.0, 1.5],
    6: [None, *(np.datetime64(n, "us").astype(object) for n in (-1, 0, 1))],
}


def same(one: Any, other: Any) -> bool:
    """Compare two values as Iceberg does."""
    if isinstance(one, float) and isinstance(other, float):
        if math.isnan(one) or math.isnan(other):
            return math.isnan(one) and math.isnan(other)
        return one == other and math.copysign(1, one) == math.copysign(1, other)
    return type(one) is type(other) and one == other


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_any_history_of_appends_and_deletes_reads_as_row_by_row(tmp_path: Path, data: st.DataObject) -> None:
    root = Path(tempfile.mkdtemp(dir=tmp_path))
    partitioned = data.draw(st.booleans())
    table = table_in(root, partitioned=partitioned)
    names, dropped = dict(NAMES), set()
    #: Rows in order of their files: values by id, and whether they are there.
    rows: list[dict[int, Any]] = []
    files: dict[str, list[int]] = {}
    for _ in range(data.draw(st.integers(2, 6))):
        match data.draw(st.sampled_from(["append", "append", "equal", "equal", "positions", "rename", "drop"])):
            case "append":
                known = set(files)
                added = [
                    {at: data.draw(st.sampled_from(VALUES[at])) for at in names if at not in dropped}
                    for _ in range(data.draw(st.integers(1, 6)))
                ]
                if partitioned:
                    added = [row | {2: added[0][2]} for row in added]
                arrow = schema_to_pyarrow(table.schema(), include_field_ids=False)
                table.append(pa.Table.from_pylist([{names[at]: v for at, v in row.items()} for row in added], arrow))
                [path] = {task.file_path for task in _data_files(table)} - known
                files[path] = list(range(len(rows), len(rows) + len(added)))
                rows += [dict.fromkeys(NAMES) | row for row in added]
                rows[-len(added) :] = [row | {0: True} for row in rows[-len(added) :]]
            case "equal":
                ids = data.draw(st.lists(st.sampled_from(sorted(names)), min_size=1, max_size=3, unique=True))
                deletes = data.draw(
                    st.lists(
                        st.fixed_dictionaries({at: st.sampled_from(VALUES[at]) for at in ids}), min_size=1, max_size=4
                    )
                )
                everywhere = not partitioned or data.draw(st.booleans())
                part = data.draw(st.sampled_from(VALUES[2]))
                delete_equal(table, deletes, ids, part=part, everywhere=everywhere, counted=data.draw(st.booleans()))
                for row in rows:
                    is_there = everywhere or row[2] == part
                    if is_there and any(all(same(row[at], one[at]) for at in ids) for one in deletes):
                        row[0] = False
            case "positions" if files:
                path = data.draw(st.sampled_from(list(files)))
                [file] = [one for one in _data_files(table) if one.file_path == path]
                gone = data.draw(st.sets(st.integers(0, len(files[path]) - 1), min_size=1))
                delete_positions(table, file, *gone)
                for at in gone:
                    rows[files[path][at]][0] = False
            case "rename":
                at = data.draw(st.sampled_from([3, 4, 5]))
                if at not in dropped:
                    new = f"{NAMES[at]}{len(table.schemas())}"
                    with table.update_schema() as change:
                        change.rename_column(names[at], new)
                    names[at] = new
            case "drop":
                at = data.draw(st.sampled_from([3, 4, 5]))
                if at not in dropped and len(dropped) < 2:
                    with table.update_schema(allow_incompatible_changes=True) as change:
                        change.delete_column(names[at])
                    dropped.add(at)
    of = history(root)
    left = [row for row in rows if row[0]]
    shown = [names[at] for at in names if at not in dropped]
    expected = sorted(str([row[at] for at in names if at not in dropped]) for row in left)
    columns = ", ".join(f'"{name}"' for name in shown)
    assert sorted(str(list(row.values())) for row in read(of, f"SELECT {columns} FROM t", slice_rows=1)) == expected
    assert numbers_or_null(read(of, "SELECT n FROM t WHERE n >= 2")) == sorted(
        row[1] for row in left if (row[1] or 0) >= 2
    )


def numbers_or_null(rows: Sequence[Mapping[str, Any]]) -> list[int]:
    return sorted(row["n"] for row in rows)


def _data_files(table: Table) -> list[DataFile]:
    snapshot = table.current_snapshot()
    assert snapshot is not None
    entries = [entry for manifest in snapshot.manifests(table.io) for entry in manifest.fetch_manifest_entry(table.io)]
    return [entry.data_file for entry in entries if entry.data_file.content == DataFileContent.DATA]
