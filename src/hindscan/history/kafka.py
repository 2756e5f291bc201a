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
from typing import Final, NamedTuple

import pyarrow as pa

from hindscan.errors import SchemaMismatch, SourceChanged, SourceMissing
from hindscan.history.bounds import bounds_of, check_time_column
from hindscan.history.columns import schema_from_text, schema_to_text
from hindscan.history.formats.arrow import arrow_columns
from hindscan.history.formats.choose import WITH_HEADERS
from hindscan.history.formats.raw import SCHEMA as RAW_SCHEMA
from hindscan.history.infer import infer_schema
from hindscan.history.kafka_reader import KafkaReader
from hindscan.history.record import parts_of, record_fields
from hindscan.history.schemas import SchemaSource
from hindscan.history.snapshot import Coding, KafkaPin, PartitionPin, Pin, Window
from hindscan.kafka_log import Isolation, RangeReader, RawBatch, TopicDescription, TopicInspector

__all__ = ["KafkaHistory"]

#: Records of the sample, spread over the partitions.
SAMPLE_RECORDS: Final = 2_000
#: A topic that is created again and again while it is pinned is given up.
PIN_ATTEMPTS: Final = 3
#: Mean bytes of a JSON value by width of its type, for estimates where there is no sample: digits, times, short texts.
_TEXT_BYTES: Final = 16


#: Value and headers.
Record = tuple[bytes | None, Sequence[tuple[str, bytes | None]] | None]


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
    schemas: SchemaSource | None = None
    record: tuple[str, ...] = ()

    def pin(self, window: Window) -> KafkaPin:
        """Resolve the offsets; without declared columns, read a sample.

        Raises
        ------
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
        described, pinned = self._pin_offsets(inspector)
        caveats = (*bounds.caveats, *_caveats(described, pinned, self.isolation))
        pinned = self._cut_at_event(window, described, pinned)
        shape = self._shape(described, pinned)
        schema = self._with_record(shape.columns)
        if self.time is not None:
            check_time_column(schema, self.time, self.name)
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
            unverified=described.unverified,
            caveats=caveats,
        )

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
            unverified=pin.unverified,
            coding=pin.coding,
            registry=None if self.schemas is None else self.schemas.settings,
            record=pin.record,
        )

    def _pin_offsets(self, inspector: TopicInspector) -> tuple[TopicDescription, list[PartitionPin]]:
        found: list[str] = []
        for _ in range(PIN_ATTEMPTS):
            described = inspector.describe()
            numbers = self._chosen(described)
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

    def _chosen(self, described: TopicDescription) -> tuple[int, ...]:
        if self.partitions is None:
            return described.partitions
        absent = sorted(set(self.partitions) - set(described.partitions))
        if absent:
            raise SourceMissing(
                f"While pinning history {self.name}: partitions {absent} of topic {self.topic!r} must exist; it has "
                f"{len(described.partitions)}, numbered from 0. Correct `partitions` in [history.{self.name}].",
                topic=self.topic,
                partitions=absent,
            )
        return tuple(sorted(set(self.partitions)))

    def _cut_at_event(
        self, window: Window, described: TopicDescription, pinned: Sequence[PartitionPin]
    ) -> list[PartitionPin]:
        at = window.position
        if at is None or self.ignores_as_of or (at.cluster, at.topic) != (self.cluster, self.topic):
            return list(pinned)
        if at.topic_id != described.topic_id:
            raise SourceChanged(
                f"While pinning history {self.name} for an event at {at.topic}[{at.partition}] offset {at.offset}: the topic must be the one the event "
                f"came from, with id {at.topic_id}; it was created again and has id {described.topic_id}. The event's history is gone.",
                topic=self.topic,
                pinned=at.topic_id,
                found=described.topic_id,
            )
        return [
            _cut(partition, at.offset) if partition.partition == at.partition else partition for partition in pinned
        ]

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

    def _sample(self, described: TopicDescription, pinned: Sequence[PartitionPin]) -> list[Record]:
        """Read the first records at the pinned starts: the same for the same pin, however they come in batches."""
        filled = [partition for partition in pinned if partition.start < partition.end]
        parts = parts_of((), headers=self.format in WITH_HEADERS)
        sample: list[Record] = []
        with RangeReader(self.config, self.topic, described.topic_id, self.isolation) as reader:
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


def _cut(partition: PartitionPin, offset: int) -> PartitionPin:
    end = min(partition.end, max(partition.start, offset))
    return PartitionPin(
        partition=partition.partition,
        start=partition.start,
        end=end,
        log_start=partition.log_start,
        high_watermark=partition.high_watermark,
        leader_epoch=partition.leader_epoch,
    )


def _caveats(described: TopicDescription, pinned: Sequence[PartitionPin], isolation: str) -> tuple[str, ...]:
    caveats = []
    policy = described.cleanup_policy
    if described.unverified:
        caveats.append("unverified: mock (the broker inside the client knows no topic ids and no transactions)")
    elif policy is None:
        caveats.append("the topic's settings could not be read: it is unknown how long its records stay")
    if policy is not None and "compact" in policy:
        caveats.append("the topic is compacted: records that were overwritten can vanish at any time")
    if policy is not None and "delete" in policy and described.retention_ms is not None and described.retention_ms >= 0:
        caveats.append(
            f"repeatable until retention deletes the oldest record, {described.retention_ms} ms after its time"
        )
    held = {p.partition: p.high_watermark - p.end for p in pinned if p.high_watermark > p.end}
    if isolation == "read_committed" and held:
        said = ", ".join(f"{count} offsets in partition {partition}" for partition, count in held.items())
        caveats.append(f"an open transaction holds the end back: {said} are not pinned")
    return tuple(caveats)


def _width(type_: pa.DataType) -> int:
    """Bytes that a value of this type takes as JSON, about."""
    if pa.types.is_timestamp(type_):
        return 29
    if pa.types.is_nested(type_):
        return 4 * _TEXT_BYTES
    return 8 if pa.types.is_primitive(type_) else _TEXT_BYTES
