"""Exploring as in a notebook: a pinned history is one value, over files and over a topic, the same in any process."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import confluent_kafka
import duckdb
import pytest

import hindscan as hs
from hindscan import times
from hindscan.errors import OutOfOrder, UsageError
from hindscan.explore import Count, PinnedHistory
from hindscan.testing import KafkaCluster

MakeTopic = Callable[..., str]
CHECKOUT = Path(__file__).parents[2]
SINCE, UNTIL = "2018-03-05", "2018-09-05"


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    shutil.copytree(CHECKOUT / "data", tmp_path / "data")
    (tmp_path / "hindscan.toml").write_text(
        '[history.bids]\nparquet = "data/bids"\ntime = "date_time"\nslice_rows = 3000\n[history.persons]\nparquet = "data/persons"\n'
    )
    return tmp_path


def oracle(project: Path, query: str) -> list[tuple[object, ...]]:
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        bids = f"read_parquet('{project}/data/bids/**/*.parquet', hive_partitioning = false)"
        return connection.sql(query.replace("BIDS", bids)).fetchall()


def test_a_snapshot_of_files_shows_what_it_is_before_anything_is_read(sample: Path) -> None:
    whole = hs.history("bids", project=sample).snapshot()
    [(count, first, last)] = oracle(
        sample, "SELECT count(*), epoch_us(min(date_time)), epoch_us(max(date_time)) FROM BIDS"
    )
    assert (whole.rows, whole.rows.exact) == (count, True)
    assert whole.times == (first, last)
    assert "price" in whole.schema.names
    assert f"rows {count:,}" in repr(whole)
    months = hs.history("bids", project=sample).snapshot(since="2018-03-01", until="2018-05-01")
    [(first, last)] = oracle(
        sample,
        "SELECT epoch_us(min(date_time)), epoch_us(max(date_time)) FROM BIDS WHERE date_time >= '2018-03-01' AND date_time < '2018-05-01'",
    )
    assert (months.rows.exact, months.times) == (True, (first, last)), "the files of these months are wholly inside"
    windowed = hs.history("bids", project=sample).snapshot(since=SINCE, until=UNTIL)
    [(inside,)] = oracle(sample, f"SELECT count(*) FROM BIDS WHERE date_time >= '{SINCE}' AND date_time < '{UNTIL}'")
    assert windowed.rows >= inside
    assert not windowed.rows.exact
    assert "at most" in repr(windowed)
    read = windowed.read()
    assert (read.rows, read.rows.exact) == (inside, True)
    assert times.from_text(SINCE) <= read.times[0] <= read.times[1] < times.from_text(UNTIL)
    html = read._repr_html_()
    assert "<table>" in html
    assert "date_time: timestamp" in html
    last_days = hs.history("bids", project=sample).snapshot(as_of=UNTIL, last=timedelta(days=184))
    assert last_days.to_arrow(["price"]).num_rows == inside


def test_every_way_out_gives_the_same_rows(sample: Path) -> None:
    bids = hs.history("bids", project=sample).snapshot(since=SINCE, until=UNTIL)
    [(count, total)] = oracle(
        sample, f"SELECT count(*), sum(price)::BIGINT FROM BIDS WHERE date_time >= '{SINCE}' AND date_time < '{UNTIL}'"
    )
    assert len(bids._pinned.slices) > 3
    assert bids.sql("SELECT count(*) AS n, sum(price)::BIGINT AS total FROM bids").to_pylist() == [
        {"n": count, "total": total}
    ]
    assert bids.to_arrow().num_rows == count
    assert int(bids.to_pandas(["price"])["price"].sum()) == total
    assert bids.to_polars(["price"])["price"].sum() == total
    batches = list(bids.batches(["price"]))
    assert sum(batch.num_rows for batch in batches) == count
    frame = bids.to_dask(["bidder", "price"])
    assert frame.npartitions == len(bids._pinned.slices)
    assert list(frame.columns) == ["bidder", "price"]
    assert int(frame["price"].sum().compute(scheduler="synchronous")) == total
    nothing = hs.history("bids", project=sample).snapshot(since="2030-01-01")
    assert nothing.to_arrow().num_rows == 0
    assert nothing.sample(5).num_rows == 0
    assert len(nothing.to_dask()) == 0


def test_a_sample_is_the_same_each_time_and_spread_over_the_history(sample: Path) -> None:
    bids = hs.history("bids", project=sample).snapshot(since=SINCE, until=UNTIL)
    found = bids.sample(40)
    assert found.num_rows == 40
    assert found.equals(bids.sample(40))
    assert len({value.month for value in found["date_time"].to_pylist()}) >= 4
    persons = hs.history("persons", project=sample).snapshot()
    assert persons.sample(10**6).num_rows == persons.rows


def test_a_snapshot_is_kept_loaded_and_compared(sample: Path, tmp_path: Path) -> None:
    bids = hs.history("bids", project=sample).snapshot(since=SINCE)
    kept = bids.read().save(tmp_path / "kept.json")
    loaded = hs.load_snapshot(kept, project=sample)
    assert isinstance(loaded, PinnedHistory)
    assert loaded.pin == bids.pin
    assert loaded.to_arrow().equals(bids.to_arrow())
    same = loaded.verify()
    assert same.same
    assert same.slices == same.compared == len(loaded._pinned.slices)
    unread = bids.verify()
    assert (unread.same, unread.compared) == (True, 0)
    (tmp_path / "other.json").write_text('{"what": 1}')
    with pytest.raises(UsageError, match=r"other.json: it must be what `hindscan snapshot -o FILE` wrote"):
        hs.load_snapshot(tmp_path / "other.json", project=sample)


def test_a_count_says_whether_it_is_one() -> None:
    import pickle

    estimate = pickle.loads(pickle.dumps(Count(7, exact=False)))
    assert (estimate, estimate.exact, repr(estimate)) == (7, False, "at most 7")


@pytest.mark.kafka
def test_a_topic_is_explored_by_time_key_and_offset(
    kafka_cluster: KafkaCluster, topic: MakeTopic, tmp_path: Path
) -> None:
    name = topic("notebook", partitions=2)
    producer = confluent_kafka.Producer({"bootstrap.servers": kafka_cluster.bootstrap, "linger.ms": 0})
    day, base = 86_400_000, 1_700_000_000_000
    for n in range(600):
        producer.produce(name, json.dumps({"n": n}).encode(), b"k%d" % (n % 7), n % 2, timestamp=base + n * day // 100)
    assert producer.flush(30) == 0
    (tmp_path / "hindscan.toml").write_text(
        f'[kafka.default]\n"bootstrap.servers" = "{kafka_cluster.bootstrap}"\n'
        f'[history.log]\ntopic = "{name}"\nlateness = "1h"\nslice_rows = 100\n'
    )
    log = hs.history("log", project=tmp_path)
    as_of = times.to_text((base + 5 * day) * 1000)
    recent = log.snapshot(as_of=as_of, last="2d")
    assert recent.sql("SELECT min(n) AS a, max(n) AS b, count(*) AS c FROM log").to_pylist() == [
        {"a": 300, "b": 499, "c": 200}
    ]
    assert recent.rows <= 210
    assert not recent.rows.exact
    assert (recent.read().rows, recent.read().rows.exact) == (200, True)
    keyed = log.snapshot(keys=["k3", b"k5"], partitions=[1])
    wanted = [n for n in range(600) if n % 2 and n % 7 in (3, 5)]
    assert keyed.to_pandas()["n"].tolist() == wanted
    assert keyed.sample(7).num_rows == 7
    assert set(keyed.sample(7)["n"].to_pylist()) <= set(wanted)
    assert sorted(keyed.to_dask()["n"].compute(scheduler="synchronous").tolist()) == wanted
    chosen = log.snapshot(offsets={0: (10, 20), 1: (290, None)})
    assert chosen.to_arrow()["n"].to_pylist() == [*range(20, 40, 2), *range(581, 600, 2)]
    assert chosen.read().times == (base * 1000 + 20 * day * 10, base * 1000 + 599 * day * 10)
    producer.produce(name, b'{"n": -1}', b"k0", 0, timestamp=base)
    assert producer.flush(30) == 0
    with pytest.raises(OutOfOrder, match="lateness"):
        log.snapshot(since=times.to_text((base + day) * 1000)).to_arrow()
