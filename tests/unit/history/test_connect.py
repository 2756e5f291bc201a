"""A lake of Kafka Connect is an archive as far as its names and rows prove which offsets it has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hindscan import files
from hindscan.errors import CorruptData, DataLost, HistoryError, SchemaMismatch, SourceMissing
from hindscan.history.archive import ArchivePlace
from hindscan.history.archived_reader import ArchivedRows, ArchiveReader
from hindscan.history.columns import schema_from_columns, schema_to_text
from hindscan.history.connect import connect_archive
from hindscan.history.kafka import KafkaHistory
from hindscan.history.snapshot import KafkaPin, PartitionPin

SCHEMA = schema_from_columns({"n": "int64"})
TOPIC = KafkaHistory(name="h", cluster="default", config={}, topic="bids", columns=SCHEMA, time="n")
PIN = KafkaPin(
    cluster="default",
    cluster_id="c",
    topic="bids",
    topic_id="id",
    isolation="read_committed",
    partitions=tuple(PartitionPin(partition=p, start=0, end=99, log_start=0, high_watermark=99) for p in (0, 1)),
    format="json",
    schema=schema_to_text(SCHEMA),
    schema_from="declared",
)


def put(folder: Path, path: str, offsets: list[int], *, with_offsets: bool = False, **columns: Any) -> None:
    """Write a file as the sink would: n is a hundred times the offset."""
    file = folder / path
    file.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table(
        {"n": pa.array([100 * offset for offset in offsets], pa.int64()), "more": ["x"] * len(offsets), **columns}
    )
    if with_offsets:
        table = table.append_column("off", pa.array(offsets, pa.int64()))
    pq.write_table(table, file)


def ranges(folder: Path, offset: str | None = None) -> dict[int, list[tuple[int, int]]]:
    place = ArchivePlace(location=str(folder), place=files.place(folder), layout="connect", offset=offset)
    pin, found, _ = connect_archive(place, TOPIC, PIN)
    ends = {one.partition: (one.start, one.end) for one in found}
    by_partition: dict[int, list[tuple[int, int]]] = {}
    for file in pin.files:
        by_partition.setdefault(file.partition, []).append((file.start, file.end))
    assert ends == {p: (own[0][0], own[-1][1]) for p, own in by_partition.items()}
    return by_partition


def rows(folder: Path, start: int, end: int, offset: str | None = None) -> list[int]:
    place = ArchivePlace(location=str(folder), place=files.place(folder), layout="connect", offset=offset)
    pin, _, _ = connect_archive(place, TOPIC, PIN)
    read = ArchivedRows(ArchiveReader(place=place.place, pin=pin, schema=SCHEMA), 0, start, end)
    found: list[int] = read.columns(["n"])["n"].to_pylist()
    return found


def test_a_file_ends_where_the_next_one_starts_and_the_last_one_is_left_to_the_topic(tmp_path: Path) -> None:
    put(tmp_path, "day=1/bids+0+0000000000.parquet", [0, 1, 2])
    put(tmp_path, "day=2/bids+0+0000000003.snappy.parquet", [3, 4])
    put(tmp_path, "day=2/bids+0+0000000005.parquet", [5, 6])
    put(tmp_path, "day=2/bids+1+0000000007.parquet", [7])
    put(tmp_path, "day=2/bids+2+0000000000.parquet", [0])
    assert ranges(tmp_path) == {0: [(0, 3), (3, 5)]}
    assert rows(tmp_path, 0, 5) == [0, 100, 200, 300, 400]
    assert rows(tmp_path, 1, 4) == [100, 200, 300]
    assert rows(tmp_path, 4, 5) == [400]


@pytest.mark.parametrize("second", [[3, 5], [3, 4, 4, 5], [3]])
def test_fewer_or_more_rows_than_offsets_are_refused_by_the_files_name(tmp_path: Path, second: list[int]) -> None:
    put(tmp_path, "bids+0+0.parquet", [0, 1, 2])
    put(tmp_path, "bids+0+3.parquet", second)
    put(tmp_path, "bids+0+6.parquet", [6])
    with pytest.raises(DataLost, match=rf"bids\+0\+3.parquet has {len(second)} rows for the 3 offsets \[3, 6\)"):
        ranges(tmp_path)


def test_a_file_that_is_gone_is_noticed(tmp_path: Path) -> None:
    for start in (0, 2, 4, 6):
        put(tmp_path, f"bids+0+{start}.parquet", [start, start + 1])
    assert ranges(tmp_path) == {0: [(0, 2), (2, 4), (4, 6)]}
    (tmp_path / "bids+0+2.parquet").unlink()
    with pytest.raises(DataLost, match=r"bids\+0\+0.parquet has 2 rows for the 4 offsets"):
        ranges(tmp_path)


def test_with_a_column_of_offsets_holes_are_allowed_and_the_last_file_counts(tmp_path: Path) -> None:
    put(tmp_path, "bids+0+0.parquet", [0, 2, 3], with_offsets=True)
    put(tmp_path, "bids+0+6.parquet", [6, 9], with_offsets=True)
    assert ranges(tmp_path, "off") == {0: [(0, 6), (6, 10)]}
    assert rows(tmp_path, 2, 9, "off") == [200, 300, 600]
    assert rows(tmp_path, 4, 6, "off") == []
    place = ArchivePlace(location=str(tmp_path), place=files.place(tmp_path), layout="connect", offset="off")
    assert any("5 archived offsets have no row" in caveat for caveat in connect_archive(place, TOPIC, PIN)[2])


@pytest.mark.parametrize(
    "second", [[6, 9, 7], [7, 7, 9], [8, 3, 9]], ids=["falls back", "comes twice", "reaches into the file before"]
)
def test_offsets_that_are_not_those_of_their_file_are_refused_when_read(tmp_path: Path, second: list[int]) -> None:
    put(tmp_path, "bids+0+0.parquet", [0, 2, 3], with_offsets=True)
    put(tmp_path, "bids+0+6.parquet", second, with_offsets=True)
    with pytest.raises(CorruptData, match=r"after offset \d comes \d"):
        rows(tmp_path, 0, 7, "off")


def test_files_cut_by_a_field_interleave_and_are_refused(tmp_path: Path) -> None:
    put(tmp_path, "hour=1/bids+0+0.parquet", [0, 2, 4], with_offsets=True)
    put(tmp_path, "hour=2/bids+0+1.parquet", [1, 3, 5], with_offsets=True)
    put(tmp_path, "hour=2/bids+0+6.parquet", [6], with_offsets=True)
    for offset in (None, "off"):
        with pytest.raises(HistoryError, match=r"bids\+0\+0.parquet has 3 rows for the 1 offsets"):
            ranges(tmp_path, offset)


@pytest.mark.parametrize(
    "name", ["bids+0.parquet", "other+0+5.parquet", "part-0.parquet", "bids+0+x.parquet", "bids+0+00.parquet"]
)
def test_a_file_that_is_not_the_sinks_is_refused_by_name(tmp_path: Path, name: str) -> None:
    put(tmp_path, "bids+0+0.parquet", [0, 1])
    put(tmp_path, f"a/{name}", [0])
    with pytest.raises(CorruptData, match="starts where" if name.endswith("00.parquet") else "PARTITION"):
        ranges(tmp_path)


def test_columns_must_be_those_declared_and_lie_in_the_files(tmp_path: Path) -> None:
    with pytest.raises(SourceMissing):
        ranges(tmp_path)
    put(tmp_path, "bids+0+0.parquet", [0, 1])
    with pytest.raises(SchemaMismatch, match="no column 'off'"):
        ranges(tmp_path, "off")
    put(tmp_path, "n=5/bids+0+2.parquet", [2])
    (tmp_path / "bids+0+0.parquet").unlink()
    with pytest.raises(SchemaMismatch, match="n are names of its folders too"):
        ranges(tmp_path)
