"""Reading pinned Kafka offsets: what a worker opens, and how it knows that it read what was pinned.

Keeps promise 2 for Kafka. The topic's id is compared before the first fetch and again when the proofs are asked for; in between
`kafka_log.RangeReader` decides when a range is complete. A proof counts what was delivered, what no reader sees, tombstones and records
set aside, and carries a digest over offset, time and value of every record that does not depend on how they came in batches, so that two
readings of the same offsets can be compared: a second reading in the same source must give the same, or the topic has changed underneath.

Decoding goes on batch by batch while the client fetches; only decoded columns are kept. Where a query filters its rows by a condition, the columns of the
condition are decoded of every record and the others only of those that pass. So a malformed record is found wherever it is, and so is a bad field of the condition;
another bad field is found in the records that pass. Where bad records are set aside, which are bad must not depend on the query: there everything is decoded. Columns or
rows asked for later are read again.

::

    KafkaReader.open(slices) -> KafkaSource: dataset -> Data;  proofs -> Proof
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from hindscan.data import Proof
from hindscan.errors import BadRecord, SourceChanged
from hindscan.history.archived import OFFSET, POSITIONS, TIMESTAMP
from hindscan.history.bounds import Bounds, keeps, micros_of
from hindscan.history.columns import described
from hindscan.history.formats.choose import WITH_HEADERS, make_decoder, reading_identity
from hindscan.history.formats.decoder import BadValue, Decoder
from hindscan.history.json_fast import FastJson, can_scan
from hindscan.history.kafka_window import check_lateness
from hindscan.history.materialised import Kept, read_kept
from hindscan.history.record import parts_of, record_arrays, record_fields
from hindscan.history.schemas import known_schemas
from hindscan.history.snapshot import Coding, KafkaSlice, Slice
from hindscan.kafka_fast import uses_compiler
from hindscan.kafka_fetch import Part, RawBatch
from hindscan.kafka_log import Isolation, RangeReader
from hindscan.query import Where

if TYPE_CHECKING:
    import pyarrow.dataset as ds

__all__ = ["NAMED_BAD_RECORDS", "KafkaReader", "KafkaSource", "inside"]

#: Set-aside records whose position and reason a proof names; all are counted.
NAMED_BAD_RECORDS: Final = 100
#: Records, or bytes of their values, that are decoded at once at least, while there are more: a hundred thousand were seen to be twice as fast as twenty thousand.
BATCH_RECORDS: Final = 100_000
BATCH_BYTES: Final = 32 * 2**20
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
        lookup = known_schemas(self.coding, self.format, self.registry)
        decoder = make_decoder(self.format, schema, self.coding, lookup)
        if self.format != "json" or not uses_compiler(self.config) or not can_scan(schema):
            return decoder
        return FastJson(schema, decoder.decode)

    def open(self, slices: Sequence[Slice]) -> KafkaSource:
        """Open slices as one table, rows in the order of the slices. Connects when rows are asked for."""
        return KafkaSource(self, [s for s in slices if isinstance(s, KafkaSlice)])

    @property
    def parts(self) -> frozenset[Part]:
        """What of a record is looked at beside its value."""
        parts = parts_of(self.record, headers=self.format in WITH_HEADERS)
        return parts | {"keys"} if self.keys else parts

    def identity(self) -> dict[str, object]:
        """Tell what of reading a key must cover: what is visible, and how it is decoded."""
        told: dict[str, object] = {
            "format": self.format,
            "schema": described(self.schema),
            "time": self.time,
            "isolation": self.isolation,
            "on_bad_record": self.on_bad_record,
        }
        if self.keys:
            told["keys"] = [key.hex() for key in self.keys]
        if self.record:
            told["record"] = list(self.record)
        if self.coding is not None:
            told["coding"] = reading_identity(self.format, self.schema, self.coding)
        return told


class KafkaSource:
    """Slices of a Kafka pin as one table."""

    def __init__(self, reader: KafkaReader, slices: Sequence[KafkaSlice]) -> None:
        self._reader = reader
        self._slices = list(slices)
        self._readings = [_Reading(reader, s) for s in slices]
        self._client: RangeReader | None = None
        #: The condition whose rows are read apart.
        self._filtered: str | None = None

    def __enter__(self) -> KafkaSource:
        return self

    def __exit__(self, *fault: object) -> None:
        self.close()

    @property
    def schema(self) -> pa.Schema:
        """Columns, in order."""
        return self._reader.schema

    def dataset(self, columns: Sequence[str] | None = None, where: Where | None = None) -> ds.Dataset:
        """Read and decode the slices, unless these columns and rows already are.

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
        tables = self.tables(wanted, where)
        schema = pa.schema([self.schema.field(name) for name in wanted])
        import pyarrow.dataset as ds

        return ds.dataset(pa.concat_tables([schema.empty_table(), *tables]))

    def tables(self, wanted: Sequence[str], where: Where | None = None) -> list[pa.Table]:
        """Give the rows of `dataset` as one table for each slice; the columns may be those of `archived.POSITIONS` too."""
        names = list(wanted)
        if self._reader.on_bad_record != "fail":
            names, where = [*self.schema.names, *(name for name in wanted if name not in self.schema.names)], None
        elif where is not None and self._filtered is None:
            self._filtered = where.key
        elif where is not None and self._filtered != where.key:
            where = None  # one query's rows are read apart; with more of them the whole is read once, for all
        for reading in self._readings:
            if not reading.has(names, where):
                reading.read(self._connected(), names, where)
        return [reading.table(wanted, where) for reading in self._readings]

    def set_aside(self) -> list[list[int]]:
        """Give the offsets of the records that were set aside, slice by slice."""
        return [reading.set_aside for reading in self._readings]

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
            records = sum(reading.offsets for reading in self._readings)
            self._client = RangeReader(reader.config, reader.topic, reader.topic_id, reader.isolation, records=records)
            self._client.check()
        return self._client


