"""How far triggers are behind, against a real broker."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from confluent_kafka import Producer

from hindscan.config_file import load_project
from hindscan.history.snapshot import Position
from hindscan.lag import Lags
from hindscan.runs import positions
from hindscan.runs.store import open_store

if TYPE_CHECKING:
    from conftest import MakeTopic
    from hindscan.testing import KafkaCluster

PROJECT = """
[kafka.default]
"bootstrap.servers" = "{bootstrap}"
[kafka.away]
"bootstrap.servers" = "127.0.0.1:1"

[triggers.first]
on = "kafka:{topic}"
job = "j"
[triggers.second]
on = ["kafka:{topic}", "http"]
job = "j"
[triggers.third]
on = "kafka:away:{topic}"
job = "j"
"""


@pytest.mark.kafka
def test_lag_is_what_lies_between_what_is_recorded_and_the_end(
    kafka_cluster: KafkaCluster, topic: MakeTopic, tmp_path: Path
) -> None:
    from hindscan.kafka.cluster import describe_topics

    name = topic("lag", partitions=2)
    producer = Producer({"bootstrap.servers": kafka_cluster.bootstrap})
    for number in range(12):
        producer.produce(name, b"x", partition=0 if number < 7 else 1)
    producer.flush(30)
    (tmp_path / "hindscan.toml").write_text(PROJECT.format(bootstrap=kafka_cluster.bootstrap, topic=name))
    project = load_project(tmp_path, {})
    topic_id, _ = describe_topics(project.clusters["default"], [name])[name]
    with open_store(project.store_url, tmp_path) as store:
        with store.write() as connection:
            for partition, offset in ((0, 4), (1, 4)):
                at = Position(cluster="default", topic=name, topic_id=topic_id, partition=partition, offset=offset)
                positions.advance(connection, [("first", at)], store.now())
            former = Position(cluster="default", topic=name, topic_id="former", partition=0, offset=99)
            positions.advance(connection, [("second", former)], store.now())
        lags, up = Lags(project, store).look()
    assert up == {"default": True, "away": False}
    assert {(lag.trigger, lag.partition): lag.offsets for lag in lags} == {
        ("first", 0): 2, ("first", 1): 0, ("second", 0): 7, ("second", 1): 5,
    }  # fmt: skip
