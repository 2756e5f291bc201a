"""Reading pinned Kafka offsets: what a worker opens, and how it knows that it read what was pinned.

Keeps promise 2 for Kafka. The topic's id is compared before the first fetch and again when the proofs are asked for; in between
`kafka_log.RangeReader` decides when a range is complete. A proof counts what was delivered, what no reader sees, tombstones and records
set aside, and carries a digest over offset, time and value of every record that does not depend on how they came in batches, so that two
readings of the same offsets can be compared: a second reading in the same source must give the same, or the topic has changed underneath.

Decoding goes on batch by batch while the client fetches; only decoded columns are kept. Columns asked for later are read again.

::

    KafkaReader.open(slices) -> KafkaSource: dataset -> Data;  proofs -> Proof
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from hindscan.data import Proof
from hindscan.errors import BadRecord, SourceChanged
from hindscan.history.bounds import Bounds, keeps, micros_of
from hindscan.history.columns import described
from hindscan.history.decode import BadValue, Decoder
from hindscan.history.kafka_window import check_lateness
from hindscan.history.materialised import Kept, read_kept
from hindscan.history.snapshot import KafkaSlice, Slice
from hindscan.kafka_log import Isolation, RangeReader, RawBatch

if TYPE_CHECKING:
    import pyarrow.dataset as ds

__all__ = ["KafkaReader", "KafkaSource"]

#: Set-aside records whose position and reason a proof names; all are counted.
NAMED_BAD_RECORDS: Final = 100
#: Tells a record without a value from an empty one in the digest.
_NO_VALUE: Final = -1


@dataclass(frozen=True, kw_only=True, slots=True)
class KafkaReader:
    """All that a worker needs to read slices of one Kafka pin. Holds the cluster's settings, with their secrets: never stored or shown."""

    config: Mapping[str, str | int | float | bool] = field(repr=False)
    topic: str
    topic_id: str
    isolation: Isolation
    format: str
    schema: pa.Schema
    #: Event-time column; None: the record's own time.
    time: str | None
    on_bad_record: str
    #: Only records with one of these keys; empty: all.
    keys: tuple[bytes, ...] = ()
    #: How far out of order records may be, in microseconds, where the pin rests on it; never shows in a row.
    lateness: int | None = None
    #: Folder of kept records; None: none are kept.
    kept: Path | None = None
    unverified: str | None = None

    def open(self, slices: Sequence[Slice]) -> KafkaSource:
        """Open slices as one table, rows in the order of the slices. Connects when rows are asked for."""
        return KafkaSource(self, [s for s in slices if isinstance(s, KafkaSlice)])

    def identity(self) -> dict[str, object]:
        """Tell what of reading a key must cover: what is visible, and how it is decoded."""
        return {
            "format": self.format,
            "schema": described(self.schema),
            "time": self.time,
            "isolation": self.isolation,
            "on_bad_record": self.on_bad_record,
            **({"keys": [key.hex() for key in self.keys]} if self.keys else {}),
        }