class _Reading:
    """One slice: its columns as far as they were decoded, and what its proof will say."""

    def __init__(self, reader: KafkaReader, s: KafkaSlice) -> None:
        self._reader = reader
        self._slice = s
        #: Rows inside the slice's bounds, by the condition they fulfil; "" for all.
        self._tables: dict[str, pa.Table] = {}
        self._seen: _Digest | None = None
        self._bad: list[str] = []
        #: Offsets of the records that did not decode.
        self.set_aside: list[int] = []
        self._order = _Order()

    @property
    def offsets(self) -> int:
        return self._slice.end - self._slice.start

    @property
    def is_read(self) -> bool:
        return self._seen is not None

    def has(self, columns: Sequence[str], where: Where | None) -> bool:
        return self._found(columns, where) is not None

    def table(self, columns: Sequence[str], where: Where | None) -> pa.Table:
        """Give columns of what was read."""
        found = self._found(columns, where)
        assert found is not None
        return found.select(list(columns))

    def read(self, client: RangeReader, wanted: Sequence[str], where: Where | None) -> None:
        """Read the slice, and keep these columns of the rows that pass."""
        passing = _Passing(
            self._reader, self._slice, wanted, where
        )  # after the client: it may have loaded the compiler
        seen = _Digest()
        tables: list[pa.Table] = [passing.schema.empty_table()]
        self.set_aside, self._bad = [], []
        for batch in _in_fewer(self._batches(client)):
            seen.add(batch)
            tables.append(passing.decode(batch, self._take_bad))
        seen.tombstones -= passing.valueless
        self._check_same(seen)
        whole = pa.concat_tables(tables)
        key = where.key if where is not None else ""
        before = self._tables.get(key, whole)
        for name in before.column_names:
            if name not in whole.column_names:
                whole = whole.append_column(before.schema.field(name), before.column(name))
        self._tables[key] = whole
        if self._seen is None:
            self._seen, self._order = seen, passing.order

    def _batches(self, client: RangeReader) -> Iterator[RawBatch]:
        reader, s = self._reader, self._slice
        if reader.kept is None:
            return client.read(s.partition, s.start, s.end, reader.parts)
        kept = Kept(
            folder=reader.kept,
            topic_id=reader.topic_id,
            partition=s.partition,
            start=s.start,
            end=s.end,
            isolation=reader.isolation,
        )
        return read_kept(client, kept, keys="keys" in reader.parts)

    def _found(self, columns: Sequence[str], where: Where | None) -> pa.Table | None:
        for key in dict.fromkeys([where.key if where is not None else "", ""]):
            table = self._tables.get(key)
            if table is not None and set(columns) <= set(table.column_names):
                return table
        return None

    def _check_same(self, seen: _Digest) -> None:
        reader, s = self._reader, self._slice
        if self._seen is not None and self._seen.hexdigest() != seen.hexdigest():
            raise SourceChanged(
                f"While reading offsets [{s.start}, {s.end}) of {reader.topic}[{s.partition}] again for more columns: the records must be the same; "
                f"{self._seen.count} came the first time, {seen.count} now. A compacted topic changes so; read what is needed in one query.",
                topic=reader.topic,
                partition=s.partition,
            )

    def _take_bad(self, bad: Sequence[BadValue], offsets: Sequence[int]) -> None:
        """Take in what did not decode."""
        if self._reader.on_bad_record == "fail":
            raise self._bad_record(offsets[0], bad[0])
        self.set_aside += offsets
        room = max(NAMED_BAD_RECORDS - len(self._bad), 0)
        self._bad += [
            f"{self._slice.partition}:{offset}: {_said(b)}" for offset, b in zip(offsets[:room], bad, strict=False)
        ]

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

    def proof(self, partition_count: int | None) -> Proof:
        """Say what was read; of a slice that nothing asked for, that nothing was."""
        s, seen, order = self._slice, self._seen, self._order
        if seen is None:
            return Proof(slice=s.position, records=0, unverified=self._reader.unverified)
        return Proof(
            slice=s.position,
            records=order.rows,
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
            set_aside=len(self.set_aside),
            bad_records=tuple(self._bad),
            tombstones=seen.tombstones,
            unverified=self._reader.unverified,
        )


