"""The Kafka that tests lean on is real, and nothing of it outlives its user."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient

from hindscan.errors import BrokerUnavailable, HindscanError
from hindscan.kafka.cluster import ping
from hindscan.testing import KafkaCluster, MockKafka

if TYPE_CHECKING:
    from hindscan.testing import KafkaCluster as Cluster

pytestmark = pytest.mark.kafka


def alive(pid: int) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return False


def read(bootstrap: str, topic: str, count: int) -> list[bytes]:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "reader", "auto.offset.reset": "earliest"})
    consumer.subscribe([topic])
    values: list[bytes] = []
    deadline = time.monotonic() + 30
    while len(values) < count and time.monotonic() < deadline:
        message = consumer.poll(0.2)
        if message is not None and message.error() is None:
            values.append(message.value() or b"")
    consumer.close()
    return values


def test_aborted_records_are_not_delivered_so_it_is_a_real_broker(kafka_cluster: Cluster, topic) -> None:
    name = topic("orders", partitions=1)
    producer = Producer({"bootstrap.servers": kafka_cluster.bootstrap, "transactional.id": name})
    producer.init_transactions(20)
    for value, commit in ((b"kept", True), (b"dropped", False), (b"kept too", True)):
        producer.begin_transaction()
        producer.produce(name, value)
        producer.flush(20)
        if commit:
            producer.commit_transaction(20)
        else:
            producer.abort_transaction(20)
    assert read(kafka_cluster.bootstrap, name, 2) == [b"kept", b"kept too"]


def test_a_topic_is_not_created_by_being_named(kafka_cluster: Cluster, kafka_admin: AdminClient) -> None:
    kafka_admin.list_topics("never-made", timeout=20)
    assert "never-made" not in kafka_admin.list_topics(timeout=20).topics


def test_what_was_written_survives_the_kill_and_restart_of_a_broker() -> None:
    with KafkaCluster() as cluster:
        quiet = {"bootstrap.servers": cluster.bootstrap, "log_level": 0}
        admin = AdminClient(quiet)
        from confluent_kafka.admin import NewTopic

        admin.create_topics([NewTopic("kept", 1, 1)])["kept"].result(20)
        producer = Producer(quiet | {"acks": "all"})
        producer.produce("kept", b"before")
        assert producer.flush(20) == 0
        folder = cluster.folder
        cluster.kill()
        with pytest.raises(BrokerUnavailable, match="must answer within 1 s"):
            ping(quiet, 1)
        cluster.restart()
        assert read(cluster.bootstrap, "kept", 1) == [b"before"]
    assert not folder.exists()


def test_the_broker_and_its_folder_go_when_its_user_is_killed(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom hindscan.testing import KafkaCluster\n"
        "with KafkaCluster() as cluster:\n"
        "    print(cluster._keepers[0].pid, cluster.folder, flush=True)\n    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=tmp_path
    ) as user:
        assert user.stdout is not None
        pid, folder = user.stdout.readline().split()
        assert alive(int(pid))
        os.kill(user.pid, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while (alive(int(pid)) or Path(folder).exists()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(int(pid))
    assert not Path(folder).exists()


def test_a_node_that_cannot_start_is_reported_with_the_end_of_its_log() -> None:
    with pytest.raises(HindscanError) as caught, KafkaCluster(settings={"num.io.threads": "none"}):
        pass
    assert "Invalid value none" in str(caught.value)


def test_the_mock_has_the_topics_it_was_asked_for_and_carries_records() -> None:
    with MockKafka({"bids": 8, "auction-events": 1}) as mock:
        admin = AdminClient({"bootstrap.servers": mock.bootstrap})
        topics = admin.list_topics(timeout=20).topics
        assert {name: len(topic.partitions) for name, topic in topics.items()} == {"bids": 8, "auction-events": 1}
        producer = Producer({"bootstrap.servers": mock.bootstrap})
        producer.produce("auction-events", b"closed")
        assert producer.flush(20) == 0
        assert read(mock.bootstrap, "auction-events", 1) == [b"closed"]


def test_a_cluster_whose_identity_begins_like_an_option_starts_too(
    kafka_cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One random identity in sixty-four does."""
    monkeypatch.setattr("hindscan.testing.uuid.uuid4", lambda: uuid.UUID(bytes=b"\xfb" + bytes(15)))
    with KafkaCluster() as cluster:
        ping({"bootstrap.servers": cluster.bootstrap}, 10)
