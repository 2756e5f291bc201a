"""Iceberg and Delta tables as histories: written by pyiceberg and deltalake, read by hindscan, compared with their own scans and DuckDB."""

from __future__ import annotations

import base64
import datetime as dt
import json
import pickle
import struct
import zlib
from pathlib import Path
from typing import Any

import deltalake
import duckdb
import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyiceberg.catalog import Catalog, load_catalog
from pyiceberg.manifest import DataFile, DataFileContent, FileFormat
from pyiceberg.table import Table
from pyiceberg.typedef import Record
from pyiceberg.types import LongType
from pyroaring import BitMap

from hindscan.config_file import load_project
from hindscan.data import Data
from hindscan.errors import (
    ConfigError,
    CorruptData,
    HistoryError,
    ServiceUnavailable,
    SourceChanged,
    SourceMissing,
    UsageError,
)
from hindscan.history.columns import schema_from_text
from hindscan.history.declared import history_from_toml
from hindscan.history.snapshot import History, ParquetPin, ParquetSlice, Window
from hindscan.plans.cut import cut

SECOND = 1_000_000
US = pa.timestamp("us", "UTC")
AUCTIONS = ["lamps & co", "c/ü", None, "%41=b"]


def bids(first: int, count: int) -> pa.Table:
    """Make bids numbered from `first`, one per second, in four auctions with awkward names."""
    numbers = range(first, first + count)
    return pa.table(
        {
            "auction": pa.array([AUCTIONS[n % 4] for n in numbers], pa.string()),
            "day": pa.array([dt.date(2026, 1, 1 + n % 2) for n in numbers], pa.date32()),
            "price": pa.array([None if n % 7 == 0 else n * 10 for n in numbers], pa.int32()),
            "date_time": pa.array([n * SECOND for n in numbers], US),
        }
    )


def rows(table: pa.Table) -> list[dict[str, Any]]:
    return sorted(table.to_pylist(), key=lambda row: row["date_time"])


def totals(table: pa.Table) -> list[tuple[Any, ...]]:
    with duckdb.connect() as database:
        query = "select auction, day, count(*) n, sum(price) total from bids group by all order by all"
        return database.register("bids", table).execute(query).fetchall()


def read(of: History, window: Window | None = None, pin: ParquetPin | None = None) -> pa.Table:
    """Pin, travel through JSON and pickle, cut, read each slice alone, and put the rows together."""
    pinned = pin or of.pin(window or Window())
    pinned = msgspec.json.decode(msgspec.json.encode(pinned), type=ParquetPin)
    reader = pickle.loads(pickle.dumps(of.reader(pinned)))
    tables = []
    for piece in cut(pinned, 1000):
        with reader.open([piece]) as source:
            tables.append(Data("t", {"t": source}).arrow())
            assert sum(proof.records for proof in source.proofs()) == piece.rows
    return pa.concat_tables([schema_from_text(pinned.schema).empty_table(), *tables])


def slices_of(of: History, window: Window | None = None) -> list[ParquetSlice]:
    """Give the slices without their positions: what keys cover of them."""
    found = cut(of.pin(window or Window()), 1000)
    return [msgspec.structs.replace(s, position=0) for s in found if isinstance(s, ParquetSlice)]


def catalog(root: Path) -> Catalog:
    (root / "lake").mkdir(exist_ok=True)
    found = load_catalog("shop", type="sql", uri=f"sqlite:///{root}/shop.db", warehouse=f"file://{root}/lake")
    found.create_namespace_if_not_exists("auctions")
    return found


def by_name(root: Path, **more: Any) -> History:
    """Declare the table by its name in the catalog."""
    catalogs = {"shop": {"type": "sql", "uri": f"sqlite:///{root}/shop.db"}}
    table = {"iceberg": "shop.auctions.bids", "time": "date_time", **more}
    return history_from_toml("bids", table, clusters={}, root=root, catalogs=catalogs)


def by_folder(root: Path, **more: Any) -> History:
    table = {"iceberg": "lake/auctions/bids", "time": "date_time", **more}
    return history_from_toml("bids", table, clusters={}, root=root)


