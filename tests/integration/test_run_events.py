"""Events of runs on a real topic: each acknowledged, those of a run in one partition and in order, sent again under the same id after a failure."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hindscan.config_file import load_project
from hindscan.events.event import Event
from hindscan.events.wire import parse_kafka
from hindscan.kafka.cluster import find_offsets
from hindscan.kafka.group import Heard, records_between
from hindscan.outgoing import Sender
from hindscan.runs import leases, opening, outbox, register
from hindscan.runs.run import RunRequest
from hindscan.runs.store import Store, open_store

if TYPE_CHECKING:
    from conftest import MakeTopic
    from hindscan.testing import KafkaCluster

pytestmark = pytest.mark.kafka


def a_sender(folder: Path, store: Store, servers: str, topic: str, mode: str = "structured") -> Sender:
    text = (
        f'[kafka.default]\n"bootstrap.servers" = "{servers}"\n[publish.topic]\nto = "kafka:{topic}"\nmode = "{mode}"\n'
    )
    (folder / "hindscan.toml").write_text(text)
    project = load_project(folder, {})
    outbox.declare(store, {"topic": project.outlets["topic"].source})
    return Sender(project, store, project.outlets["topic"], owner="me")


def runs(store: Store, count: int) -> list[str]:
    """Carry out runs beside each other: all start, then all end."""
    opened = [opening.open_run(store, RunRequest(job="scan")).id for _ in range(count)]
    claims = [leases.claim(store, "me", 60.0, run) for run in opened]
    for claimed in claims:
        assert claimed is not None
        register.move(store, claimed.run.id, "failed", token=claimed.token, error="JobFailed", message="x")
    return opened


def heard(servers: str, topic: str, partitions: int) -> list[tuple[Heard, Event]]:
    config: dict[str, Any] = {"bootstrap.servers": servers}
    starts, ends = (find_offsets(config, topic, partitions, at) for at in ("earliest", "latest"))
    found = list(records_between(config, topic, starts, ends))
    return [(one, parse_kafka(one.value, one.headers)) for one in found]


@pytest.mark.parametrize("mode", ["structured", "binary"])
def test_events_of_a_run_come_once_in_order_in_one_partition(
    tmp_path: Path, kafka_cluster: KafkaCluster, topic: MakeTopic, mode: str
) -> None:
    name = topic("run-events", partitions=3)
    with open_store("sqlite:///s.db", tmp_path) as store:
        sender = a_sender(tmp_path, store, kafka_cluster.bootstrap, name, mode)
        opened = runs(store, 150)
        while sender.send_due():
            pass
        assert outbox.waiting_count(store, "topic") == 0
    said: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for one, event in heard(kafka_cluster.bootstrap, name, 3):
        data: Any = event.data
        assert one.key == data["run"].encode()
        said[data["run"]].append((one.partition, event.type.rpartition(".")[2]))
    assert set(said) == set(opened)
    for events in said.values():
        assert [kind for _, kind in events] == ["started", "failed"]
        assert len({partition for partition, _ in events}) == 1
    assert len({partition for events in said.values() for partition, _ in events}) == 3


def test_a_broker_that_does_not_answer_loses_nothing_and_the_id_stays(
    tmp_path: Path, kafka_cluster: KafkaCluster, topic: MakeTopic, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = topic("run-events")
    monkeypatch.setattr("hindscan.outgoing.ANSWER_SECONDS", 1.0)
    now = [1_700_000_000_000_000]
    with open_store("sqlite:///s.db", tmp_path, lambda: now[0]) as store:
        nobody = a_sender(tmp_path, store, "127.0.0.1:1", name)
        runs(store, 2)
        assert nobody.send_due() == 0
        # Of the run whose event was tried the rest waits with it.
        waiting = [json.loads(one.event)["id"] for one in outbox.due(store, "topic", 10)]
        assert len(waiting) == 2
        assert outbox.waiting_count(store, "topic") == 4
        now[0] += 60_000_000
        # A broker that has just started takes seconds to give the first producer its number.
        monkeypatch.setattr("hindscan.outgoing.ANSWER_SECONDS", 60.0)
        sender = a_sender(tmp_path, store, kafka_cluster.bootstrap, name)
        assert sender.send_due() == 4
        # Marked before it is known: what a process that dies here leaves is sent again.
        with store.write() as connection:
            connection.exec_driver_sql("UPDATE outbox SET state = 'waiting', sent_at = NULL")
        assert sender.send_due() == 4
    events = [event for _, event in heard(kafka_cluster.bootstrap, name, 1)]
    assert [event.id for event in events[:4]] == [event.id for event in events[4:]]
    assert len({event.id for event in events}) == 4
    assert set(waiting) < {event.id for event in events}
