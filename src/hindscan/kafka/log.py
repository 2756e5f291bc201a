"""A topic as a log: the exact records of a range of offsets.

Keeps promise 2 where it meets the broker. `RangeReader` reads offsets `[start, end)` of one partition and ends by position, never by having seen the last
offset: that one may be a transaction's marker, aborted or compacted away, and no reader ever gets it. A range is complete when a record at or
beyond `end` arrives, or an end-of-partition event whose own offset is at or beyond it; an earlier such event is stale and proves nothing.

What is silence to the client is an error here: a missing, deleted or recreated topic sends nothing, so after five idle seconds the broker is asked whether the
topic is still the same and still holds the range. Only an outage is waited out, up to a limit. Records gone by retention, a failed
checksum and any error of the client end the read by name.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from confluent_kafka import KafkaError

from hindscan.errors import (
    BrokerUnavailable,
    CorruptData,
    DataLost,
    ReadIncomplete,
    SourceChanged,
    SourceMissing,
    UsageError,
)
from hindscan.kafka.cluster import translated
from hindscan.kafka.fetch import Client, Event, Part, PlainClient, RawBatch
from hindscan.kafka.topic import MISSING, Isolation, TopicDescription, TopicInspector

__all__ = ["RangeReader", "make_client"]

Config = Mapping[str, str | int | float | bool]

#: Silence after which the broker is asked whether there is anything to wait for.
IDLE_SECONDS: Final = 5.0
#: An outage that is waited out: a single broker that was killed was seen to be back after 17 s.
OUTAGE_SECONDS: Final = 60.0
#: A reading of fewer records does without the fast client, whose compiler takes 0.7 s to load: the plain one reads four times as many meanwhile, and a worker
#: of a run does about four readings.
FAST_RECORDS: Final = 125_000
_LOST: Final = frozenset({"_AUTO_OFFSET_RESET", "OFFSET_OUT_OF_RANGE"})
_CORRUPT: Final = frozenset({"_BAD_MSG", "_BAD_COMPRESSION", "CORRUPT_MESSAGE"})
#: The client goes on trying by itself after these.
_PASSING: Final = frozenset({"_TRANSPORT", "_ALL_BROKERS_DOWN", "_RESOLVE", "_TIMED_OUT", "REQUEST_TIMED_OUT"})
#: The client looks for the coordinator of the group that it is made to name and never joins: to have no right on that group is no matter.
_NO_GROUP: Final = "GROUP_AUTHORIZATION_FAILED"


def make_client(config: Config, topic: str, isolation: Isolation, *, records: int | None = None) -> Client:
    """Make the client that a cluster's settings ask for.

    Parameters
    ----------
    config : mapping
        ``hindscan.reader`` is ``fast``, ``plain`` or, by default, ``auto``: fast where it can be had and is worth its start.
    topic : str
        The topic.
    isolation : str
        Which records are visible.
    records : int, optional
        How many it will read about. Default: many.

    Raises
    ------
    UsageError
        ``fast`` is asked for and cannot be had; the message says why.
    """
    from hindscan.kafka import fast

    wanted = str(config.get("hindscan.reader", "auto"))
    is_small = records is not None and records < FAST_RECORDS and not fast.is_loaded()
    if wanted == "plain" or (wanted == "auto" and is_small):
        return PlainClient(config, topic, isolation)
    reason = fast.unavailable(config)
    if wanted == "fast" and reason is not None:
        raise UsageError(
            f'While opening topic {topic!r}: with "hindscan.reader" = "fast" the fast client must be there; {reason}. Set it to "auto" to do without.'
        )
    if reason is not None:
        return PlainClient(config, topic, isolation)
    return fast.FastClient(config, topic, isolation)


class RangeReader:
    """Reads exact ranges of one topic, one after another, with one client.

    Parameters
    ----------
    config : mapping
        librdkafka properties of the cluster.
    topic : str
        The topic.
    topic_id : str
        The id it was pinned with.
    isolation : str
        Which records are visible.
    idle_seconds : float
        Silence after which the broker is asked.
    outage_seconds : float
        How long a broker that does not answer is waited for.
    client : Client, optional
        What fetches. Default: the one `make_client` chooses.
    records : int, optional
        How many will be read about, for that choice. Default: many.
    """

    def __init__(
        self,
        config: Config,
        topic: str,
        topic_id: str,
        isolation: Isolation,
        *,
        idle_seconds: float = IDLE_SECONDS,
        outage_seconds: float = OUTAGE_SECONDS,
        client: Client | None = None,
        records: int | None = None,
    ) -> None:
        self._config = config
        self._topic = topic
        self._topic_id = topic_id
        self._isolation: Isolation = isolation
        self._idle_seconds = idle_seconds
        self._outage_seconds = outage_seconds
        self._inspector = TopicInspector(config, topic)
        self._client = client if client is not None else make_client(config, topic, isolation, records=records)
        #: Partition and offset the client stands at, after a range that was read to its end.
        self._next: tuple[int, int] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *fault: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connections. May be called twice."""
        self._client.close()

    def check(self) -> TopicDescription:
        """Make sure that the topic is still the one that was pinned; give it as it is now, without its settings.

        Raises
        ------
        SourceChanged
            It was deleted and created again.
        SourceMissing
            It is gone.
        BrokerUnavailable
            No broker answered.
        """
        found = self._inspector.describe(settings=False)
        if found.topic_id != self._topic_id:
            raise SourceChanged(
                f"While reading topic {self._topic!r}: it must be the one that was pinned, with id {self._topic_id}; it was deleted and "
                f"created again, and has id {found.topic_id}. The pinned records are gone; run again to pin the new topic.",
                topic=self._topic,
                pinned=self._topic_id,
                found=found.topic_id,
            )
        return found

    def read(self, partition: int, start: int, end: int, parts: Collection[Part] = ()) -> Iterator[RawBatch]:
        """Read every visible record with start <= offset < end, in order.

        The iterator ends only when it is certain that there is no further one. Ranges that follow each other in one partition
        go on where the client stands. Keys and headers are made into arrays only where `parts` names them.

        Raises
        ------
        DataLost
            Records of the range are gone, or the log ends before it.
        SourceChanged, SourceMissing
            The topic is not the one that was pinned, or is gone.
        CorruptData
            A checksum is wrong.
        ConfigError
            A record is larger than the cluster's settings let the client take.
        ReadIncomplete
            The broker answers, and nothing comes.
        BrokerUnavailable
            No broker answered for too long.
        """
        if start >= end:
            return
        if not self._client.gives.issuperset(parts):
            self._client.close()
            self._client, self._next = PlainClient(self._config, self._topic, self._isolation), None
        if self._next != (partition, start):
            self._client.begin(partition, start)
        self._next = None  # until the range is complete nothing may go on from here
        where = _Where(topic=self._topic, partition=partition, start=start, end=end)
        position, quiet_since, probe_at = start, time.monotonic(), time.monotonic() + self._idle_seconds
        while True:
            taken = self._client.take(end, parts)
            count, event, beyond = len(taken.batch), taken.event, taken.beyond
            if count:
                _check_rising(taken.batch.offsets, position, where)
                position = int(taken.batch.offsets[-1]) + 1
                yield taken.batch
            del taken  # its memory is used for the next, if the caller has let go of it too
            if beyond or (event is not None and self._is_end(event, where)):
                # The end of the log is told once: whoever went on from here would wait for it in vain, where no reader sees what is between.
                self._next = (partition, end) if beyond else None
                return
            if count or event is not None:
                # After the yield: what the caller does with a batch is no silence of the broker.
                quiet_since, probe_at = time.monotonic(), time.monotonic() + self._idle_seconds
                continue
            self._client.refusals.check_size(f"While reading {where}", self._config)
            if time.monotonic() >= probe_at:
                self._probe(where, position, quiet_since)
                probe_at = time.monotonic() + self._idle_seconds

    def _is_end(self, event: Event, where: _Where) -> bool:
        """Judge an event that is no record: whether it says that the range is complete."""
        error = KafkaError(event.code)
        name = error.name()
        if name == "_PARTITION_EOF":
            if event.offset is not None and event.offset >= where.end:
                return True
            # Stale: the log was this short when the broker was asked, before the pin. Unless it has become so since.
            self._check_end(where)
            return False
        if name in _PASSING:
            return False
        if name in _LOST:
            raise DataLost(
                f"While reading {where}: all pinned offsets must still be there; the broker has offset {event.offset} no more: {event.text}. They were "
                "deleted by retention, or the log was truncated. Run again to pin what is left.",
                topic=self._topic,
                partition=where.partition,
            )
        if name in _CORRUPT and not event.of_topic:
            # No record, but an answer to the client itself, for example one larger than it may take: that is told to `error_cb`.
            return False
        if name in _CORRUPT:
            raise CorruptData(
                f"While reading {where}: every record must be whole, with the right checksum; the client refused one: {event.text}. Restore the partition "
                "from a replica.",
                topic=self._topic,
                partition=where.partition,
            )
        if name in MISSING:
            raise SourceMissing(
                f"While reading {where}: topic and partition must exist; the broker does not know them any more: {event.text}.",
                topic=self._topic,
                partition=where.partition,
            )
        if name == _NO_GROUP:
            return False
        raise translated(f"While reading {where}", error, self._config, f"READ on topic {self._topic!r}")

    def _check_end(self, where: _Where) -> None:
        latest = self._inspector.offsets([where.partition], "latest", self._isolation)[where.partition].offset
        if latest < where.end:
            raise DataLost(
                f"While reading {where}: the log must reach the pinned end; it ends at {latest}. It was truncated, or the topic was created "
                "again. Run again to pin what is there.",
                topic=self._topic,
                partition=where.partition,
                latest=latest,
            )

    def _probe(self, where: _Where, position: int, quiet_since: float) -> None:
        """Find out why nothing comes: an error, or return to go on waiting."""
        try:
            self.check()
            self._check_end(where)
            earliest = self._inspector.offsets([where.partition], "earliest", self._isolation)[where.partition].offset
        except BrokerUnavailable:
            if time.monotonic() - quiet_since > self._outage_seconds:
                raise
            return
        if earliest > position:
            raise DataLost(
                f"While reading {where}: offset {position} must still be there; the log begins at {earliest}. Retention deleted it. "
                "Run again to pin what is left.",
                topic=self._topic,
                partition=where.partition,
                earliest=earliest,
            )
        if time.monotonic() - quiet_since > self._outage_seconds:
            raise ReadIncomplete(
                f"While reading {where}: the broker must deliver what it has from offset {position} on; it answers, and for "
                f"{self._outage_seconds:g} s delivered nothing. Run again; if it stays so, look at the broker's log and quotas.",
                topic=self._topic,
                partition=where.partition,
            )


def _check_rising(offsets: np.ndarray[Any, np.dtype[np.int64]], position: int, where: _Where) -> None:
    before = np.concatenate([[position - 1], offsets[:-1]])
    wrong = np.flatnonzero(offsets <= before)
    if len(wrong):
        at = wrong[0]
        raise ReadIncomplete(
            f"While reading {where}: offsets must rise; after {before[at]} came {offsets[at]}. Run again; if it stays so, look at the broker's log.",
            topic=where.topic,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Where:
    topic: str
    partition: int
    start: int
    end: int

    def __str__(self) -> str:
        return f"offsets [{self.start}, {self.end}) of {self.topic}[{self.partition}]"