def iceberg(root: Path, *parts: pa.Table, by: tuple[str, ...] = ("auction",)) -> Table:
    found = catalog(root).create_table("auctions.bids", schema=bids(0, 1).schema)
    if by:
        with found.update_spec() as spec:
            for column in by:
                spec.add_identity(column)
    for part in parts:
        found.append(part)
    return found


def delta_history(root: Path, **more: Any) -> History:
    return history_from_toml("bids", {"delta": "bids", "time": "date_time", **more}, clusters={}, root=root)


def delta(root: Path, *parts: pa.Table, **options: Any) -> deltalake.DeltaTable:
    for part in parts:
        deltalake.write_deltalake(root / "bids", part, mode="append", **options)
    return deltalake.DeltaTable(root / "bids")


# --- Iceberg --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("declared", [by_name, by_folder])
def test_an_iceberg_table_reads_as_its_own_scan_does(tmp_path: Path, declared: Any) -> None:
    table = iceberg(tmp_path, bids(0, 20), bids(20, 15), by=("auction", "day"))
    found = read(declared(tmp_path))
    assert rows(found) == rows(table.scan().to_arrow())
    assert found.num_rows == 35
    assert found.schema.field("date_time").type == US


def test_an_iceberg_pin_names_the_snapshot_and_rows_agree_with_duckdb(tmp_path: Path) -> None:
    table = iceberg(tmp_path, bids(0, 50))
    of = by_name(tmp_path)
    pin = of.pin(Window())
    assert isinstance(pin, ParquetPin)
    snapshot = table.current_snapshot()
    assert snapshot is not None
    assert pin.version == f"iceberg snapshot {snapshot.snapshot_id} of {table.metadata.table_uuid}"
    assert any("expired or vacuumed" in caveat for caveat in pin.caveats)
    assert totals(read(of)) == totals(table.scan().to_arrow())


def test_a_file_of_a_grown_table_keeps_its_slices(tmp_path: Path) -> None:
    table = iceberg(tmp_path, bids(0, 20))
    of = by_name(tmp_path)
    before = slices_of(of)
    table.append(bids(20, 4))
    after = slices_of(of)
    assert after[: len(before)] == before
    assert len(after) == len(before) + 4
    assert of.reader(of.pin(Window())).identity() == by_name(tmp_path).reader(of.pin(Window())).identity()


def test_an_older_iceberg_snapshot_is_read_by_its_id_and_by_a_tag(tmp_path: Path) -> None:
    table = iceberg(tmp_path, bids(0, 20))
    first = table.current_snapshot()
    assert first is not None
    table.manage_snapshots().create_tag(first.snapshot_id, "closing").commit()
    table.overwrite(bids(100, 3))
    for version in (first.snapshot_id, "closing"):
        assert rows(read(by_name(tmp_path, version=version))) == rows(bids(0, 20))
    assert rows(read(by_name(tmp_path))) == rows(bids(100, 3))
    with pytest.raises(SourceMissing, match="must have a branch or tag 'opening'; it has not, or it was expired"):
        by_name(tmp_path, version="opening").pin(Window())


def test_columns_of_an_iceberg_table_are_renamed_added_dropped_and_widened(tmp_path: Path) -> None:
    table = iceberg(tmp_path, bids(0, 10))
    with table.update_schema() as change:
        change.rename_column("price", "amount")
        change.update_column("price", LongType())
        change.delete_column("day")
        change.add_column("channel", LongType())
    found = read(by_name(tmp_path))
    assert rows(found.select(table.schema().as_arrow().names)) == rows(table.scan().to_arrow())
    later = bids(10, 5).rename_columns(["auction", "day", "amount", "date_time"]).drop_columns(["day"])
    later = later.set_column(1, "amount", later["amount"].cast(pa.int64())).append_column("channel", pa.array([1] * 5))
    table.append(later)
    found = read(by_name(tmp_path))
    assert rows(found.select(table.schema().as_arrow().names)) == rows(table.scan().to_arrow())
    assert set(found.schema.names) == {"auction", "amount", "date_time", "channel"}


