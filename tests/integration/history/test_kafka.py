"""Pinning and reading a real topic: complete or failed, whatever the log has gone through.

The oracle is a plain consumer that reads the whole log uncommitted, record by record; which records are committed is written in them.
"""

from __future__ import annotations

import itertools
import json
import pickle
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import confluent_kafka
import msgspec
import pyarrow as pa
import pytest
from confluent_kafka.admin import AdminClient, NewPartitions

from hindscan.data import Data, Proof
from hindscan.errors import (
    BadRecord,
    BrokerUnavailable,
    CorruptData,
    DataLost,
    HindscanError,
    SchemaMismatch,
    SourceChanged,
    SourceMissing,
)
from hindscan.history.columns import schema_from_columns, schema_from_text
from hindscan.history.declared import history_from_toml
from hindscan.history.kafka import KafkaHistory
from hindscan.history.snapshot import KafkaPin, Position, Window
from hindscan.kafka.fetch import Client, Event, RawBatch, Taken
from hindscan.kafka.log import RangeReader, make_client
from hindscan.kafka.topic import Isolation, TopicInspector
from hindscan.kafka.writer import create_topic
from hindscan.plans.cut import cut, cut_whole
from hindscan.testing import KafkaCluster, MockKafka

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]

MakeTopic = Callable[..., str]


@dataclass(frozen=True)
class Row:
    offset: int
    value: bytes | None
    milliseconds: int

    @property
    def is_committed(self) -> bool:
        return self.value is None or json.loads(self.value)["tx"] == "commit"


class Reader:
    """Which client the test at hand reads with."""

    name = "plain"


@pytest.fixture(params=["plain", "fast"], autouse=True)
def client(request: pytest.FixtureRequest) -> str:
    Reader.name = request.param
    return Reader.name


