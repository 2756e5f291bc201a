"""The past of a trigger: the events that came from its sources, from the ledger or read again from the log.

Keeps promise 2 for what replays and audits go through: a topic is read exactly, from offset to offset, of the topic with that id; the end is fixed before the
first record is read. Records are taken by their own time, wherever in the log they stand: their times need not rise.

::

    Trigger -> log_spans -> Span, ... -> read_log -> Received, Received, ...
            -> runs.recall.recorded  ----------------^
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from hindscan.errors import ConfigError
from hindscan.events.received import Received, received_from_kafka
from hindscan.kafka_log import RangeReader
from hindscan.kafka_topic import TopicInspector
from hindscan.listening import wrapped_at

if TYPE_CHECKING:
    from hindscan.config import ClusterSettings, Project
    from hindscan.events.received import Wrapped
    from hindscan.events.trigger import Trigger
    from hindscan.kafka_fetch import RawBatch

__all__ = ["Span", "log_spans", "read_log"]

#: Records handed on at once.
BATCH: Final = 500


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """Offsets [start, end) of one partition of one topic."""

    cluster: str
    topic: str
    topic_id: str
    partition: int
    start: int
    end: int


def log_spans(project: Project, trigger: Trigger) -> list[Span]:
    """Give what a trigger's topics hold now, to their ends as committed readers see them. Reads metadata only.

    Raises
    ------
    hindscan.errors.ConfigError
        A cluster is not declared.
    hindscan.errors.SourceMissing
        A topic does not exist.
    hindscan.errors.BrokerUnavailable
        A cluster does not answer.
    """
    spans = []
    for source in trigger.sources:
        if source.kind != "kafka":
            continue
        inspector = TopicInspector(_cluster(project, source.cluster, trigger), source.topic)
        described = inspector.describe(settings=False)
        first = inspector.offsets(described.partitions, "earliest")
        end = inspector.offsets(described.partitions, "latest")
        spans += [
            Span(
                cluster=source.cluster,
                topic=source.topic,
                topic_id=described.topic_id,
                partition=partition,
                start=first[partition].offset,
                end=end[partition].offset,
            )
            for partition in described.partitions
        ]
    return spans


def _cluster(project: Project, name: str, trigger: Trigger) -> ClusterSettings:
    if name not in project.clusters:
        declared = ", ".join(sorted(project.clusters)) or "none"
        raise ConfigError(
            f"Reading the past of trigger {trigger.name!r}: the Kafka cluster {name} must be declared as [kafka.NAME]. Declared: {declared}."
        )
    return project.clusters[name]


def read_log(project: Project, spans: Sequence[Span], since: int | None, until: int | None) -> Iterator[list[Received]]:
    """Give every record of these offsets whose time is in [since, until), partition by partition in the order of the log.

    A record without a time is given, too.

    Raises
    ------
    hindscan.errors.HistoryError
        Records are gone, or the topic is another one.
    """
    for span in spans:
        if span.start >= span.end:
            continue
        wrapped = wrapped_at(project, span.cluster, span.topic)
        reader = RangeReader(
            project.clusters[span.cluster],
            span.topic,
            span.topic_id,
            "read_committed",
            records=span.end - span.start,
        )
        with reader:
            for batch in reader.read(span.partition, span.start, span.end, ("keys", "headers")):
                yield from _in_parts([one for one in _of(batch, span, wrapped) if _inside(one, since, until)])


def _in_parts(found: list[Received]) -> Iterator[list[Received]]:
    for first in range(0, len(found), BATCH):
        yield found[first : first + BATCH]


def _of(batch: RawBatch, span: Span, wrapped: Wrapped | None) -> Iterator[Received]:
    keys: Any = batch.keys
    headers: Any = batch.headers
    for index in range(len(batch)):
        milliseconds = int(batch.times[index])
        yield from received_from_kafka(
            batch.values[index].as_py(),
            [(header["key"], header["value"]) for header in (headers[index].as_py() or ())],
            key=keys[index].as_py(),
            cluster=span.cluster,
            topic=span.topic,
            topic_id=span.topic_id,
            partition=span.partition,
            offset=int(batch.offsets[index]),
            record_time=None if milliseconds < 0 else milliseconds * 1000,
            wrapped=wrapped,
        )


def _inside(one: Received, since: int | None, until: int | None) -> bool:
    if one.record_time is None:
        return True
    return (since is None or one.record_time >= since) and (until is None or one.record_time < until)
