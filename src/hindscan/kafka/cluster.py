"""A cluster: its settings, its errors, and what can be asked of it as a whole.

Those beside it stand on this: `topic` asks about one topic, `log` reads exact ranges, `group` listens as a member of a group, `writer` writes, `registry` asks for
schemas; `access` is about being let in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # exported, though not as the typing rules want it
    OffsetSpec,
)

from hindscan.errors import BrokerUnavailable, HindscanError
from hindscan.kafka.access import FORBIDDEN, Admin, answered, refused

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

__all__ = [
    "MOCK_TOPIC_ID",
    "NO_TOPIC",
    "client_config",
    "describe_topics",
    "find_offsets",
    "is_mock",
    "ping",
    "translated",
]

#: Names of the errors that mean nobody answered.
_ABSENT = frozenset(
    {
        "_TRANSPORT", "_ALL_BROKERS_DOWN", "_RESOLVE", "_TIMED_OUT", "_MSG_TIMED_OUT", "_TIMED_OUT_QUEUE",
        "LEADER_NOT_AVAILABLE", "NOT_LEADER_FOR_PARTITION",
    }
)  # fmt: skip

#: Names of the errors that mean there is no such topic or partition.
NO_TOPIC = frozenset({"UNKNOWN_TOPIC_OR_PART", "_UNKNOWN_TOPIC", "_UNKNOWN_PARTITION", "UNKNOWN_TOPIC_ID"})

#: The topic id of every topic of the broker inside confluent-kafka, which knows none.
MOCK_TOPIC_ID = "mock"


def client_config(config: Mapping[str, str | int | float | bool]) -> dict[str, str | int | float | bool]:
    """Give the properties that are librdkafka's: those that begin with ``hindscan.`` are ours."""
    return {name: value for name, value in config.items() if not name.startswith("hindscan.")}


def ping(config: Mapping[str, str | int | float | bool], timeout_seconds: float) -> None:
    """Ask the cluster for its metadata once, so that an unreachable one is known before any work begins.

    Parameters
    ----------
    config : Mapping[str, str | int | float | bool]
        librdkafka properties; `bootstrap.servers` is required.
    timeout_seconds : float
        How long to wait for the answer.

    Raises
    ------
    BrokerUnavailable
        When no broker answered in time.
    AccessRefused
        When it does not let this client in.
    """
    servers = config.get("bootstrap.servers")
    try:
        Admin(client_config(config)).metadata("While connecting to Kafka", timeout_seconds)
    except KafkaException as fault:
        raise BrokerUnavailable(
            f"While connecting to Kafka: a broker at {servers} must answer within {timeout_seconds:g} s; "
            f"it did not: {fault.args[0]}. Check that the broker runs and that `bootstrap.servers` names it.",
            servers=servers,
        ) from fault


def is_mock(config: Mapping[str, str | int | float | bool], timeout_seconds: float = 10.0) -> bool:
    """Tell whether this is the broker inside confluent-kafka, which answers no question about topics' settings or ids."""
    metadata = Admin(client_config(config)).metadata("While connecting to Kafka", timeout_seconds)
    return (metadata.cluster_id or "").startswith("mockCluster")


