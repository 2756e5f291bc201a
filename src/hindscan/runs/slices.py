"""The slices of a result: the snapshot a run has read and what became of each slice, in one file beside the table.

Keeps promise 9's second half: `snapshot.parquet` has the whole snapshot in its metadata, and a row for each slice of each stage with its bounds, the key of its
partial and the proof of its reading. A run may have 100,000 slices, so rows are made and written some at a time.

::

    Snapshot + SliceRecords -> write_slices -> FOLDER/snapshot.parquet -> read_snapshot, slice_keys_of
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final

import msgspec
import pyarrow as pa

from hindscan import writing
from hindscan.data import Proof
from hindscan.history.snapshot import Slice, Snapshot

__all__ = ["SliceRecord", "read_snapshot", "slice_keys_of", "write_slices"]

_FILE: Final = "snapshot.parquet"
_SNAPSHOT: Final = b"hindscan.snapshot"
#: Slices of snapshot.parquet that are rows in Python at the same time.
_ROWS_AT_ONCE: Final = 1024
#: Slices of a row group of snapshot.parquet.
_ROWS_PER_GROUP: Final = 16_384


class SliceRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One slice as it went into a result."""

    #: Step that was called for it: "slice" or "calibrate".
    stage: str
    slice: Slice
    key: str
    #: Its partial was there already.
    reused: bool
    #: Key of the state after it, where the job is ordered.
    checkpoint: str | None = None
    #: Digest of its partial's content.
    digest: str = ""
    seconds: float = 0.0
    proof: Proof | None = None
    #: Class and message of what it failed with for good, where that was tolerated: nothing of it is in the result.
    error: str = ""
    message: str = ""


#: Columns of snapshot.parquet: one row for each slice, in the order of stages and positions. What a kind of slice has not is null.
_COLUMNS: Final = pa.schema(
    [
        pa.field(name, kind)
        for name, kind in {
            "stage": pa.string(),
            "position": pa.int64(),
            "kind": pa.string(),
            "path": pa.string(),
            "size": pa.int64(),
            "identity": pa.string(),
            "first": pa.int64(),
            "last": pa.int64(),
            "partition": pa.int32(),
            "start": pa.int64(),
            "end": pa.int64(),
            "since": pa.timestamp("us", "UTC"),
            "before": pa.timestamp("us", "UTC"),
            "rows": pa.int64(),
            "bytes": pa.int64(),
            "key": pa.string(),
            "checkpoint": pa.string(),
            "reused": pa.bool_(),
            "digest": pa.string(),
            "seconds": pa.float64(),
            "records": pa.int64(),
            "read_bytes": pa.int64(),
            "first_offset": pa.int64(),
            "last_offset": pa.int64(),
            "invisible": pa.int64(),
            "greatest_time": pa.timestamp("us", "UTC"),
            "read_digest": pa.string(),
            "set_aside": pa.int64(),
            "bad_records": pa.list_(pa.string()),
            "unverified": pa.string(),
            "error": pa.string(),
            "message": pa.string(),
        }.items()
    ]
)

#: Columns that are fields of a slice, and of a proof, under the same name.
_OF_SLICE: Final = (
    "position",
    "path",
    "size",
    "identity",
    "first",
    "last",
    "partition",
    "start",
    "end",
    "since",
    "before",
)
_OF_PROOF: Final = ("records", "first_offset", "last_offset", "invisible", "greatest_time", "set_aside", "unverified")


def write_slices(folder: Path, snapshot: Snapshot, slices: Iterable[SliceRecord]) -> str:
    """Write the file; give the digest of the snapshot. The folder is the caller's to flush.

    Parameters
    ----------
    folder : Path
        Of the result, or of the attempt at it.
    snapshot : Snapshot
        What was read; stored whole.
    slices : iterable of SliceRecord
        One for each slice of each stage.
    """
    pinned = msgspec.json.encode(snapshot, order="deterministic")
    schema = _COLUMNS.with_metadata({_SNAPSHOT: pinned})
    writing.write_parquet_stream(folder / _FILE, schema, _tables(slices), row_group_rows=_ROWS_PER_GROUP, named=False)
    return f"sha256:{hashlib.sha256(pinned).hexdigest()}"


def _tables(slices: Iterable[SliceRecord]) -> Iterator[pa.Table]:
    # Through JSON and not `from_pylist`: that would import pandas, which takes longer than a small run, and make some kilobytes of each row.
    # Some rows at a time, as a run may have 100,000 slices.
    encode = msgspec.json.Encoder().encode_lines
    rest = iter(slices)
    while rows := [_row(record) for record in islice(rest, _ROWS_AT_ONCE)]:
        yield _table_of(encode(rows))


def _table_of(lines: bytes) -> pa.Table:
    from pyarrow import json

    # JSON has no times: they come as the numbers they are.
    plain = pa.schema(
        [pa.field(f.name, pa.int64() if pa.types.is_timestamp(f.type) else f.type) for f in _COLUMNS], metadata=None
    )
    table = json.read_json(
        io.BytesIO(lines),
        read_options=json.ReadOptions(use_threads=False, block_size=len(lines) + 1),
        parse_options=json.ParseOptions(explicit_schema=plain, unexpected_field_behavior="error"),
    )
    return table.select(_COLUMNS.names).cast(_COLUMNS)


def _row(record: SliceRecord) -> dict[str, Any]:
    """Give what a slice has of the columns, times as microseconds."""
    row: dict[str, Any] = {
        "stage": record.stage,
        "kind": record.slice.__struct_config__.tag,
        "rows": record.slice.rows,
        "bytes": record.slice.bytes,
        "key": record.key,
        "checkpoint": record.checkpoint,
        "reused": record.reused,
        "digest": record.digest,
        "seconds": record.seconds,
        "error": record.error or None,
        "message": record.message or None,
    }
    row |= {name: getattr(record.slice, name) for name in _OF_SLICE if hasattr(record.slice, name)}
    proof = record.proof
    if proof is not None:
        row |= {name: getattr(proof, name) for name in _OF_PROOF}
        row |= {"read_bytes": proof.bytes, "read_digest": proof.digest, "bad_records": proof.bad_records}
    return row


def read_snapshot(folder: str | os.PathLike[str]) -> Snapshot:
    """Read the whole snapshot of a result, from the metadata of the file."""
    import pyarrow.parquet as pq

    written = pq.read_schema(Path(folder) / _FILE).metadata or {}
    return msgspec.json.decode(written[_SNAPSHOT], type=Snapshot)


def slice_keys_of(folder: str | os.PathLike[str]) -> tuple[set[str], dict[str, set[int]]]:
    """Give the keys of the slices of a result and of their checkpoints, and by stage the positions of those that had failed; nothing where there is no result."""
    import pyarrow.parquet as pq

    path = Path(folder) / _FILE
    if not path.exists():
        return set(), {}
    table = pq.read_table(path, columns=["stage", "position", "key", "checkpoint", "error"])
    failed: dict[str, set[int]] = {}
    for stage, position, error in zip(
        *(table[name].to_pylist() for name in ("stage", "position", "error")), strict=True
    ):
        if error is not None:
            failed.setdefault(stage, set()).add(position)
    keys = {key for name in ("key", "checkpoint") for key in table[name].to_pylist() if key is not None}
    return keys, failed
