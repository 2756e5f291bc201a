"""Reading pinned Kafka offsets: what a worker opens, and how it knows that it read what was pinned.

Keeps promise 2 for Kafka. The topic's id is compared before the first fetch and again when the proofs are asked for; in between
`kafka.log.RangeReader` decides when a range is complete. A proof counts what was delivered, what no reader sees, tombstones and records
set aside, and carries a digest over offset, time and value of every record that does not depend on how they came in batches, so that two
readings of the same offsets can be compared: a second reading in the same source must give the same, or the topic has changed underneath.

Decoding goes on batch by batch while the client fetches (`kafka_rows`); only decoded columns are kept. Where bad records are set aside, which are bad must not
depend on the query: there everything is decoded. Columns or rows asked for later are read again.

::

    KafkaReader.open(slices) -> KafkaSource: dataset -> Data;  proofs -> Proof
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pyarrow as pa

from hindscan.condition import Where
from hindscan.data import Proof
from hindscan.errors import BadRecord, SourceChanged
from hindscan.history.columns import described
from hindscan.history.formats.choose import WITH_HEADERS, is_compiled, make_decoder, reading_identity
from hindscan.history.formats.decoder import BadValue, Decoder
from hindscan.history.kafka_proof import Digest, Order
from hindscan.history.kafka_rows import Passing, in_fewer
from hindscan.history.kafka_window import check_lateness
from hindscan.history.materialised import Kept, read_kept
from hindscan.history.record import parts_of, record_fields
from hindscan.history.schemas import known_schemas
from hindscan.history.snapshot import Coding, KafkaSlice, Slice
from hindscan.kafka.fast import is_for, uses_compiler
from hindscan.kafka.fetch import Part, RawBatch
from hindscan.kafka.log import FAST_RECORDS, RangeReader
from hindscan.kafka.topic import Isolation

if TYPE_CHECKING:
    import pyarrow.dataset as ds

__all__ = ["NAMED_BAD_RECORDS", "KafkaReader", "KafkaSource"]

#: Set-aside records whose position and reason a proof names; all are counted.
NAMED_BAD_RECORDS: Final = 100


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
        return make_decoder(self.format, schema, self.coding, lookup, compiled=uses_compiler(self.config))

    def open(self, slices: Sequence[Slice]) -> KafkaSource:
        """Open slices as one table, rows in the order of the slices. Connects when rows are asked for."""
        return KafkaSource(self, [s for s in slices if isinstance(s, KafkaSlice)])

    def is_lock_free(self, slices: Sequence[KafkaSlice]) -> bool:
        """Tell whether slices are read and decoded by compiled loops, which hold no interpreter's lock."""
        decoded = [column for column in self.schema if column.name not in self.record_schema.names]
        return (
            self.kept is None
            and "headers" not in self.parts
            and is_compiled(self.format, pa.schema(decoded), self.coding)
            and max((s.rows for s in slices), default=0) >= FAST_RECORDS
            and is_for(self.config)
        )

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
        self._seen: Digest | None = None
        self._bad: list[str] = []
        #: Offsets of the records that did not decode.
        self.set_aside: list[int] = []
        self._order = Order()

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
        passing = Passing(self._reader, self._slice, wanted, where)  # after the client: it may have loaded the compiler
        seen = Digest()
        tables: list[pa.Table] = [passing.schema.empty_table()]
        self.set_aside, self._bad = [], []
        for batch in in_fewer(self._batches(client)):
            seen.add(batch)
            tables.append(passing.decode(batch, self._take_bad))
            del batch  # else it is held while the client fills the next, and cannot use its memory again
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

    def _check_same(self, seen: Digest) -> None:
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