def _said(bad: BadValue) -> str:
    return f"{bad.field}: {bad.reason}" if bad.field else bad.reason


class _Passing:
    """Decodes batches of one slice: of every record the columns that say whether it passes, of those that do the others too."""

    def __init__(self, reader: KafkaReader, s: KafkaSlice, wanted: Sequence[str], where: Where | None) -> None:
        self._reader, self._slice, self._where = reader, s, where
        names = reader.schema.names
        # Its greatest value says whether a later run as of a time may take this slice's partial as it is.
        first = {*(where.columns if where is not None else wanted), *([reader.time] if reader.time is not None else [])}
        beside = reader.record_schema.names
        #: Columns that are not decoded come of all records: they cost little, and a condition may ask for them.
        self._beside = [name for name in names if name in beside and (name in first or name in wanted)]
        decoded_first = [name for name in names if name in first and name not in beside]
        decoded_last = [name for name in names if name in wanted and name not in {*first, *beside}]
        self._first, self._rest = self._decoder(decoded_first), self._decoder(decoded_last)
        self._positions = [field for field in POSITIONS if field.name in wanted and field.name not in names]
        #: What is given: a column that only the condition needed is kept too, as it is there.
        given = [reader.schema.field(name) for name in (*decoded_first, *self._beside, *decoded_last)]
        self.schema = pa.schema([*given, *self._positions])
        self.order = _Order()
        #: Records without a value that are rows all the same.
        self.valueless = 0

    def decode(self, batch: RawBatch, take_bad: Callable[[Sequence[BadValue], Sequence[int]], None]) -> pa.Table:
        """Give the rows that pass."""
        columns, rows = self._decode(self._first, batch, self._wanted(batch), take_bad)
        columns |= record_arrays(self._beside, batch, rows, self._slice.partition)
        time = self._reader.time
        times = pa.chunked_array([pa.array(batch.times[rows], pa.timestamp("ms")) if time is None else columns[time]])
        self.order.add(batch, rows, times)
        kept = self._keeps(columns, times)
        if kept is not None:
            columns, rows = {name: column.filter(pa.array(kept)) for name, column in columns.items()}, rows[kept]
        rest, rows = self._decode(self._rest, batch, rows, take_bad)
        places = {OFFSET: batch.offsets, TIMESTAMP: batch.times}
        positions = {field.name: pa.array(places[field.name][rows]).cast(field.type) for field in self._positions}
        return pa.table({**columns, **rest, **positions}, schema=self.schema)

    def _wanted(self, batch: RawBatch) -> np.ndarray[Any, Any]:
        """Tell which records of a batch are rows: those with a value, and with one of the keys where some are asked for."""
        wanted = pc.is_valid(batch.values) if batch.values.null_count else None
        if wanted is not None and batch.headers is not None and self._reader.format in WITH_HEADERS:
            from hindscan.history.formats.cloudevents import valueless_events

            events = valueless_events(batch.values, batch.headers)
            self.valueless += int(events.sum())
            wanted = pc.or_(wanted, pa.array(events))
        if self._reader.keys:
            assert batch.keys is not None
            # A key is compared, never hashed to a partition: producers of one topic may use different partitioners.
            named = pc.is_in(batch.keys, pa.array(self._reader.keys, pa.large_binary()))
            wanted = named if wanted is None else pc.and_(wanted, named)
        return np.arange(len(batch)) if wanted is None else np.flatnonzero(wanted.to_numpy(zero_copy_only=False))

    def _decoder(self, names: Sequence[str]) -> Decoder | None:
        """Make a decoder; none is needed where nothing is to be decoded."""
        return self._reader.decoder(names) if names else None

    def _decode(
        self,
        decoder: Decoder | None,
        batch: RawBatch,
        rows: np.ndarray[Any, Any],
        take_bad: Callable[[Sequence[BadValue], Sequence[int]], None],
    ) -> tuple[dict[str, Any], np.ndarray[Any, Any]]:
        """Decode some records of a batch: their columns, and which records they are."""
        if decoder is None:
            return {}, rows
        values, headers = batch.values, batch.headers
        if len(rows) < len(batch):
            values, headers = values.take(pa.array(rows)), None if headers is None else headers.take(pa.array(rows))
        table, bad = decoder.decode(values, headers)
        if bad:
            wrong = [b.index for b in bad]
            take_bad(bad, batch.offsets[rows[wrong]].tolist())
            rows = np.delete(rows, wrong)
        return {name: table.column(name) for name in table.column_names}, rows

    def _keeps(
        self, columns: Mapping[str, Any], times: pa.ChunkedArray[Any]
    ) -> np.ndarray[Any, np.dtype[np.bool_]] | None:
        """Tell which rows are inside the slice's bounds and fulfil the condition; None where all are and do."""
        kept = None if self._where is None else self._where.keeps(pa.table(dict(columns)))
        bounded = inside(times, self._slice, self._reader)
        if bounded is None:
            return kept
        return bounded if kept is None else bounded & kept


