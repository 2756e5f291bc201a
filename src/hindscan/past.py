"""The past of a trigger: what came from its sources, from the ledger or read again at the source.

Keeps promise 2 for what replays and audits go through: a topic is read exactly, from offset to offset, of the topic with that id; the end is fixed before the
first record is read. A schedule is a topic of instants and read like one; of a folder what is there now is listed. What came over HTTP is in the ledger or nowhere.

When something came in is the time of its record, of a schedule its instant, of a file the time of its last change, else the receipt; records are taken by
it wherever in the log they stand: their times need not rise.

::

    Trigger -> log_spans -> Span, ... -> read_log -> Received, Received, ...
            -> read_files -----------------------^
            -> read_ledger (runs.recall) --------^
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from hindscan import times
from hindscan.errors import ConfigError, UsageError
from hindscan.events.files import arrival, changed_at, version_id, versions
from hindscan.events.received import Received, received_from_kafka
from hindscan.events.schedule import instants, tick
from hindscan.events.trigger import Source
from hindscan.files import listing_root, place
from hindscan.kafka.log import RangeReader
from hindscan.kafka.topic import TopicInspector
from hindscan.listening import wrapped_at
from hindscan.runs import recall

if TYPE_CHECKING:
    from hindscan.config import ClusterSettings, Project
    from hindscan.events.received import Wrapped
    from hindscan.events.trigger import Trigger
    from hindscan.kafka.fetch import RawBatch
    from hindscan.runs.store import Store

__all__ = ["Span", "count_gone", "log_spans", "read_files", "read_ledger", "read_log", "refuse_no_time"]

#: Records handed on at once.
BATCH: Final = 500


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """Offsets [start, end) of one partition of one topic; of a schedule, which is in no cluster, seconds since the epoch."""

    cluster: str
    topic: str
    topic_id: str
    partition: int
    start: int
    end: int

    @property
    def is_schedule(self) -> bool:
        """Whether the offsets are instants: then the topic is the expression, and its id the time zone."""
        return not self.cluster


def log_spans(project: Project, trigger: Trigger, now: int) -> list[Span]:
    """Give what a trigger's topics hold now, to their ends as committed readers see them, and its schedules up to now. Reads metadata only.

    Parameters
    ----------
    now : int
        Microseconds since the epoch.

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
        if source.kind == "cron":
            to = now // 1_000_000 + 1
            spans.append(Span(cluster="", topic=source.text, topic_id=trigger.time_zone, partition=0, start=0, end=to))
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
    """Give every record of these offsets that came in within [since, until), partition by partition in the order of the log.

    A record without a time is given, too.

    Raises
    ------
    hindscan.errors.HistoryError
        Records are gone, or the topic is another one.
    """
    for span in spans:
        if span.is_schedule:
            yield from _in_parts(_ticks(span, since, until))
            continue
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
                yield from _in_parts(one for one in _of(batch, span, wrapped) if _inside(one, since, until))


def read_ledger(
    project: Project, store: Store, trigger: Trigger, since: int | None, until: int | None, kinds: Collection[str] = ()
) -> Iterator[list[Received]]:
    """Give the recorded events of a trigger's sources whose bodies are there, in the order they were recorded.

    Parameters
    ----------
    kinds : collection of str
        Only of sources of these kinds; empty: of all.
    """
    yield from recall.recorded(store, _kept(project, trigger, kinds), since, until)


def refuse_no_time(doing: str, since: int | None, until: int | None) -> None:
    """Refuse a time that ends before it begins: nothing would be looked at, and nothing be said of that.

    Raises
    ------
    hindscan.errors.UsageError
        It does.
    """
    if since is not None and until is not None and since >= until:
        raise UsageError(
            f"{doing}: since must be before until, found {times.to_text(since)} and {times.to_text(until)}. Exchange them, or leave until out.",
        )


def count_gone(project: Project, store: Store, trigger: Trigger, since: int | None, until: int | None) -> int:
    """Count the recorded events of a trigger's sources whose bodies were deleted; of a forgotten one only the receipt tells when."""
    return recall.without_body(store, _kept(project, trigger), since, until)


def _kept(project: Project, trigger: Trigger, kinds: Collection[str] = ()) -> recall.Kept:
    http = Source(kind="http")
    apart = {other.name for other in project.triggers.values() if other.wrapping is not None and other.listens_to(http)}
    return recall.Kept(
        sources=tuple(source for source in trigger.sources if not kinds or source.kind in kinds),
        time_zone=trigger.time_zone,
        posted_to=() if trigger.wrapping is None else (trigger.name, trigger.was),
        posted_elsewhere=tuple(sorted(apart - {trigger.name})),
    )


def read_files(
    project: Project,
    trigger: Trigger,
    source: Source,
    now: int,
    since: int | None = None,
    until: int | None = None,
    *,
    without: Collection[str] = (),
) -> Iterator[list[Received]]:
    """List what is at a place of files and give the versions that were changed within [since, until), by their paths. Reads a footer for each.

    One that is not complete is no event.

    Parameters
    ----------
    now : int
        When a listed version counts as still being written is told from here.
    without : collection of str
        Versions that are left out.
    """
    where = place(source.text, project.root, project.object_stores)
    root = listing_root(where)

    def found() -> Iterator[Received]:
        for file in sorted(versions(where), key=lambda file: file.path):
            changed = changed_at(file)
            if version_id(file) in without or not _within(changed, since, until):
                continue
            received = Received(event=None, reason="it is not complete yet", way="files", received_at=times.now())
            # The watcher takes what it has seen twice the same.
            if now - changed < 2 * trigger.every.total_seconds() * 1e6:
                yield received
                continue
            try:
                event = arrival(root, source.text, file)
            except ValueError as fault:
                yield msgspec.structs.replace(received, reason=f"{file.path}: {fault}")
                continue
            if event is not None:
                yield msgspec.structs.replace(received, event=event, reason="")

    yield from _in_parts(found())


def _in_parts(found: Iterator[Received]) -> Iterator[list[Received]]:
    while part := list(itertools.islice(found, BATCH)):
        yield part


def _ticks(span: Span, since: int | None, until: int | None) -> Iterator[Received]:
    start = span.start if since is None else max(span.start, -(-since // 1_000_000))
    end = span.end if until is None else min(span.end, -(-until // 1_000_000))
    for instant in instants(span.topic, span.topic_id, start, end):
        yield Received(
            event=tick(span.topic, span.topic_id, instant),
            way="schedule",
            cluster="",
            topic=span.topic,
            topic_id=span.topic_id,
            partition=0,
            offset=instant,
            received_at=times.now(),
        )


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
    return one.record_time is None or _within(one.record_time, since, until)


def _within(at: int, since: int | None, until: int | None) -> bool:
    return (since is None or at >= since) and (until is None or at < until)