class KafkaSource:
    """Slices of a Kafka pin as one table."""

    def __init__(self, reader: KafkaReader, slices: Sequence[KafkaSlice]) -> None:
        self._reader = reader
        self._slices = list(slices)
        self._readings = [_Reading(reader, s) for s in slices]
        self._client: RangeReader | None = None

    def __enter__(self) -> KafkaSource:
        return self

    def __exit__(self, *fault: object) -> None:
        self.close()

    @property
    def schema(self) -> pa.Schema:
        """Columns, in order."""
        return self._reader.schema

    def dataset(self, columns: Sequence[str] | None = None) -> ds.Dataset:
        """Read and decode the slices, unless these columns already are.

        Raises
        ------
        BadRecord
            A record does not decode, and is not to be set aside.
        HistoryError
            What is there is not what was pinned.
        BrokerUnavailable
            No broker answered.
        """
        wanted = list(self.schema.names if columns is None else columns) or self.schema.names[:1]
        pending = [reading for reading in self._readings if not reading.has(wanted)]
        if pending:
            client = self._connected()
            client.check()
            for reading in pending:
                reading.read(client, wanted)
        schema = pa.schema([self.schema.field(name) for name in wanted])
        import pyarrow.dataset as ds

        return ds.dataset(pa.concat_tables([schema.empty_table(), *(r.table(wanted) for r in self._readings)]))

    def diagnose(self) -> None:
        """Return: whatever was wrong with the topic was said when it was read."""

    def proofs(self) -> list[Proof]:
        """Check that the topic is still the one that was pinned, and say what was read of it.

        Raises
        ------
        SourceChanged, SourceMissing
            The topic was deleted, or created again, meanwhile: what was read may be of another.
        OutOfOrder
            A record breaks the promise that the window was cut by.
        """
        count = None
        if any(reading.is_read for reading in self._readings):
            count = len(self._connected().check().partitions)
        proofs = [reading.proof(count) for reading in self._readings]
        check_lateness(zip(self._slices, proofs, strict=True), lateness=self._reader.lateness, topic=self._reader.topic)
        return proofs

    def close(self) -> None:
        """Let go of the connection."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def _connected(self) -> RangeReader:
        if self._client is None:
            reader = self._reader
            self._client = RangeReader(reader.config, reader.topic, reader.topic_id, reader.isolation)
        return self._client


class _Reading:
    """One slice: its columns as far as they were decoded, and what its proof will say."""

    def __init__(self, reader: KafkaReader, s: KafkaSlice) -> None:
        self._reader = reader
        self._slice = s
        self._columns: dict[str, pa.ChunkedArray[Any]] = {}
        self._mask: pa.ChunkedArray[Any] | None = None
        self._seen: _Digest | None = None
        self._bad: list[str] = []
        self._set_aside = 0
        self._records = 0
        self._order = _Order()

    @property
    def is_read(self) -> bool:
        return self._seen is not None

    def has(self, columns: Sequence[str]) -> bool:
        return all(name in self._columns for name in columns)

    def table(self, columns: Sequence[str]) -> pa.Table:
        """Give the rows inside the slice's bounds."""
        schema = pa.schema([self._reader.schema.field(name) for name in columns])
        table = pa.Table.from_arrays([self._columns[name] for name in columns], schema=schema)
        return table if self._mask is None else table.filter(self._mask)

    def read(self, client: RangeReader, wanted: Sequence[str]) -> None:
        reader, s = self._reader, self._slice
        if reader.on_bad_record != "fail":
            # Which records are bad must not depend on the columns that a query happens to look at.
            wanted = reader.schema.names
        elif reader.time is not None:
            # Its greatest value says whether a later run as of a time may take this slice's partial as it is.
            wanted = [reader.time, *wanted]
        names = [name for name in reader.schema.names if name in wanted and name not in self._columns]
        decoder = Decoder(pa.schema([reader.schema.field(name) for name in names]), reader.format)
        seen = _Digest()
        tables: list[pa.Table] = [decoder.schema.empty_table()]
        order = _Order()
        self._set_aside, self._bad = 0, []
        for batch in self._batches(client):
            seen.add(batch)
            table, rows = self._decode(decoder, batch)
            tables.append(table)
            order.add(batch, rows)
        if self._seen is not None and self._seen.hexdigest() != seen.hexdigest():
            raise SourceChanged(
                f"While reading offsets [{s.start}, {s.end}) of {reader.topic}[{s.partition}] again for more columns: the records must be the same; "
                f"{self._seen.count} came the first time, {seen.count} now. A compacted topic changes so; read what is needed in one query.",
                topic=reader.topic,
                partition=s.partition,
            )
        whole = pa.concat_tables(tables)
        self._columns |= {name: whole.column(name) for name in names}
        if self._seen is None:
            self._seen, self._records, self._order = seen, whole.num_rows, order
            self._bound(order.record_times)

    def _batches(self, client: RangeReader) -> Iterator[RawBatch]:
        reader, s, keys = self._reader, self._slice, bool(self._reader.keys)
        if reader.kept is None:
            return client.read(s.partition, s.start, s.end, keys=keys)
        kept = Kept(
            folder=reader.kept,
            topic_id=reader.topic_id,
            partition=s.partition,
            start=s.start,
            end=s.end,
            isolation=reader.isolation,
        )
        return read_kept(client, kept, keys=keys)

    def _decode(self, decoder: Decoder, batch: RawBatch) -> tuple[pa.Table, np.ndarray[Any, Any]]:
        """Decode a batch: rows, and which of its records they are."""
        rows = np.arange(len(batch))
        values = batch.values
        wanted = pc.is_valid(values) if values.null_count else None
        if batch.keys is not None:
            # A key is compared, never hashed to a partition: producers of one topic may use different partitioners.
            named = pc.is_in(batch.keys, pa.array(self._reader.keys, pa.large_binary()))
            wanted = named if wanted is None else pc.and_(wanted, named)
        if wanted is not None:
            rows = np.flatnonzero(wanted.to_numpy(zero_copy_only=False))
            values = cast(Any, values.filter(cast(Any, wanted)))
        table, bad = decoder.decode(values)
        if bad:
            at = [int(batch.offsets[rows[b.index]]) for b in bad]
            if self._reader.on_bad_record == "fail":
                raise self._bad_record(at[0], bad[0])
            self._set_aside += len(bad)
            room = max(NAMED_BAD_RECORDS - len(self._bad), 0)
            self._bad += [
                f"{self._slice.partition}:{offset}: {_said(b)}" for offset, b in zip(at[:room], bad, strict=False)
            ]
            rows = np.delete(rows, [b.index for b in bad])
        return table, rows

    def _bad_record(self, offset: int, bad: BadValue) -> BadRecord:
        reader, s = self._reader, self._slice
        return BadRecord(
            f"While decoding {reader.topic}[{s.partition}] at offset {offset}: a value of format {reader.format} with the pinned columns is required; "
            f'{_said(bad)}. Correct the producer, declare the column otherwise, or set `on_bad_record = "set aside"`.',
            topic=reader.topic,
            partition=s.partition,
            offset=offset,
            field=bad.field,
        )

    def _bound(self, record_times: pa.ChunkedArray[Any]) -> None:
        reader, s = self._reader, self._slice
        times = record_times.cast(pa.timestamp("ms")) if reader.time is None else self._columns[reader.time]
        self._order.judge(times)
        kept = keeps("time", times.type, Bounds(since=s.since, before=s.before))
        if kept is None:
            return
        if times.null_count:
            raise BadRecord(
                f"While reading offsets [{s.start}, {s.end}) of {reader.topic}[{s.partition}] up to a time: every record must have a {reader.time!r}; "
                f"{times.null_count} have none. Correct the producer, or read the history without a bound.",
                topic=reader.topic,
                partition=s.partition,
                field=reader.time,
            )
        # An expression over a table of the one column, so that bounds mean the same here as for Parquet.
        import pyarrow.dataset as ds

        marked = ds.dataset(pa.table({"time": cast(Any, times)})).to_table(columns={"kept": kept})
        self._mask = marked.column("kept")

    def proof(self, partition_count: int | None) -> Proof:
        """Say what was read; of a slice that nothing asked for, that nothing was."""
        s, seen, order = self._slice, self._seen, self._order
        if seen is None:
            return Proof(slice=s.position, records=0, unverified=self._reader.unverified)
        return Proof(
            slice=s.position,
            records=self._records,
            bytes=seen.bytes,
            first_offset=seen.first,
            last_offset=seen.last,
            invisible=s.end - s.start - seen.count,
            # Of some keys it says nothing about the others, which a run over all of them reads.
            greatest_time=None if self._reader.keys else order.greatest,
            least_time=order.least,
            latest_record_time=order.latest_record_time,
            disorder=order.disorder,
            partition_count=partition_count,
            digest=seen.hexdigest(),
            set_aside=self._set_aside,
            bad_records=tuple(self._bad),
            tombstones=seen.tombstones,
            unverified=self._reader.unverified,
        )