def test_files_without_ids_are_read_by_the_names_that_the_table_maps(tmp_path: Path) -> None:
    table = catalog(tmp_path).create_table("auctions.bids", schema=bids(0, 1).schema)
    mapped = [{"field-id": 3, "names": ["price", "cost"]}]
    mapped += [{"field-id": at, "names": [name]} for at, name in ((1, "auction"), (2, "day"), (4, "date_time"))]
    with table.transaction() as change:
        change.set_properties({"schema.name-mapping.default": json.dumps(mapped)})
    file = tmp_path / "lake/auctions/bids/data/imported.parquet"
    file.parent.mkdir(parents=True)
    pq.write_table(bids(0, 9).rename_columns(["auction", "day", "cost", "date_time"]), file)
    imported = DataFile.from_args(
        content=DataFileContent.DATA,
        file_path=f"file://{file}",
        file_format=FileFormat.PARQUET,
        partition=Record(),
        record_count=9,
        file_size_in_bytes=file.stat().st_size,
    )
    imported.spec_id = 0
    with table.transaction() as change, change.update_snapshot().fast_append() as append:
        append.append_data_file(imported)
    assert rows(read(by_name(tmp_path))) == rows(table.scan().to_arrow()) == rows(bids(0, 9))


def test_mapped_names_inside_of_columns_are_refused_where_files_have_them(tmp_path: Path) -> None:
    seller = pa.array([{"name": "ann"}, None], pa.struct({"name": pa.string()}))
    rows_of = pa.table({"date_time": pa.array([1, 2], US), "seller": seller})
    table = catalog(tmp_path).create_table("auctions.bids", schema=rows_of.schema)
    table.append(rows_of)
    inner = table.schema().find_field("seller.name").field_id
    mapped = [{"field-id": 2, "names": ["seller"], "fields": [{"field-id": inner, "names": ["name"]}]}]
    for names in (["name"], ["name", "called"]):
        mapped[0]["fields"][0]["names"] = names
        with table.transaction() as change:
            change.set_properties({"schema.name-mapping.default": json.dumps(mapped)})
        if len(names) == 1:
            assert rows(read(by_name(tmp_path))) == rows(table.scan().to_arrow())
    with pytest.raises(HistoryError, match=r"a field inside a column was renamed: seller.called, seller.name"):
        by_name(tmp_path).pin(Window())


def test_a_name_that_was_two_columns_is_refused_where_a_file_has_the_other(tmp_path: Path) -> None:
    table = iceberg(tmp_path, bids(0, 4), by=())
    with table.update_schema(allow_incompatible_changes=True) as change:
        change.delete_column("price")
    with table.update_schema() as change:
        change.add_column("price", LongType())
    with pytest.raises(HistoryError, match="'price' has been the name of 2 columns, and the file may hold another"):
        by_name(tmp_path).pin(Window())
    later = bids(4, 4).select(["auction", "day", "date_time"]).append_column("price", pa.array([7] * 4))
    table.overwrite(later)
    assert rows(read(by_name(tmp_path))) == rows(table.scan().to_arrow())


def test_fields_inside_a_column_may_be_added_and_not_renamed(tmp_path: Path) -> None:
    seller = pa.array(
        [{"name": "ann", "tags": ["a"]}, None], pa.struct({"name": pa.string(), "tags": pa.list_(pa.string())})
    )
    rows_of = pa.table({"date_time": pa.array([1, 2], US), "seller": seller})
    table = catalog(tmp_path).create_table("auctions.bids", schema=rows_of.schema)
    table.append(rows_of)
    with table.update_schema() as change:
        change.add_column(("seller", "rank"), LongType())
    assert rows(read(by_name(tmp_path))) == rows(table.scan().to_arrow())
    with table.update_schema() as change:
        change.rename_column("seller.name", "called")
    with pytest.raises(HistoryError, match=r"a field inside a column was renamed: seller.called, seller.name"):
        by_name(tmp_path).pin(Window())