def inside(
    times: pa.ChunkedArray[Any], s: KafkaSlice, reader: KafkaReader
) -> np.ndarray[Any, np.dtype[np.bool_]] | None:
    """Mark the rows inside a slice's bounds by their times; None if there is no bound.

    Raises
    ------
    BadRecord
        There is a bound, and a row has no time.
    """
    kept = keeps("time", times.type, Bounds(since=s.since, before=s.before))
    if kept is None:
        return None
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

    marked = ds.dataset(pa.table({"time": cast(Any, times)})).to_table(columns={"kept": kept}).column("kept")
    return np.asarray(marked.combine_chunks().to_numpy(zero_copy_only=False), bool)


def _in_fewer(batches: Iterator[RawBatch]) -> Iterator[RawBatch]:
    """Put batches together until they are worth the fixed cost of decoding and filtering one."""
    held: list[RawBatch] = []
    rows = size = 0
    for batch in batches:
        held.append(batch)
        rows += len(batch)
        size += batch.values.nbytes
        if rows >= BATCH_RECORDS or size >= BATCH_BYTES:
            yield RawBatch.joined(held)
            held, rows, size = [], 0, 0
    if held:
        yield RawBatch.joined(held)


class _Order:
    """How many rows there were, and how far their times are out of order; microseconds."""

    def __init__(self) -> None:
        self.rows = 0
        self.least: int | None = None
        self.greatest: int | None = None
        self.latest_record_time: int | None = None
        #: None where a row has no time.
        self.disorder: int | None = 0
        self._peak = np.iinfo(np.int64).min

    def add(self, batch: RawBatch, rows: np.ndarray[Any, Any], times: pa.ChunkedArray[Any]) -> None:
        """Take a batch, which of its records are rows, and the rows' event times."""
        if not len(batch):
            return
        peaks = np.maximum(np.maximum.accumulate(batch.times), self._peak)
        self._peak = int(peaks[-1])
        self.latest_record_time = self._peak * 1000
        self.rows += len(rows)
        known = micros_of(times.drop_null())
        if len(known):
            self.least = min(int(known.min()), self.least if self.least is not None else int(known.min()))
            self.greatest = max(int(known.max()), self.greatest if self.greatest is not None else int(known.max()))
        if len(known) < len(rows):
            self.disorder = None
        elif self.disorder is not None and len(known):
            behind, ahead = peaks[rows] * 1000 - known, known - batch.times[rows] * 1000
            self.disorder = max(self.disorder, int(behind.max()), int(ahead.max()))


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
