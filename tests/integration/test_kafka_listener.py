"""The listener against a real broker: nothing lost, nothing skipped, in order, committed only when recorded."""

from __future__ import annotations

import threading
import time
from collections import Counter

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from hindscan.errors import DataLost, Fenced, HindscanError, SourceMissing, StoreUnavailable
from hindscan.events.event import Event
from hindscan.events.kafka import MAX_BATCH_RECORDS, KafkaListener
from hindscan.events.wire import encode_kafka
from hindscan.kafka.cluster import describe_topics, find_offsets

pytestmark = pytest.mark.kafka


class Memory:
    """A store as the listener sees it: what was recorded, and up to where; it can be away."""

    def __init__(self) -> None:
        self.taken: list = []
        self.next: dict = {}
        self.calls = 0
        self.away = False
        self.changed = threading.Condition()

    def record(self, batch) -> None:
        with self.changed:
            self.calls += 1
            self.changed.notify_all()
            if self.away:
                raise StoreUnavailable("While recording: the store must answer; it does not.")
            assert len(batch) <= MAX_BATCH_RECORDS
            for received in batch:
                key = (received.topic, received.topic_id, received.partition)
                assert received.offset >= self.next.get(key, 0), "a record came again or out of order"
                self.next[key] = received.offset + 1
            self.taken += [one for unread in batch for one in unread.read()]

    def positions(self, topic, topic_id, partition):
        return self.next.get((topic, topic_id, partition))

    def until(self, condition, seconds: float = 30) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, seconds), f"{len(self.taken)} taken in {self.calls} calls"

    def ids(self) -> Counter:
        return Counter(received.event.id for received in self.taken if received.event)


@pytest.fixture
def store() -> Memory:
    return Memory()


@pytest.fixture
def listen(kafka_cluster, store):
    def make(*topics, **options):
        arguments = {
            "config": {"bootstrap.servers": kafka_cluster.bootstrap},
            "group": f"group-{topics[0]}",
            "instance_id": "one",
            "topics": topics,
            "record": store.record,
            "positions": store.positions,
        }
        return KafkaListener(**(arguments | options))

    return make


@pytest.fixture
def produce(kafka_cluster):
    producer = Producer({"bootstrap.servers": kafka_cluster.bootstrap, "linger.ms": 5})

    def send(topic, ids, partitions=1, mode="binary") -> None:
        for number in ids:
            message = encode_kafka(Event(id=str(number), source="/s", type="t", data={"n": number}), mode)
            producer.produce(
                topic, message.value, key=str(number), headers=list(message.headers), partition=number % partitions
            )
        assert producer.flush(20) == 0

    send.raw = producer
    return send


def committed(bootstrap, group, topic, partitions) -> int:
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": group})
    places = consumer.committed([TopicPartition(topic, partition) for partition in range(partitions)], timeout=10)
    consumer.close()
    return sum(max(place.offset, 0) for place in places)


def eventually(condition, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)


