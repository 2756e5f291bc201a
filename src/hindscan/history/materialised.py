"""What was read of a topic, kept: a second reading of the same offsets gives the same records, whatever compaction has removed since.

Keeps promise 1 for compacted topics, where a history says ``materialise = true``. A slice is kept as it was first read, under topic id, partition,
offsets and isolation level, which is what its records are otherwise decided by; of two workers that read it at once the first to finish counts
for both. Kept records are read with a checksum, and the broker is not asked for them. Pieces of a kept slice, as a sample takes them, come from it.

What nobody has read for a declared time can be removed (`sweep`), but for what a run may still read: `runs.retention` says which. A file's time is that of its last
reading, to the hour. A reader whose file goes before it is open finds none, and reads the topic.

::

    read_kept(folder, range, from the broker) -> RawBatch, RawBatch, ...
    sweep(folder, before, pins that count) -> files removed
    materialised/TOPIC_ID/PARTITION/START-END.ISOLATION.records
"""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import pyarrow as pa
import xxhash

from hindscan import writing
from hindscan.errors import CorruptData
from hindscan.history.snapshot import KafkaPin
from hindscan.kafka.fetch import RawBatch
from hindscan.kafka.log import RangeReader

__all__ = ["Kept", "Size", "read_kept", "size_of", "sweep"]

#: How exactly it is known when a file was last read.
USED_SECONDS: Final = 3_600
#: What nobody finished for so long is nobody's.
LEFT_SECONDS: Final = 86_400
#: Bytes of the checksum at the head of a file.
_CHECKSUM: Final = 16
_NAME: Final = re.compile(r"(\d+)-(\d+)\.(\w+)\.records")
_TYPES: Final[dict[str, pa.DataType]] = {
    "offset": pa.int64(),
    "time": pa.int64(),
    "key": pa.large_binary(),
    "value": pa.large_binary(),
}
_SCHEMA: Final = pa.schema(_TYPES)


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """Where offsets `[start, end)` of one partition are kept."""

    folder: Path
    topic_id: str
    partition: int
    start: int
    end: int
    isolation: str

    @property
    def path(self) -> Path:
        """The file of exactly these offsets."""
        return self._of_partition / f"{self.start}-{self.end}.{self.isolation}.records"

    @property
    def _of_partition(self) -> Path:
        return self.folder / self.topic_id / str(self.partition)

    def find(self) -> Path | None:
        """Find a file that has them all: their own, else the first of those around them."""
        if self.path.exists():
            return self.path
        if not self._of_partition.is_dir():
            return None
        around = []
        for path in self._of_partition.iterdir():
            named = _NAME.fullmatch(path.name)
            if named and named[3] == self.isolation and int(named[1]) <= self.start and self.end <= int(named[2]):
                around.append((int(named[1]), int(named[2]), path))
        return min(around)[2] if around else None


def read_kept(client: RangeReader, kept: Kept, *, keys: bool) -> Iterator[RawBatch]:
    """Read records as they were first read; keep them if this is the first time.

    Memory is bounded by the slice.

    Raises
    ------
    CorruptData
        What was kept is damaged.
    """
    table = _found(kept)
    if table is None:
        batches = list(client.read(kept.partition, kept.start, kept.end, ["keys"]))
        _keep(kept.path, pa.Table.from_batches([_as_record_batch(batch) for batch in batches], _SCHEMA))
        table = _load(kept.path)  # another worker's, if that was faster
    for batch in table.to_batches():
        offsets = batch.column("offset").to_numpy()
        first, last = (int(at) for at in np.searchsorted(offsets, [kept.start, kept.end]))
        if first < last:
            yield _as_raw_batch(batch.slice(first, last - first), keys=keys)


def _found(kept: Kept) -> pa.Table | None:
    """Load what there is, and note that it is used."""
    path = kept.find()
    if path is None:
        return None
    try:
        if time.time() - path.stat().st_mtime > USED_SECONDS:
            os.utime(path)
        return _load(path)
    except FileNotFoundError:
        return None  # It was swept since it was found: nothing that counts has read it.


class Size(NamedTuple):
    """What is kept, in all."""

    files: int
    bytes: int


def size_of(folder: Path) -> Size:
    """Count what is kept. Looks at every file, and opens none."""
    sizes = [path.stat().st_size for path, *_ in _files(folder)]
    return Size(len(sizes), sum(sizes))


def sweep(folder: Path, before: float, pins: Iterable[KafkaPin]) -> Size:
    """Remove what was last read before a time, and what a killed reader left half written.

    Parameters
    ----------
    folder : Path
        Where records are kept.
    before : float
        Seconds since the epoch.
    pins : iterable of KafkaPin
        What may still be read: no file with any of these offsets is removed.
    """
    counted: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for pin in pins:
        for one in pin.partitions:
            counted.setdefault((pin.topic_id, str(one.partition)), []).append((one.start, one.end))
    files = size = 0
    for path, topic_id, partition, start, end in list(_files(folder)):
        ranges = counted.get((topic_id, partition), [])
        found = path.stat()
        if found.st_mtime < before and not any(first < end and start < last for first, last in ranges):
            path.unlink(missing_ok=True)
            files, size = files + 1, size + found.st_size
    for left in folder.glob("*/*/.*.records.*"):
        if left.stat().st_mtime < min(before, time.time() - LEFT_SECONDS):
            left.unlink(missing_ok=True)
    return Size(files, size)


def _files(folder: Path) -> Iterator[tuple[Path, str, str, int, int]]:
    for path in folder.glob("*/*/*.records"):
        named = _NAME.fullmatch(path.name)
        if named:
            yield path, path.parent.parent.name, path.parent.name, int(named[1]), int(named[2])


def _as_record_batch(batch: RawBatch) -> pa.RecordBatch:
    columns: list[Any] = [pa.array(batch.offsets), pa.array(batch.times), batch.keys, batch.values]
    return pa.RecordBatch.from_arrays(columns, schema=_SCHEMA)


def _as_raw_batch(batch: pa.RecordBatch, *, keys: bool) -> RawBatch:
    columns: list[Any] = batch.columns
    offsets, times, names, values = columns
    return RawBatch(offsets=offsets.to_numpy(), times=times.to_numpy(), values=values, keys=names if keys else None)


def _keep(path: Path, table: pa.Table) -> None:
    """Write a file unless there is one by then."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, _SCHEMA, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table)
    content = sink.getvalue()
    path.parent.mkdir(parents=True, exist_ok=True)
    attempt = path.parent / f".{path.name}.{secrets.token_hex(8)}"
    try:
        with attempt.open("xb") as file:
            file.write(xxhash.xxh3_128(content).digest())
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            # A link, not a renaming: it fails where somebody else was first.
            os.link(attempt, path)
        except FileExistsError:
            return
        writing.sync_folder(path.parent)
    finally:
        attempt.unlink(missing_ok=True)


def _load(path: Path) -> pa.Table:
    content = path.read_bytes()
    if xxhash.xxh3_128(content[_CHECKSUM:]).digest() != content[:_CHECKSUM]:
        raise CorruptData(
            f"While reading kept records: {path} must have its checksum; it has another. Restore the file; if it is "
            "deleted, what the topic still has is read, which may be less.",
            path=str(path),
        )
    return pa.ipc.open_stream(pa.py_buffer(content)[_CHECKSUM:]).read_all()
