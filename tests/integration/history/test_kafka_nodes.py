"""A cluster of three nodes, of which one dies while it is read from: the reader goes on at the next leader and loses nothing."""

from __future__ import annotations

from collections.abc import Iterator

import confluent_kafka
import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from hindscan.errors import BrokerUnavailable
from hindscan.history.snapshot import Window
from hindscan.kafka.log import RangeReader
from hindscan.kafka.topic import TopicInspector
from hindscan.testing import KafkaCluster
from integration.history.conftest import FastReader
from integration.history.test_kafka import config_of, history, read, wait_until
from integration.history.test_range_readers import SMALL, wide

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(240)]

TOPIC = "replicated"
RECORDS = 3000


@pytest.fixture(scope="module")
def nodes(kafka_cluster: KafkaCluster) -> Iterator[KafkaCluster]:
    """Three nodes with one topic, in which every record is on all three and was acknowledged by at least two."""
    with KafkaCluster(nodes=3) as cluster:
        admin = AdminClient({**config_of(cluster), "log_level": 0})
        config = {"retention.ms": "-1", "min.insync.replicas": "2"}
        admin.create_topics([NewTopic(TOPIC, 1, 3, config=config)])[TOPIC].result(30)
        producer = confluent_kafka.Producer(
            {**config_of(cluster), "acks": "all", "enable.idempotence": True, "batch.num.messages": 10}
        )
        for key, value, milliseconds in wide(RECORDS):
            producer.produce(TOPIC, value, key, timestamp=milliseconds)
        assert producer.flush(60) == 0
        yield cluster


def leader(cluster: KafkaCluster) -> int:
    admin = AdminClient({**config_of(cluster), "log_level": 0})
    return int(admin.list_topics(TOPIC, timeout=20).topics[TOPIC].partitions[0].leader)


def test_the_death_of_a_leader_while_it_is_read_costs_no_record_and_a_second_death_leaves_enough_to_read(
    nodes: KafkaCluster, range_reader: type[RangeReader]
) -> None:
    settings = {**config_of(nodes), **SMALL}
    topic_id = TopicInspector(settings, TOPIC).describe(settings=False).topic_id
    before = history(nodes, TOPIC).pin(Window())
    first = leader(nodes)
    with range_reader(settings, TOPIC, topic_id, "read_committed", idle_seconds=1.0) as reader:
        reading = reader.read(0, 0, RECORDS)
        got = next(reading).offsets.tolist()
        assert got[-1] < RECORDS - 1, "the client must not have fetched everything at once"
        nodes.kill(first)
        for batch in reading:
            got += batch.offsets.tolist()
        reader.check()
    assert got == list(range(RECORDS))
    assert leader(nodes) != first

    # What was pinned while all lived is what is pinned and read now, though the leader is another.
    of = history(nodes, TOPIC)
    after = of.pin(Window())
    assert (after.topic_id, after.cluster_id) == (before.topic_id, before.cluster_id)
    assert (
        [(p.start, p.end) for p in after.partitions] == [(p.start, p.end) for p in before.partitions] == [(0, RECORDS)]
    )
    table, proofs = read(of, before)
    assert table["n"].to_pylist() == list(range(RECORDS))
    nodes.restart(first)
    wait_until(lambda: all_in_sync(nodes), 60)
    assert read(of, before)[1] == proofs


def all_in_sync(cluster: KafkaCluster) -> bool:
    admin = AdminClient({**config_of(cluster), "log_level": 0})
    return len(admin.list_topics(TOPIC, timeout=20).topics[TOPIC].partitions[0].isrs) == 3


@pytest.mark.parametrize("range_reader", [FastReader], indirect=True)  # last of this file: nothing lives after it
def test_a_cluster_without_a_majority_is_waited_for_and_then_named(
    nodes: KafkaCluster, range_reader: type[RangeReader]
) -> None:
    topic_id = TopicInspector(config_of(nodes), TOPIC).describe(settings=False).topic_id
    alive = [node for node in range(3) if node != leader(nodes)]
    settings = {**config_of(nodes), **SMALL}
    with range_reader(settings, TOPIC, topic_id, "read_committed", idle_seconds=1.0, outage_seconds=5.0) as reader:
        reading = reader.read(0, 0, RECORDS)
        got = next(reading).offsets.tolist()
        for node in (leader(nodes), *alive):
            nodes.kill(node)
        with pytest.raises(BrokerUnavailable, match="a broker at"):
            for batch in reading:
                got += batch.offsets.tolist()
    assert got == list(range(len(got)))
    assert len(got) < RECORDS
