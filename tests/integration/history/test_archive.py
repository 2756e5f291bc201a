"""How much of a topic is archived changes no bit of what is read, and what is lost or changed is an error by name.

The oracle is the topic itself, read as a history of its own, and DuckDB over the archive's files.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import confluent_kafka
import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic
from msgspec.structs import replace

import hindscan.history.stitched as stitched_module
from hindscan.data import Data
from hindscan.errors import (
    BadRecord,
    Conflict,
    CorruptData,
    DataLost,
    OutOfOrder,
    SchemaMismatch,
    SourceChanged,
    SourceMissing,
    UsageError,
)
from hindscan.files import look
from hindscan.history.archive import MANIFEST, read_archive, write_archive
from hindscan.history.archiving import archive
from hindscan.history.declared import history_from_toml
from hindscan.history.kafka import KafkaHistory
from hindscan.history.snapshot import KafkaSlice, Position, Window
from hindscan.history.stitched import StitchedHistory
from hindscan.history.window import make_window
from hindscan.plans.cut import cut
from hindscan.runs.digest import table_digest
from hindscan.testing import KafkaCluster, MockKafka
from integration.history.archives import COLUMNS, SLICE_ROWS, Both, both, fill, mixed, parquet_files, read, value

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]

MakeTopic = Callable[..., str]
#: Bounds by the time column, some of them in the middle of every slice.
WINDOWS = [
    Window(),
    Window(as_of=30 * 60_000_000),
    Window(since=10 * 60_000_000, until=40 * 60_000_000, as_of=35 * 60_000_000),
]


@pytest.fixture(scope="module")
def log(kafka_cluster: KafkaCluster, kafka_admin: AdminClient) -> str:
    """A topic with everything in it, which no test changes."""
    name = "archived-log"
    kafka_admin.create_topics([NewTopic(name, 3, 1, config={"retention.ms": "-1"})])[name].result(20)
    mixed(kafka_cluster, name)
    return name


def delete_before(admin: AdminClient, topic: str, partition: int, offset: int) -> None:
    """Do what retention does."""
    place = TopicPartition(topic, partition, offset)
    admin.delete_records([place])[place].result(20)


def bounds(of: KafkaHistory | StitchedHistory, window: Window) -> list[tuple[int | None, ...]]:
    """Give what of slices is in a key."""
    pieces = cut(of.pin(window), SLICE_ROWS)
    return [(s.partition, s.start, s.end, s.since, s.before) for s in pieces if isinstance(s, KafkaSlice)]


# --- Where the archive ends shows in nothing --------------------------------------------------------------------------


def test_wherever_the_archive_ends_rows_slices_and_keys_are_those_of_the_topic(
    kafka_cluster: KafkaCluster, log: str, tmp_path: Path
) -> None:
    histories = both(kafka_cluster, log, tmp_path)
    expected = {window: read(histories.topic, window) for window in WINDOWS}
    pinned = histories.topic.pin(Window())
    ends = {one.partition: one.end for one in pinned.partitions}
    assert ends[0] > 60 < ends[1], "several slices in each"
    assert ends[2] == 0
    chance = random.Random(3)
    steps = [
        {0: 7, 1: 0}, {0: 7, 1: 20}, {0: SLICE_ROWS + 1}, *({p: chance.randrange(25, 60) for p in (0, 1)} for _ in range(2)), ends,
    ]  # fmt: skip
    reached = dict.fromkeys(ends, 0)
    for step, wanted in enumerate(steps):
        until = {partition: max(offset, reached[partition]) for partition, offset in wanted.items()}
        reached |= until
        archive(histories.stitched, slice_rows=SLICE_ROWS, until=until)
        pin = histories.stitched.pin(window := WINDOWS[step % 3])
        assert pin.archive is not None
        assert {p: pin.archive.end(p, 0) for p in ends} == reached
        assert histories.stitched.reader(pin).identity() == histories.topic.reader(pinned).identity()
        tables, proven = expected[window]
        found, proofs = read(histories.stitched, pin=pin)
        assert [table_digest(table) for table in found] == [table_digest(table) for table in tables]
        assert found == tables
        assert bounds(histories.stitched, window) == bounds(histories.topic, window)
        assert [proof.records for proof in proofs] == [proof.records for proof in proven]
    assert step == 5
    # Files that were archived in steps have a digest for each step, and of an archive nobody asks for its order; all else that is proven is the same.
    of_topic = {"digest": "", "least_time": None, "latest_record_time": None, "disorder": None, "partition_count": None}
    assert [replace(proof, **of_topic) for proof in proofs] == [replace(proof, **of_topic) for proof in proven]


def test_slices_that_were_archived_as_they_are_cut_have_the_proof_of_the_topic(
    kafka_cluster: KafkaCluster, log: str, tmp_path: Path
) -> None:
    histories = both(kafka_cluster, log, tmp_path)
    archive(histories.stitched, slice_rows=SLICE_ROWS)
    assert read(histories.stitched) == read(histories.topic)


def test_another_cut_than_that_of_the_files_gives_the_same_rows(
    kafka_cluster: KafkaCluster, log: str, tmp_path: Path
) -> None:
    histories = both(kafka_cluster, log, tmp_path)
    archive(histories.stitched, slice_rows=SLICE_ROWS, until={0: 50, 1: 31})
    for slice_rows in (7, 33, 1000):
        expected, proven = read(histories.topic, WINDOWS[2], slice_rows=slice_rows)
        found, proofs = read(histories.stitched, WINDOWS[2], slice_rows=slice_rows)
        assert found == expected
        assert [p.records for p in proofs] == [p.records for p in proven]
        assert len({p.digest for p in proofs}) == len(proofs)
        assert [p.greatest_time for p in proofs] == [p.greatest_time for p in proven]
        known = [(p, q) for p, q in zip(proofs, proven, strict=True) if p.invisible is not None]
        assert all(p.invisible == q.invisible for p, q in known)


def test_the_archive_alone_is_plain_parquet(kafka_cluster: KafkaCluster, log: str, tmp_path: Path) -> None:
    histories = both(kafka_cluster, log, tmp_path)
    done = archive(histories.stitched, slice_rows=SLICE_ROWS)
    expected = read(histories.topic)[0]
    rows = [row for table in expected for row in table.to_pylist()]
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        found = connection.sql(
            f"SELECT * EXCLUDE (filename) FROM read_parquet('{tmp_path}/lake/**/*.parquet', filename = true) ORDER BY filename, _offset"
        ).to_arrow_table()
    assert found.drop(["_offset", "_timestamp"]).to_pylist() == rows
    plain = history_from_toml("lake", {"parquet": "lake", "time": "at"}, clusters={}, root=tmp_path)
    pin = plain.pin(Window())
    with plain.reader(pin).open(cut(pin, SLICE_ROWS)) as source:
        table = Data("t", {"t": source}).arrow()
    assert table.drop(["_offset", "_timestamp"]).to_pylist() == rows
    assert sum(one.rows for one in done.archive.partitions) == len(rows)
    assert all(one.end - one.start > one.rows for one in done.archive.partitions[:1])
    for path in parquet_files(tmp_path / "lake"):
        metadata = pq.read_metadata(tmp_path / "lake" / path)
        assert all(
            metadata.row_group(0).column(i).is_stats_set for i in range(metadata.num_columns) if metadata.num_rows
        )
        assert {
            metadata.row_group(0).column(i).compression for i in range(metadata.num_columns) if metadata.num_rows
        } <= {"ZSTD"}


def test_a_history_that_may_begin_before_its_archive_is_the_topic(
    kafka_cluster: KafkaCluster, topic: MakeTopic, kafka_admin: AdminClient, tmp_path: Path
) -> None:
    name = topic("begins")
    fill(kafka_cluster, name, 0, 50)
    histories = both(kafka_cluster, name, tmp_path)
    assert read(histories.stitched) == read(histories.topic)
    delete_before(kafka_admin, name, 0, 10)
    with pytest.raises(DataLost, match=r"nothing of partition 0 is archived, and the topic begins at offset 10"):
        histories.stitched.pin(Window())
    done = archive(histories.stitched, slice_rows=SLICE_ROWS, until=30)
    assert [(one.start, one.end) for one in done.archive.partitions] == [(10, 30)]
    assert read(histories.stitched)[0] == read(histories.topic)[0]


def test_an_event_that_is_archived_ends_its_own_partition(
    kafka_cluster: KafkaCluster, log: str, tmp_path: Path
) -> None:
    histories = both(kafka_cluster, log, tmp_path)
    archive(histories.stitched, slice_rows=SLICE_ROWS, until={0: 40, 1: 40})
    topic_id = histories.topic.pin(Window()).topic_id
    for offset in (5, 40, 60):
        event = Position(cluster="default", topic=log, topic_id=topic_id, partition=1, offset=offset)
        window = Window(as_of=50 * 60_000_000, position=event)
        pin = histories.stitched.pin(window)
        assert [one.end for one in pin.partitions if one.partition == 1] == [offset]
        assert read(histories.stitched, window)[0] == read(histories.topic, window)[0]


KEYS = [b"a", b"b", None, b"", b"\xff\x00"]
MINUTE = 60_000_000


@pytest.mark.parametrize("lateness", [None, "2h"])
def test_windows_by_offsets_and_keys_are_those_of_the_topic_wherever_the_archive_ends(
    lateness: str | None, kafka_cluster: KafkaCluster, topic: MakeTopic, kafka_admin: AdminClient, tmp_path: Path
) -> None:
    name, chance = topic("windowed", partitions=2), random.Random(4)
    producer = confluent_kafka.Producer({"bootstrap.servers": kafka_cluster.bootstrap, "linger.ms": 0})
    for n in range(140):
        content = None if chance.random() < 0.1 else value(n)
        producer.produce(name, content, chance.choice(KEYS), n % 2, timestamp=1 + MINUTE // 1000 * (n % 60))
    assert producer.flush(30) == 0
    shown = both(kafka_cluster, name, tmp_path, record=["key"], lateness=lateness)
    hidden = both(kafka_cluster, name, tmp_path, lateness=lateness)
    event = Position(cluster="default", topic=name, topic_id=shown.topic.pin(Window()).topic_id, partition=0, offset=15)
    times = {"since": 10 * MINUTE, "until": 40 * MINUTE}
    windows = [
        make_window(offsets={0: (3, 33), 1: (22, None)}),
        make_window(offsets={1: (None, 41)}, as_of=35 * MINUTE),
        make_window(offsets={0: (3, 33)}, position=event),
        make_window(offsets={0: (1, 9), 1: (50, 61)}, keys=["a", "b"], **times),
        make_window(keys=["a"]),
        make_window(keys=[b"", b"\xff\x00"], partitions=[1], **times),
        make_window(keys=["nobody"]),
    ]
    query = "SELECT n, price FROM t WHERE 1000 // (n % 3 + 1) > 400 AND price > 2 ORDER BY n"
    # It fails on a row, which lies outside of the window by time.
    risky, outside = "SELECT n FROM t WHERE 1000 // (n - 137) < 0 ORDER BY n", make_window(**times)
    inside = sorted(row["n"] for table in read(shown.topic, outside)[0] for row in table.to_pylist())
    expected = [[read(each.topic, window) for window in windows] for each in (shown, hidden)]
    asked = [queried(shown.topic, window, query) for window in windows]
    assert [sum(map(len, tables)) for tables, _ in expected[0]][-1] == 0
    assert min(sum(map(len, tables)) for tables, _ in expected[0][:-1]) > 3
    for until, gone in (({0: 5, 1: 30}, 0), ({0: 17, 1: 51}, 12), ({0: 70, 1: 70}, 70)):
        archive(shown.stitched, slice_rows=SLICE_ROWS, until=until)
        delete_before(kafka_admin, name, 0, min(gone, until[0]))
        for each, of_topic in zip((shown, hidden), expected, strict=True):
            for window, (tables, proven) in zip(windows, of_topic, strict=True):
                found, proofs = read(each.stitched, window)
                assert found == tables
                assert [table_digest(table) for table in found] == [table_digest(table) for table in tables]
                assert [proof.records for proof in proofs] == [proof.records for proof in proven]
                assert [proof.greatest_time for proof in proofs] == [proof.greatest_time for proof in proven]
                if not gone:  # else the topic has not all of it any more
                    assert bounds(each.stitched, window) == bounds(each.topic, window)
                    of_both = [h.reader(h.pin(window)).identity() for h in (each.topic, each.stitched)]
                    assert of_both[0] == of_both[1]
        assert [queried(shown.stitched, window, query) for window in windows] == asked
        assert queried(shown.stitched, outside, risky)["n"].to_pylist() == [n for n in inside if n < 137]


def queried(of: KafkaHistory | StitchedHistory, window: Window, query: str) -> pa.Table:
    """Ask a window as a whole."""
    pin = of.pin(window)
    with of.reader(pin).open(cut(pin, SLICE_ROWS)) as source:
        return Data("t", {"t": source}).sql(query)


def test_offsets_in_neither_archive_nor_topic_are_errors_by_name(
    kafka_cluster: KafkaCluster, topic: MakeTopic, kafka_admin: AdminClient, tmp_path: Path
) -> None:
    name = topic("ranges")
    fill(kafka_cluster, name, 0, 60)
    delete_before(kafka_admin, name, 0, 10)
    of = both(kafka_cluster, name, tmp_path).stitched
    archive(of, slice_rows=SLICE_ROWS, until={0: 40})
    delete_before(kafka_admin, name, 0, 30)
    assert bounds(of, make_window(offsets={0: (10, 60)}))[0][:3] == (0, 10, 20)
    with pytest.raises(DataLost, match=r"\[9, 50\) of partition 0: the log begins at 10"):
        of.pin(make_window(offsets={0: (9, 50)}))
    with pytest.raises(UsageError, match=r"\[10, 61\) of partition 0: it can be read up to 60"):
        of.pin(make_window(offsets={0: (10, 61)}))
    with pytest.raises(UsageError, match="1 of topic"):
        of.pin(make_window(offsets={1: (0, 1)}))


def test_keys_that_the_archive_has_not_are_refused_by_name(
    kafka_cluster: KafkaCluster, log: str, tmp_path: Path
) -> None:
    window = make_window(keys=["k"])
    of = both(kafka_cluster, log, tmp_path).stitched
    assert of.pin(window).keys == (b"k",), "nothing is archived yet"
    archive(of, slice_rows=SLICE_ROWS, until={0: 20})
    with pytest.raises(UsageError, match=r"keys choose records by their keys.*it has none.*record = \[\"key\"\]"):
        of.pin(window)
    table = {"topic": log, "columns": COLUMNS, "time": "at", "archive": {"path": "lake", "layout": "connect"}}
    clusters = {"default": {"bootstrap.servers": kafka_cluster.bootstrap}}
    with pytest.raises(UsageError, match="keys choose records by their keys"):
        history_from_toml("lake", table, clusters=clusters, root=tmp_path).pin(window)


def test_times_of_records_bound_archived_rows_too(kafka_cluster: KafkaCluster, log: str, tmp_path: Path) -> None:
    histories = both(kafka_cluster, log, tmp_path, time=None)
    archive(histories.stitched, slice_rows=SLICE_ROWS)
    for window in (Window(as_of=20_000_000), Window(since=5_000_000, until=20_000_001)):
        expected, found = read(histories.topic, window), read(histories.stitched, window)
        assert 0 < sum(map(len, expected[0])) < sum(map(len, read(histories.topic)[0]))
        assert found == expected


def test_a_lake_without_times_of_records_is_cut_by_the_lateness_of_its_topic(
    kafka_cluster: KafkaCluster, topic: MakeTopic, tmp_path: Path
) -> None:
    name = topic("connected")
    producer = confluent_kafka.Producer({"bootstrap.servers": kafka_cluster.bootstrap, "linger.ms": 0})
    for n in range(60):
        producer.produce(name, value(n), partition=0, timestamp=1 + MINUTE // 1000 * n)
    assert producer.flush(30) == 0
    table = {"topic": name, "columns": COLUMNS, "time": "at", "record": ["offset"], "lateness": "2h"}
    lake = {"path": "lake", "layout": "connect", "offset": "kafka_offset"}
    clusters = {"default": {"bootstrap.servers": kafka_cluster.bootstrap}}
    alone = history_from_toml("alone", table, clusters=clusters, root=tmp_path)
    stitched = history_from_toml("stitched", {**table, "archive": lake}, clusters=clusters, root=tmp_path)
    assert isinstance(alone, KafkaHistory)
    assert isinstance(stitched, StitchedHistory)
    rows = pa.concat_tables(read(alone)[0]).slice(0, 30)
    (tmp_path / "lake").mkdir()
    pq.write_table(rows.rename_columns({"_offset": "kafka_offset"}), tmp_path / f"lake/{name}+0+0000000000.parquet")
    for window in (Window(), Window(since=10 * MINUTE, until=40 * MINUTE), Window(as_of=30 * MINUTE)):
        expected = read(alone, window)[0]
        assert sum(map(len, expected)) > 10
        assert read(stitched, window)[0] == expected


# --- Growing ----------------------------------------------------------------------------------------------------------


def test_a_second_archiver_writes_only_what_is_new_and_an_older_pin_reads_on(
    kafka_cluster: KafkaCluster, topic: MakeTopic, kafka_admin: AdminClient, tmp_path: Path
) -> None:
    name, lake = topic("grows"), tmp_path / "lake"
    fill(kafka_cluster, name, 0, 70)
    histories = both(kafka_cluster, name, tmp_path)
    first = archive(histories.stitched, slice_rows=SLICE_ROWS, until=50)
    assert (first.written, first.replaced, first.added) == (3, 0, {0: 50})
    before = {path: (lake / path).stat().st_mtime_ns for path in parquet_files(lake)}
    older = histories.stitched.pin(Window())
    expected = read(histories.stitched, pin=older)
    again = archive(histories.stitched, slice_rows=SLICE_ROWS, until=50)
    assert (again.written, again.replaced, again.added) == (0, 0, {0: 0})
    fill(kafka_cluster, name, 0, 20, seed=2)
    # The topic loses what is archived: what replaces the last file comes from that file.
    delete_before(kafka_admin, name, 0, 50)
    second = archive(histories.stitched, slice_rows=SLICE_ROWS)
    assert (second.written, second.replaced, second.added) == (3, 1, {0: 40})
    after = {path: (lake / path).stat().st_mtime_ns for path in parquet_files(lake)}
    assert sorted(after) == [file.path for file in second.archive.files]
    assert [(file.start, file.end) for file in second.archive.files] == [
        (0, 20),
        (20, 40),
        (40, 60),
        (60, 80),
        (80, 90),
    ]
    kept = set(before) & set(after)
    assert len(kept) == 2
    assert all(before[path] == after[path] for path in kept)
    found = read(histories.stitched, pin=older)
    assert found[0][:2] == expected[0][:2]
    # What was pinned in the topic is gone; what was pinned in the archive is read from the longer file.
    assert len(expected[0]) == 4


def test_a_pin_that_lies_in_the_archive_reads_on_when_its_file_was_replaced(
    kafka_cluster: KafkaCluster, topic: MakeTopic, tmp_path: Path
) -> None:
    name = topic("replaced")
    fill(kafka_cluster, name, 0, 30)
    histories = both(kafka_cluster, name, tmp_path)
    archive(histories.stitched, slice_rows=SLICE_ROWS)
    older = histories.stitched.pin(Window())
    expected = read(histories.stitched, pin=older)
    fill(kafka_cluster, name, 0, 5, seed=2)
    archive(histories.stitched, slice_rows=SLICE_ROWS)
    assert read(histories.stitched, pin=older) == expected
    shutil.rmtree(tmp_path / "lake" / "partition-00000")
    with pytest.raises(SourceChanged, match="has gone"):
        read(histories.stitched, pin=older)


def test_retention_may_take_what_is_archived_and_no_more(
    kafka_cluster: KafkaCluster, topic: MakeTopic, kafka_admin: AdminClient, tmp_path: Path
) -> None:
    name = topic("retention", partitions=2)
    for partition in (0, 1):
        fill(kafka_cluster, name, partition, 60)
    histories = both(kafka_cluster, name, tmp_path)
    expected = read(histories.topic)[0]
    archive(histories.stitched, slice_rows=SLICE_ROWS, until=45)
    for offset in (30, 45):
        delete_before(kafka_admin, name, 0, offset)
        assert read(histories.stitched)[0] == expected
    assert len(read(histories.topic)[0]) < len(expected)
    delete_before(kafka_admin, name, 1, 46)
    with pytest.raises(DataLost, match=r"of partition 1, \[45, 46\) is in neither") as lost:
        histories.stitched.pin(Window())
    assert "partition 0" not in str(lost.value)
    with pytest.raises(DataLost, match=r"of partition 1, \[45, 46\) is in neither"):
        archive(histories.stitched, slice_rows=SLICE_ROWS)


def test_what_belongs_to_a_record_is_the_topics_wherever_a_row_lies(
    kafka_cluster: KafkaCluster, log: str, tmp_path: Path
) -> None:
    of_all = both(kafka_cluster, log, tmp_path, record=["headers", "offset", "partition", "key", "timestamp"])
    of_places = both(kafka_cluster, log, tmp_path, record=["partition", "offset"])
    without = both(kafka_cluster, log, tmp_path)
    archive(of_all.stitched, slice_rows=SLICE_ROWS, until={0: 33, 1: 27})
    archive(without.stitched, slice_rows=SLICE_ROWS, until={0: 37, 1: 47})  # keeps keys because the archive does
    for histories in (of_all, of_places, without):
        for window in WINDOWS[::2]:
            assert read(histories.stitched, window)[0] == read(histories.topic, window)[0]
    query = "SELECT _offset, _key, _timestamp, n FROM t WHERE _offset % 7 = 2 AND _partition = 1 AND _key IS NOT NULL"
    found = []
    for history in (of_all.topic, of_all.stitched):
        pin = history.pin(Window())
        with history.reader(pin).open(cut(pin, SLICE_ROWS)) as source:
            found.append(Data("t", {"t": source}).sql(query))
    assert found[0] == found[1]
    assert found[0].num_rows > 5
    with duckdb.connect() as connection:
        keys = connection.sql(f"SELECT DISTINCT _key FROM '{tmp_path}/lake/partition-00001/*.parquet'").fetchall()
    assert keys == [(b"k",)]


def test_an_archive_without_keys_gives_none(kafka_cluster: KafkaCluster, log: str, tmp_path: Path) -> None:
    archive(both(kafka_cluster, log, tmp_path).stitched, slice_rows=SLICE_ROWS, until={0: 20})
    histories = both(kafka_cluster, log, tmp_path, record=["offset", "key"])
    with pytest.raises(SchemaMismatch, match="record: key was not archived"):
        histories.stitched.pin(Window())


def test_with_a_lateness_a_window_is_cut_as_that_of_the_topic_and_retention_moves_nothing(
    kafka_cluster: KafkaCluster, topic: MakeTopic, kafka_admin: AdminClient, tmp_path: Path
) -> None:
    name, chance = topic("late"), random.Random(2)
    producer = confluent_kafka.Producer({"bootstrap.servers": kafka_cluster.bootstrap, "linger.ms": 0})
    for n in range(100):
        written = 1000 * (n + chance.randint(1, 5))  # 0 would be the time of sending
        fields = {"n": n, "at": f"1970-01-01T00:{n // 60:02}:{n % 60:02}Z"}
        producer.produce(name, json.dumps(fields).encode(), b"k", 0, timestamp=written)
    assert producer.flush(30) == 0
    histories = both(kafka_cluster, name, tmp_path, lateness="10s")
    windows = [
        Window(since=a, until=b) for a, b in ((70_000_000, 90_000_000), (20_000_000, 75_000_000), (None, 30_000_000))
    ]
    expected = [(histories.topic.pin(window).partitions[0], read(histories.topic, window)) for window in windows]
    assert [one.start for one, _ in expected[:2]] > [50, 5], "less than everything is read"
    for until, gone in ((0, 0), (15, 0), (45, 0), (45, 30), (100, 100)):
        archive(histories.stitched, slice_rows=SLICE_ROWS, until=until)
        delete_before(kafka_admin, name, 0, gone)
        for window, (pinned, (tables, proofs)) in zip(windows, expected, strict=True):
            pin = histories.stitched.pin(window)
            assert pin.lateness == 10_000_000
            assert replace(pin.partitions[0], log_start=0) == pinned
            found, proven = read(histories.stitched, pin=pin)
            assert found == tables
            assert [replace(p, digest="", bytes=0, partition_count=None, invisible=None) for p in proven] == [
                replace(p, digest="", bytes=0, partition_count=None, invisible=None) for p in proofs
            ]
    broken = both(kafka_cluster, name, tmp_path, lateness="2s")
    with pytest.raises(OutOfOrder):
        read(broken.stitched, windows[1])


def test_a_partition_that_comes_later_is_read_from_the_topic_and_then_archived(
    kafka_cluster: KafkaCluster, topic: MakeTopic, kafka_admin: AdminClient, tmp_path: Path
) -> None:
    name = topic("widened")
    fill(kafka_cluster, name, 0, 30)
    histories = both(kafka_cluster, name, tmp_path)
    archive(histories.stitched, slice_rows=SLICE_ROWS)
    kafka_admin.create_partitions([NewPartitions(name, 2)])[name].result(20)
    fill(kafka_cluster, name, 1, 30, seed=2)
    for step in range(2):
        assert read(histories.stitched)[0] == read(histories.topic)[0]
        if not step:
            done = archive(histories.stitched, slice_rows=SLICE_ROWS)
            assert done.added == {0: 0, 1: 30}
    only = both(kafka_cluster, name, tmp_path, partitions=[1])
    assert read(only.stitched)[0] == read(only.topic)[0]


def test_a_topic_created_again_is_refused_by_name(
    kafka_cluster: KafkaCluster, topic: MakeTopic, kafka_admin: AdminClient, tmp_path: Path
) -> None:
    name = topic("again")
    fill(kafka_cluster, name, 0, 30)
    histories = both(kafka_cluster, name, tmp_path)
    archive(histories.stitched, slice_rows=SLICE_ROWS)
    kafka_admin.delete_topics([name])[name].result(20)
    with pytest.raises(SourceMissing):
        histories.stitched.pin(Window())
    recreate(kafka_admin, name)
    fill(kafka_cluster, name, 0, 60)
    for attempt in (
        lambda: histories.stitched.pin(Window()),
        lambda: archive(histories.stitched, slice_rows=SLICE_ROWS),
    ):
        with pytest.raises(SourceChanged, match="was deleted and created again"):
            attempt()


def recreate(admin: AdminClient, name: str) -> None:
    """Create a topic as soon as the broker has forgotten the one of that name."""
    for _ in range(200):
        made = admin.create_topics([NewTopic(name, 1, 1, config={"retention.ms": "-1"})])[name]
        if made.exception(20) is None:
            return
    pytest.fail("the topic stays deleted")


# --- What is refused --------------------------------------------------------------------------------------------------


@pytest.fixture
def archived(kafka_cluster: KafkaCluster, log: str, tmp_path: Path) -> Both:
    histories = both(kafka_cluster, log, tmp_path)
    archive(histories.stitched, slice_rows=SLICE_ROWS, until={0: 50, 1: 50})
    return histories


def test_a_damaged_page_is_refused_by_the_name_of_its_file(archived: Both, tmp_path: Path) -> None:
    pin = archived.stitched.pin(Window())
    assert pin.archive is not None
    victim = tmp_path / "lake" / pin.archive.files[1].path
    column = pq.read_metadata(victim).row_group(0).column(0)
    content = bytearray(victim.read_bytes())
    content[column.data_page_offset + column.total_compressed_size - 8] ^= 1
    stamp = victim.stat()
    victim.write_bytes(content)
    os.utime(victim, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    with pytest.raises(CorruptData, match=victim.name):
        read(archived.stitched, pin=pin)


@pytest.mark.parametrize("harm", ["shorter", "reordered", "shifted"])
def test_a_file_that_does_not_hold_its_rows_is_refused_though_the_manifest_vouches_for_it(
    archived: Both, tmp_path: Path, harm: str
) -> None:
    lake = tmp_path / "lake"
    known = read_archive(archived.stitched.archive.place)
    assert known is not None
    file = next(file for file in known[0].files if file.rows > 3)
    table = pq.read_table(lake / file.path)
    match harm:
        case "shorter":
            table = table.slice(1)
        case "reordered":
            table = table.take([1, 0, *range(2, table.num_rows)])
        case "shifted":
            moved = pa.array([offset + 100 for offset in table["_offset"].to_pylist()])
            table = table.set_column(table.schema.get_field_index("_offset"), table.schema.field("_offset"), moved)
    pq.write_table(table, lake / file.path, write_page_checksum=True)
    there = look(archived.stitched.archive.place, file.path)
    liar = [
        replace(one, size=there.size, identity=there.identity) if one.path == file.path else one
        for one in known[0].files
    ]
    write_archive(archived.stitched.archive.place, replace(known[0], files=tuple(liar)))
    with pytest.raises(CorruptData, match=file.path):
        read(archived.stitched)


def test_a_file_that_is_not_the_one_that_was_written_is_refused_when_pinned(archived: Both, tmp_path: Path) -> None:
    lake = tmp_path / "lake"
    first, second, third, *_ = parquet_files(lake)
    (lake / second).unlink()
    content = bytearray((lake / third).read_bytes())
    content[100] ^= 1
    (lake / third).write_bytes(content)
    with pytest.raises(SourceChanged) as refused:
        archived.stitched.pin(Window())
    assert refused.value.details["paths"] == [second, third]
    with pytest.raises(CorruptData) as stopped:
        archive(archived.stitched, slice_rows=SLICE_ROWS)
    assert second in str(stopped.value)
    assert third in str(stopped.value)
    assert first not in str(stopped.value)


def test_a_pin_that_meets_an_archiver_takes_the_archive_as_it_is_afterwards(
    archived: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = stitched_module.changed_files, 0

    def meeting(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            monkeypatch.setattr(stitched_module, "changed_files", real)
            archive(archived.stitched, slice_rows=SLICE_ROWS)
        return real(*arguments)

    monkeypatch.setattr(stitched_module, "changed_files", meeting)
    pin = archived.stitched.pin(Window())
    assert calls == 1
    assert pin.archive is not None
    assert {pin.archive.end(one.partition, 0) - one.end for one in pin.partitions} == {0}


def test_an_archive_that_was_copied_is_taken_up_by_its_digests(archived: Both, tmp_path: Path) -> None:
    expected = read(archived.stitched)
    shutil.copytree(tmp_path / "lake", tmp_path / "copy", copy_function=shutil.copyfile)
    shutil.rmtree(tmp_path / "lake")
    shutil.copytree(tmp_path / "copy", tmp_path / "lake", copy_function=shutil.copyfile)
    with pytest.raises(SourceChanged, match="`hindscan archive stitched` compares the files with their digests"):
        archived.stitched.pin(Window())
    done = archive(archived.stitched, slice_rows=SLICE_ROWS, until={})
    assert (done.written, done.replaced) == (0, 0)
    assert read(archived.stitched) == expected


def test_an_archive_that_was_decoded_otherwise_is_refused_with_every_difference(
    kafka_cluster: KafkaCluster, log: str, archived: Both, tmp_path: Path
) -> None:
    other = both(kafka_cluster, log, tmp_path, isolation="read_uncommitted", columns={"n": "int64"}).stitched
    with pytest.raises(
        SchemaMismatch, match=r"isolation: archived read_committed, declared read_uncommitted; columns: archived"
    ):
        other.pin(Window())
    inferred = both(kafka_cluster, log, tmp_path, columns=None)
    assert inferred.stitched.pin(Window()).schema_from == "the archive"
    assert read(inferred.stitched)[0][0].column_names == list(COLUMNS)


def test_an_offset_that_the_topic_does_not_reach_is_refused(archived: Both) -> None:
    with pytest.raises(UsageError, match=r"offset 999 of partition 0 is not in .*; there is no partition 7") as refused:
        archive(archived.stitched, slice_rows=SLICE_ROWS, until={0: 999, 7: 1})
    assert len(refused.value.details["faults"]) == 2  # type: ignore[arg-type]
    done = archive(archived.stitched, slice_rows=SLICE_ROWS, until={0: 10})
    assert [one.end for one in done.archive.partitions] == [50, 50], "an archive never becomes shorter"


def test_a_bad_record_stops_the_archiver_or_is_set_aside_for_good(
    kafka_cluster: KafkaCluster, topic: MakeTopic, tmp_path: Path
) -> None:
    import confluent_kafka

    name = topic("bad")
    producer = confluent_kafka.Producer({"bootstrap.servers": kafka_cluster.bootstrap})
    for n in range(50):
        producer.produce(name, b'{"n": "no"}' if n % 9 == 4 else b'{"n": %d}' % n, partition=0, timestamp=n)
    assert producer.flush(30) == 0
    failing = both(kafka_cluster, name, tmp_path, columns={"n": "int64"}, time=None)
    with pytest.raises(BadRecord, match="at offset 4"):
        archive(failing.stitched, slice_rows=SLICE_ROWS)
    assert read_archive(failing.stitched.archive.place) is None
    aside = both(kafka_cluster, name, tmp_path, columns={"n": "int64"}, time=None, on_bad_record="set aside")
    done = archive(aside.stitched, slice_rows=SLICE_ROWS, until=30)
    assert done.archive.partitions[0].set_aside == 3
    assert read(aside.stitched)[0] == read(aside.topic)[0]
    for slice_rows in (7, 1000):
        found, expected = read(aside.stitched, slice_rows=slice_rows), read(aside.topic, slice_rows=slice_rows)
        assert found[0] == expected[0]
        assert [p.set_aside for p in found[1]] == [p.set_aside for p in expected[1]]
        assert [len(p.bad_records) for p in found[1]] == [p.set_aside for p in expected[1]]


def test_two_archivers_do_no_harm(archived: Both, tmp_path: Path) -> None:
    before = read(archived.stitched)
    refused: list[Conflict] = []

    def meanwhile(_: object) -> None:
        with pytest.raises(Conflict, match="another is at work: it holds the lock") as conflict:
            archive(archived.stitched, slice_rows=SLICE_ROWS)
        refused.append(conflict.value)

    archive(archived.stitched, slice_rows=SLICE_ROWS, told=meanwhile)
    assert refused
    assert read(archived.stitched)[0] == before[0]
    assert (tmp_path / "lake" / MANIFEST).exists()


def test_a_mock_broker_has_no_topic_to_archive(tmp_path: Path) -> None:
    with MockKafka({"t": 1}) as mock:
        import confluent_kafka

        producer = confluent_kafka.Producer({"bootstrap.servers": mock.bootstrap})
        producer.produce("t", b'{"n": 1}', partition=0)
        assert producer.flush(20) == 0
        clusters = {"default": {"bootstrap.servers": mock.bootstrap, "hindscan.mock": True}}
        of = history_from_toml("h", {"topic": "t", "archive": "lake"}, clusters=clusters, root=tmp_path)
        with pytest.raises(UsageError, match="Archive from a real Kafka"):
            archive(of, slice_rows=10)  # type: ignore[arg-type]