@pytest.fixture
def by_the_hundred(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small batches, so that something can happen between two of them."""
    monkeypatch.setattr("hindscan.kafka.fast._BATCH_RECORDS", 100)
    monkeypatch.setattr("hindscan.kafka.fetch.CONSUME_MESSAGES", 100)


def config_of(cluster: KafkaCluster) -> dict[str, Any]:
    return {"bootstrap.servers": cluster.bootstrap}


def reading(cluster: KafkaCluster) -> dict[str, Any]:
    return {**config_of(cluster), "hindscan.reader": Reader.name}


def write(
    cluster: KafkaCluster, topic: str, records: list[tuple[bytes | None, bytes | None, int]], partition: int = 0
) -> None:
    """Write (key, value, milliseconds) without a transaction, in small batches: a client gets at least one whole batch at a time."""
    producer = confluent_kafka.Producer({**config_of(cluster), "linger.ms": 0, "batch.num.messages": 10})
    for key, value, milliseconds in records:
        producer.produce(topic, value, key, partition, timestamp=milliseconds)
    assert producer.flush(30) == 0


def numbers(count: int, first: int = 0, **more: Any) -> list[tuple[bytes, bytes, int]]:
    return [
        (b"k", json.dumps({"n": n, "tx": "commit", **more}).encode(), 1000 + n) for n in range(first, first + count)
    ]


class Transactions:
    """Writes transactions to one partition; one left open needs a name of its own."""

    def __init__(self, cluster: KafkaCluster, topic: str, key: Callable[[], bytes | None] = lambda: None) -> None:
        # After a minute, the default, the broker would end what is left open: the tests of this file take longer where the machine is busy.
        self._config = {**config_of(cluster), "linger.ms": 0, "transaction.timeout.ms": 900_000}
        self._topic = topic
        self._key = key
        self._n = 0
        self._producers: dict[str, confluent_kafka.Producer] = {}

    def write(self, count: int, end: str, name: str = "one") -> None:
        if name not in self._producers:
            self._producers[name] = confluent_kafka.Producer(
                {**self._config, "transactional.id": f"{self._topic}-{name}"}
            )
            self._producers[name].init_transactions(30)
        producer = self._producers[name]
        producer.begin_transaction()
        for _ in range(count):
            value = json.dumps({"n": self._n, "tx": "commit" if end == "commit" else "abort"})
            producer.produce(self._topic, value.encode(), self._key(), partition=0, timestamp=1000 + self._n)
            self._n += 1
        assert producer.flush(30) == 0
        self.finish(name, end)

    def finish(self, name: str, end: str) -> None:
        if end == "commit":
            self._producers[name].commit_transaction(30)
        elif end == "abort":
            self._producers[name].abort_transaction(30)


def whole_log(cluster: KafkaCluster, topic: str, partition: int = 0) -> list[Row]:
    settings = {
        **config_of(cluster),
        "group.id": "oracle",
        "isolation.level": "read_uncommitted",
        "enable.partition.eof": True,
        "auto.offset.reset": "earliest",
        "fetch.wait.max.ms": 10,
    }
    consumer = confluent_kafka.Consumer(settings)
    consumer.assign([confluent_kafka.TopicPartition(topic, partition, confluent_kafka.OFFSET_BEGINNING)])
    rows = []
    while True:
        message = consumer.poll(30)
        assert message is not None, "the oracle met silence"
        error = message.error()
        if error is not None:
            assert error.code() == confluent_kafka.KafkaError._PARTITION_EOF
            consumer.close()
            return rows
        offset = message.offset()
        assert offset is not None
        rows.append(Row(offset, message.value(), message.timestamp()[1]))


def reader_of(
    cluster: KafkaCluster,
    topic: str,
    isolation: Isolation = "read_committed",
    **options: Any,
) -> RangeReader:
    topic_id = TopicInspector(config_of(cluster), topic).describe(settings=False).topic_id
    return RangeReader(reading(cluster), topic, topic_id, isolation, **options)


def offsets(reader: RangeReader, start: int, end: int, partition: int = 0) -> list[int]:
    return [int(offset) for batch in reader.read(partition, start, end) for offset in batch.offsets]


def history(cluster: KafkaCluster, topic: str, **settings: Any) -> KafkaHistory:
    made = history_from_toml("log", {"topic": topic, **settings}, clusters={"default": reading(cluster)}, root=".")
    assert isinstance(made, KafkaHistory)
    return made


def read(
    of: KafkaHistory, pin: KafkaPin, *, slice_rows: int = 1000, columns: list[str] | None = None
) -> tuple[pa.Table, list[Proof]]:
    """Read every slice alone, as workers do: the reader travels as bytes, the pin as JSON."""
    pin = msgspec.json.decode(msgspec.json.encode(pin), type=KafkaPin)
    reader = pickle.loads(pickle.dumps(of.reader(pin)))
    tables, proofs = [], []
    for piece in cut(pin, slice_rows):
        with reader.open([piece]) as source:
            tables.append(Data("t", {"t": source}).arrow(columns))
            proofs += source.proofs()
    schema = schema_from_text(pin.schema)
    empty = schema.empty_table() if columns is None else schema.empty_table().select(columns)
    return pa.concat_tables([empty, *tables]), proofs


# --- Ranges against the oracle ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def transactional(kafka_cluster: KafkaCluster, kafka_admin: AdminClient) -> Iterator[tuple[str, list[Row], int]]:
    """A log of committed, aborted and plain records in random order, with an open transaction and plain records at its end."""
    from confluent_kafka.admin import NewTopic

    topic = f"transactional-{time.monotonic_ns()}"
    kafka_admin.create_topics([NewTopic(topic, 1, 1, config={"retention.ms": "-1"})])[topic].result(20)
    chance = random.Random(7)
    writer = Transactions(kafka_cluster, topic)
    for _ in range(40):
        match chance.choice(["commit", "abort", "plain"]):
            case "plain":
                write(kafka_cluster, topic, numbers(chance.randint(1, 6)))
            case end:
                writer.write(chance.randint(1, 6), end)
    writer.write(5, "left open", "hanging")
    write(kafka_cluster, topic, numbers(3))
    inspector = TopicInspector(config_of(kafka_cluster), topic)
    stable = inspector.offsets([0], "latest", "read_committed")[0].offset
    yield topic, whole_log(kafka_cluster, topic), stable
    del writer


@pytest.mark.parametrize("isolation", ["read_committed", "read_uncommitted"])
def test_a_hundred_random_ranges_give_what_the_oracle_saw(
    kafka_cluster: KafkaCluster, transactional: tuple[str, list[Row], int], isolation: Isolation
) -> None:
    topic, log, stable = transactional
    end = stable if isolation == "read_committed" else log[-1].offset + 1
    visible = [row for row in log if row.offset < end and (row.is_committed or isolation == "read_uncommitted")]
    assert end - len(visible) > 20, "a log without holes proves nothing"
    chance = random.Random(11)
    unseen_ends = 0
    with reader_of(kafka_cluster, topic, isolation) as reader:
        for _ in range(100):
            a, b = sorted(chance.sample(range(end + 1), 2))
            found = [
                Row(offset, value, milliseconds)
                for batch in reader.read(0, a, b)
                for offset, value, milliseconds in zip(
                    batch.offsets, batch.values.to_pylist(), batch.times, strict=True
                )
            ]
            assert found == [row for row in visible if a <= row.offset < b], (a, b)
            unseen_ends += not found or found[-1].offset != b - 1
    assert unseen_ends > 10, "ranges whose last offset nobody sees are the point"


def test_every_cut_of_the_log_gives_the_same_rows_and_the_same_digest_twice(
    kafka_cluster: KafkaCluster, transactional: tuple[str, list[Row], int]
) -> None:
    topic, log, stable = transactional
    of = history(kafka_cluster, topic)
    pin = of.pin(Window())
    assert pin.partitions[0].end == stable
    expected = [json.loads(row.value or b"")["n"] for row in log if row.offset < stable and row.is_committed]
    for slice_rows in (1000, 50, 7):
        table, proofs = read(of, pin, slice_rows=slice_rows)
        again = read(of, pin, slice_rows=slice_rows)[1]
        assert table["n"].to_pylist() == expected
        assert proofs == again
        assert sum(proof.records for proof in proofs) == len(expected)
        assert sum(proof.records + (proof.invisible or 0) for proof in proofs) == stable


def test_ranges_that_follow_each_other_go_on_without_a_gap(kafka_cluster: KafkaCluster, topic: MakeTopic) -> None:
    name = topic("adjacent")
    write(kafka_cluster, name, numbers(5000))
    chance = random.Random(3)
    bounds = sorted({0, 5000, *(chance.randrange(5000) for _ in range(40))})
    with reader_of(kafka_cluster, name) as reader:
        found = [offsets(reader, a, b) for a, b in itertools.pairwise(bounds)]
        assert found == [list(range(a, b)) for a, b in itertools.pairwise(bounds)]
        assert offsets(reader, 10, 20) == list(range(10, 20)), "and back again"


def test_a_range_that_was_left_half_way_does_not_spoil_the_next(kafka_cluster: KafkaCluster, topic: MakeTopic) -> None:
    name = topic("left")
    write(kafka_cluster, name, numbers(3000))
    with reader_of(kafka_cluster, name) as reader:
        next(iter(reader.read(0, 0, 3000)))
        assert offsets(reader, 5, 9) == [5, 6, 7, 8]


class Stale:
    """A client that has met the end of a log that was shorter, and tells it after the log has grown to the pinned end."""

    def __init__(self, client: Client, events: list[Event]) -> None:
        self._client, self._events = client, events
        self.begin, self.close = client.begin, client.close
        self.gives, self.refusals = client.gives, client.refusals

    def take(self, end: int, parts: Any = ()) -> Taken:
        if self._events:
            return Taken(batch=RawBatch.of([]), event=self._events.pop(0))
        return self._client.take(end, parts)


def test_a_stale_end_of_partition_ends_nothing(kafka_cluster: KafkaCluster, topic: MakeTopic) -> None:
    name = topic("stale")
    write(kafka_cluster, name, numbers(3))
    end = confluent_kafka.KafkaError._PARTITION_EOF
    events = [Event(code=end, offset=1, text=""), Event(code=end, offset=2, text="")]
    stale = Stale(make_client(reading(kafka_cluster), name, "read_committed"), events)
    with reader_of(kafka_cluster, name, client=stale) as reader:
        assert offsets(reader, 0, 3) == [0, 1, 2]
    assert events == []


def test_the_client_tells_the_end_of_a_log_that_has_grown_since(kafka_cluster: KafkaCluster, topic: MakeTopic) -> None:
    """Where a reader stands at the end and the log goes on, end after end comes, and none of them ends the range."""
    name = topic("growing")
    write(kafka_cluster, name, numbers(1))
    client = make_client(reading(kafka_cluster), name, "read_committed")
    client.begin(0, 0)
    met: list[object] = []
    for grown in (1, 2, 3):
        wait_until(lambda: met.append(taken := client.take(9)) or taken.event is not None)  # type: ignore[func-returns-value]
        write(kafka_cluster, name, numbers(1, first=grown))
    client.close()
    assert [taken.event.offset for taken in met if taken.event] == [1, 2, 3]  # type: ignore[attr-defined]
    assert [int(offset) for taken in met for offset in taken.batch.offsets] == [0, 1, 2]  # type: ignore[attr-defined]


def test_an_empty_partition_and_an_empty_range_are_done_at_once(kafka_cluster: KafkaCluster, topic: MakeTopic) -> None:
    name = topic("empty", partitions=3)
    write(kafka_cluster, name, numbers(4), partition=1)
    of = history(kafka_cluster, name)
    pin = of.pin(Window())
    assert [(p.start, p.end) for p in pin.partitions] == [(0, 0), (0, 4), (0, 0)]
    table, proofs = read(of, pin)
    assert table["n"].to_pylist() == [0, 1, 2, 3]
    assert len(proofs) == 1
    with of.reader(pin).open([]) as source:
        assert Data("t", {"t": source}).arrow().num_rows == 0
    with reader_of(kafka_cluster, name) as reader:
        assert offsets(reader, 3, 3, partition=1) == []


# --- What a pin says --------------------------------------------------------------------------------------------------


def test_a_pin_ends_at_the_last_stable_offset_and_reports_what_holds_it_back(
    kafka_cluster: KafkaCluster, transactional: tuple[str, list[Row], int]
) -> None:
    topic, log, stable = transactional
    started = time.monotonic()
    pin = history(kafka_cluster, topic).pin(Window())
    assert time.monotonic() - started < 10
    [partition] = pin.partitions
    assert (partition.start, partition.end) == (0, stable)
    assert partition.high_watermark == log[-1].offset + 1 > stable
    assert any(f"{partition.high_watermark - stable} offsets in partition 0" in caveat for caveat in pin.caveats)
    uncommitted = history(kafka_cluster, topic, isolation="read_uncommitted").pin(Window())
    assert uncommitted.partitions[0].end == partition.high_watermark


def test_a_pin_tells_the_topics_settings_and_until_when_it_is_repeatable(
    kafka_cluster: KafkaCluster, topic: MakeTopic
) -> None:
    name = topic("settings", retention_ms=3_600_000, cleanup_policy="compact,delete")
    write(kafka_cluster, name, [(b"k", b'{"n": 1}', int(time.time() * 1000))])
    pin = history(kafka_cluster, name).pin(Window())
    assert pin.cleanup_policy is not None
    assert set(pin.cleanup_policy.split(",")) == {"compact", "delete"}
    assert pin.retention_ms == 3_600_000
    assert any("compacted" in caveat for caveat in pin.caveats)
    assert any("3600000 ms" in caveat for caveat in pin.caveats)
    assert pin.unverified is None
    assert len(pin.topic_id) > 10


def test_a_pinned_run_does_not_see_what_comes_later(
    kafka_cluster: KafkaCluster, topic: MakeTopic, kafka_admin: AdminClient
) -> None:
    name = topic("later")
    write(kafka_cluster, name, numbers(10))
    of = history(kafka_cluster, name)
    pin = of.pin(Window())
    write(kafka_cluster, name, numbers(10, first=10))
    kafka_admin.create_partitions([NewPartitions(name, 3)])[name].result(20)
    assert read(of, pin)[0]["n"].to_pylist() == list(range(10))

    def grown() -> bool:
        return len(of.pin(Window()).partitions) == 3

    wait_until(grown)


def wait_until(done: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def test_the_same_pin_infers_the_same_schema_and_a_later_mismatch_fails_by_name(
    kafka_cluster: KafkaCluster, topic: MakeTopic
) -> None:
    name = topic("inferred")
    write(kafka_cluster, name, numbers(5, at="2018-01-01T00:00:00Z"))
    write(kafka_cluster, name, [(None, b'{"n": "six", "tx": "commit"}', 1)])
    of = history(kafka_cluster, name, time="at")
    with pytest.raises(SchemaMismatch, match="n is int64 and string"):
        of.pin(Window())
    declared = history(kafka_cluster, name, columns={"n": "int64"})
    pin = declared.pin(Window())
    assert pin.schema_from == "declared"
    with pytest.raises(BadRecord) as refused:
        read(declared, pin)
    assert f"{name}[0] at offset 5" in str(refused.value)
    assert refused.value.details["field"] == "n"
    aside = history(kafka_cluster, name, columns={"n": "int64"}, on_bad_record="set aside")
    table, [proof] = read(aside, aside.pin(Window()))
    assert table["n"].to_pylist() == list(range(5))
    assert (proof.set_aside, proof.records, proof.invisible) == (1, 5, 0)
    assert proof.bad_records[0].startswith("0:5: n: ")


def test_a_topic_without_records_needs_declared_columns(kafka_cluster: KafkaCluster, topic: MakeTopic) -> None:
    name = topic("nothing")
    with pytest.raises(SchemaMismatch, match="columns"):
        history(kafka_cluster, name).pin(Window())
    pin = history(kafka_cluster, name, columns={"n": "int64"}).pin(Window())
    assert cut_whole(pin) == ()


def test_the_secret_of_a_cluster_is_in_no_pin_and_no_text(kafka_cluster: KafkaCluster, topic: MakeTopic) -> None:
    name = topic("secret")
    write(kafka_cluster, name, numbers(1))
    config = {**config_of(kafka_cluster), "sasl.password": "canary-7f3a"}
    of = KafkaHistory(name="log", cluster="default", config=config, topic=name)
    pin = of.pin(Window())
    assert "canary-7f3a" not in msgspec.json.encode(pin).decode() + repr(of) + repr(of.reader(pin)) + str(
        of.reader(pin).identity()
    )


# --- As of ------------------------------------------------------------------------------------------------------------


def test_as_of_takes_rows_before_it_by_the_time_column_or_the_records_own_time(
    kafka_cluster: KafkaCluster, topic: MakeTopic
) -> None:
    name = topic("as-of")
    # Times out of order, as those of a real topic are.
    order = [3, 1, 4, 0, 5, 2]
    write(
        kafka_cluster,
        name,
        [(None, json.dumps({"n": n, "at": f"1970-01-01T00:00:0{n}Z"}).encode(), 6000 - n * 1000) for n in order],
    )
    by_column = history(kafka_cluster, name, time="at")
    pin = by_column.pin(Window(as_of=3_000_000, since=1_000_000))
    table, [proof] = read(by_column, pin)
    assert table["n"].to_pylist() == [1, 2]
    assert (proof.records, proof.greatest_time) == (6, 5_000_000)
    by_record = history(kafka_cluster, name)
    assert read(by_record, by_record.pin(Window(as_of=3_000_000)))[0]["n"].to_pylist() == [4, 5]
    assert read(by_record, by_record.pin(Window(as_of=3_000_001)))[0]["n"].to_pylist() == [3, 4, 5]
    ignoring = history(kafka_cluster, name, time="at", as_of="ignore")
    pin = ignoring.pin(Window(as_of=3_000_000))
    assert "ignored" in pin.caveats[0]
    assert read(ignoring, pin)[0].num_rows == 6


def test_a_record_without_a_time_is_never_dropped_in_silence(kafka_cluster: KafkaCluster, topic: MakeTopic) -> None:
    name = topic("timeless")
    write(kafka_cluster, name, [(None, b'{"n": 1, "at": "1970-01-01T00:00:00Z"}', 1), (None, b'{"n": 2}', 2)])
    of = history(kafka_cluster, name, time="at")
    with pytest.raises(BadRecord, match="1 have none"):
        read(of, of.pin(Window(as_of=5)))
    assert read(of, of.pin(Window()))[0].num_rows == 2


def test_the_events_own_partition_ends_before_the_event(kafka_cluster: KafkaCluster, topic: MakeTopic) -> None:
    name = topic("own", partitions=2)
    for partition in (0, 1):
        write(kafka_cluster, name, numbers(10), partition=partition)
    of = history(kafka_cluster, name)
    topic_id = of.pin(Window()).topic_id

    def ends(**at: Any) -> list[int]:
        position = Position(
            **{"cluster": "default", "topic": name, "topic_id": topic_id, "partition": 1, "offset": 4, **at}
        )
        return [p.end for p in of.pin(Window(position=position)).partitions]

    assert ends() == [10, 4]
    assert ends(offset=0) == [10, 0]
    assert ends(offset=50) == [10, 10]
    assert ends(topic="another") == [10, 10]
    assert ends(cluster="another") == [10, 10]
    with pytest.raises(SourceChanged, match="created again"):
        ends(topic_id="AAAA")


# --- What a log goes through ------------------------------------------------------------------------------------------


def test_tombstones_are_counted_and_are_no_rows(kafka_cluster: KafkaCluster, topic: MakeTopic) -> None:
    name = topic("tombstones")
    write(kafka_cluster, name, [(b"a", b'{"n": 1}', 1), (b"a", None, 2), (b"b", b'{"n": 2}', 3), (b"b", None, 4)])
    of = history(kafka_cluster, name)
    table, [proof] = read(of, of.pin(Window()))
    assert table["n"].to_pylist() == [1, 2]
    assert (proof.records, proof.tombstones, proof.invisible, proof.last_offset) == (2, 2, 0, 3)


def test_a_null_value_and_an_empty_value_are_not_the_same(kafka_cluster: KafkaCluster, topic: MakeTopic) -> None:
    name = topic("null-value")
    write(kafka_cluster, name, [(b"a", b"", 1), (b"a", None, 2), (b"a", b"\xff\x00", 3)])
    of = history(kafka_cluster, name, format="bytes")
    table, [proof] = read(of, of.pin(Window()))
    assert table["value"].to_pylist() == [b"", b"\xff\x00"]
    assert proof.tombstones == 1


def test_a_compacted_log_neither_hangs_nor_miscounts(kafka_cluster: KafkaCluster, topic: MakeTopic) -> None:
    name = topic(
        "compacted", cleanup_policy="compact", segment_ms=100, min_cleanable_dirty_ratio=0.01, delete_retention_ms=100
    )
    for round_ in range(4):
        write(
            kafka_cluster,
            name,
            [(b"%d" % k, json.dumps({"n": round_ * 10 + k, "tx": "commit"}).encode(), 1000) for k in range(5)],
        )
    of = history(kafka_cluster, name)
    pin = of.pin(Window())
    end = pin.partitions[0].end
    assert end == 20

    def compacted() -> bool:
        # A record to roll the segment: the active one is never compacted.
        write(kafka_cluster, name, [(b"roll", b'{"n": -1, "tx": "commit"}', int(time.time() * 1000))])
        return len([row for row in whole_log(kafka_cluster, name) if row.offset < end]) < 20

    wait_until(compacted, 60)
    # More may vanish at any time, so the oracle looks before and after.
    before = {row.offset for row in whole_log(kafka_cluster, name) if row.offset < end}
    with reader_of(kafka_cluster, name) as reader:
        found = set(offsets(reader, 0, end))
    after = {row.offset for row in whole_log(kafka_cluster, name) if row.offset < end}
    assert after <= found <= before
    _, proofs = read(of, pin)
    assert sum((proof.invisible or 0) for proof in proofs) == end - sum(proof.records for proof in proofs) > 0


def delete_before(admin: AdminClient, topic: str, offset: int) -> None:
    admin.delete_records([confluent_kafka.TopicPartition(topic, 0, offset)])[
        confluent_kafka.TopicPartition(topic, 0, offset)
    ].result(20)


def test_records_deleted_by_retention_fail_the_read_by_name(
    kafka_cluster: KafkaCluster, topic: MakeTopic, kafka_admin: AdminClient
) -> None:
    name = topic("retention")
    write(kafka_cluster, name, numbers(1000))
    of = history(kafka_cluster, name)
    pin = of.pin(Window())
    delete_before(kafka_admin, name, 100)
    with pytest.raises(DataLost, match=name):
        read(of, pin)
    later = of.pin(Window())
    assert (later.partitions[0].start, later.partitions[0].log_start) == (100, 100)
    assert read(of, later)[0]["n"].to_pylist() == list(range(100, 1000))


@pytest.mark.usefixtures("by_the_hundred")
def test_retention_that_overtakes_a_reader_fails_it_and_one_that_comes_after_does_not(
    kafka_cluster: KafkaCluster, topic: MakeTopic, kafka_admin: AdminClient
) -> None:
    name = topic("overtaken")
    write(kafka_cluster, name, [(b"k", b'{"n": %d, "p": "%s"}' % (n, b"x" * 2000), 1000) for n in range(4000)])
    slow = {
        **reading(kafka_cluster),
        "fetch.message.max.bytes": 4000,
        "queued.max.messages.kbytes": 8,
        "queued.min.messages": 1,
        "max.partition.fetch.bytes": 4000,
    }
    topic_id = TopicInspector(slow, name).describe(settings=False).topic_id
    with RangeReader(slow, name, topic_id, "read_committed") as reader, pytest.raises(DataLost, match="retention"):
        for batch in reader.read(0, 0, 4000):
            assert batch.offsets[-1] < 3999, "the client must not have fetched everything at once"
            delete_before(kafka_admin, name, 3990)
    of = history(kafka_cluster, name)
    pin = of.pin(Window())
    with of.reader(pin).open(cut_whole(pin)) as source:
        rows = Data("t", {"t": source}).arrow(["n"]).num_rows
        delete_before(kafka_admin, name, 4000)
        assert [proof.records for proof in source.proofs()] == [rows] == [10]


def test_offsets_beyond_the_end_of_the_log_are_lost_not_waited_for(
    kafka_cluster: KafkaCluster, topic: MakeTopic
) -> None:
    name = topic("short")
    write(kafka_cluster, name, numbers(10))
    # The end that the client tells of is looked into at once: silence is not waited for.
    started = time.monotonic()
    with reader_of(kafka_cluster, name, idle_seconds=60) as reader, pytest.raises(DataLost, match="ends at 10"):
        offsets(reader, 5, 20)
    assert time.monotonic() - started < 30
    with reader_of(kafka_cluster, name) as reader, pytest.raises(DataLost):
        offsets(reader, 15, 20)


@pytest.mark.parametrize("client", ["plain"], indirect=True)
def test_a_missing_topic_is_an_error_within_ten_seconds(kafka_cluster: KafkaCluster, topic: MakeTopic) -> None:
    started = time.monotonic()
    with pytest.raises(SourceMissing, match="nowhere"):
        history(kafka_cluster, "nowhere").pin(Window())
    with (
        RangeReader(reading(kafka_cluster), "nowhere", "AAAA", "read_committed") as reader,
        pytest.raises(SourceMissing),
    ):
        offsets(reader, 0, 5)
    assert time.monotonic() - started < 20, "ten seconds each"
    name = topic("two", partitions=2)
    with pytest.raises(SourceMissing, match=r"partitions \[5\]"):
        history(kafka_cluster, name, partitions=[0, 5]).pin(Window())


@pytest.mark.parametrize("client", ["plain"], indirect=True)
def test_no_broker_is_an_error_within_ten_seconds() -> None:
    of = history_from_toml("log", {"topic": "t"}, clusters={"default": {"bootstrap.servers": "127.0.0.1:1"}}, root=".")
    started = time.monotonic()
    with pytest.raises(BrokerUnavailable, match=r"127\.0\.0\.1:1"):
        of.pin(Window())
    assert time.monotonic() - started < 10.5


def recreate(admin: AdminClient, topic: str) -> None:
    from confluent_kafka.admin import NewTopic

    admin.delete_topics([topic])[topic].result(20)

    def created() -> bool:
        try:
            admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(20)
        except confluent_kafka.KafkaException:
            return False
        return True

    wait_until(created)


def test_a_topic_that_was_created_again_is_refused_however_many_records_it_has(
    kafka_cluster: KafkaCluster, topic: MakeTopic, kafka_admin: AdminClient
) -> None:
    name = topic("recreated")
    write(kafka_cluster, name, numbers(100))
    of = history(kafka_cluster, name)
    pin = of.pin(Window())
    [piece] = cut(pin, 1000)
    with of.reader(pin).open([piece]) as source:
        assert Data("t", {"t": source}).arrow().num_rows == 100
        recreate(kafka_admin, name)
        now = int(time.time() * 1000)
        write(kafka_cluster, name, [(key, value, now) for key, value, _ in numbers(200, first=1000)])
        with pytest.raises(SourceChanged, match="created again"):
            source.proofs()
    with pytest.raises(SourceChanged, match="created again"):
        read(of, pin)
    assert of.pin(Window()).topic_id != pin.topic_id


@pytest.mark.usefixtures("by_the_hundred")
def test_a_topic_deleted_while_it_is_read_is_an_error_not_silence(
    kafka_cluster: KafkaCluster, topic: MakeTopic, kafka_admin: AdminClient
) -> None:
    # A client that may hold one megabyte cannot have fetched thirty when the topic goes.
    name = topic("deleted")
    write(kafka_cluster, name, numbers(30_000, text="x" * 1000))
    topic_id = TopicInspector(config_of(kafka_cluster), name).describe(settings=False).topic_id
    small = {"queued.max.messages.kbytes": 1000, "fetch.message.max.bytes": 100_000}
    with RangeReader({**reading(kafka_cluster), **small}, name, topic_id, "read_committed", idle_seconds=1.0) as reader:
        batches = reader.read(0, 0, 30_000)
        first = next(batches).offsets
        kafka_admin.delete_topics([name])[name].result(20)
        wait_until(lambda: name not in kafka_admin.list_topics(timeout=10).topics)
        started = time.monotonic()
        got = first.tolist()
        with pytest.raises((SourceMissing, DataLost)):
            for batch in batches:
                got += batch.offsets.tolist()
        assert time.monotonic() - started < 20
    assert got == list(range(len(got)))
    assert len(got) < 30_000


def test_a_record_of_14_megabytes_is_read(kafka_cluster: KafkaCluster, topic: MakeTopic) -> None:
    name = topic("large", max_message_bytes=20_000_000)
    big = json.dumps({"n": 1, "text": "x" * 14_000_000}).encode()
    producer = confluent_kafka.Producer({**config_of(kafka_cluster), "message.max.bytes": 20_000_000})
    for value in (b'{"n": 0}', big, b'{"n": 2}'):
        producer.produce(name, value, timestamp=1000)
    assert producer.flush(30) == 0
    of = history(kafka_cluster, name, columns={"n": "int64", "text": "string"})
    table, [proof] = read(of, of.pin(Window()))
    assert table["n"].to_pylist() == [0, 1, 2]
    assert [len(text or "") for text in table["text"].to_pylist()] == [0, 14_000_000, 0]
    assert proof.bytes == len(big) + 16


def test_only_the_chosen_partitions_are_history(kafka_cluster: KafkaCluster, topic: MakeTopic) -> None:
    name = topic("chosen", partitions=3)
    for partition in range(3):
        write(kafka_cluster, name, numbers(2, first=partition * 10), partition=partition)
    of = history(kafka_cluster, name, partitions=[2, 0])
    assert read(of, of.pin(Window()))[0]["n"].to_pylist() == [0, 1, 20, 21]


def test_columns_asked_for_later_are_read_again_and_are_of_the_same_records(
    kafka_cluster: KafkaCluster, topic: MakeTopic
) -> None:
    name = topic("again")
    write(kafka_cluster, name, numbers(500, colour="red"))
    of = history(kafka_cluster, name)
    pin = of.pin(Window(as_of=1_100_000))
    with of.reader(pin).open(cut_whole(pin)) as source:
        data = Data("t", {"t": source})
        assert data.sql("SELECT sum(n)::BIGINT AS s FROM t").to_pylist() == [{"s": sum(range(100))}]
        first = source.proofs()
        assert data.sql("SELECT count(*) AS c, max(n) AS m FROM t WHERE colour = 'red'").to_pylist() == [
            {"c": 100, "m": 99}
        ]
        assert source.proofs() == first


# --- The broker itself ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory, kafka_cluster: KafkaCluster) -> Iterator[KafkaCluster]:
    """A broker that may be killed and whose files may be touched."""
    with KafkaCluster(folder=tmp_path_factory.mktemp("mortal") / "kafka") as cluster:
        yield cluster


def test_a_flipped_byte_on_the_brokers_disk_is_corrupt_data(mortal: KafkaCluster) -> None:
    topic = f"flipped-{Reader.name}"
    create_topic(config_of(mortal), topic, partitions=1, settings={"retention.ms": "-1"})
    write(mortal, topic, [(b"k", b'{"price": 5005}', 1000)])
    mortal.stop()
    [segment] = mortal.folder.glob(f"node-0/data/{topic}-0/00000000000000000000.log")
    content = bytearray(segment.read_bytes())
    content[content.index(b"5005")] = ord("9")
    segment.write_bytes(content)
    mortal.restart()
    with reader_of(mortal, topic) as reader, pytest.raises(CorruptData, match=rf"offsets \[0, 1\) of {topic}\[0\]"):
        offsets(reader, 0, 1)


@pytest.mark.usefixtures("by_the_hundred")
def test_a_broker_that_is_killed_while_it_is_read_costs_time_and_no_record(mortal: KafkaCluster) -> None:
    topic = f"killed-{Reader.name}"
    create_topic(config_of(mortal), topic, partitions=1, settings={"retention.ms": "-1"})
    write(mortal, topic, [(b"k", b'{"n": %d, "p": "%s"}' % (n, b"x" * 1000), 1000) for n in range(6000)])
    slow = {
        **reading(mortal),
        "fetch.message.max.bytes": 20_000,
        "queued.max.messages.kbytes": 32,
        "queued.min.messages": 1,
    }
    topic_id = TopicInspector(slow, topic).describe(settings=False).topic_id
    found: list[int] = []
    with RangeReader(slow, topic, topic_id, "read_committed", idle_seconds=1.0) as reader:
        for number, batch in enumerate(reader.read(0, 0, 6000)):
            found += batch.offsets.tolist()
            if number == 0:
                assert found[-1] < 5999
                mortal.restart()
    assert found == list(range(6000))
    mortal.kill()
    with (
        RangeReader(slow, topic, topic_id, "read_committed", idle_seconds=0.5, outage_seconds=2.0) as reader,
        pytest.raises(BrokerUnavailable),
    ):
        offsets(reader, 0, 6000)
    mortal.restart()


@pytest.mark.parametrize("client", ["plain"], indirect=True)
def test_the_mock_is_unverified_and_only_where_it_is_declared() -> None:
    with MockKafka({"t": 1}) as mock:
        producer = confluent_kafka.Producer({"bootstrap.servers": mock.bootstrap})
        for n in range(10):
            producer.produce("t", b'{"n": %d}' % n, timestamp=1000 + n)
        assert producer.flush(10) == 0
        clusters = {"default": {"bootstrap.servers": mock.bootstrap, "hindscan.mock": True}}
        of = history_from_toml("log", {"topic": "t"}, clusters=clusters, root=".")
        assert isinstance(of, KafkaHistory)
        pin = of.pin(Window())
        assert pin.unverified == "mock"
        assert any("mock" in caveat for caveat in pin.caveats)
        table, [proof] = read(of, pin)
        assert table["n"].to_pylist() == list(range(10))
        assert proof.unverified == "mock"
        undeclared = history_from_toml(
            "log", {"topic": "t"}, clusters={"default": {"bootstrap.servers": mock.bootstrap}}, root="."
        )
        with pytest.raises(HindscanError):
            undeclared.pin(Window())


def test_a_declared_schema_of_a_topic_is_its_columns(kafka_cluster: KafkaCluster, topic: MakeTopic) -> None:
    name = topic("declared")
    write(kafka_cluster, name, numbers(3))
    of = history(kafka_cluster, name, columns={"tx": "string", "n": "int32 not null"})
    pin = of.pin(Window())
    assert schema_from_text(pin.schema) == schema_from_columns({"tx": "string", "n": "int32 not null"})
    assert read(of, pin)[0].to_pylist() == [{"tx": "commit", "n": n} for n in range(3)]
    assert pin.record_bytes > 0
