"""What was read of a topic, kept: a second reading of the same offsets gives the same records, whatever compaction has removed since.

Keeps promise 1 for compacted topics, where a history says ``materialise = true``. A slice is kept as it was first read, under topic id, partition,
offsets and isolation level, which is what its records are otherwise decided by; of two workers that read it at once the first to finish counts
for both. Kept records are read with a checksum, and the broker is not asked for them. Pieces of a kept slice, as a sample takes them, come from it.

::

    read_kept(folder, range, from the broker) -> RawBatch, RawBatch, ...
    materialised/TOPIC_ID/PARTITION/START-END.ISOLATION.records
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
import pyarrow as pa
import xxhash

from hindscan import files
from hindscan.errors import CorruptData
from hindscan.kafka_fetch import RawBatch
from hindscan.kafka_log import RangeReader

__all__ = ["Kept", "read_kept"]

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
    path = kept.find()
    if path is None:
        batches = list(client.read(kept.partition, kept.start, kept.end, ["keys"]))
        _keep(kept.path, pa.Table.from_batches([_as_record_batch(batch) for batch in batches], _SCHEMA))
        path = kept.path  # another worker's, if that was faster
    for batch in _load(path).to_batches():
        offsets = batch.column("offset").to_numpy()
        first, last = (int(at) for at in np.searchsorted(offsets, [kept.start, kept.end]))
        if first < last:
            yield _as_raw_batch(batch.slice(first, last - first), keys=keys)


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
        files.sync_folder(path.parent)
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