def test_a_partitioning_that_changed_reads_right(tmp_path: Path) -> None:
    table = iceberg(tmp_path, bids(0, 10), by=("auction",))
    with table.update_spec() as spec:
        spec.remove_field("auction")
        spec.add_identity("day")
    table.append(bids(10, 10))
    assert rows(read(by_name(tmp_path))) == rows(table.scan().to_arrow())


def test_an_iceberg_table_without_rows_has_its_columns(tmp_path: Path) -> None:
    iceberg(tmp_path)
    found = read(by_name(tmp_path))
    assert (found.num_rows, found.schema.names) == (0, ["auction", "day", "price", "date_time"])


def add_deletes(table: Table, data: DataFile, content: DataFileContent, path: str, kind: FileFormat) -> None:
    """Commit a file that deletes rows; pyiceberg reads such files and writes none, so its manifest is one of data."""
    file = table.io.new_input(path)
    deletes = DataFile.from_args(
        content=content,
        file_path=path,
        file_format=kind,
        partition=data.partition,
        record_count=1,
        file_size_in_bytes=len(file),
        equality_ids=[3] if content == DataFileContent.EQUALITY_DELETES else None,
    )
    deletes.spec_id = data.spec_id
    with table.transaction() as change, change.update_snapshot().fast_append() as append:
        append.append_data_file(deletes)


def delete_positions(table: Table, data: DataFile, *positions: int) -> None:
    path = f"{data.file_path.removesuffix('.parquet')}-{len(positions)}-deletes.parquet"
    content = {"file_path": [data.file_path] * len(positions), "pos": pa.array(positions, pa.int64())}
    pq.write_table(pa.table(content), path.removeprefix("file://"))
    add_deletes(table, data, DataFileContent.POSITION_DELETES, path, FileFormat.PARQUET)


def delete_by_vector(table: Table, data: DataFile, *positions: int) -> None:
    """Write a deletion vector as the Puffin specification has it: magic, blob, magic, footer, its size, flags, magic."""
    bitmap = struct.pack("<QI", 1, 0) + BitMap(positions).serialize()
    framed = struct.pack("<I", 1681511377) + bitmap
    blob = struct.pack(">I", len(framed)) + framed + struct.pack(">I", zlib.crc32(framed))
    said = {"type": "deletion-vector-v1", "fields": [2147483645], "snapshot-id": -1, "sequence-number": -1, "offset": 4,
            "length": len(blob), "properties": {"referenced-data-file": data.file_path, "cardinality": str(len(positions))}}  # fmt: skip
    footer = json.dumps({"blobs": [said], "properties": {}}).encode()
    content = b"PFA1" + blob + b"PFA1" + footer + struct.pack("<I", len(footer)) + bytes(4) + b"PFA1"
    path = data.file_path.replace(".parquet", ".puffin")
    Path(path.removeprefix("file://")).write_bytes(content)
    add_deletes(table, data, DataFileContent.POSITION_DELETES, path, FileFormat.PUFFIN)


def data_files(table: Table) -> list[DataFile]:
    return sorted((task.file for task in table.scan().plan_files()), key=lambda file: file.record_count)


@pytest.mark.parametrize("delete", [delete_positions, delete_by_vector])
def test_rows_that_an_iceberg_snapshot_has_deleted_are_not_read(tmp_path: Path, delete: Any) -> None:
    table = iceberg(tmp_path, bids(0, 8), bids(8, 20), by=())
    before = slices_of(by_name(tmp_path))
    small, large = data_files(table)
    delete(table, large, 19, 0, 7)
    assert rows(read(by_name(tmp_path))) == rows(table.scan().to_arrow())
    assert read(by_name(tmp_path)).num_rows == 25
    # A window by time, whose bound cuts both files, and a query.
    found = read_bounded(by_name(tmp_path), Window(since=5 * SECOND, as_of=16 * SECOND))
    assert rows(found) == [row for row in rows(table.scan().to_arrow()) if 5 <= row["date_time"].timestamp() < 16]
    assert totals(read(by_name(tmp_path))) == totals(table.scan().to_arrow())
    # Only the slice some of whose rows are gone is another one.
    after = slices_of(by_name(tmp_path))
    assert [one == other for one, other in zip(before, after, strict=True)] == [True, False]
    delete(table, small, *range(8))
    assert len(slices_of(by_name(tmp_path))) == 1
    assert rows(read(by_name(tmp_path))) == rows(table.scan().to_arrow())


