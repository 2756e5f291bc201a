"""What tests share: the real Kafka and fresh topics on it.

An absent service skips its tests loudly at home and fails them where `CI=true`, so that a missing broker can never turn CI green.
Each pytest process has its own broker (five seconds, 400 MB): under xdist nothing is shared, so nothing can be closed under another's feet.
"""

from __future__ import annotations

import itertools
import os
from typing import TYPE_CHECKING, Protocol

import hypothesis
import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from hindscan.testing import KafkaCluster, kafka_available

if TYPE_CHECKING:
    from collections.abc import Iterator

_serial = itertools.count()

# How fast an example is says how busy the machine is.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

# A test's broker does not live long enough to earn what the second compiler costs: a third of all that it computes. Read by every `java` below this process.
os.environ.setdefault("JDK_JAVA_OPTIONS", "-XX:TieredStopAtLevel=1")


class MakeTopic(Protocol):
    def __call__(self, name: str = "topic", partitions: int = 1, **config: object) -> str: ...


def absent(service: str, reason: str) -> None:
    """Fail in CI, skip at home."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{service} must be there in CI: {reason}", pytrace=False)
    pytest.skip(f"{service}: {reason}")


@pytest.fixture(scope="session")
def kafka_cluster() -> Iterator[KafkaCluster]:
    """One real broker for the whole session: `.bootstrap`. Tests that kill a broker start their own `KafkaCluster`."""
    reason = kafka_available()
    if reason:
        absent("Kafka", reason)
    with KafkaCluster() as cluster:
        yield cluster


@pytest.fixture(scope="session")
def kafka_admin(kafka_cluster: KafkaCluster) -> AdminClient:
    """Return a plain admin client of the session's broker, independent of the code under test."""
    return AdminClient({"bootstrap.servers": kafka_cluster.bootstrap})


@pytest.fixture
def topic(kafka_admin: AdminClient) -> MakeTopic:
    """Make topics that no other test has: `topic("bids", partitions=3, cleanup_policy="compact")` returns the name.

    Retention is off unless `retention_ms` says otherwise, because tests write old record times. Underscores in a setting stand for dots.
    """

    def make(name: str = "topic", partitions: int = 1, **config: object) -> str:
        fresh = f"{name}-{os.getpid()}-{next(_serial)}"
        settings = {"retention.ms": "-1"} | {key.replace("_", "."): str(value) for key, value in config.items()}
        new = NewTopic(fresh, num_partitions=partitions, replication_factor=1, config=settings)
        kafka_admin.create_topics([new])[fresh].result(timeout=20)
        return fresh

    return make
