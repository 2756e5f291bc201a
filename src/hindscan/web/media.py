"""The result of a run in the media type that was asked for: JSON, CSV, Parquet, Arrow stream.

The published Parquet file is the truth; the others are written from it batch by batch, so that a large result is never held
whole. JSON is an array of rows, times as ISO 8601 with Z, as everywhere.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

__all__ = ["MEDIA_TYPES", "choose", "encode"]

#: Short name to media type; the first is the default.
MEDIA_TYPES: Final = {
    "json": "application/json",
    "csv": "text/csv",
    "parquet": "application/vnd.apache.parquet",
    "arrow": "application/vnd.apache.arrow.stream",
}


def choose(accept: str) -> str | None:
    """Choose a format for an ``Accept`` header; None if none of ours is acceptable.

    Examples
    --------
    >>> choose("text/csv;q=0.9, application/json"), choose("*/*"), choose("text/html")
    ('json', 'json', None)
    """
    ranked: list[tuple[float, int, str]] = []
    for order, part in enumerate((accept or "*/*").split(",")):
        kind, *options = (piece.strip() for piece in part.split(";"))
        weight = next((_weight(option[2:]) for option in options if option.startswith("q=")), 1.0)
        if weight > 0:
            ranked.append((-weight, order, kind))
    for _, _, kind in sorted(ranked):
        for name, media_type in MEDIA_TYPES.items():
            if kind in (media_type, "*/*", media_type.split("/")[0] + "/*"):
                return name
    return None


def _weight(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


def encode(path: Path, name: str) -> Iterator[bytes]:
    """Give the table of a Parquet file as bytes in a format, in pieces."""
    if name == "parquet":
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                yield piece
        return
    with pq.ParquetFile(path) as file:
        schema = file.schema_arrow
        batches = file.iter_batches(batch_size=65_536)
        yield from {"json": _json, "csv": _csv, "arrow": _arrow}[name](schema, batches)


def _json(_: pa.Schema, batches: Iterator[pa.RecordBatch]) -> Iterator[bytes]:
    separator = b"["
    for batch in batches:
        rows = msgspec.json.encode(batch.to_pylist())[1:-1]
        if rows:
            yield separator + rows
            separator = b","
    yield b"[]" if separator == b"[" else b"]"


def _csv(schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> Iterator[bytes]:
    sink = io.BytesIO()
    with pyarrow.csv.CSVWriter(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
            yield _taken(sink)
    yield _taken(sink)


def _arrow(schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> Iterator[bytes]:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, schema) as writer:
        for batch in batches:
            writer.write_batch(batch)
            yield _taken(sink)
    yield _taken(sink)


def _taken(sink: io.BytesIO) -> bytes:
    """Take what was written so far."""
    written = sink.getvalue()
    sink.seek(0)
    sink.truncate()
    return written