def test_deletes_of_an_iceberg_table_add_up_and_later_files_have_none(tmp_path: Path) -> None:
    table = iceberg(tmp_path, bids(0, 8), by=())
    [data] = data_files(table)
    delete_positions(table, data, 1)
    delete_positions(table, data, 2, 1)
    table.append(bids(8, 8))
    assert rows(read(by_name(tmp_path))) == rows(table.scan().to_arrow())
    assert read(by_name(tmp_path)).num_rows == 14


def test_deletes_that_are_not_of_the_files_rows_fail_by_its_name(tmp_path: Path) -> None:
    table = iceberg(tmp_path, bids(0, 8), by=())
    [data] = data_files(table)
    delete_positions(table, data, 8)
    with pytest.raises(CorruptData, match=r"parquet, rows 8 to 8 are deleted, and the file has 8"):
        by_name(tmp_path).pin(Window())


def test_deletes_in_other_formats_than_parquet_are_refused_by_the_file(tmp_path: Path) -> None:
    table = iceberg(tmp_path, bids(0, 8), by=())
    [data] = data_files(table)
    path = data.file_path.replace(".parquet", "-deletes.avro")
    Path(path.removeprefix("file://")).write_bytes(b"Obj")
    add_deletes(table, data, DataFileContent.EQUALITY_DELETES, path, FileFormat.AVRO)
    with pytest.raises(HistoryError, match=r"-deletes.avro: it deletes rows of other files \(equality deletes\)"):
        by_name(tmp_path).pin(Window())


def test_rows_of_an_iceberg_table_are_cut_by_time(tmp_path: Path) -> None:
    table = iceberg(tmp_path, bids(0, 20), bids(20, 20))
    found = read_bounded(by_name(tmp_path), Window(as_of=25 * SECOND, since=5 * SECOND))
    assert rows(found) == [row for row in rows(table.scan().to_arrow()) if 5 <= row["date_time"].timestamp() < 25]
    # Every file of the second half but those that begin before T is in no slice at all.
    assert len(slices_of(by_name(tmp_path), Window(as_of=20 * SECOND))) == 4


def read_bounded(of: History, window: Window) -> pa.Table:
    pin = of.pin(window)
    pieces = cut(pin, 1000)
    with of.reader(pin).open(pieces) as source:
        return Data("t", {"t": source}).arrow()


def test_as_of_a_snapshot_reads_the_table_as_it_was_before(tmp_path: Path) -> None:
    table = iceberg(tmp_path, bids(0, 4), bids(4, 4))
    first, second = (entry.timestamp_ms * 1000 for entry in table.history())
    of = by_name(tmp_path, as_of="snapshot")
    assert read_bounded(of, Window(as_of=second)).num_rows == 4
    assert read_bounded(of, Window(as_of=second + 1)).num_rows == 8
    with pytest.raises(SourceMissing, match="must have a snapshot committed before"):
        of.pin(Window(as_of=first))
    timeless = history_from_toml(
        "bids", {"iceberg": "lake/auctions/bids", "as_of": "snapshot"}, clusters={}, root=tmp_path
    )
    pin = timeless.pin(Window(as_of=second))
    assert isinstance(pin, ParquetPin)
    assert pin.before is None
    assert not any("ignored" in caveat for caveat in pin.caveats)
    assert read(timeless, pin=pin).num_rows == 4


def test_a_file_that_was_removed_fails_by_its_name_when_pinned_and_when_read(tmp_path: Path) -> None:
    table = iceberg(tmp_path, bids(0, 8), by=())
    of = by_name(tmp_path)
    pin = of.pin(Window())
    gone = Path(next(iter(table.scan().plan_files())).file.file_path.removeprefix("file://"))
    gone.unlink()
    with pytest.raises(SourceChanged, match=gone.name):
        of.reader(pin).open(cut(pin, 1000))
    with pytest.raises(SourceChanged, match=rf"{gone.name}: it has gone\nThe version was expired or vacuumed"):
        of.pin(Window())