class _Order:
    """How far the times of one slice are out of order; microseconds."""

    def __init__(self) -> None:
        self.least: int | None = None
        self.greatest: int | None = None
        self.latest_record_time: int | None = None
        self.disorder: int | None = None
        self._times: list[np.ndarray[Any, Any]] = [np.array([], np.int64)]
        self._peaks: list[np.ndarray[Any, Any]] = [np.array([], np.int64)]
        self._peak = np.iinfo(np.int64).min

    @property
    def record_times(self) -> pa.ChunkedArray[Any]:
        """Record times of the rows, in milliseconds."""
        return pa.chunked_array([pa.array(part) for part in self._times])

    def add(self, batch: RawBatch, rows: np.ndarray[Any, Any]) -> None:
        """Take the record times of a batch, and the latest one up to each of its rows."""
        if not len(batch):
            return
        peaks = np.maximum(np.maximum.accumulate(batch.times), self._peak)
        self._peak = int(peaks[-1])
        self.latest_record_time = self._peak * 1000
        self._times.append(batch.times[rows])
        self._peaks.append(peaks[rows])

    def judge(self, times: pa.ChunkedArray[Any]) -> None:
        """Compare the rows' event times with the record times."""
        has_time = np.asarray(times.is_valid().to_numpy())
        known = micros_of(times.drop_null())
        if len(known):
            self.least, self.greatest = int(known.min()), int(known.max())
        if has_time.all():
            own, peaks = np.concatenate(self._times) * 1000, np.concatenate(self._peaks) * 1000
            self.disorder = max(0, int((peaks - known).max()), int((known - own).max())) if len(known) else 0
        # The arrays are as large as a column, and have done their work.
        self._times, self._peaks = [np.array([], np.int64)], [np.array([], np.int64)]


