"""Windows over a real topic whose times are out of order.

The oracle is a plain consumer that reads every partition from its beginning and filters in Python.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import confluent_kafka
import msgspec
import pytest
from confluent_kafka.admin import AdminClient, NewPartitions

import hindscan.history.kafka as kafka_module
from hindscan.data import Data, Proof
from hindscan.errors import DataLost, OutOfOrder, UsageError
from hindscan.history.declared import history_from_toml
from hindscan.history.kafka import KafkaHistory
from hindscan.history.kafka_window import check_lateness
from hindscan.history.snapshot import KafkaPin, Window
from hindscan.history.window import make_window
from hindscan.plans.cut import cut
from hindscan.testing import KafkaCluster

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(120)]

MakeTopic = Callable[..., str]
#: Milliseconds.
BASE = int(datetime(2024, 3, 1, tzinfo=UTC).timestamp() * 1000)
HOUR = 3_600_000


@dataclass(frozen=True)
class Row:
    partition: int
    offset: int
    milliseconds: int
    key: bytes | None
    n: int
    happened: int


def config_of(cluster: KafkaCluster) -> dict[str, Any]:
    return {"bootstrap.servers": cluster.bootstrap}


def value_of(n: int, milliseconds: int) -> bytes:
    text = datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat()
    return json.dumps({"n": n, "at": text, "happened": milliseconds}).encode()


def write(
    cluster: KafkaCluster, topic: str, records: list[tuple[int, bytes | None, int, int, int]], **config: Any
) -> None:
    """Write (partition, key, n, record time, event time)."""
    producer = confluent_kafka.Producer({**config_of(cluster), "linger.ms": 0, **config})
    if config:
        producer.init_transactions(30)
        producer.begin_transaction()
    for index, (partition, key, n, milliseconds, happened) in enumerate(records):
        producer.produce(topic, value_of(n, happened), key, partition, timestamp=milliseconds)
        if config and index % 50 == 49:
            producer.commit_transaction(30)
            producer.begin_transaction()
    if config:
        producer.commit_transaction(30)
    assert producer.flush(30) == 0


def oracle(cluster: KafkaCluster, topic: str, partitions: int) -> list[Row]:
    settings = {
        **config_of(cluster),
        "group.id": "oracle",
        "enable.partition.eof": True,
        "auto.offset.reset": "earliest",
    }
    consumer = confluent_kafka.Consumer(settings)
    rows = []
    for number in range(partitions):
        consumer.assign([confluent_kafka.TopicPartition(topic, number, confluent_kafka.OFFSET_BEGINNING)])
        while True:
            message = consumer.poll(30)
            assert message is not None, "the oracle met silence"
            if message.error() is not None:
                break
            value, offset = json.loads(message.value() or b""), message.offset()
            assert offset is not None
            rows.append(Row(number, offset, message.timestamp()[1], message.key(), value["n"], value["happened"]))
    consumer.close()
    return rows


def history(cluster: KafkaCluster, topic: str, **settings: Any) -> KafkaHistory:
    columns = {"n": "int64", "at": "timestamp[us, UTC]"}
    table = {"topic": topic, "columns": columns, **settings}
    made = history_from_toml("log", table, clusters={"default": config_of(cluster)}, root=".")
    assert isinstance(made, KafkaHistory)
    return made


def read(of: KafkaHistory, pin: KafkaPin, slice_rows: int = 64) -> tuple[list[int], list[Proof]]:
    """Read every slice, from the pin as JSON."""
    pin = msgspec.json.decode(msgspec.json.encode(pin), type=KafkaPin)
    slices = cut(pin, slice_rows)
    with of.reader(pin).open(slices) as source:
        found = Data("t", {"t": source}).arrow(["n"])["n"].to_pylist()
        proofs = source.proofs()
    check_lateness(zip(slices, proofs, strict=True), lateness=pin.lateness, topic=pin.topic)
    return found, proofs


def offsets_of(pin: KafkaPin) -> int:
    return sum(p.end - p.start for p in pin.partitions)


@pytest.fixture(scope="module")
def shuffled(kafka_cluster: KafkaCluster, kafka_admin: AdminClient) -> tuple[str, list[Row]]:
    """Two partitions over 100 hours: record times up to one hour out of order, event times up to one hour from those."""
    from confluent_kafka.admin import NewTopic

    topic = "shuffled-windows"
    kafka_admin.create_topics([NewTopic(topic, 2, 1, config={"retention.ms": "-1"})])[topic].result(20)
    chance = random.Random(5)
    records: list[tuple[int, bytes | None, int, int, int]] = []
    peaks = [0, 0]
    for n in range(1200):
        number = chance.randrange(2)
        due = BASE + n * 300_000
        time = due - chance.randrange(HOUR // 2)
        peaks[number] = max(peaks[number], time)
        happened = chance.randint(max(time - HOUR, peaks[number] - HOUR), time)
        key = chance.choice([None, b"a", b"b", b"c", b"\xff\x00"])
        records.append((number, key, n, time, happened))
    write(kafka_cluster, topic, records)
    rows = oracle(kafka_cluster, topic, 2)
    assert any(a.milliseconds > b.milliseconds for a, b in itertools.pairwise(rows)), "in order, it proves nothing"
    return topic, rows


@pytest.mark.parametrize("time", [None, "at"])
@pytest.mark.parametrize("lateness", [None, "1h"])
def test_windows_over_shuffled_times_hold_what_the_oracle_finds(
    kafka_cluster: KafkaCluster, shuffled: tuple[str, list[Row]], time: str | None, lateness: str | None
) -> None:
    topic, rows = shuffled
    settings = {name: value for name, value in (("time", time), ("lateness", lateness)) if value is not None}
    of = history(kafka_cluster, topic, **settings)
    chance = random.Random(9)
    scanned = free = 0
    for _ in range(12):
        a, b = sorted(BASE + chance.randrange(-2 * HOUR, 102 * HOUR) for _ in range(2))
        window = chance.choice(
            [
                Window(since=a * 1000, until=b * 1000),
                Window(since=a * 1000),
                Window(as_of=b * 1000),
                Window(since=a * 1000, as_of=b * 1000),
            ]
        )
        least = a if window.since is not None else 0
        end = b if (window.until or window.as_of) is not None else BASE * 2
        pin = of.pin(window)
        found, _ = read(of, pin)
        times = [(row, row.milliseconds if time is None else row.happened) for row in rows]
        assert found == [row.n for row, at in times if least <= at < end], window
        scanned += offsets_of(pin)
        free += sum(s.since is None and s.before is None for s in cut(pin, 64))
    if lateness:
        assert scanned < 12 * len(rows) * 0.75, "look-ups must leave something out"
        assert free > 0, "slices that lie inside carry no bounds, so that the next window reuses them"
    elif time:
        assert scanned == 12 * len(rows), "nothing promised: everything is looked at"


def test_a_window_that_slides_shares_the_slices_inside_it(
    kafka_cluster: KafkaCluster, shuffled: tuple[str, list[Row]]
) -> None:
    topic, _ = shuffled
    of = history(kafka_cluster, topic, time="at", lateness="1h")
    one = cut(of.pin(Window(since=(BASE + 20 * HOUR) * 1000, until=(BASE + 80 * HOUR) * 1000)), 64)
    two = cut(of.pin(Window(since=(BASE + 26 * HOUR) * 1000, until=(BASE + 86 * HOUR) * 1000)), 64)
    bare = [[msgspec.structs.replace(s, position=0) for s in slices] for slices in (one, two)]
    shared = [s for s in bare[0] if s in bare[1]]
    assert len(shared) >= len(bare[0]) / 2
    # Full slices begin and end at absolute offsets, whatever the window.
    assert all(s.start % 64 == 0 and s.end % 64 == 0 for s in shared)  # type: ignore[union-attr]


def test_offsets_partitions_and_keys_choose_exactly(
    kafka_cluster: KafkaCluster, shuffled: tuple[str, list[Row]]
) -> None:
    topic, rows = shuffled
    of = history(kafka_cluster, topic)
    found, _ = read(of, of.pin(make_window(offsets={0: (100, 200), 1: (0, 50)})))
    assert found == [
        r.n for r in rows if (r.partition == 0 and 100 <= r.offset < 200) or (r.partition == 1 and r.offset < 50)
    ]
    found, _ = read(of, of.pin(Window(partitions=(1,))))
    assert found == [r.n for r in rows if r.partition == 1]
    keyed = of.pin(Window(keys=(b"\xff\x00", b"a")))
    found, proofs = read(of, keyed)
    assert found == [r.n for r in rows if r.key in (b"a", b"\xff\x00")]
    assert sum(proof.records for proof in proofs) == len(found)
    assert of.reader(keyed).identity() != of.reader(of.pin(Window())).identity()
    found, _ = read(of, of.pin(Window(keys=(b"a",), partitions=(0,), since=(BASE + 30 * HOUR) * 1000)))
    assert found == [r.n for r in rows if r.key == b"a" and r.partition == 0 and r.milliseconds >= BASE + 30 * HOUR]


def test_offsets_out_of_the_log_are_errors_by_name(
    kafka_cluster: KafkaCluster, kafka_admin: AdminClient, topic: MakeTopic
) -> None:
    name = topic("ranges")
    write(kafka_cluster, name, [(0, None, n, BASE, BASE) for n in range(50)])
    kafka_admin.delete_records([confluent_kafka.TopicPartition(name, 0, 20)])[
        confluent_kafka.TopicPartition(name, 0, 20)
    ].result(20)
    of = history(kafka_cluster, name)
    assert read(of, of.pin(make_window(offsets={0: (20, None)})))[0] == list(range(20, 50))
    with pytest.raises(DataLost, match=r"\[10, 30\) of partition 0: the log begins at 20"):
        of.pin(make_window(offsets={0: (10, 30)}))
    with pytest.raises(UsageError, match=r"\[30, 60\) of partition 0: it can be read up to 50"):
        of.pin(make_window(offsets={0: (30, 60)}))
    with pytest.raises(UsageError, match="1 of topic"):
        of.pin(make_window(offsets={1: (0, 1)}))


def test_transactions_over_old_times_lose_nothing_to_their_markers(
    kafka_cluster: KafkaCluster, topic: MakeTopic
) -> None:
    """A marker has the broker's clock: the first one would answer every look-up for a time after the records'."""
    name = topic("backdated")
    records: list[tuple[int, bytes | None, int, int, int]] = [
        (0, None, n, BASE + n * 1000, BASE + n * 1000) for n in range(200)
    ]
    write(kafka_cluster, name, records, **{"transactional.id": name})
    for settings in ({}, {"lateness": "5s"}, {"lateness": "5s", "time": "at"}):
        of = history(kafka_cluster, name, **settings)
        found, _ = read(of, of.pin(Window(since=(BASE + 70_000) * 1000, until=(BASE + 120_000) * 1000)))
        assert found == list(range(70, 120)), settings


def test_a_topic_stamped_by_its_broker_is_cut_without_a_promise(
    kafka_cluster: KafkaCluster, topic: MakeTopic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_module, "APPEND_LATENESS", 0)
    name = topic("stamped", message_timestamp_type="LogAppendTime")
    for n in range(40):
        write(kafka_cluster, name, [(0, None, n, BASE, BASE)])
    rows = oracle(kafka_cluster, name, 1)
    since, until = rows[10].milliseconds, rows[30].milliseconds
    of = history(kafka_cluster, name)
    pin = of.pin(Window(since=since * 1000, until=until * 1000))
    expected = [row.n for row in rows if since <= row.milliseconds < until]
    assert read(of, pin)[0] == expected
    assert offsets_of(pin) == len(expected)
    assert offsets_of(of.pin(Window(since=(rows[-1].milliseconds + 60_000) * 1000))) == 0


def test_a_record_later_than_promised_fails_the_window_and_an_honest_promise_mends_it(
    kafka_cluster: KafkaCluster, topic: MakeTopic
) -> None:
    name = topic("late")
    records: list[tuple[int, bytes | None, int, int, int]] = [
        (0, None, n, BASE + n * HOUR, BASE + n * HOUR) for n in range(20)
    ]
    records.insert(12, (0, None, 99, BASE + 2 * HOUR, BASE + 2 * HOUR))
    write(kafka_cluster, name, records)
    window = Window(since=(BASE + 5 * HOUR) * 1000, until=(BASE + 15 * HOUR) * 1000)
    of = history(kafka_cluster, name, lateness="2h")
    for slice_rows in (64, 3):
        with pytest.raises(OutOfOrder, match=r"at most 2h out of order.*is 9h out of order"):
            read(of, of.pin(window), slice_rows)
    honest = history(kafka_cluster, name, lateness="9h")
    assert read(honest, honest.pin(window))[0] == list(range(5, 15))
    assert read(honest, honest.pin(Window(until=(BASE + 3 * HOUR) * 1000)))[0] == [0, 1, 2, 99]
    # Nothing rests on the promise where nothing is cut.
    assert len(read(of, of.pin(Window()))[0]) == 21


def test_a_history_written_long_after_it_happened_does_not_pass_for_an_empty_window(
    kafka_cluster: KafkaCluster, topic: MakeTopic
) -> None:
    name = topic("backfilled")
    write(kafka_cluster, name, [(0, None, n, BASE + 10**9, BASE + n) for n in range(10)])
    window = Window(until=(BASE + 5) * 1000)
    with pytest.raises(OutOfOrder, match="the record at 0:0"):
        history(kafka_cluster, name, time="at", lateness="1h").pin(window)
    of = history(kafka_cluster, name, time="at")
    assert read(of, of.pin(window))[0] == [0, 1, 2, 3, 4]


def test_older_records_after_the_pin_change_nothing_and_new_partitions_are_counted(
    kafka_cluster: KafkaCluster, kafka_admin: AdminClient, topic: MakeTopic
) -> None:
    name = topic("pinned")
    write(kafka_cluster, name, [(0, None, n, BASE + n, BASE + n) for n in range(30)])
    of = history(kafka_cluster, name)
    pin = of.pin(Window(as_of=(BASE + 20) * 1000))
    before = read(of, pin)
    write(kafka_cluster, name, [(0, None, 100 + n, BASE - n, BASE - n) for n in range(10)])
    kafka_admin.create_partitions([NewPartitions(name, 3)])[name].result(20)
    again = read(of, pin)
    assert again[0] == before[0] == list(range(20))
    assert [p.digest for p in again[1]] == [p.digest for p in before[1]]
    assert {p.partition_count for p in again[1]} == {3}
    assert pin.partition_count == 1
    assert len(read(of, of.pin(Window(as_of=(BASE + 20) * 1000)))[0]) == 30, "a new pin sees them"


def test_a_deletion_where_the_window_is_cut_proves_nothing_and_loses_nothing(
    kafka_cluster: KafkaCluster, topic: MakeTopic
) -> None:
    name = topic("deletions")
    producer = confluent_kafka.Producer({**config_of(kafka_cluster), "linger.ms": 0})
    for n in range(10):
        value = None if n == 7 else value_of(n, BASE + n * 1000)
        producer.produce(name, value, b"k", 0, timestamp=BASE + n * 1000)
    assert producer.flush(30) == 0
    of = history(kafka_cluster, name, time="at", lateness="1s")
    pin = of.pin(Window(until=(BASE + 6000) * 1000))
    assert read(of, pin)[0] == [0, 1, 2, 3, 4, 5]
    assert pin.partitions[0].end == 10
    assert of.pin(Window(until=(BASE + 5000) * 1000)).partitions[0].end == 6