def test_a_catalog_that_does_not_answer_or_has_no_such_table_is_told_apart(tmp_path: Path) -> None:
    catalog(tmp_path)
    with pytest.raises(SourceMissing, match=r"catalog shop must have the table auctions\.bids; it has not"):
        by_name(tmp_path).pin(Window())
    (tmp_path / "shop.db").unlink()
    with pytest.raises(ServiceUnavailable, match=r"the catalog must answer; .*Check \[iceberg\.shop\]"):
        by_name(tmp_path).pin(Window())
    with pytest.raises(SourceMissing, match=r"one newest metadata file must be in .*; none is there"):
        by_folder(tmp_path).pin(Window())


def test_two_newest_metadata_files_are_not_guessed_between(tmp_path: Path) -> None:
    table = iceberg(tmp_path, bids(0, 4))
    newest = Path(table.metadata_location.removeprefix("file://"))
    newest.with_name(newest.name.partition("-")[0] + "-lost.metadata.json").write_bytes(newest.read_bytes())
    with pytest.raises(SourceMissing, match="2 have the same number"):
        by_folder(tmp_path).pin(Window())
    named = history_from_toml("bids", {"iceberg": str(newest)}, clusters={}, root=tmp_path)
    assert read(named).num_rows == 4


# --- Delta ----------------------------------------------------------------------------------------------------------


def test_a_delta_table_reads_as_its_own_scan_does_and_as_duckdb(tmp_path: Path) -> None:
    table = delta(tmp_path, bids(0, 20), bids(20, 15), partition_by=["auction", "day"])
    found = read(delta_history(tmp_path))
    theirs = table.to_pyarrow_table()
    assert rows(found.select(theirs.schema.names)) == rows(theirs)
    assert totals(found) == totals(theirs)
    pin = delta_history(tmp_path).pin(Window())
    assert isinstance(pin, ParquetPin)
    assert pin.version == f"delta version 1 of {table.metadata().id}"


def test_a_delta_version_is_read_by_number_and_a_grown_table_keeps_slices(tmp_path: Path) -> None:
    table = delta(tmp_path, bids(0, 20), partition_by=["auction"])
    of = delta_history(tmp_path)
    before = slices_of(of)
    delta(tmp_path, bids(20, 4), partition_by=["auction"])
    assert slices_of(of)[: len(before)] == before
    table.update_incremental()
    table.delete("price > 100")
    assert rows(read(of).select(bids(0, 1).schema.names)) == rows(table.to_pyarrow_table())
    assert read(delta_history(tmp_path, version=0)).num_rows == 20
    with pytest.raises(SourceMissing, match=r"version 9 of a Delta table must be there"):
        delta_history(tmp_path, version=9).pin(Window())


def test_a_column_that_a_delta_table_got_later_is_null_before(tmp_path: Path) -> None:
    delta(tmp_path, bids(0, 5))
    table = delta(tmp_path, bids(5, 5).append_column("channel", pa.array([1] * 5)), schema_mode="merge")
    found = read(delta_history(tmp_path))
    assert rows(found) == rows(table.to_pyarrow_table().select(found.schema.names))
    assert found["channel"].null_count == 5


def test_times_that_spark_wrote_as_int96_are_read_as_the_table_has_them(tmp_path: Path) -> None:
    delta(tmp_path, bids(0, 4))
    log = tmp_path / "bids/_delta_log/00000000000000000000.json"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    [added] = [line["add"] for line in lines if "add" in line]
    file = tmp_path / "bids" / added["path"]
    pq.write_table(bids(0, 4), file, use_deprecated_int96_timestamps=True)
    added["size"] = file.stat().st_size
    log.write_text("\n".join(json.dumps(line) for line in lines))
    found = read_bounded(delta_history(tmp_path), Window(as_of=2 * SECOND))
    assert found["date_time"].type == US
    assert rows(found.select(bids(0, 1).schema.names)) == rows(bids(0, 2))
    columns = {"auction": "string", "date_time": "timestamp[ns, UTC]"}
    found = read_bounded(delta_history(tmp_path, columns=columns), Window(as_of=2 * SECOND))
    assert found["date_time"].cast(US).to_pylist() == bids(0, 2)["date_time"].to_pylist()


