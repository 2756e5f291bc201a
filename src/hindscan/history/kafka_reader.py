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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from hindscan.data import Proof
from hindscan.errors import BadRecord, SourceChanged
from hindscan.history.bounds import Bounds, greatest_micros, keeps
from hindscan.history.columns import described
from hindscan.history.formats.choose import WITH_HEADERS, make_decoder, reading_identity
from hindscan.history.formats.decoder import BadValue, Decoder
from hindscan.history.record import parts_of, record_arrays, record_fields
from hindscan.history.schemas import known_schemas
from hindscan.history.snapshot import Coding, KafkaSlice, Slice
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
    unverified: str | None = None
    #: The pinned schemas, and the settings of their registry.
    coding: Coding | None = None
    registry: Mapping[str, str | int | float | bool] | None = field(default=None, repr=False)
    #: What of the records themselves are columns; see `history.record`.
    record: tuple[str, ...] = ()

    @property
    def record_schema(self) -> pa.Schema:
        """The columns that are not decoded."""
        return pa.schema(record_fields(self.record))

    def decoder(self, names: Sequence[str]) -> Decoder:
        """Make the decoder for some of the decoded columns."""
        schema = pa.schema([self.schema.field(name) for name in names])
        return make_decoder(self.format, schema, self.coding, known_schemas(self.coding, self.format, self.registry))

    def open(self, slices: Sequence[Slice]) -> KafkaSource:
        """Open slices as one table, rows in the order of the slices. Connects when rows are asked for."""
        return KafkaSource(self, [s for s in slices if isinstance(s, KafkaSlice)])

    def identity(self) -> dict[str, object]:
        """Tell what of reading a key must cover: what is visible, and how it is decoded."""
        told: dict[str, object] = {
            "format": self.format,
            "schema": described(self.schema),
            "time": self.time,
            "isolation": self.isolation,
            "on_bad_record": self.on_bad_record,
        }
        if self.record:
            told["record"] = list(self.record)
        if self.coding is not None:
            told["coding"] = reading_identity(self.format, self.schema, self.coding)
        return told


class KafkaSource:
    """Slices of a Kafka pin as one table."""

    def __init__(self, reader: KafkaReader, slices: Sequence[KafkaSlice]) -> None:
        self._reader = reader
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
        """
        if any(reading.is_read for reading in self._readings):
            self._connected().check()
        return [reading.proof() for reading in self._readings]

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
        self._greatest: int | None = None

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
        beside = pa.schema([each for each in reader.record_schema if each.name in names])
        decoder = reader.decoder([name for name in names if name not in beside.names])
        parts = parts_of(reader.record, headers=reader.format in WITH_HEADERS)
        schema = pa.schema([*decoder.schema, *beside])
        seen = _Digest()
        tables: list[pa.Table] = [schema.empty_table()]
        times: list[pa.Array[Any]] = [pa.array([], pa.int64())]
        self._set_aside, self._bad = 0, []
        for batch in client.read(s.partition, s.start, s.end, parts):
            seen.add(batch)
            table, rows = self._decode(decoder, batch, seen)
            arrays = record_arrays(beside.names, batch, rows, s.partition)
            columns: list[Any] = [*table.columns, *(arrays[name] for name in beside.names)]
            tables.append(pa.Table.from_arrays(columns, schema=schema))
            times.append(pa.array(batch.times[rows]))
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
            self._seen, self._records = seen, sum(map(len, times))
            self._bound(pa.chunked_array(times))

    def _decode(self, decoder: Decoder, batch: RawBatch, seen: _Digest) -> tuple[pa.Table, np.ndarray[Any, Any]]:
        """Decode a batch: rows, and which of its records they are."""
        rows = np.arange(len(batch))
        values, headers = batch.values, batch.headers
        if values.null_count:
            there = values.is_valid().to_numpy(zero_copy_only=False)
            if headers is not None and self._reader.format in WITH_HEADERS:
                from hindscan.history.formats.cloudevents import valueless_events

                events = valueless_events(values, headers)
                seen.tombstones -= int(events.sum())
                there = there | events
            rows = np.flatnonzero(there)
            values = values.filter(pa.array(there))
            headers = None if headers is None else headers.filter(pa.array(there))
        if not decoder.schema.names:
            # Nothing of the values is asked for: they are not looked at.
            return decoder.schema.empty_table(), rows
        table, bad = decoder.decode(values, headers)
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
        self._greatest = greatest_micros(times)
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

    def proof(self) -> Proof:
        """Say what was read; of a slice that nothing asked for, that nothing was."""
        s, seen = self._slice, self._seen
        if seen is None:
            return Proof(slice=s.position, records=0, unverified=self._reader.unverified)
        return Proof(
            slice=s.position,
            records=self._records,
            bytes=seen.bytes,
            first_offset=seen.first,
            last_offset=seen.last,
            invisible=s.end - s.start - seen.count,
            greatest_time=self._greatest,
            digest=seen.hexdigest(),
            set_aside=self._set_aside,
            bad_records=tuple(self._bad),
            tombstones=seen.tombstones,
            unverified=self._reader.unverified,
        )


def _said(bad: BadValue) -> str:
    return f"{bad.field}: {bad.reason}" if bad.field else bad.reason


class _Digest:
    """Counts, and a 128-bit hash over all that was taken of every record: a stream for each kind of thing, so that batches leave no trace."""

    def __init__(self) -> None:
        self.count = 0
        self.bytes = 0
        self.tombstones = 0
        self.first: int | None = None
        self.last: int | None = None
        self._streams: dict[str, xxhash.xxh3_128] = {
            name: xxhash.xxh3_128() for name in ("offsets", "times", "values: lengths", "values")
        }

    def add(self, batch: RawBatch) -> None:
        if not len(batch):
            return
        self._numbers("offsets", batch.offsets)
        self._numbers("times", batch.times)
        self.bytes += self._binary("values", batch.values)
        if batch.keys is not None:
            self._binary("keys", batch.keys)
        if batch.headers is not None:
            self._numbers("headers", pc.list_value_length(batch.headers).fill_null(_NO_VALUE).to_numpy())
            pairs = cast(Any, batch.headers.flatten())
            self._binary("header names", pairs.field(0).cast(pa.large_binary()))
            self._binary("header values", pairs.field(1).cast(pa.large_binary()))
        self.count += len(batch)
        self.tombstones += batch.values.null_count
        self.first = int(batch.offsets[0]) if self.first is None else self.first
        self.last = int(batch.offsets[-1])

    def _numbers(self, name: str, numbers: np.ndarray[Any, Any]) -> None:
        self._streams.setdefault(name, xxhash.xxh3_128()).update(numbers.astype("<i8", copy=False).tobytes())

    def _binary(self, name: str, array: pa.LargeBinaryArray) -> int:
        """Add values and their lengths; give the bytes of the values."""
        self._numbers(f"{name}: lengths", pc.binary_length(array).fill_null(_NO_VALUE).to_numpy())
        stream = self._streams.setdefault(name, xxhash.xxh3_128())
        present = array.drop_null()
        _, places, content = cast(list[Any], present.buffers())
        bounds = np.frombuffer(places, "<i8")
        first, last = (int(bounds[at]) for at in (present.offset, present.offset + len(present)))
        if last > first:
            stream.update(memoryview(content)[first:last])
        return last - first

    def hexdigest(self) -> str:
        return xxhash.xxh3_128(b"".join(stream.digest() for stream in self._streams.values())).hexdigest()
