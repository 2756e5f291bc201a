"""Writing to Kafka: topics made, records sent and acknowledged, whole or failed.

For the sample generator, `hindscan emit` and tests. Nothing is lost, doubled or reordered by a retry: the producer is idempotent, and every
delivery is checked before a call returns. With `kafka` a user of confluent_kafka.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Self

from confluent_kafka import KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # exported, though not as the typing rules want it
    ConfigResource,
    NewTopic,
    OffsetSpec,
    ResourceType,
)

from hindscan.errors import BrokerUnavailable, Conflict
from hindscan.kafka.access import Admin, Refusals, opened
from hindscan.kafka.cluster import client_config, translated
from hindscan.kafka.topic import TopicInspector

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["TopicWriter", "create_topic", "producer", "send"]

#: Nothing is lost, doubled or reordered by a retry, and a key goes where the Java client would put it.
_SAFE_PRODUCER: Mapping[str, str | int | float | bool] = {
    "enable.idempotence": True,
    "partitioner": "murmur2_random",
    "compression.type": "lz4",
    "linger.ms": 20,
    "batch.size": 1_000_000,
    "queue.buffering.max.messages": 500_000,
    "queue.buffering.max.kbytes": 262_144,
}

#: How long one record may wait for its acknowledgement.
_SEND_SECONDS: Final = 15.0


def producer(config: Mapping[str, str | int | float | bool], **own: Any) -> Producer:
    """Make a producer that keeps order and doubles nothing; `config` may override each of its settings, `own` are its callbacks."""
    return opened(Producer, {**_SAFE_PRODUCER, **client_config(config), **own})


def create_topic(
    config: Mapping[str, str | int | float | bool],
    name: str,
    *,
    partitions: int,
    settings: Mapping[str, str],
    tuning: Mapping[str, str] | None = None,
    timeout_seconds: float = 30.0,
) -> bool:
    """Create a topic, or make sure that the one there is has these settings and no records.

    Parameters
    ----------
    config : Mapping[str, str | int | float | bool]
        librdkafka properties.
    name : str
        The topic.
    partitions : int
        Partitions of a new topic; one that exists keeps its own.
    settings : Mapping[str, str]
        Topic settings such as ``{"retention.ms": "-1"}``. Those of a mock broker cannot be read and are taken as they are.
    tuning : Mapping[str, str], optional
        More settings for a new topic, which one that exists need not have.
    timeout_seconds : float
        How long each request may take.

    Returns
    -------
    bool
        Whether it was created here.

    Raises
    ------
    BrokerUnavailable
        When the broker does not answer.
    AccessRefused
        When it refuses; a topic that this client may not even see counts as one that is to be created.
    Conflict
        When the topic exists with other settings or with records.
    """
    doing = f"While creating topic {name!r}"
    admin = Admin(client_config(config))
    client = admin.client
    right = "CREATE"
    try:
        metadata = admin.metadata(doing, timeout_seconds)
        if name not in metadata.topics:
            topic = NewTopic(name, partitions, config={**settings, **(tuning or {})})
            client.create_topics([topic], request_timeout=timeout_seconds)[name].result()
            return True
        right = "DESCRIBE_CONFIGS"
        found: dict[str, str] = {}
        if not (metadata.cluster_id or "").startswith("mockCluster"):
            resource = ConfigResource(ResourceType.TOPIC, name)
            answer = client.describe_configs([resource], request_timeout=timeout_seconds)[resource].result()
            found = {key: entry.value for key, entry in answer.items() if key in settings}
        there = [TopicPartition(name, number) for number in metadata.topics[name].partitions]
        first, last = (
            client.list_offsets(dict.fromkeys(there, spec), request_timeout=timeout_seconds)
            for spec in (OffsetSpec.earliest(), OffsetSpec.latest())  # type: ignore[no-untyped-call]
        )
        records = sum(last[at].result().offset - first[at].result().offset for at in there)
    except KafkaException as fault:
        raise translated(doing, fault.args[0], config, f"{right} on topic {name!r}") from fault
    faults = [f"{key} = {value}" for key, value in found.items() if value != settings[key]]
    faults += [f"{records} offsets in use"] if records else []
    if faults:
        wanted = ", ".join(f"{key} = {value}" for key, value in settings.items())
        raise Conflict(
            f"{doing}: it must be new, or empty with {wanted}; it exists with {', '.join(faults)}. "
            "Choose another name, or delete the topic first.",
            topic=name,
        )
    return False


class TopicWriter:
    """Writes keyed records to one topic, in the order given; every record is delivered, or the `with` block fails.

    Parameters
    ----------
    config : Mapping[str, str | int | float | bool]
        librdkafka properties; they override those of `producer`.
    topic : str
        Where to.
    transactional_id : str or None
        If given, records are written between `begin` and `commit` or `abort`.
    """

    def __init__(
        self, config: Mapping[str, str | int | float | bool], topic: str, transactional_id: str | None = None
    ) -> None:
        self.topic = topic
        self._config = config
        self._failures: list[KafkaError] = []
        self._refusals = Refusals()
        self._right = f"WRITE on topic {topic!r}"
        own: dict[str, Any] = {
            # One callback a record would cost more than the record.
            "delivery.report.only.error": True,
            "on_delivery": self._on_delivery,
            "error_cb": self._refusals,
        }
        if transactional_id is not None:
            own["transactional.id"] = transactional_id
        self._producer = producer(config, **own)
        if transactional_id is not None:
            self._call(self._producer.init_transactions, 60.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.flush()
        else:
            self._producer.purge()
            self._producer.flush(1.0)

    def write(self, records: Iterable[tuple[bytes | str, bytes | str, int]]) -> None:
        """Queue records (key, value, milliseconds since 1970), waiting while the queue is full."""
        produce, topic = self._producer.produce, self.topic
        for key, value, milliseconds in records:
            while True:
                try:
                    produce(topic, value, key, timestamp=milliseconds)
                    break
                except BufferError:
                    self._call(self._producer.poll, 0.1)
                    self._check()
                except KafkaException as fault:
                    doing = f"While writing to topic {topic!r}"
                    raise translated(doing, fault.args[0], self._config, self._right) from fault
        self._call(self._producer.poll, 0)
        self._check()

    def put(self, key: bytes, value: bytes | None, headers: Sequence[tuple[str, bytes | None]]) -> None:
        """Queue one record with headers; `flush` says whether it was delivered."""
        try:
            self._producer.produce(self.topic, value, key, headers=list(headers))
        except KafkaException as fault:
            doing = f"While writing to topic {self.topic!r}"
            raise translated(doing, fault.args[0], self._config, self._right) from fault

    def flush(self) -> None:
        """Wait until everything queued is delivered.

        Raises
        ------
        BrokerUnavailable
            When records could not be delivered within librdkafka's `message.timeout.ms`.
        HindscanError
            When the broker refused records.
        """
        while self._call(self._producer.flush, 1.0):
            self._check()
        self._check()

    def begin(self) -> None:
        """Begin a transaction."""
        self._call(self._producer.begin_transaction)

    def commit(self) -> None:
        """Deliver what was written since `begin` and make it visible."""
        self.flush()
        self._call(self._producer.commit_transaction, 60.0)

    def abort(self) -> None:
        """Deliver what was written since `begin`, then abort it: the log has the records, no committed reader sees them."""
        self.flush()
        self._call(self._producer.abort_transaction, 60.0)

    def _call(self, function: Callable[..., Any], *arguments: float) -> Any:
        doing = f"While writing to topic {self.topic!r}"
        try:
            return _called(function, *arguments)
        except KafkaException as fault:
            self._refusals.check(doing, self._config, enough=1)
            raise translated(doing, fault.args[0], self._config, self._right) from fault

    def _on_delivery(self, error: KafkaError | None, _message: Message) -> None:
        if error is not None:
            self._failures.append(error)

    def _check(self) -> None:
        self._refusals.check(f"While writing to topic {self.topic!r}", self._config)
        if self._failures:
            doing = f"While writing to topic {self.topic!r} ({len(self._failures)} records not delivered)"
            raise translated(doing, self._failures[0], self._config, self._right)


def _called(function: Callable[..., Any], *arguments: float) -> Any:
    """Call a function of the client that runs its callbacks.

    The client raises a fatal error in the midst of them, before it delivers what it could not send: what comes out then is an error of Python's, with
    the true one as its cause.
    """
    try:
        return function(*arguments)
    except SystemError as fault:
        if isinstance(fault.__cause__, KafkaException):
            raise fault.__cause__ from fault
        raise


def send(
    config: Mapping[str, str | int | float | bool],
    topic: str,
    value: bytes | None,
    *,
    key: bytes,
    headers: Sequence[tuple[str, bytes | None]],
) -> tuple[int, int]:
    """Send one record and wait until it is acknowledged.

    Returns
    -------
    (int, int)
        Its partition and offset.

    Raises
    ------
    hindscan.errors.SourceMissing
        No such topic.
    hindscan.errors.HindscanError
        It was not acknowledged.
    """
    answers: list[tuple[KafkaError | None, Message]] = []
    doing = f"While sending a record to topic {topic!r}"
    refusals = Refusals()
    client = producer(config, error_cb=refusals)
    client.produce(
        topic,
        value=value,
        key=key,
        headers=list(headers),
        on_delivery=lambda error, message: answers.append((error, message)),
    )
    deadline = time.monotonic() + _SEND_SECONDS
    try:
        while _called(client.flush, 0.5) and time.monotonic() < deadline:
            refusals.check(doing, config)
    except KafkaException as fault:
        raise translated(doing, fault.args[0], config, f"WRITE on topic {topic!r}") from fault
    if not answers:
        # A topic that does not exist is waited for longer than this by the client; whether it does is asked only now.
        TopicInspector(config, topic).describe(settings=False)
        raise BrokerUnavailable(
            f"{doing}: a broker must acknowledge it within {_SEND_SECONDS:g} s; none did.", topic=topic
        )
    error, message = answers[0]
    if error is not None:
        raise translated(doing, error, config, f"WRITE on topic {topic!r}")
    partition, offset = message.partition(), message.offset()
    assert partition is not None
    assert offset is not None
    return partition, offset
