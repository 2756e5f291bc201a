"""Listening to Kafka: a member of a consumer group that reads only from where it is told, and records looked at one by one.

For triggers (`events.kafka`) and `hindscan match`. A range ends by position, as everywhere: a record at or beyond its end, or an end of the partition at or
beyond it. With `kafka` a user of confluent_kafka.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Iterator, Mapping
from typing import Final

import msgspec
from confluent_kafka import TIMESTAMP_NOT_AVAILABLE, Consumer, KafkaError, KafkaException, Message, TopicPartition

from hindscan.errors import DataLost, Fenced, ReadIncomplete, SourceMissing
from hindscan.kafka.access import FORBIDDEN, opened
from hindscan.kafka.cluster import NO_TOPIC, client_config, translated

__all__ = ["GroupConsumer", "Heard", "records_between"]

_LOG = logging.getLogger("hindscan.kafka")

#: What the promises rest on; a cluster's own properties cannot override it.
_LISTENING: Mapping[str, str | int | float | bool] = {
    # KIP-848 groups took 45 s to hand over where a static member of the classic protocol takes 0.2 s (facts.md, 0.9).
    "group.protocol": "classic",
    "enable.auto.commit": False,
    "enable.auto.offset.store": False,
    # Any other value turns lost records into a silent jump (facts.md, 0.7).
    "auto.offset.reset": "error",
    "isolation.level": "read_committed",
    "check.crcs": True,
    "allow.auto.create.topics": False,
}
#: Defaults for low latency and bounded memory, which a cluster's own properties may override.
_LISTENING_DEFAULTS: Mapping[str, str | int | float | bool] = {
    "session.timeout.ms": 10_000,
    "fetch.wait.max.ms": 50,
    "fetch.queue.backoff.ms": 10,
    "queued.max.messages.kbytes": 16_384,
}
_FENCED = frozenset({"FENCED_INSTANCE_ID", "_FENCED", "_FATAL"})
_OUT_OF_RANGE = frozenset({"_AUTO_OFFSET_RESET", "OFFSET_OUT_OF_RANGE"})
_REFUSED = frozenset({*FORBIDDEN, "SASL_AUTHENTICATION_FAILED", "_AUTHENTICATION"})

#: Silence after which a range is given up.
_IDLE_SECONDS: Final = 30.0


class Heard(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One record as a listener gets it."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes | None], ...]
    #: The record's own time, microseconds since the epoch; None where it has none.
    time: int | None

    @property
    def size_bytes(self) -> int:
        """What the record holds, without its headers' names."""
        return len(self.value or b"") + len(self.key or b"") + sum(len(value or b"") for _, value in self.headers)


