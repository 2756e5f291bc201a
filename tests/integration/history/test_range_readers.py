"""What a log can go through, and what a reader of exact ranges must make of it: complete, or failed by name, and never silent.

Every test takes the class of the reader from the fixture `range_reader`, so that another one with the same interface meets the same logs. The oracle is a
plain consumer that reads a whole log uncommitted, record by record; which records are committed is written in them.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import confluent_kafka
import pytest
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewPartitions,
    ResourceType,
)

from conftest import MakeTopic
from hindscan.data import Data
from hindscan.errors import ConfigError, DataLost, SourceChanged, SourceMissing
from hindscan.history.snapshot import Window
from hindscan.kafka.cluster import find_offsets
from hindscan.kafka.group import records_between
from hindscan.kafka.log import RangeReader
from hindscan.kafka.topic import Isolation, TopicInspector
from hindscan.kafka.writer import create_topic
from hindscan.plans.cut import cut_whole
from hindscan.testing import KafkaCluster
from integration.history.test_kafka import (
    Row,
    Transactions,
    config_of,
    delete_before,
    history,
    numbers,
    read,
    recreate,
    wait_until,
    whole_log,
    write,
)

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]

Reader = type[RangeReader]

#: A client that may hold little cannot have fetched everything when something happens to the log.
SMALL = {
    "fetch.message.max.bytes": 4000,
    "max.partition.fetch.bytes": 4000,
    "queued.max.messages.kbytes": 8,
    "queued.min.messages": 1,
}


def opened(
    kind: Reader,
    cluster: KafkaCluster,
    topic: str,
    isolation: Isolation = "read_committed",
    settings: dict[str, Any] | None = None,
    **options: Any,
) -> RangeReader:
    config = {**config_of(cluster), **(settings or {})}
    topic_id = TopicInspector(config, topic).describe(settings=False).topic_id
    return kind(config, topic, topic_id, isolation, **options)


def rows(reader: RangeReader, start: int, end: int, partition: int = 0) -> list[Row]:
    return [
        Row(int(offset), value, int(milliseconds))
        for batch in reader.read(partition, start, end)
        for offset, value, milliseconds in zip(batch.offsets, batch.values.to_pylist(), batch.times, strict=True)
    ]


def wide(count: int) -> list[tuple[bytes, bytes, int]]:
    """Records of two kilobytes."""
    return [(b"k", b'{"n": %d, "p": "%s"}' % (n, b"x" * 2000), 1000 + n) for n in range(count)]


# --- Random ranges against the oracle ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Log:
    """A log that does not change any more, as the oracle sees it."""

    topic: str
    begin: int
    stable: int
    rows: list[Row]

    def visible(self, isolation: Isolation) -> list[Row]:
        return [
            row
            for row in self.rows
            if isolation == "read_uncommitted" or (row.is_committed and row.offset < self.stable)
        ]

    def end(self, isolation: Isolation) -> int:
        return self.stable if isolation == "read_committed" else self.rows[-1].offset + 1


def written(cluster: KafkaCluster, topic: str, seed: int, rounds: int = 40) -> None:
    """Write committed, aborted and plain records in random order, by few keys, with tombstones; and leave a transaction open."""
    chance = random.Random(seed)
    writer = Transactions(cluster, topic)
    for _ in range(rounds):
        match chance.choice(["commit", "abort", "plain"]):
            case "plain":
                found = numbers(chance.randint(1, 6), first=chance.randrange(1000))
                write(cluster, topic, [(b"%d" % chance.randrange(20), value, at) for _, value, at in found])
            case end:
                writer.write(chance.randint(1, 6), end)
    writer.write(5, "left open", "hanging")
    write(cluster, topic, [(b"k", None, 1000), *numbers(2)])
    _KEPT.append(writer)


#: Producers whose transactions must stay open while their logs are read.
_KEPT: list[Transactions] = []


def log_of(cluster: KafkaCluster, topic: str) -> Log:
    inspector = TopicInspector(config_of(cluster), topic)
    stable = inspector.offsets([0], "latest", "read_committed")[0].offset
    return Log(topic, inspector.offsets([0], "earliest")[0].offset, stable, whole_log(cluster, topic))


def transactional(cluster: KafkaCluster, admin: AdminClient) -> Log:
    topic = fresh(cluster, "transactional")
    written(cluster, topic, seed=17)
    return log_of(cluster, topic)


def trimmed(cluster: KafkaCluster, admin: AdminClient) -> Log:
    """Records deleted up to the middle of a transaction."""
    topic = fresh(cluster, "trimmed")
    written(cluster, topic, seed=23)
    delete_before(admin, topic, 41)
    return log_of(cluster, topic)


def compacted(cluster: KafkaCluster, admin: AdminClient) -> Log:
    """Most records overwritten and gone, then frozen: a log that goes on changing has no oracle."""
    settings = {
        "cleanup.policy": "compact",
        "segment.ms": "100",
        "min.cleanable.dirty.ratio": "0.01",
        "delete.retention.ms": "100",
    }
    topic = fresh(cluster, "compacted", **settings)
    # Nothing beyond an open transaction is ever compacted, so this one has none.
    chance = random.Random(29)
    writer = Transactions(cluster, topic, key=lambda: b"%d" % chance.randrange(20))
    for _ in range(40):
        writer.write(chance.randint(1, 6), chance.choice(["commit", "abort"]))
        write(cluster, topic, [(b"%d" % chance.randrange(20), chance.choice([None, b'{"tx": "commit"}']), 1000)])
    end = find_offsets(config_of(cluster), topic, 1, "latest")[0]

    def is_compacted() -> bool:
        write(cluster, topic, [(b"roll", b'{"tx": "commit"}', int(time.time() * 1000))])
        return len([row for row in whole_log(cluster, topic) if row.offset < end]) < 60

    wait_until(is_compacted, 60)
    frozen = [("cleanup.policy", "delete"), ("retention.ms", "-1")]
    entries = [ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET) for name, value in frozen]
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=entries)
    admin.incremental_alter_configs([resource])[resource].result(20)
    seen: list[Log] = []

    def is_still() -> bool:
        seen.append(log_of(cluster, topic))
        return len(seen) > 8 and seen[-1] == seen[-8]

    wait_until(is_still)
    return seen[-1]


def fresh(cluster: KafkaCluster, name: str, **settings: str) -> str:
    topic = f"{name}-{time.monotonic_ns()}"
    create_topic(config_of(cluster), topic, partitions=1, settings={"retention.ms": "-1", **settings})
    return topic


@pytest.fixture(scope="module")
def logs(kafka_cluster: KafkaCluster, kafka_admin: AdminClient) -> Iterator[Callable[[str], Log]]:
    """Make each log once."""
    made: dict[str, Log] = {}

    def get(kind: str) -> Log:
        if kind not in made:
            made[kind] = {"transactional": transactional, "trimmed": trimmed, "compacted": compacted}[kind](
                kafka_cluster, kafka_admin
            )
        return made[kind]

    yield get
    _KEPT.clear()


@pytest.mark.parametrize("isolation", ["read_committed", "read_uncommitted"])
@pytest.mark.parametrize("kind", ["transactional", "compacted", "trimmed"])
def test_a_hundred_random_ranges_of_each_kind_of_log_give_what_the_oracle_saw(
    range_reader: Reader,
    kafka_cluster: KafkaCluster,
    logs: Callable[[str], Log],
    kind: str,
    isolation: Isolation,
) -> None:
    log = logs(kind)
    end, visible = log.end(isolation), log.visible(isolation)
    assert end - log.begin - len(visible) > 20, "a log without holes proves nothing"
    assert (log.begin > 0) is (kind == "trimmed")
    chance = random.Random(31)
    unseen_ends = lost = 0
    with opened(range_reader, kafka_cluster, log.topic, isolation) as reader:
        for _ in range(100):
            a, b = sorted(chance.sample(range(end + 1), 2))
            if a < log.begin:
                with pytest.raises(DataLost, match=rf"offsets \[{a}, {b}\) of {log.topic}"):
                    rows(reader, a, b)
                lost += 1
                continue
            found = rows(reader, a, b)
            assert found == [row for row in visible if a <= row.offset < b], (a, b)
            unseen_ends += not found or found[-1].offset != b - 1
    assert unseen_ends > 5, "ranges whose last offset nobody sees are the point"
    assert (lost > 5) is (kind == "trimmed")


# --- Transactions -----------------------------------------------------------------------------------------------------


def test_a_range_wholly_inside_an_aborted_transaction_is_empty_and_done_at_once(
    range_reader: Reader, kafka_cluster: KafkaCluster, topic: MakeTopic
) -> None:
    name = topic("aborted")
    writer = Transactions(kafka_cluster, name)
    for count, end in ((3, "commit"), (3, "abort"), (2, "commit"), (4, "abort")):
        writer.write(count, end)
    # Markers at 3, 7, 10 and 15: the log ends with one, behind four aborted records.
    with opened(range_reader, kafka_cluster, name, idle_seconds=60.0) as reader:
        began = time.monotonic()
        found = {
            bounds: [row.offset for row in rows(reader, *bounds)]
            for bounds in [(4, 6), (14, 16), (11, 16), (3, 4), (15, 16), (0, 16), (10, 13), (13, 15), (15, 16)]
        }
        assert time.monotonic() - began < 30, "not by silence"
    # The last three adjoin, each within what nobody sees: the end of the log is told for each of them.
    empty = [(4, 6), (14, 16), (11, 16), (3, 4), (15, 16), (10, 13), (13, 15)]
    assert found == {**{key: [] for key in empty}, (0, 16): [0, 1, 2, 8, 9]}
    with opened(range_reader, kafka_cluster, name, "read_uncommitted") as reader:
        assert [row.offset for row in rows(reader, 0, 16)] == [0, 1, 2, 4, 5, 6, 8, 9, 11, 12, 13, 14]


def test_a_hung_transaction_bounds_the_pin_and_what_lies_beyond_is_refused_not_waited_for(
    range_reader: Reader, kafka_cluster: KafkaCluster, topic: MakeTopic
) -> None:
    name = topic("hung")
    writer = Transactions(kafka_cluster, name)
    writer.write(3, "commit")
    writer.write(2, "left open", "hanging")
    write(kafka_cluster, name, numbers(1, first=90))
    pin = history(kafka_cluster, name).pin(Window())
    [partition] = pin.partitions
    assert (partition.end, partition.high_watermark) == (4, 7)
    with opened(range_reader, kafka_cluster, name, idle_seconds=60.0) as reader:
        assert [row.offset for row in rows(reader, 0, 4)] == [0, 1, 2]
        with pytest.raises(DataLost, match="ends at 4"):
            rows(reader, 0, 7)
        writer.finish("hanging", "abort")
        assert [row.offset for row in rows(reader, 0, 7)] == [0, 1, 2, 6]


# --- Retention, deletion, recreation ----------------------------------------------------------------------------------


def test_records_deleted_under_a_reader_fail_it_unless_it_has_them_already(
    range_reader: Reader, kafka_cluster: KafkaCluster, topic: MakeTopic, kafka_admin: AdminClient
) -> None:
    name = topic("truncated")
    write(kafka_cluster, name, wide(2000))
    with opened(range_reader, kafka_cluster, name, settings=SMALL) as reader:
        reading = reader.read(0, 0, 2000)
        got = next(reading).offsets.tolist()
        delete_before(kafka_admin, name, 1990)
        with pytest.raises(DataLost, match=rf"offsets \[0, 2000\) of {name}\[0\].*retention"):
            for batch in reading:
                got += batch.offsets.tolist()
        assert got == list(range(len(got)))
        assert len(got) < 1990
        assert [row.offset for row in rows(reader, 1990, 2000)] == list(range(1990, 2000)), "and it goes on after that"
    with opened(range_reader, kafka_cluster, name) as reader:
        reading = reader.read(0, 1990, 2000)
        got = next(reading).offsets.tolist()
        assert got == list(range(1990, 2000)), "ten small records come at once"
        delete_before(kafka_admin, name, 2000)
        assert [int(offset) for batch in reading for offset in batch.offsets] == []


@pytest.mark.parametrize("again", [False, True])
def test_a_topic_deleted_or_created_again_while_it_is_read_is_not_believed(
    range_reader: Reader, kafka_cluster: KafkaCluster, topic: MakeTopic, kafka_admin: AdminClient, again: bool
) -> None:
    name = topic("goes")
    write(kafka_cluster, name, wide(3000))
    with opened(range_reader, kafka_cluster, name, settings=SMALL, idle_seconds=1.0) as reader:
        reading = reader.read(0, 0, 3000)
        got = next(reading).offsets.tolist()
        if again:
            recreate(kafka_admin, name)
            # More than there were, so that every offset of the range exists in the new one too.
            wait_until(lambda: name in kafka_admin.list_topics(timeout=10).topics)
            write(kafka_cluster, name, [(b"k", b"another", int(time.time() * 1000))] * 4000)
        else:
            kafka_admin.delete_topics([name])[name].result(20)
        began = time.monotonic()
        with pytest.raises((SourceChanged, SourceMissing, DataLost)):
            for batch in reading:
                got += batch.offsets.tolist()
            # A live client can be given the new topic's records under the old one's offsets. Every proof begins with this question.
            reader.check()
        assert time.monotonic() - began < 30
    assert got == list(range(len(got)))


def test_a_topic_created_again_before_it_is_read_is_refused(
    range_reader: Reader, kafka_cluster: KafkaCluster, topic: MakeTopic, kafka_admin: AdminClient
) -> None:
    name = topic("before")
    write(kafka_cluster, name, numbers(10))
    with opened(range_reader, kafka_cluster, name) as reader:
        reader.check()
        recreate(kafka_admin, name)
        with pytest.raises(SourceChanged, match="created again"):
            reader.check()


def test_partitions_added_under_a_reader_disturb_nothing(
    range_reader: Reader, kafka_cluster: KafkaCluster, topic: MakeTopic, kafka_admin: AdminClient
) -> None:
    name = topic("wider")
    write(kafka_cluster, name, wide(1000))
    with opened(range_reader, kafka_cluster, name, settings=SMALL) as reader:
        reading = reader.read(0, 0, 1000)
        got = next(reading).offsets.tolist()
        kafka_admin.create_partitions([NewPartitions(name, 5)])[name].result(20)
        got += [int(offset) for batch in reading for offset in batch.offsets]
        reader.check()
    assert got == list(range(1000))


@pytest.mark.parametrize(("start", "end"), [(5, 20), (15, 20), (10, 11)])
def test_a_range_beyond_the_end_of_the_log_is_lost(
    range_reader: Reader, kafka_cluster: KafkaCluster, topic: MakeTopic, start: int, end: int
) -> None:
    name = topic("short")
    write(kafka_cluster, name, numbers(10))
    with opened(range_reader, kafka_cluster, name, idle_seconds=60.0) as reader:
        with pytest.raises(DataLost, match=name):
            rows(reader, start, end)
        write(kafka_cluster, name, numbers(10, first=10))
        assert [row.offset for row in rows(reader, start, end)] == list(range(start, end)), "and it goes on after that"


def test_a_topic_that_does_not_exist_is_missing_not_silent(range_reader: Reader, kafka_cluster: KafkaCluster) -> None:
    began = time.monotonic()
    with (
        range_reader(config_of(kafka_cluster), "nowhere", "AAAA", "read_committed", idle_seconds=1.0) as reader,
        pytest.raises(SourceMissing, match="nowhere"),
    ):
        rows(reader, 0, 5)
    assert time.monotonic() - began < 20


# --- What a record can be ---------------------------------------------------------------------------------------------


def test_null_and_empty_keys_values_and_headers_stay_what_they_are(
    range_reader: Reader, kafka_cluster: KafkaCluster, topic: MakeTopic
) -> None:
    name = topic("nothings")
    written: list[tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]]]] = [
        (None, None, []),
        (b"", b"", [("h", b""), ("h", None)]),
        (None, b"", [("h", b"\xff")]),
        (b"", None, [("", b"1")]),
        (b"\x00", b"\xff\x00", [("h", b"1"), ("h", b"2"), ("g", b"3")]),
    ]
    producer = confluent_kafka.Producer(config_of(kafka_cluster))
    for key, value, headers in written:
        producer.produce(name, value, key, headers=headers, timestamp=1000)
    assert producer.flush(20) == 0
    with opened(range_reader, kafka_cluster, name) as reader:
        assert rows(reader, 0, 5) == [Row(at, value, 1000) for at, (_, value, _) in enumerate(written)]
    heard = list(records_between(config_of(kafka_cluster), name, {0: 0}, {0: 5}))
    assert [(one.key, one.value, list(one.headers)) for one in heard] == written


def test_times_out_of_order_come_in_the_order_of_the_log_and_a_time_is_found_as_kafka_finds_it(
    range_reader: Reader, kafka_cluster: KafkaCluster, topic: MakeTopic
) -> None:
    name = topic("times")
    order = [1000, 5000, 2000, 3000, 9000, 4000]
    write(kafka_cluster, name, [(None, b"{}", milliseconds) for milliseconds in order])
    with opened(range_reader, kafka_cluster, name) as reader:
        assert [row.milliseconds for row in rows(reader, 0, 6)] == order

    def first_at(milliseconds: int) -> int:
        return find_offsets(config_of(kafka_cluster), name, 1, milliseconds * 1000)[0]

    assert [first_at(at) for at in (0, 2500, 5000, 5001, 9000, 9001)] == [0, 1, 1, 4, 4, 6]


def test_a_topic_whose_times_are_the_brokers_gives_those(
    range_reader: Reader, kafka_cluster: KafkaCluster, topic: MakeTopic
) -> None:
    name = topic("append", message_timestamp_type="LogAppendTime")
    before = int(time.time() * 1000) - 2000
    write(kafka_cluster, name, numbers(5))
    wait_until(lambda: time.time() * 1000 > before + 2100)
    middle = int(time.time() * 1000)
    wait_until(lambda: time.time() * 1000 > middle + 2)
    write(kafka_cluster, name, numbers(5, first=5))
    with opened(range_reader, kafka_cluster, name) as reader:
        times = [row.milliseconds for row in rows(reader, 0, 10)]
    assert times == sorted(times)
    assert before < times[0] <= times[4] <= middle < times[5] <= time.time() * 1000 + 2000
    of = history(kafka_cluster, name)
    pin = of.pin(Window(as_of=(middle + 1) * 1000))
    assert read(of, pin)[0]["n"].to_pylist() == list(range(5)), "what the producers said the time was does not count"
    assert TopicInspector(config_of(kafka_cluster), name).describe().timestamp_type == "LogAppendTime"


def test_batches_that_are_kept_stay_what_they_were_and_those_that_are_let_go_of_come_the_same(
    range_reader: Reader, kafka_cluster: KafkaCluster
) -> None:
    topic = fresh(kafka_cluster, "kept")
    sent = wide(2000)
    write(kafka_cluster, topic, sent)
    with opened(range_reader, kafka_cluster, topic) as reader:
        kept = list(reader.read(0, 0, 2000, {"keys"}))
        let_go = [value for batch in reader.read(0, 0, 2000) for value in batch.values.to_pylist()]
    assert [value for batch in kept for value in batch.values.to_pylist()] == [value for _, value, _ in sent]
    assert [int(time) for batch in kept for time in batch.times] == [time for _, _, time in sent]
    assert {key for batch in kept for key in batch.keys.to_pylist()} == {b"k"}
    assert let_go == [value for _, value, _ in sent]


@pytest.fixture(scope="module")
def large(kafka_cluster: KafkaCluster) -> str:
    """A topic with a record of 14 MB between two small ones."""
    topic = fresh(kafka_cluster, "large", **{"max.message.bytes": "20000000"})
    producer = confluent_kafka.Producer({**config_of(kafka_cluster), "message.max.bytes": 20_000_000})
    for value in (b"small", b"x" * 14_000_000, b"small"):
        producer.produce(topic, value, timestamp=1000)
    assert producer.flush(30) == 0
    return topic


def test_a_record_of_14_megabytes_is_read_however_little_is_asked_for_at_once(
    range_reader: Reader, kafka_cluster: KafkaCluster, large: str
) -> None:
    with opened(range_reader, kafka_cluster, large, settings={"fetch.message.max.bytes": 1000}) as reader:
        assert [len(row.value or b"") for row in rows(reader, 0, 3)] == [5, 14_000_000, 5]


def test_an_answer_larger_than_the_client_may_take_is_an_error_that_names_the_setting(
    range_reader: Reader, kafka_cluster: KafkaCluster, large: str
) -> None:
    small = {
        "fetch.message.max.bytes": 100_000,
        "fetch.max.bytes": 100_000,
        "message.max.bytes": 100_000,
        "receive.message.max.bytes": 200_000,
    }
    began = time.monotonic()
    with (
        opened(range_reader, kafka_cluster, large, settings=small) as reader,
        pytest.raises(ConfigError, match=rf"offsets \[0, 3\) of {large}.*`receive\.message\.max\.bytes`"),
    ):
        rows(reader, 0, 3)
    assert time.monotonic() - began < 30


# --- A compacted topic, read twice ------------------------------------------------------------------------------------


def test_a_compacted_topic_read_twice_in_one_run_is_the_same_or_an_error_and_says_so_beforehand(
    kafka_cluster: KafkaCluster, topic: MakeTopic
) -> None:
    name = topic(
        "twice", cleanup_policy="compact", segment_ms=100, min_cleanable_dirty_ratio=0.01, delete_retention_ms=100
    )
    write(kafka_cluster, name, [(b"%d" % (n % 3), b'{"n": %d, "m": 1, "tx": "commit"}' % n, 1000) for n in range(20)])
    of = history(kafka_cluster, name)
    pin = of.pin(Window())
    assert any("compacted" in caveat for caveat in pin.caveats)
    with of.reader(pin).open(cut_whole(pin)) as source:
        assert Data("t", {"t": source}).arrow(["n"]).num_rows == 20
        [first] = source.proofs()

        def compacted() -> bool:
            write(kafka_cluster, name, [(b"roll", b'{"n": -1, "tx": "commit"}', int(time.time() * 1000))])
            return len([row for row in whole_log(kafka_cluster, name) if row.offset < 20]) < 20

        wait_until(compacted, 60)
        with pytest.raises(SourceChanged, match="20 came the first time"):
            Data("t", {"t": source}).arrow(["m"])
    [second] = read(of, pin)[1]
    assert second.records < first.records == 20
    assert second.digest != first.digest
    assert (second.invisible or 0) + second.records == 20
