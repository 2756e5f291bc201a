"""A topic as a log: what it holds, and the exact records of a range of offsets.

Keeps promises 1 and 2 where they meet the broker. `TopicInspector` asks what a pin needs to know: topic id, settings, first and last offsets with the
isolation level said. `RangeReader` reads offsets `[start, end)` of one partition and ends by position, never by having seen the last
offset: that one may be a transaction's marker, aborted or compacted away, and no reader ever gets it. A range is complete when a record at or
beyond `end` arrives, or an end-of-partition event whose own offset is at or beyond it; an earlier such event is stale and proves nothing.

What is silence to the client is an error here: a missing, deleted or recreated topic sends nothing, so after five idle seconds the broker is asked whether the
topic is still the same and still holds the range. Only an outage is waited out, up to a limit. Records gone by retention, a failed
checksum and any error of the client end the read by name.

Together with `kafka` the only user of confluent_kafka. The mock broker inside that library knows no topic ids and no transactions: only a
cluster whose settings say ``hindscan.mock = true`` is taken for one, and everything read there is marked unverified.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from typing import Any, Final, Literal, Self

import numpy as np
from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # exported, though not as the typing rules want it
    ConfigResource,
    OffsetSpec,
    ResourceType,
)

from hindscan.errors import (
    BrokerUnavailable,
    CorruptData,
    DataLost,
    HindscanError,
    ReadIncomplete,
    SourceChanged,
    SourceMissing,
    UsageError,
)
from hindscan.kafka import MOCK_TOPIC_ID, client_config, translated
from hindscan.kafka_access import FORBIDDEN, Admin, answered
from hindscan.kafka_fetch import Client, Event, Part, PlainClient, RawBatch

__all__ = ["Isolation", "RangeReader", "TopicDescription", "TopicInspector", "TopicOffset", "make_client"]

Isolation = Literal["read_committed", "read_uncommitted"]
Config = Mapping[str, str | int | float | bool]

#: A request gets this long; with its retries every call ends within ten seconds.
REQUEST_SECONDS: Final = 8.0
#: Silence after which the broker is asked whether there is anything to wait for.
IDLE_SECONDS: Final = 5.0
#: An outage that is waited out: a single broker that was killed was seen to be back after 17 s.
OUTAGE_SECONDS: Final = 60.0
#: A reading of fewer records does without the fast client, whose compiler takes 0.7 s to load: the plain one reads four times as many meanwhile, and a worker
#: of a run does about four readings.
FAST_RECORDS: Final = 125_000
_MISSING: Final = frozenset(
    {"UNKNOWN_TOPIC_OR_PART", "UNKNOWN_TOPIC_ID", "_UNKNOWN_TOPIC", "_UNKNOWN_PARTITION", "_NOENT"}
)
_LOST: Final = frozenset({"_AUTO_OFFSET_RESET", "OFFSET_OUT_OF_RANGE"})
_CORRUPT: Final = frozenset({"_BAD_MSG", "_BAD_COMPRESSION", "CORRUPT_MESSAGE"})
#: The client goes on trying by itself after these.
_PASSING: Final = frozenset({"_TRANSPORT", "_ALL_BROKERS_DOWN", "_RESOLVE", "_TIMED_OUT", "REQUEST_TIMED_OUT"})
#: A topic that has just been created, or whose leader moves, answers so for a moment.
_MOVING: Final = frozenset(
    {
        "NOT_LEADER_FOR_PARTITION",
        "LEADER_NOT_AVAILABLE",
        "REPLICA_NOT_AVAILABLE",
        "OFFSET_NOT_AVAILABLE",
        "FENCED_LEADER_EPOCH",
        "UNKNOWN_LEADER_EPOCH",
    }
)
#: The client looks for the coordinator of the group that it is made to name and never joins: to have no right on that group is no matter.
_NO_GROUP: Final = "GROUP_AUTHORIZATION_FAILED"
#: librdkafka's own code for a request that nobody answered.
_LOCAL_TIME_OUT: Final = -185


@dataclass(frozen=True, kw_only=True, slots=True)
class TopicDescription:
    """What a broker says of a topic. Settings are None where this client may not read them."""

    topic: str
    topic_id: str
    cluster_id: str
    partitions: tuple[int, ...]
    cleanup_policy: str | None = None
    retention_ms: int | None = None
    timestamp_type: str | None = None
    #: "mock" where ids and offsets prove nothing.
    unverified: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class TopicOffset:
    """One bound of a partition."""

    offset: int
    leader_epoch: int | None


class TopicInspector:
    """Asks a broker about one topic; every question ends within about ten seconds.

    Parameters
    ----------
    config : mapping
        librdkafka properties of the cluster.
    topic : str
        The topic.
    """

    def __init__(self, config: Config, topic: str) -> None:
        self._config = config
        self._admin = Admin(client_config(config))
        self.topic = topic
        self.is_mock = config.get("hindscan.mock") is True

    def describe(self, *, settings: bool = True, timeout_seconds: float = REQUEST_SECONDS) -> TopicDescription:
        """Ask for the topic's id, partitions and, unless told otherwise, settings.

        Raises
        ------
        SourceMissing
            No such topic.
        BrokerUnavailable
            No broker answered.
        """
        doing = f"While looking up topic {self.topic!r}"
        if self.is_mock:
            return self._describe_mock(doing, timeout_seconds)
        deadline, seconds = time.monotonic() + timeout_seconds, timeout_seconds / 2
        while True:
            try:
                asked = self._admin.client.describe_topics(TopicCollection([self.topic]), request_timeout=seconds)
                found = self._admin.result(doing, asked[self.topic], seconds + 1)
                break
            except (KafkaException, FutureTimeoutError) as fault:
                if _name(fault) in _MISSING and time.monotonic() < deadline - timeout_seconds + 1:
                    # Another broker may not have heard of a new topic yet.
                    time.sleep(0.1)
                    continue
                if _name(fault) == "_TIMED_OUT" and deadline - time.monotonic() > 1.0:
                    self._look_around(doing, deadline - time.monotonic())
                    seconds = max(deadline - time.monotonic(), 1.0)
                    continue
                raise self._error(doing, fault) from fault
        return TopicDescription(
            topic=self.topic,
            topic_id=str(found.topic_id),
            cluster_id=self._cluster_id(doing, timeout_seconds) if settings else "",
            partitions=tuple(sorted(partition.id for partition in found.partitions)),
            **(self._settings(doing, timeout_seconds) if settings else {}),
        )

    def offsets(
        self,
        partitions: Sequence[int],
        at: Literal["earliest", "latest"] | int,
        isolation: Isolation = "read_committed",
        *,
        timeout_seconds: float = REQUEST_SECONDS,
    ) -> dict[int, TopicOffset]:
        """Ask where partitions begin, where they end for a reader of this isolation level (the last stable offset), or for a time.

        A time is in milliseconds and gives the first offset in the order of the log whose record has that time or a later one, -1 if there is none. What is
        found can be a record nobody sees: a transaction's marker has the broker's clock for its time, whatever the times around it are.

        Raises
        ------
        SourceMissing
            A partition does not exist.
        BrokerUnavailable
            No broker answered.
        """
        doing = f"While asking for the {at} offsets of topic {self.topic!r}"
        spec = OffsetSpec.earliest() if at == "earliest" else OffsetSpec.latest()  # type: ignore[no-untyped-call]
        if isinstance(at, int):
            spec = OffsetSpec.for_timestamp(at)
        level = IsolationLevel[isolation.upper()]
        deadline = time.monotonic() + timeout_seconds
        found: dict[int, TopicOffset] = {}
        missing = list(partitions)
        while missing:
            request = {TopicPartition(self.topic, partition): spec for partition in missing}
            remaining = max(deadline - time.monotonic(), 1.0)
            missing = []
            try:
                answers = self._admin.client.list_offsets(request, isolation_level=level, request_timeout=remaining)
            except KafkaException as fault:
                raise self._error(doing, fault) from fault
            for place, answer in answers.items():
                try:
                    told = answered(self._admin.result(doing, answer, remaining + 1))
                    found[place.partition] = TopicOffset(offset=told.offset, leader_epoch=told.leader_epoch)
                except (KafkaException, FutureTimeoutError) as fault:
                    if _name(fault) not in _MOVING or time.monotonic() > deadline:
                        raise self._error(f"{doing}, partition {place.partition}", fault) from fault
                    missing.append(place.partition)
            if missing:
                time.sleep(0.1)
        return found

    def _look_around(self, doing: str, timeout_seconds: float) -> None:
        """Have the client learn which brokers there are: it asks the one that was the controller when it last looked, and waits for it if it died."""
        try:
            self._admin.metadata(doing, timeout_seconds)
        except KafkaException as fault:
            raise self._error(doing, fault) from fault

    def _describe_mock(self, doing: str, timeout_seconds: float) -> TopicDescription:
        try:
            metadata = self._admin.metadata(doing, timeout_seconds)
        except KafkaException as fault:
            raise self._error(doing, fault) from fault
        if self.topic not in metadata.topics:
            raise self._error(doing, KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART)))
        return TopicDescription(
            topic=self.topic,
            topic_id=MOCK_TOPIC_ID,
            cluster_id=metadata.cluster_id or "",
            partitions=tuple(sorted(metadata.topics[self.topic].partitions)),
            unverified="mock",
        )

    def _cluster_id(self, doing: str, timeout_seconds: float) -> str:
        try:
            asked = self._admin.client.describe_cluster(request_timeout=timeout_seconds)
            return str(self._admin.result(doing, asked, timeout_seconds + 1).cluster_id)
        except (KafkaException, FutureTimeoutError) as fault:
            raise self._error(doing, fault) from fault

    def _settings(self, doing: str, timeout_seconds: float) -> dict[str, Any]:
        resource = ConfigResource(ResourceType.TOPIC, self.topic)
        try:
            asked = self._admin.client.describe_configs([resource], request_timeout=timeout_seconds)
            found = self._admin.result(doing, asked[resource], timeout_seconds + 1)
        except (KafkaException, FutureTimeoutError) as fault:
            if _name(fault) in FORBIDDEN:
                return {}
            raise self._error(doing, fault) from fault
        values = {name: entry.value for name, entry in found.items()}
        retention = values.get("retention.ms")
        return {
            "cleanup_policy": values.get("cleanup.policy"),
            "retention_ms": None if retention is None else int(retention),
            "timestamp_type": values.get("message.timestamp.type"),
        }

    def _error(self, doing: str, fault: KafkaException | FutureTimeoutError) -> HindscanError:
        if isinstance(fault, FutureTimeoutError):
            return translated(doing, KafkaError(_LOCAL_TIME_OUT), self._config)
        error = fault.args[0]
        if error.name() in _MISSING:
            return SourceMissing(
                f"{doing}: it must exist; the broker at {self._config.get('bootstrap.servers')} does not know it: {error}. "
                "Check the name in the project file, or create the topic.",
                topic=self.topic,
            )
        return translated(doing, error, self._config, f"DESCRIBE on topic {self.topic!r}, which READ and WRITE include")


def _name(fault: BaseException) -> str:
    return str(fault.args[0].name()) if isinstance(fault, KafkaException) else ""


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
    from hindscan import kafka_fast

    wanted = str(config.get("hindscan.reader", "auto"))
    is_small = records is not None and records < FAST_RECORDS and not kafka_fast.is_loaded()
    if wanted == "plain" or (wanted == "auto" and is_small):
        return PlainClient(config, topic, isolation)
    reason = kafka_fast.unavailable(config)
    if wanted == "fast" and reason is not None:
        raise UsageError(
            f'While opening topic {topic!r}: with "hindscan.reader" = "fast" the fast client must be there; {reason}. Set it to "auto" to do without.'
        )
    if reason is not None:
        return PlainClient(config, topic, isolation)
    return kafka_fast.FastClient(config, topic, isolation)


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
            batch = taken.batch
            if len(batch):
                _check_rising(batch.offsets, position, where)
                position = int(batch.offsets[-1]) + 1
                yield batch
            if taken.beyond or (taken.event is not None and self._is_end(taken.event, where)):
                # The end of the log is told once: whoever went on from here would wait for it in vain, where no reader sees what is between.
                self._next = (partition, end) if taken.beyond else None
                return
            if len(batch) or taken.event is not None:
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
        if name in _MISSING:
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
