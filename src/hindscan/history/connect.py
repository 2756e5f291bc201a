"""A lake that Kafka Connect's S3 sink wrote, as the archive of its topic.

Keeps promise 2 with what such a lake can show. Its files are named ``TOPIC+PARTITION+START.parquet`` in folders of any layout; there is no list of them, and no file
says where it ends. So a file ends where the next one starts, and that is taken only where it is proven: without a column of offsets a file must have
exactly as many rows as offsets, which also proves that no file between is gone and none overlaps; the last file of a partition can prove nothing, and is
read from the topic. With a declared column of offsets rows may have gaps (markers of transactions, tombstones) and the last file ends after its last
row; what lies between two files is then said as a caveat, because a file that is gone looks the same.

::

    files found + footers -> by partition and start -> ends, proven or refused -> ArchivePin
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from hindscan.data import Proof
from hindscan.errors import CorruptData, DataLost, SchemaMismatch
from hindscan.history.archive import ArchivedRange, ArchivePlace
from hindscan.history.archived import ArchivedFile, ArchivedRead, ArchivePin
from hindscan.history.kafka import KafkaHistory
from hindscan.history.parquet import ParquetHistory
from hindscan.history.snapshot import FilePin, KafkaPin, ParquetPin, ParquetSlice, Window

__all__ = ["connect_archive"]

#: What the sink calls its files; compressed ones have the codec before the ending.
_NAME: Final = re.compile(r"(?P<topic>[A-Za-z0-9._-]+)\+(?P<partition>\d+)\+(?P<start>\d+)(\.\w+)?\.parquet")


def connect_archive(
    archive: ArchivePlace, topic: KafkaHistory, pin: KafkaPin
) -> tuple[ArchivePin, list[ArchivedRange], list[str]]:
    """Find out which offsets of a topic such a lake has.

    Parameters
    ----------
    archive : ArchivePlace
        Where the lake is.
    topic : KafkaHistory
        Its topic, with declared columns.
    pin : KafkaPin
        Of the topic.

    Returns
    -------
    pin, ranges, caveats
        The files that count, what they cover of each partition, and what cannot be proven about it.

    Raises
    ------
    SourceMissing
        There is no file.
    SchemaMismatch
        A file does not have the declared columns.
    CorruptData
        A file has a name that the sink does not give, or two files claim the same offsets.
    DataLost
        A file has fewer rows than offsets, and there is no column to tell them apart.
    """
    lake = _lake(archive, topic)
    found = lake.pin(Window())
    _check_folders(archive, topic, found)
    parts = _named(topic, found, [one.partition for one in pin.partitions])
    kept = [
        file for partition, own in sorted(parts.items()) for file in _partition(archive, lake, found, partition, own)
    ]
    _check_rows(archive, topic, kept)
    by_partition = {file.partition: [one for one in kept if one.partition == file.partition] for file in kept}
    ranges = [
        ArchivedRange(partition=partition, start=own[0].start, end=own[-1].end)
        for partition, own in by_partition.items()
    ]
    caveats = [
        "archived offsets were decoded by Kafka Connect, not by hindscan: no partial is shared with the topic alone"
    ]
    between = sum(file.end - file.start - file.rows for file in kept)
    if between:
        caveats.append(
            f"{between:,} archived offsets have no row: markers, tombstones, or a file that is gone; Kafka Connect keeps no list of its files"
        )
    pinned = ArchivePin(root=found.root, layout="connect", digest="", files=tuple(kept), offset=archive.offset)
    return pinned, ranges, caveats


def _partition(
    archive: ArchivePlace, lake: ParquetHistory, found: ParquetPin, partition: int, own: list[tuple[int, FilePin]]
) -> list[ArchivedFile]:
    """Give each file of a partition its end: where the next one starts. Of the last only a column of offsets knows it."""
    ends = [start for start, _ in own[1:]]
    if archive.offset is not None:
        ends.append(_last_offset(lake, found, own[-1][1], archive.offset) + 1)
    return [_file(file, partition, start, end) for (start, file), end in zip(own, ends, strict=False)]


def _check_rows(archive: ArchivePlace, topic: KafkaHistory, kept: Sequence[ArchivedFile]) -> None:
    faults = [
        f"{file.path} has {file.rows} rows for the {file.end - file.start} offsets [{file.start}, {file.end})"
        for file in kept
        if file.rows > file.end - file.start or (archive.offset is None and file.rows != file.end - file.start)
    ]
    if faults:
        advice = (
            "Transactions, tombstones and compaction leave holes, and so does a file that is gone. Let the sink add the offset as a column and declare it, "
            '`archive = { path = ..., layout = "connect", offset = "COLUMN" }`'
            if archive.offset is None
            else "Files that are cut by a field or by record time overlap. Let the sink cut them by offset or by day"
        )
        raise DataLost(
            f"While pinning history {topic.name}: every offset up to the archive's end must be accounted for, once; {'; '.join(faults[:20])}. "
            f"{advice}, or write the archive with `hindscan archive`.",
            history=topic.name,
            faults=faults,
        )


def _lake(archive: ArchivePlace, topic: KafkaHistory) -> ParquetHistory:
    """Give the lake as a Parquet history with the declared columns, which every file is checked against."""
    extra: list[pa.Field[Any]] = [] if archive.offset is None else [pa.field(archive.offset, pa.int64())]
    return ParquetHistory(
        name=topic.name,
        location=archive.location,
        place=archive.place,
        columns=pa.schema([*(topic.columns or ()), *extra]),
    )


def _check_folders(archive: ArchivePlace, topic: KafkaHistory, found: ParquetPin) -> None:
    folders = {name for file in found.files for name in file.partition_values}
    taken = sorted(folders & {*(topic.columns or pa.schema([])).names, archive.offset})
    if taken:
        raise SchemaMismatch(
            f"While pinning history {topic.name}: columns must lie in the files of the archive {found.root}; {', '.join(taken)} are names of its folders too. "
            "Let the sink cut its folders by offset or by day.",
            history=topic.name,
        )


def _named(topic: KafkaHistory, found: ParquetPin, partitions: Sequence[int]) -> dict[int, list[tuple[int, FilePin]]]:
    """Read the names: the files of each partition by their first offset."""
    parts: dict[int, list[tuple[int, FilePin]]] = {}
    faults = []
    for file in found.files:
        name = _NAME.fullmatch(file.path.rpartition("/")[2])
        if name is None or name["topic"] != topic.topic:
            faults.append(f"{file.path}: not {topic.topic}+PARTITION+START.parquet")
        elif int(name["partition"]) in partitions:
            parts.setdefault(int(name["partition"]), []).append((int(name["start"]), file))
    for own in parts.values():
        own.sort(key=lambda one: one[0])
        faults += [f"{b.path}: starts where {a.path} does" for (s, a), (t, b) in itertools.pairwise(own) if s == t]
    if faults:
        raise CorruptData(
            f"While pinning history {topic.name}: the archive {found.root} must hold the files that Kafka Connect's sink wrote for topic {topic.topic!r}, "
            f"each once; {'; '.join(faults[:20])}. Name the topic's own folder as `path`, and take other files out.",
            history=topic.name,
            faults=faults,
        )
    return parts


def _file(file: FilePin, partition: int, start: int, end: int) -> ArchivedFile:
    rows = sum(group.rows for group in file.row_groups)
    seen = xxhash.xxh3_128(f"{file.path}\0{file.size}\0{file.identity}".encode()).hexdigest()
    size = sum(group.bytes for group in file.row_groups)
    proof = Proof(slice=0, records=rows, bytes=size, invisible=max(0, end - start - rows), digest=seen)
    return ArchivedFile(
        path=file.path,
        size=file.size,
        identity=file.identity,
        partition=partition,
        start=start,
        end=end,
        rows=rows,
        row_groups=len(file.row_groups),
        bytes=size,
        reads=(ArchivedRead(start=start, end=end, proof=proof),),
    )


def _last_offset(lake: ParquetHistory, found: ParquetPin, file: FilePin, offset: str) -> int:
    """Read the greatest offset of a file: the one thing that neither its name nor its footer says for sure."""
    last = len(file.row_groups)
    whole = ParquetSlice(
        position=0, path=file.path, size=file.size, identity=file.identity, first=0, last=last, rows=0, bytes=0
    )
    with lake.reader(found).open([whole]) as source:
        greatest = pc.max(source.dataset([offset]).to_table().column(offset)).as_py()
    if greatest is None:
        raise CorruptData(
            f"While pinning history {lake.name}: every file of Kafka Connect must hold at least one row with its offset; {file.path} has none in "
            f"{offset!r}. Take the file out, or correct `offset`.",
            path=file.path,
        )
    return int(greatest)
