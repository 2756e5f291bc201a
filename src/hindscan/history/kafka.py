"""A history in a Kafka topic, pinned by topic id and offsets.

Keeps promises 1 to 3 for Kafka. A pin asks for the topic's id before and after its offsets, so that it never mixes two topics of one name; it ends at
the last stable offset for readers of committed records, and says so if an open transaction holds that back, instead of waiting. A schema that is not
declared is inferred from records at the pinned starts and becomes part of the pin. Where the run was triggered by an event of this very topic, the event's own
partition ends before the event.

Caveats tell until when the run is repeatable: a compacted topic loses records between two readings, and retention deletes the oldest.

::

    describe -> offsets -> describe again -> sample -> KafkaPin;  KafkaReader.open(slices) -> Source
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple, Protocol

import msgspec
import numpy as np
import pyarrow as pa

from hindscan.errors import SchemaMismatch, SourceChanged
from hindscan.history.bounds import Bounds, bounds_of, check_time_column, micros_of
from hindscan.history.columns import schema_from_text, schema_to_text
from hindscan.history.formats.arrow import arrow_columns
from hindscan.history.formats.choose import WITH_HEADERS
from hindscan.history.formats.raw import SCHEMA as RAW_SCHEMA
from hindscan.history.infer import infer_schema
from hindscan.history.kafka_reader import KafkaReader
from hindscan.history.kafka_window import (
    APPEND_LATENESS,
    Seen,
    choose_partitions,
    cut_at_offsets,
    cut_at_times,
)
from hindscan.history.record import record_arrays, record_fields
from hindscan.history.schemas import SchemaSource
from hindscan.history.snapshot import Coding, KafkaPin, PartitionPin, Pin, Window
from hindscan.kafka.fetch import Part, PlainClient, RawBatch
from hindscan.kafka.log import RangeReader
from hindscan.kafka.topic import Isolation, TopicDescription, TopicInspector

__all__ = ["PIN_ATTEMPTS", "ArchivedLog", "KafkaHistory", "gone_caveats", "lasting_caveats"]

#: Records of the sample, spread over the partitions.
SAMPLE_RECORDS: Final = 2_000
#: Fetched ahead where only these are looked at; of a hundred thousand, as for a scan, some would stay with a server as memory.
GLANCE: Final[Mapping[str, int]] = {"queued.min.messages": SAMPLE_RECORDS, "fetch.message.max.bytes": 128 * 1024}
#: A topic that is created again and again while it is pinned is given up.
PIN_ATTEMPTS: Final = 3
#: Mean bytes of a JSON value by width of its type, for estimates where there is no sample: digits, times, short texts.
_TEXT_BYTES: Final = 16


#: Value and headers.
Record = tuple[bytes | None, Sequence[tuple[str, bytes | None]] | None]


class ArchivedLog(Protocol):
    """What an archive knows of the times of records that the topic no longer has."""

    def first(self, partition: int, end: int, time: int) -> int | None:
        """Give the first offset before `end` with this record time (microseconds) or a later one; None: there is none."""
        ...

    def look(self, partition: int, offset: int) -> Seen | None:
        """Give the times of the row at an offset; None: there is no such row, or it has no time."""
        ...


class _Shape(NamedTuple):
    """What rows look like, and how that is known."""

    columns: pa.Schema
    origin: str
    coding: Coding | None
    record_bytes: float


@dataclass(frozen=True, kw_only=True, slots=True)
class KafkaHistory:
    """A topic under a name.

    Parameters
    ----------
    name : str
        Name in the project file.
    cluster : str
        Name of the cluster in the project file.
    config : mapping
        The cluster's librdkafka properties, with their secrets.
    topic : str
        The topic.
    format : str
        How values are encoded; one of `choose.FORMATS`.
    time : str, optional
        Event-time column. Default: the record's own time.
    columns : pyarrow.Schema, optional
        Declared schema. Default: inferred from a pinned sample.
    partitions : tuple of int, optional
        The only partitions that are history. Default: all.
    isolation : str
        ``read_committed`` or ``read_uncommitted``.
    on_bad_record : str
        ``fail`` or ``set aside``.
    ignores_as_of : bool
        May be read as it is now in a run as of an earlier time.
    lateness : int, optional
        How far out of order records may be, in microseconds: what `kafka_window` makes of times rests on it. Default: nothing is promised.
    cuts_by_time : bool
        A pin's bounds by time become offsets where they can; else `cut_in_time` does it when the archived offsets are known, too.
    kept : Path, optional
        Folder where records are kept as they were first read. Default: they are not.
    schemas : SchemaSource, optional
        Where the schemas are that the records follow, for a format that has any.
    record : tuple of str
        What of the records themselves are columns; see `history.record`.
    """

    name: str
    cluster: str
    config: Mapping[str, str | int | float | bool] = field(repr=False)
    topic: str
    format: str = "json"
    time: str | None = None
    columns: pa.Schema | None = None
    partitions: tuple[int, ...] | None = None
    isolation: Isolation = "read_committed"
    on_bad_record: str = "fail"
    ignores_as_of: bool = False
    lateness: int | None = None
    cuts_by_time: bool = True
    kept: Path | None = None
    schemas: SchemaSource | None = None
    record: tuple[str, ...] = ()

    def refuse(self, window: Window) -> None:
        """Refuse nothing: a topic has all that can be asked for. Which partitions and offsets there are is seen when it is pinned."""

    def pin(self, window: Window) -> KafkaPin:
        """Resolve the offsets; without declared columns, read a sample.

        Raises
        ------
        UsageError
            Partitions or offsets are asked for that are not there.
        DataLost
            Offsets are asked for that retention has deleted.
        OutOfOrder
            The record where the window is cut is further out of order than `lateness` promises.
        SourceMissing
            No such topic or partition.
        SourceChanged
            The event's topic is another of the same name, or the topic changes while it is pinned.
        SchemaMismatch
            The sample gives no one schema, or the time column is none.
        BrokerUnavailable
            No broker answered.
        """
        bounds = bounds_of(window, history=self.name, has_time=True, ignores_as_of=self.ignores_as_of)
        inspector = TopicInspector(self.config, self.topic)
        described, pinned = self._pin_offsets(inspector, window)
        caveats = (*bounds.caveats, *_caveats(described, pinned, self.isolation, kept=self.kept is not None))
        pinned = cut_at_offsets(pinned, window, history=self.name)
        pinned = self.cut_at_event(pinned, window, described.topic_id)
        # Before the times cut: a window that slides along must not be of another schema each time.
        shape = self._shape(described, pinned)
        schema = self._with_record(shape.columns)
        if self.time is not None:
            check_time_column(schema, self.time, self.name)
        lateness = None
        if self.cuts_by_time:
            reading = self._reading(described, schema, shape.coding)
            pinned, lateness = self._cut_at_times(inspector, described, bounds, pinned, reading)
        caveats += gone_caveats(pinned)
        return KafkaPin(
            cluster=self.cluster,
            cluster_id=described.cluster_id,
            topic=self.topic,
            topic_id=described.topic_id,
            isolation=self.isolation,
            partitions=tuple(pinned),
            format=self.format,
            schema=schema_to_text(schema),
            schema_from=shape.origin,
            coding=shape.coding,
            record=self.record,
            time=self.time,
            since=bounds.since,
            before=bounds.before,
            on_bad_record=self.on_bad_record,
            cleanup_policy=described.cleanup_policy,
            retention_ms=described.retention_ms,
            record_bytes=shape.record_bytes,
            keys=window.keys,
            lateness=lateness,
            partition_count=len(described.partitions),
            unverified=described.unverified,
            caveats=caveats,
        )

    def cut_in_time(self, pin: KafkaPin, archived: ArchivedLog | None) -> KafkaPin:
        """Leave out of a pin that also holds what is archived the offsets that its bounds exclude.

        Where the topic still has an offset, the broker is asked, so that the cut is that of the topic alone; of older ones the archive tells.

        Parameters
        ----------
        pin : KafkaPin
            With the bounds.
        archived : ArchivedLog, optional
            What is archived; None: it knows no times of records, and nothing is left out if the topic has lost its beginning.

        Raises
        ------
        OutOfOrder
            The record where the window is cut is further out of order than `lateness` promises.
        """
        lost = any(one.start < one.log_start for one in pin.partitions)
        if (pin.since, pin.before) == (None, None) or (archived is None and lost):
            return pin
        inspector = TopicInspector(self.config, self.topic)
        described, bounds = inspector.describe(), Bounds(since=pin.since, before=pin.before)
        partitions, lateness = self._cut_at_times(
            inspector, described, bounds, pin.partitions, self.reader(pin), archived
        )
        return msgspec.structs.replace(pin, partitions=tuple(partitions), lateness=lateness)

    def cut_at_event(self, pinned: Sequence[PartitionPin], window: Window, topic_id: str) -> list[PartitionPin]:
        """End the partition of the event that a run was triggered by before the event, if it is one of this topic.

        Raises
        ------
        SourceChanged
            The event is of another topic of the same name.
        """
        at = window.position
        if at is None or self.ignores_as_of or (at.cluster, at.topic) != (self.cluster, self.topic):
            return list(pinned)
        if at.topic_id != topic_id:
            raise SourceChanged(
                f"While pinning history {self.name} for an event at {at.topic}[{at.partition}] offset {at.offset}: the topic must be the one the event "
                f"came from, with id {at.topic_id}; it was created again and has id {topic_id}. The event's history is gone.",
                topic=self.topic,
                pinned=at.topic_id,
                found=topic_id,
            )
        return [
            msgspec.structs.replace(p, end=min(p.end, max(p.start, at.offset))) if p.partition == at.partition else p
            for p in pinned
        ]

    def reader(self, pin: Pin) -> KafkaReader:
        """Give what workers need to read this pin."""
        assert isinstance(pin, KafkaPin)
        return KafkaReader(
            config=self.config,
            topic=pin.topic,
            topic_id=pin.topic_id,
            isolation="read_uncommitted" if pin.isolation == "read_uncommitted" else "read_committed",
            format=pin.format,
            schema=schema_from_text(pin.schema),
            time=pin.time,
            on_bad_record=pin.on_bad_record,
            keys=pin.keys,
            lateness=pin.lateness,
            # The mock has one id for all topics: what is kept of one would be found for another.
            kept=None if pin.unverified else self.kept,
            unverified=pin.unverified,
            coding=pin.coding,
            registry=None if self.schemas is None else self.schemas.settings,
            record=pin.record,
        )

    def _pin_offsets(self, inspector: TopicInspector, window: Window) -> tuple[TopicDescription, list[PartitionPin]]:
        found: list[str] = []
        for _ in range(PIN_ATTEMPTS):
            described = inspector.describe()
            numbers = choose_partitions(
                window, declared=self.partitions, existing=described.partitions, history=self.name, topic=self.topic
            )
            starts = inspector.offsets(numbers, "earliest", self.isolation)
            ends = inspector.offsets(numbers, "latest", self.isolation)
            marks = inspector.offsets(numbers, "latest", "read_uncommitted")
            again = inspector.describe(settings=False)
            if again.topic_id == described.topic_id:
                return described, [
                    PartitionPin(
                        partition=number,
                        start=starts[number].offset,
                        # Retention may have deleted a whole partition between the two questions.
                        end=max(starts[number].offset, ends[number].offset),
                        log_start=starts[number].offset,
                        high_watermark=marks[number].offset,
                        leader_epoch=ends[number].leader_epoch,
                    )
                    for number in numbers
                ]
            found += [described.topic_id, again.topic_id]
        raise SourceChanged(
            f"While pinning history {self.name}: topic {self.topic!r} must stay the same while its offsets are asked for; "
            f"it had the ids {', '.join(dict.fromkeys(found))}. Run again when nobody deletes and creates it.",
            topic=self.topic,
        )

    def _cut_at_times(
        self,
        inspector: TopicInspector,
        described: TopicDescription,
        bounds: Bounds,
        pinned: Sequence[PartitionPin],
        reading: KafkaReader,
        archived: ArchivedLog | None = None,
    ) -> tuple[list[PartitionPin], int | None]:
        """Leave out what lies outside the bounds; give the lateness that this rests on."""
        if (bounds.since, bounds.before) == (None, None) or described.unverified:
            return list(pinned), None  # the mock answers no look-up
        behind = self.lateness
        if behind is None and self.time is None and described.timestamp_type == "LogAppendTime":
            behind = APPEND_LATENESS
        if behind is None and self.time is not None:
            return list(pinned), None  # nobody says what a record's own time has to do with its event time

        def lookup(partitions: Sequence[int], time: int) -> dict[int, int | None]:
            found = inspector.offsets(
                partitions, max(-(-time // 1000), 0), self.isolation
            )  # before 1970 there is no record
            known = {number: at.offset if at.offset >= 0 else None for number, at in found.items()}
            older = {} if archived is None else {number: archived.first(number, gone[number], time) for number in known}
            return {number: known[number] if older.get(number) is None else older[number] for number in known}

        def look(partition: int, offset: int) -> Seen | None:
            if archived is not None and offset < gone[partition]:
                return archived.look(partition, offset)
            return _look(reader, reading, partition, offset)

        #: Where the topic begins: of what is before it only the archive knows.
        gone = {p.partition: p.log_start for p in pinned}

        with self._glance(described) as reader:
            cut = cut_at_times(
                pinned,
                since=bounds.since,
                before=bounds.before,
                ahead=0 if self.time is None else behind,
                behind=behind,
                lookup=lookup,
                look=look,
                topic=self.topic,
            )
        return cut, behind

    def _reading(self, described: TopicDescription, schema: pa.Schema, coding: Coding | None) -> KafkaReader:
        """Give what is needed to decode a record before there is a pin."""
        return KafkaReader(
            config=self.config,
            topic=self.topic,
            topic_id=described.topic_id,
            isolation=self.isolation,
            format=self.format,
            schema=schema,
            time=self.time,
            on_bad_record=self.on_bad_record,
            coding=coding,
            registry=None if self.schemas is None else self.schemas.settings,
            record=self.record,
        )

    def _shape(self, described: TopicDescription, pinned: Sequence[PartitionPin]) -> _Shape:
        """Find what rows look like. Reads a sample, unless declared columns or a declared schema say it all."""
        if self.schemas is not None:
            sample = [] if self.schemas.file is not None else self._sample(described, pinned)
            coding, origin = self.schemas.coding([value for value, _ in sample if value is not None])
            columns = self.schemas.columns(coding, self.columns)
            return _Shape(columns, origin, coding, _mean_bytes(sample) or _row_bytes(columns))
        if self.columns is not None:
            return _Shape(self.columns, "declared", None, _row_bytes(self.columns))
        sample = self._sample(described, pinned)
        columns = self._inferred(sample)
        return _Shape(columns, "inferred from a pinned sample", None, _mean_bytes(sample))

    def _inferred(self, sample: Sequence[Record]) -> pa.Schema:
        values = [value for value, _ in sample if value is not None]
        faults: list[str] = []
        match self.format:
            case "bytes":
                return RAW_SCHEMA
            case "arrow":
                schema, what = arrow_columns(values) or pa.schema([]), "an Arrow stream"
            case "cloudevents":
                # Loads the reading of events only where a history is made of them.
                from hindscan.history.formats.cloudevents import cloudevents_columns

                (schema, faults), what = cloudevents_columns(sample), "a CloudEvent"
            case _:
                (schema, faults), what = infer_schema(values), "a JSON object with a value"
        if faults or not schema.names:
            reason = "; ".join(faults) or f"none of its {len(values)} records is {what}"
            raise SchemaMismatch(
                f"While pinning history {self.name}: the first records of topic {self.topic!r} must show one type for each column; {reason}. "
                f"Declare `columns` in [history.{self.name}].",
                history=self.name,
                faults=faults,
            )
        return schema

    def _with_record(self, columns: pa.Schema) -> pa.Schema:
        beside = record_fields(self.record)
        taken = [each.name for each in beside if each.name in columns.names]
        if taken:
            raise SchemaMismatch(
                f"While pinning history {self.name}: a column must mean one thing; {', '.join(taken)} is in the values of topic {self.topic!r} and named by "
                f"`record`. Declare `columns` without it, or take it out of `record` in [history.{self.name}].",
                history=self.name,
            )
        return pa.schema([*columns, *beside])

    def _glance(self, described: TopicDescription) -> RangeReader:
        """Open the topic for a few records: by the plain client, whatever the cluster says of readers, since a server that pins would keep the compiler."""
        config = {**GLANCE, **self.config}
        client = PlainClient(config, self.topic, self.isolation)
        return RangeReader(config, self.topic, described.topic_id, self.isolation, client=client)

    def _sample(self, described: TopicDescription, pinned: Sequence[PartitionPin]) -> list[Record]:
        """Read the first records at the pinned starts: the same for the same pin, however they come in batches."""
        filled = [partition for partition in pinned if partition.start < partition.end]
        parts: frozenset[Part] = frozenset(["headers"] if self.format in WITH_HEADERS else [])
        sample: list[Record] = []
        with self._glance(described) as reader:
            for partition in filled:
                each = -(-SAMPLE_RECORDS // len(filled))
                records: Iterator[Record] = (
                    record
                    for batch in reader.read(partition.partition, partition.start, partition.end, parts)
                    for record in _records(batch)
                    if record[0] is not None or record[1]
                )
                sample += islice(records, each)
        return sample


def _look(client: RangeReader, reading: KafkaReader, partition: int, offset: int) -> Seen | None:
    """Read one record; None if no reader sees it or it is no row with a time, so that nothing can be told by it."""
    for batch in client.read(partition, offset, offset + 1, reading.parts):
        record_time = int(batch.times[0]) * 1000
        if reading.time is None:
            return Seen(record_time, record_time)
        if reading.time in reading.record_schema.names:
            times = record_arrays([reading.time], batch, np.arange(len(batch)), partition)[reading.time]
        else:
            table, _ = reading.decoder([reading.time]).decode(batch.values.drop_null(), batch.headers)
            times = table.column(0).combine_chunks()
        for event_time in micros_of(times.drop_null()):
            return Seen(record_time, int(event_time))
    return None


def _records(batch: RawBatch) -> Iterator[Record]:
    values = batch.values.to_pylist()
    if batch.headers is None:
        return ((value, None) for value in values)
    headers = [None if each is None else [(h["key"], h["value"]) for h in each] for each in batch.headers.to_pylist()]
    return zip(values, headers, strict=True)


def _mean_bytes(sample: Sequence[Record]) -> float:
    sizes = [len(value) for value, _ in sample if value is not None]
    return sum(sizes) / len(sizes) if sizes else 0.0


def _row_bytes(columns: pa.Schema) -> float:
    return float(sum(len(column.name) + 5 + _width(column.type) for column in columns))


def _caveats(
    described: TopicDescription, pinned: Sequence[PartitionPin], isolation: str, *, kept: bool
) -> tuple[str, ...]:
    caveats = []
    if described.unverified:
        caveats.append("unverified: mock (the broker inside the client knows no topic ids and no transactions)")
    else:
        caveats += lasting_caveats(described.cleanup_policy, described.retention_ms, kept=kept)
    held = {p.partition: p.high_watermark - p.end for p in pinned if p.high_watermark > p.end}
    if isolation == "read_committed" and held:
        said = ", ".join(f"{count} offsets in partition {partition}" for partition, count in held.items())
        caveats.append(f"an open transaction holds the end back: {said} are not pinned")
    return tuple(caveats)


def gone_caveats(pinned: Sequence[PartitionPin]) -> tuple[str, ...]:
    """Say that there were older records, where what is pinned begins with the oldest that are left."""
    short = [p for p in pinned if p.start == p.log_start > 0]
    if not short:
        return ()
    more = f", and {len(short) - 3} more partitions" if len(short) > 3 else ""
    said = ", ".join(f"partition {p.partition} begins at offset {p.log_start}" for p in short[:3])
    return (f"older records are gone: {said}{more}",)


def lasting_caveats(policy: str | None, retention_ms: int | None, *, kept: bool = False) -> list[str]:
    """Say how long the records of a topic with these settings stay."""
    if policy is None:
        return ["the topic's settings could not be read: it is unknown how long its records stay"]
    caveats = []
    if "compact" in policy:
        caveats.append(
            "the topic is compacted: records that were overwritten can vanish "
            + ("until they are read for the first time; then they are kept" if kept else "at any time")
        )
    if "delete" in policy and retention_ms is not None and retention_ms >= 0:
        caveats.append(f"repeatable until retention deletes the oldest record, {retention_ms} ms after its time")
    return caveats


def _width(type_: pa.DataType) -> int:
    """Bytes that a value of this type takes as JSON, about."""
    if pa.types.is_timestamp(type_):
        return 29
    if pa.types.is_nested(type_):
        return 4 * _TEXT_BYTES
    return 8 if pa.types.is_primitive(type_) else _TEXT_BYTES