def test_as_of_a_delta_version_goes_by_when_it_was_committed(tmp_path: Path) -> None:
    table = delta(tmp_path, bids(0, 4), bids(4, 4))
    second, first = (entry["timestamp"] * 1000 for entry in table.history())
    of = delta_history(tmp_path, as_of="snapshot")
    assert read_bounded(of, Window(as_of=second)).num_rows == (4 if first < second else 0)
    assert read_bounded(of, Window(as_of=second + 1)).num_rows == 8
    with pytest.raises(SourceMissing, match=r"must have a version committed before .*; of the 2 in its log none was"):
        of.pin(Window(as_of=first))


def test_rows_that_deletion_vectors_of_a_delta_table_delete_are_not_read(tmp_path: Path) -> None:
    table = delta(tmp_path, bids(0, 4))
    actions = [
        json.loads(line) for line in (tmp_path / "bids/_delta_log/00000000000000000000.json").read_text().splitlines()
    ]
    [added] = [action["add"] for action in actions if "add" in action]
    protocol = {
        "minReaderVersion": 3,
        "minWriterVersion": 7,
        "readerFeatures": ["deletionVectors"],
        "writerFeatures": ["deletionVectors"],
    }
    vector = inline_vector(0, 2)
    lines = [
        {"protocol": protocol},
        {"remove": {"path": added["path"], "dataChange": True, "deletionTimestamp": 1}},
        {"add": {**added, "deletionVector": vector}},
    ]
    log = tmp_path / "bids/_delta_log/00000000000000000001.json"
    log.write_text("\n".join(json.dumps(line) for line in lines))
    assert table.version() == 0
    found = read(delta_history(tmp_path))
    # Only its query engine applies vectors.
    opened = deltalake.DeltaTable(tmp_path / "bids")
    oracle: Any = deltalake.QueryBuilder().register("bids", opened).execute("SELECT * FROM bids").read_all()
    assert rows(found) == rows(pa.table(oracle).cast(found.schema))
    assert found.num_rows == 2
    assert read(delta_history(tmp_path, version=0)).num_rows == 4


def inline_vector(*deleted: int) -> dict[str, Any]:
    """Make a deletion vector that stands in the log itself: a magic number, one 32-bit bitmap under the key 0, in Z85."""
    raw = struct.pack("<IQI", 1681511377, 1, 0) + BitMap(deleted).serialize()
    raw += bytes(-len(raw) % 4)
    python85 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~"
    z85 = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
    text = base64.b85encode(raw).decode().translate(str.maketrans(python85, z85))
    return {"storageType": "i", "pathOrInlineDv": text, "sizeInBytes": len(raw), "cardinality": len(deleted)}


def test_columns_with_other_names_in_a_delta_table_are_refused(tmp_path: Path) -> None:
    table = delta(tmp_path, bids(0, 4))
    log = tmp_path / "bids/_delta_log/00000000000000000000.json"
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    for line in lines:
        if "metaData" in line:
            line["metaData"]["configuration"] = {"delta.columnMapping.mode": "name"}
            schema = json.loads(line["metaData"]["schemaString"])
            for number, one in enumerate(schema["fields"], 1):
                one["metadata"] = {
                    "delta.columnMapping.id": number,
                    "delta.columnMapping.physicalName": f"col-{number}",
                }
            line["metaData"]["schemaString"] = json.dumps(schema)
        if "protocol" in line:
            line["protocol"] = {"minReaderVersion": 2, "minWriterVersion": 5}
    log.write_text("\n".join(json.dumps(line) for line in lines))
    assert table.version() == 0
    with pytest.raises(
        HistoryError, match=r"its columns have other names in files \(delta.columnMapping.mode = 'name'\)"
    ):
        delta_history(tmp_path).pin(Window())