def describe_topics(
    config: Mapping[str, str | int | float | bool], topics: Collection[str], timeout_seconds: float = 10.0
) -> dict[str, tuple[str, int]]:
    """Ask for the id and the number of partitions of topics.

    Returns
    -------
    dict[str, tuple[str, int]]
        By topic; one that does not exist is left out.

    Raises
    ------
    BrokerUnavailable
        When no broker answered in time.
    AccessRefused
        When it does not let this client in, or lets it know nothing of a topic.
    """
    admin = Admin(client_config(config))
    found: dict[str, tuple[str, int]] = {}
    doing = "While asking for topics"
    try:
        metadata = admin.metadata(doing, timeout_seconds)
        if (metadata.cluster_id or "").startswith("mockCluster"):
            known = metadata.topics
            return {name: (MOCK_TOPIC_ID, len(known[name].partitions)) for name in topics if name in known}
        answers = admin.client.describe_topics(TopicCollection(list(topics)), request_timeout=timeout_seconds)
    except KafkaException as fault:
        raise translated(doing, fault.args[0], config) from fault
    for name, answer in answers.items():
        doing = f"While asking for topic {name!r}"
        try:
            topic = admin.result(doing, answer, timeout_seconds + 1)
        except KafkaException as fault:
            if fault.args[0].name() not in NO_TOPIC:
                raise translated(
                    doing, fault.args[0], config, f"DESCRIBE on topic {name!r}, which READ and WRITE include"
                ) from fault
        else:
            found[name] = (str(topic.topic_id), len(topic.partitions))
    return found


def find_offsets(
    config: Mapping[str, str | int | float | bool],
    topic: str,
    partitions: int,
    at: Literal["earliest", "latest"] | int,
    timeout_seconds: float = 10.0,
) -> dict[int, int]:
    """Find the offsets at which a topic begins, ends for a reader of committed records, or reaches a time.

    Parameters
    ----------
    config : Mapping[str, str | int | float | bool]
        librdkafka properties.
    topic : str
        The topic.
    partitions : int
        How many partitions it has.
    at : "earliest", "latest" or int
        Where; an int is a time, microseconds since the epoch: the first offset, in the order of the log, whose record is not older. Past the last one it
        is the end.
    timeout_seconds : float
        How long to wait for the answer.

    Returns
    -------
    dict[int, int]
        By partition.

    Raises
    ------
    BrokerUnavailable
        When no broker answered in time.
    """
    if at == "earliest":
        wanted = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
    elif at == "latest":
        wanted = OffsetSpec.latest()  # type: ignore[no-untyped-call]
    else:
        wanted = OffsetSpec.for_timestamp(-(-at // 1000))
    admin = Admin(client_config(config))
    request = {TopicPartition(topic, partition): wanted for partition in range(partitions)}
    found: dict[int, int] = {}
    doing = f"While asking for offsets of topic {topic!r}"
    try:
        answers = admin.client.list_offsets(
            request, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=timeout_seconds
        )
        for place, answer in answers.items():
            found[place.partition] = answered(admin.result(doing, answer, timeout_seconds + 1)).offset
    except KafkaException as fault:
        raise translated(
            doing, fault.args[0], config, f"DESCRIBE on topic {topic!r}, which READ and WRITE include"
        ) from fault
    if any(offset < 0 for offset in found.values()):
        ends = find_offsets(config, topic, partitions, "latest", timeout_seconds)
        return {partition: ends[partition] if offset < 0 else offset for partition, offset in found.items()}
    return found


def translated(
    doing: str, error: KafkaError, config: Mapping[str, str | int | float | bool], right: str | None = None
) -> HindscanError:
    """Give the error of ours that says what the client's error means, for the caller to raise.

    Parameters
    ----------
    doing : str
        What was being done.
    error : KafkaError
        What the client said.
    config : Mapping[str, str | int | float | bool]
        The cluster's properties.
    right : str, optional
        What had to be granted for it, such as ``READ on topic 'bids'``.
    """
    servers = config.get("bootstrap.servers")
    if error.name() in FORBIDDEN:
        return refused(doing, error, config, right)
    if error.name() in _ABSENT:
        return BrokerUnavailable(
            f"{doing}: a broker at {servers} must answer; it did not: {error}. Check that the broker runs, that "
            "`bootstrap.servers` names it, and that `security.protocol` is that of its port.",
            servers=servers,
        )
    return HindscanError(
        f"{doing}: the broker at {servers} must accept the request; it refused: {error}. Check the rights of this "
        "client and the settings of the topic.",
        servers=servers,
        code=error.name(),
    )