class GroupConsumer:
    """A member of a consumer group that reads only from where it is told, and only what it is told.

    An assignment is not followed by itself: it waits in `take_assignment` until `place` says where each partition begins. All methods belong to one thread.

    Parameters
    ----------
    config : Mapping[str, str | int | float | bool]
        librdkafka properties.
    group : str
        The group.
    instance_id : str | None
        Static membership: a restart under the same id takes its partitions over at once. None for a dynamic member.
    topics : Collection[str]
        What to subscribe to.
    """

    def __init__(
        self,
        config: Mapping[str, str | int | float | bool],
        group: str,
        instance_id: str | None,
        topics: Collection[str],
    ) -> None:
        self._config = config
        self._group = group
        self._instance_id = instance_id
        self._waiting: list[tuple[str, int]] | None = None
        self._held = False
        membership: dict[str, str | int | float | bool] = {"group.id": group}
        if instance_id is not None:
            membership["group.instance.id"] = instance_id
        settings = {**_LISTENING_DEFAULTS, **client_config(config), **_LISTENING, **membership}
        self._consumer: Consumer = opened(Consumer, settings)
        self._consumer.subscribe(
            list(topics), on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_revoke
        )

    def close(self) -> None:
        """Leave; a static member's place is kept for it until its session ends."""
        self._consumer.close()

    def take_assignment(self) -> list[tuple[str, int]] | None:
        """Give the partitions that have just been assigned and not been placed, once; None if there is nothing new."""
        waiting, self._waiting = self._waiting, None
        return waiting

    def place(self, offsets: Mapping[tuple[str, int], int]) -> None:
        """Read these partitions, each from this offset, instead of what was read before."""
        places = [TopicPartition(topic, partition, offset) for (topic, partition), offset in offsets.items()]
        self._consumer.assign(places)
        if self._held and places:
            self._consumer.pause(places)

    def poll(self, timeout_seconds: float) -> Heard | None:
        """Wait for the next record.

        Raises
        ------
        Fenced
            Another member has the same instance id.
        DataLost
            An offset that is to be read is gone.
        SourceMissing
            A topic is gone.
        BrokerUnavailable
            The broker refuses this client.
        """
        message = self._consumer.poll(timeout_seconds)
        if message is None:
            return None
        error = message.error()
        if error is not None:
            self._raise(error, message)
            return None
        return _heard_of(message)

    def hold(self) -> None:
        """Get no more records until `go_on`, while staying in the group."""
        self._held = True
        self._consumer.pause(self._consumer.assignment())

    def go_on(self) -> None:
        """Get records again, from after the last one."""
        self._held = False
        self._consumer.resume(self._consumer.assignment())

    def commit(self, offsets: Mapping[tuple[str, int], int]) -> None:
        """Tell the group how far it is, so that its lag can be seen. Nothing depends on it: a failure is only logged."""
        places = [TopicPartition(topic, partition, offset) for (topic, partition), offset in offsets.items()]
        try:
            self._consumer.commit(offsets=places, asynchronous=True)
        except KafkaException as fault:
            _LOG.info("group %s: offsets not committed: %s", self._group, fault)

    def _on_assign(self, _consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._waiting = [(place.topic, place.partition) for place in partitions]
        # Without this the client would assign them itself, from the committed offsets.
        self._consumer.assign([])

    def _on_revoke(self, _consumer: Consumer, _partitions: list[TopicPartition]) -> None:
        self._waiting = None
        self._consumer.unassign()

    def _raise(self, error: KafkaError, message: Message) -> None:
        name, servers = error.name(), self._config.get("bootstrap.servers")
        if error.fatal() or name in _FENCED:
            raise Fenced(
                f"While listening as {self._instance_id!r} in group {self._group!r}: nobody else may have this instance id; somebody "
                f"has taken it over: {error}. Stop the other `hindscan serve`, or give one of them another `serve.instance`.",
                group=self._group,
                instance=self._instance_id,
            )
        where = f"{message.topic()}[{message.partition()}] at offset {message.offset()}"
        if name in _OUT_OF_RANGE:
            raise DataLost(
                f"While listening to {where}: the next record must still be there; it is not: {error}. It is gone by retention, or the topic was "
                "truncated; nothing was skipped. To go on from what is left, give the triggers of the topic another name.",
                topic=message.topic(),
                partition=message.partition(),
            )
        if name in NO_TOPIC:
            raise SourceMissing(
                f"While listening to topic {message.topic()!r}: it must exist; the broker at {servers} has none: {error}. Create it.",
                topic=message.topic(),
            )
        if name in _REFUSED:
            right = f"READ on {f'group {self._group!r}' if name.startswith('GROUP') else f'topic {message.topic()!r}'}"
            raise translated(f"While listening in group {self._group!r}", error, self._config, right)
        # What remains passes (a broker that went away, a group that is moving): librdkafka goes on trying by itself.
        _LOG.info("group %s: %s", self._group, error)


def _heard_of(message: Message) -> Heard:
    """Make a delivered record a value."""
    kind, millis = message.timestamp()
    topic, partition, offset = message.topic(), message.partition(), message.offset()
    assert topic is not None
    assert partition is not None
    assert offset is not None
    return Heard(
        topic=topic,
        partition=partition,
        offset=offset,
        key=_as_bytes(message.key()),
        value=_as_bytes(message.value()),
        headers=tuple((name, _as_bytes(value)) for name, value in _pairs(message.headers())),
        time=None if kind == TIMESTAMP_NOT_AVAILABLE else millis * 1000,
    )


def _pairs(headers: object) -> list[tuple[str, object]]:
    return headers if isinstance(headers, list) else []


def _as_bytes(value: object) -> bytes | None:
    return value.encode() if isinstance(value, str) else value if isinstance(value, bytes) else None


def records_between(
    config: Mapping[str, str | int | float | bool], topic: str, starts: Mapping[int, int], ends: Mapping[int, int]
) -> Iterator[Heard]:
    """Give the records of offset ranges, partition by partition in the order of arrival.

    Raises
    ------
    hindscan.errors.HindscanError
        A range cannot be read to its end.
    """
    open_ranges = {partition: end for partition, end in ends.items() if starts[partition] < end}
    settings = {
        **client_config(config), "group.id": "hindscan-reader", "enable.auto.commit": False, "enable.partition.eof": True,
        "auto.offset.reset": "error", "isolation.level": "read_committed", "check.crcs": True, "fetch.wait.max.ms": 10,
    }  # fmt: skip
    consumer = opened(Consumer, settings)
    try:
        consumer.assign([TopicPartition(topic, partition, starts[partition]) for partition in open_ranges])
        quiet_since = time.monotonic()
        while open_ranges:
            message = consumer.poll(0.2)
            if message is None:
                if time.monotonic() - quiet_since > _IDLE_SECONDS:
                    raise ReadIncomplete(
                        f"While reading topic {topic!r}: its records must arrive; nothing came for {_IDLE_SECONDS:g} s. Check the broker.",
                        topic=topic,
                    )
                continue
            quiet_since = time.monotonic()
            error, partition, offset = message.error(), message.partition(), message.offset()
            if error is not None and error.name() == "GROUP_AUTHORIZATION_FAILED":
                continue  # of a group that is named because the client demands one, and never joined
            if error is not None and error.name() != "_PARTITION_EOF":
                raise translated(f"While reading topic {topic!r}", error, config, f"READ on topic {topic!r}")
            if partition not in open_ranges or offset is None:
                continue
            if offset >= open_ranges[partition]:
                del open_ranges[partition]
            elif error is None:
                yield _heard_of(message)
    except KafkaException as fault:
        raise translated(f"While reading topic {topic!r}", fault.args[0], config) from fault
    finally:
        consumer.close()
