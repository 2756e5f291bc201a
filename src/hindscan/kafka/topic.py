"""What a broker says of a topic: id, settings, partitions, and where each begins and ends.

Keeps promise 1 where it meets the broker: `TopicInspector` asks what a pin needs to know, first and last offsets with the isolation level said. A pin, the reader of
a range (`kafka.log`) and whoever shows a topic ask here, so that a question that fails is told in the same words. Nothing is read or joined by it.

The mock broker inside confluent_kafka knows no topic ids and no transactions: only a cluster whose settings say ``hindscan.mock = true`` is taken for one, and
everything read there is marked unverified.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from typing import Any, Final, Literal

from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # exported, though not as the typing rules want it
    ConfigResource,
    OffsetSpec,
    ResourceType,
)

from hindscan.errors import HindscanError, SourceMissing
from hindscan.kafka.access import FORBIDDEN, Admin, answered
from hindscan.kafka.cluster import MOCK_TOPIC_ID, client_config, translated

__all__ = ["MISSING", "Isolation", "TopicDescription", "TopicInspector", "TopicOffset"]

Isolation = Literal["read_committed", "read_uncommitted"]
Config = Mapping[str, str | int | float | bool]

#: A request gets this long; with its retries every call ends within ten seconds.
REQUEST_SECONDS: Final = 8.0
#: Names of the errors that say that a topic or partition is not there.
MISSING: Final = frozenset(
    {"UNKNOWN_TOPIC_OR_PART", "UNKNOWN_TOPIC_ID", "_UNKNOWN_TOPIC", "_UNKNOWN_PARTITION", "_NOENT"}
)
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
                if _name(fault) in MISSING and time.monotonic() < deadline - timeout_seconds + 1:
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
        if error.name() in MISSING:
            return SourceMissing(
                f"{doing}: it must exist; the broker at {self._config.get('bootstrap.servers')} does not know it: {error}. "
                "Check the name in the project file, or create the topic.",
                topic=self.topic,
            )
        return translated(doing, error, self._config, f"DESCRIBE on topic {self.topic!r}, which READ and WRITE include")


def _name(fault: BaseException) -> str:
    return str(fault.args[0].name()) if isinstance(fault, KafkaException) else ""