def test_a_vacuumed_version_fails_by_the_names_of_its_files(tmp_path: Path) -> None:
    table = delta(tmp_path, bids(0, 4))
    of = delta_history(tmp_path)
    pin = of.pin(Window())
    assert isinstance(pin, ParquetPin)
    deltalake.write_deltalake(tmp_path / "bids", bids(9, 4), mode="overwrite")
    table.update_incremental()
    table.vacuum(retention_hours=0, dry_run=False, enforce_retention_duration=False)
    [gone] = pin.files
    with pytest.raises(SourceChanged, match=gone.path):
        of.reader(pin).open(cut(pin, 1000))
    with pytest.raises(SourceChanged, match=f"{gone.path}: it has gone"):
        delta_history(tmp_path, version=0).pin(Window())


def test_a_file_of_another_size_than_the_table_says_is_named(tmp_path: Path) -> None:
    [path] = [Path(uri) for uri in delta(tmp_path, bids(0, 4)).file_uris()]
    size = path.stat().st_size
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.raises(SourceChanged, match=rf"{path.name}: it has {size + 4} bytes, the table says {size}"):
        delta_history(tmp_path).pin(Window())


def test_a_folder_without_a_delta_table_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceMissing, match="While opening bids: a Delta table must be there"):
        delta_history(tmp_path).pin(Window())


# --- Declared -------------------------------------------------------------------------------------------------------


def faults_of(table: dict[str, Any]) -> dict[str, str]:
    with pytest.raises(ConfigError) as raised:
        history_from_toml("bids", table, clusters={}, root=".")
    return dict(raised.value.details["faults"])


def test_what_is_wrong_with_a_lake_history_is_said_at_once() -> None:
    assert faults_of({"delta": "lake", "version": "newest", "drift": "widen", "format": "json"}) == {
        "drift": "a delta history has no such setting",
        "format": "a delta history has no such setting",
        "version": "must be the number of a version, found 'newest'",
    }
    assert faults_of({"iceberg": "shop.auctions.bids"}) == {
        "iceberg": "names the catalog 'shop', which must be declared as [iceberg.shop]; declared: none"
    }
    assert "leave out it or" in faults_of({"iceberg": "a/b", "version": 4, "as_of": "snapshot"})["version"]
    assert faults_of({"iceberg": ""})["iceberg"].startswith("must be a folder or URL, or CATALOG.NAMESPACE.TABLE")
    assert faults_of({"iceberg": "a/b", "parquet": "c"}) == {
        "parquet": "exactly one of parquet, topic, iceberg, delta must say where the history lies"
    }
    assert faults_of({"parquet": "c", "version": 1, "as_of": "snapshot"}) == {
        "version": "a parquet history has no such setting",
        "as_of": "can only be \"ignore\", found 'snapshot'",
    }


def test_a_secret_of_a_catalog_comes_from_the_environment(tmp_path: Path) -> None:
    text = '[iceberg.shop]\nuri = "{}"\ncredential = "{}"\n[history.bids]\niceberg = "shop.auctions.bids"\n'
    (tmp_path / "hindscan.toml").write_text(text.format("postgresql://me:secret@db/shop", "id:hush"))
    with pytest.raises(ConfigError) as raised:
        load_project(tmp_path, {})
    assert "iceberg.shop.uri: its password is a secret" in str(raised.value)
    assert "iceberg.shop.credential: is a secret" in str(raised.value)
    (tmp_path / "hindscan.toml").write_text(text.format("http://127.0.0.1:1/", "${SHOP}"))
    project = load_project(tmp_path, {"SHOP": "id:hush"})
    assert project.iceberg_catalogs["shop"]["credential"] == "id:hush"
    assert "hush" not in repr(project.histories["bids"])


def test_a_time_is_needed_for_a_window_by_time(tmp_path: Path) -> None:
    delta(tmp_path, bids(0, 4))
    timeless = history_from_toml("bids", {"delta": "bids"}, clusters={}, root=tmp_path)
    with pytest.raises(UsageError, match="needs to know the time of its rows"):
        timeless.pin(Window(as_of=SECOND))