def test_what_is_there_and_what_comes_is_taken_in_order_and_committed(
    kafka_cluster, topic, store, listen, produce
) -> None:
    name = topic("events", partitions=3)
    produce(name, range(2500), partitions=3)
    with listen(name) as listener:
        store.until(lambda: len(store.taken) == 2500)
        produce(name, range(2500, 2600), partitions=3, mode="structured")
        store.until(lambda: len(store.taken) == 2600)
        eventually(lambda: committed(kafka_cluster.bootstrap, f"group-{name}", name, 3) == 2600)
        assert listener.error is None
    assert not listener.alive
    assert store.ids() == Counter(str(number) for number in range(2600))
    topic_id, _ = describe_topics({"bootstrap.servers": kafka_cluster.bootstrap}, [name])[name]
    first = store.taken[0]
    assert (first.way, first.cluster, first.topic, first.topic_id) == ("kafka", "default", name, topic_id)
    assert abs(first.record_time - time.time_ns() // 1000) < 300_000_000
    assert first.key == first.event.id.encode()


def test_a_lone_event_does_not_wait_for_others(topic, store, listen, produce) -> None:
    name = topic("lone")
    with listen(name) as listener:
        assert listener.wait_placed(20)
        produce(name, [0])
        store.until(lambda: len(store.taken) == 1)
        waits = []
        for number in range(1, 11):
            begin = time.monotonic()
            produce(name, [number])
            store.until(lambda n=number: len(store.taken) == n + 1)
            waits.append(time.monotonic() - begin)
    assert sorted(waits)[5] < 0.5


def test_what_is_no_event_is_handed_on_with_its_reason_between_the_good_ones(topic, store, listen, produce) -> None:
    name = topic("mixed")
    produce(name, [1])
    bad = [
        (None, None, []), (b"", None, []), (b"\xff\xfe", b"k", [("content-type", b"application/cloudevents+json")]),
        (b"[" * 100_000, None, [("content-type", b"application/cloudevents+json")]),
        (b"{}", None, [("ce_id", None), ("ce_type", b"\xff"), ("ce_id", b"2")]),
    ]  # fmt: skip
    for value, key, headers in bad:
        produce.raw.produce(name, value, key=key, headers=headers, partition=0)
    produce.raw.flush(20)
    produce(name, [2])
    with listen(name):
        store.until(lambda: len(store.taken) == len(bad) + 2)
    assert [received.event is None for received in store.taken] == [False, *([True] * len(bad)), False]
    for received, (value, key, headers) in zip(store.taken[1:-1], bad, strict=True):
        assert (received.body, received.key, list(received.headers)) == (value, key, headers)
        assert received.faults
        assert received.reason.startswith("While reading a CloudEvent from a Kafka record: it must be")


def test_the_store_decides_where_it_begins_and_not_the_group(kafka_cluster, topic, store, listen, produce) -> None:
    name = topic("where", partitions=2)
    produce(name, range(20), partitions=2)
    topic_id, _ = describe_topics({"bootstrap.servers": kafka_cluster.bootstrap}, [name])[name]
    store.next = {(name, topic_id, 0): 7}
    consumer = Consumer({"bootstrap.servers": kafka_cluster.bootstrap, "group.id": f"group-{name}"})
    consumer.commit(offsets=[TopicPartition(name, 0, 9), TopicPartition(name, 1, 9)], asynchronous=False)
    consumer.close()
    with listen(name):
        store.until(lambda: len(store.taken) == 13)
    assert sorted((received.partition, received.offset) for received in store.taken) == [
        *((0, offset) for offset in range(7, 10)), *((1, offset) for offset in range(10)),
    ]  # fmt: skip


def test_a_store_that_is_away_loses_and_doubles_nothing(kafka_cluster, topic, store, listen, produce) -> None:
    name = topic("away", partitions=2)
    with listen(name) as listener:
        produce(name, range(10), partitions=2)
        store.until(lambda: len(store.taken) == 10)
        store.away = True
        produce(name, range(10, 500), partitions=2)
        before = store.calls
        store.until(lambda: store.calls >= before + 4)
        assert committed(kafka_cluster.bootstrap, f"group-{name}", name, 2) <= 10
        assert listener.alive
        store.away = False
        store.until(lambda: len(store.taken) == 500)
        eventually(lambda: committed(kafka_cluster.bootstrap, f"group-{name}", name, 2) == 500)
    assert store.ids() == Counter(str(number) for number in range(500))


def test_a_store_that_is_away_at_the_start_is_waited_for(topic, store, listen, produce) -> None:
    name = topic("early")
    produce(name, range(5))
    asked = threading.Event()

    def positions(*_place):
        if not asked.is_set():
            asked.set()
            raise StoreUnavailable("While asking for positions: the store must answer; it does not.")

    with listen(name, positions=positions):
        assert asked.wait(20)
        store.until(lambda: len(store.taken) == 5)


def test_a_restart_goes_on_where_the_last_one_recorded(topic, store, listen, produce) -> None:
    name = topic("restart", partitions=2)
    for round_ in range(3):
        produce(name, range(round_ * 50, round_ * 50 + 50), partitions=2)
        begin = time.monotonic()
        with listen(name):
            store.until(lambda n=round_: len(store.taken) == (n + 1) * 50)
        assert time.monotonic() - begin < 8, "a static member takes over at once"
    assert store.ids() == Counter(str(number) for number in range(150))


def test_two_members_share_the_partitions(topic, listen, produce) -> None:
    name = topic("shared", partitions=4)
    one, two = Memory(), Memory()
    with (
        listen(
            name, record=one.record, positions=lambda *at: max((one.positions(*at) or 0), (two.positions(*at) or 0))
        ),
        listen(
            name,
            record=two.record,
            positions=lambda *at: max((one.positions(*at) or 0), (two.positions(*at) or 0)),
            instance_id="two",
        ),
    ):
        sent = 0
        deadline = time.monotonic() + 40
        while not (one.taken and two.taken):
            assert time.monotonic() < deadline
            produce(name, range(sent, sent + 40), partitions=4)
            sent += 40
            time.sleep(0.2)
        eventually(lambda: len(one.ids() | two.ids()) == sent)
    assert set((one.ids() | two.ids()).values()) == {1}


def test_aborted_records_are_never_heard(kafka_cluster, topic, store, listen, produce) -> None:
    name = topic("transactions")
    writer = Producer({"bootstrap.servers": kafka_cluster.bootstrap, "transactional.id": name})
    writer.init_transactions(20)
    for number in range(6):
        writer.begin_transaction()
        message = encode_kafka(Event(id=str(number), source="/s", type="t"))
        writer.produce(name, message.value, headers=list(message.headers))
        # Else what is aborted may never have been in the log, or the broker may hear of the end before it hears of the beginning.
        writer.flush(20)
        if number % 2:
            writer.abort_transaction(20)
        else:
            writer.commit_transaction(20)
    with listen(name):
        store.until(lambda: len(store.taken) == 3)
    assert store.ids() == Counter(["0", "2", "4"])


def test_a_missing_topic_is_an_error_and_not_silence(listen) -> None:
    begin = time.monotonic()
    with pytest.raises(SourceMissing) as fault, listen("there-is-no-such-topic"):
        pass
    assert time.monotonic() - begin < 10
    assert "has no there-is-no-such-topic. Create it, or correct `on` of the trigger." in str(fault.value)


def test_records_gone_by_retention_end_it_by_name_and_nothing_is_skipped(
    kafka_admin, topic, store, listen, produce
) -> None:
    name = topic("gone")
    produce(name, range(100))
    place = TopicPartition(name, 0, 60)
    kafka_admin.delete_records([place])[place].result(20)
    with listen(name, positions=lambda *_place: 20) as listener, pytest.raises(DataLost) as fault:
        listener.join(20)
    assert "the partition now begins at 60, so 40 are gone by retention; nothing was skipped" in str(fault.value)
    assert store.taken == []


def test_a_recreated_topic_is_read_from_its_beginning(
    kafka_cluster, kafka_admin, topic, store, listen, produce
) -> None:
    name = topic("anew")
    produce(name, range(10))
    with listen(name):
        store.until(lambda: len(store.taken) == 10)
    kafka_admin.delete_topics([name])[name].result(20)
    eventually(lambda: not describe_topics({"bootstrap.servers": kafka_cluster.bootstrap}, [name]))
    kafka_admin.create_topics([NewTopic(name, 1, 1)])[name].result(20)
    produce(name, range(10, 30))
    with listen(name):
        store.until(lambda: len(store.taken) == 30)
    assert len({received.topic_id for received in store.taken}) == 2
    assert store.ids() == Counter(str(number) for number in range(30))


def test_a_second_listener_of_the_same_name_ends_the_first(topic, store, listen, produce) -> None:
    name = topic("fence")
    with listen(name) as first:
        assert first.wait_placed(20)
        with listen(name):
            with pytest.raises(Fenced) as fault:
                first.join(30)
            produce(name, range(5))
            store.until(lambda: len(store.taken) == 5)
    assert "nobody else may have this instance id" in str(fault.value)


def test_an_error_that_is_not_worth_a_retry_ends_it(topic, listen, produce) -> None:
    name = topic("broken")
    produce(name, [1])

    def record(_batch):
        raise KeyError("oops")

    with listen(name, record=record) as listener, pytest.raises(HindscanError) as fault:
        listener.join(20)
    assert "it raised KeyError: 'oops'" in str(fault.value)


def test_offsets_are_found_by_place_and_time(kafka_cluster, topic, produce) -> None:
    name = topic("times", partitions=2)
    config = {"bootstrap.servers": kafka_cluster.bootstrap}
    for millis in (1000, 5000, 2000, 3000, 9000, 4000):
        produce.raw.produce(name, b"x", partition=0, timestamp=millis)
    produce.raw.flush(20)
    assert find_offsets(config, name, 2, "earliest") == {0: 0, 1: 0}
    assert find_offsets(config, name, 2, "latest") == {0: 6, 1: 0}
    # facts.md, 2.4: the first offset in the order of the log whose time is not before; -1 becomes the end.
    expected = {2_500_000: 1, 5_000_000: 1, 5_000_001: 4, 9_001_000: 6, 0: 0}
    assert {at: find_offsets(config, name, 2, at)[0] for at in expected} == expected


def test_it_listens_to_the_broker_inside_the_client_too(store) -> None:
    from hindscan.testing import MockKafka

    with MockKafka({"events": 2}) as mock:
        config = {"bootstrap.servers": mock.bootstrap}
        with KafkaListener(config, "group", "one", ["events"], store.record, store.positions) as listener:
            assert listener.wait_placed(20)
            message = encode_kafka(Event(id="1", source="/s", type="t"))
            producer = Producer(config)
            producer.produce("events", message.value, headers=list(message.headers))
            assert producer.flush(20) == 0
            store.until(lambda: len(store.taken) == 1)
    assert store.taken[0].topic_id == "mock"


@pytest.mark.timeout(480)  # a broker starts twice, which takes a minute each where the machine is busy
def test_a_broker_that_dies_and_comes_back_costs_nothing(listen, store) -> None:
    from hindscan.testing import KafkaCluster, kafka_available

    if kafka_available():
        pytest.skip(str(kafka_available()))
    with KafkaCluster() as cluster:
        config = {"bootstrap.servers": cluster.bootstrap}
        admin = AdminClient(config)
        admin.create_topics([NewTopic("t", 1, 1)])["t"].result(20)
        # An acknowledgement that comes too late makes a producer send again: only so is every event in the log once.
        producer = Producer({**config, "enable.idempotence": True})

        def send(ids):
            for number in ids:
                message = encode_kafka(Event(id=str(number), source="/s", type="t"))
                producer.produce("t", message.value, headers=list(message.headers))
            assert producer.flush(60) == 0

        with listen("t", config=config):
            send(range(100))
            store.until(lambda: len(store.taken) == 100, 120)
            cluster.kill()
            cluster.restart()
            send(range(100, 200))
            store.until(lambda: len(store.taken) == 200, 120)
    assert store.ids() == Counter(str(number) for number in range(200))