def _said(bad: BadValue) -> str:
    return f"{bad.field}: {bad.reason}" if bad.field else bad.reason


class _Digest:
    """Counts, and a 128-bit hash over offset, time, length and value of every record: four streams, so that batches leave no trace.

    Where keys are read they are in it too, in two streams more.
    """

    def __init__(self) -> None:
        self.count = 0
        self.bytes = 0
        self.tombstones = 0
        self.first: int | None = None
        self.last: int | None = None
        self._streams = [xxhash.xxh3_128() for _ in range(4)]
        self._keys: list[Any] = []

    def add(self, batch: RawBatch) -> None:
        if not len(batch):
            return
        for stream, column in zip(self._streams, (batch.offsets, batch.times), strict=False):
            stream.update(column.astype("<i8", copy=False).tobytes())
        self.bytes += _add_texts(self._streams[2:], batch.values)
        if batch.keys is not None:
            self._keys = self._keys or [xxhash.xxh3_128(), xxhash.xxh3_128()]
            _add_texts(self._keys, batch.keys)
        self.count += len(batch)
        self.tombstones += batch.values.null_count
        self.first = int(batch.offsets[0]) if self.first is None else self.first
        self.last = int(batch.offsets[-1])

    def hexdigest(self) -> str:
        return xxhash.xxh3_128(b"".join(stream.digest() for stream in (*self._streams, *self._keys))).hexdigest()


def _add_texts(streams: Sequence[Any], texts: pa.LargeBinaryArray) -> int:
    """Add lengths to one stream and contents to another; give the bytes of the contents."""
    lengths = pc.binary_length(texts).fill_null(_NO_VALUE).to_numpy().astype("<i8", copy=False)
    streams[0].update(lengths.tobytes())
    present = texts.drop_null()
    _, places, content = cast(list[Any], present.buffers())
    bounds = np.frombuffer(places, "<i8")
    first, last = bounds[present.offset], bounds[present.offset + len(present)]
    if last > first:
        streams[1].update(memoryview(content)[first:last])
    return int(last - first)
