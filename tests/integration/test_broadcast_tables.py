"""A topic as a broadcast table: while its rows lie before T, another T computes nothing anew; where T cuts it, everything."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import confluent_kafka
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import hindscan as hs
from hindscan import driver
from hindscan.config import Project
from hindscan.handle import Result
from hindscan.runs.partials import Partials
from hindscan.testing import KafkaCluster
from hindscan.workshop import open_workshop

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(300)]

JOBS = '''
import hindscan as hs

EACH = "SELECT bidder, sum(price * rate)::BIGINT AS total FROM bids JOIN rates USING (bidder) GROUP BY ALL ORDER BY ALL"
ALL = "SELECT bidder, sum(total)::BIGINT AS total FROM partials GROUP BY ALL ORDER BY ALL"


@hs.job(history="bids", tables={"rates": "rates"})
def totals(bids: hs.Data, rates: hs.Data):
    """What was bid, with rates."""
    return bids.sql(EACH)


@totals.combine
def merge(partials: hs.Data):
    return partials.sql(ALL)


@totals.finish
def shares(combined: hs.Data, rates: hs.Data):
    return combined.sql("SELECT bidder, total, rate FROM combined JOIN rates USING (bidder) ORDER BY bidder")


@hs.job(history="bids", tables={"rates": "rates"}, by="bidder", parts=4)
def split(bids: hs.Data, rates: hs.Data):
    """The same by key."""
    return bids.sql(EACH)


@split.combine
def merge_split(partials: hs.Data):
    return partials.sql(ALL)


def nothing():
    return {"total": 0}


@hs.job(history="bids", tables={"rates": "rates"}, order="partition", state=nothing, combine="concat")
def running(bids: hs.Data, state: dict, rates: hs.Data):
    """A running sum."""
    total = state["total"] + bids.sql("SELECT coalesce(sum(price * rate), 0)::BIGINT AS t FROM bids JOIN rates USING (bidder)")["t"][0].as_py()
    return {"total": total}, {"total": total}


@running.close
def last(state: dict):
    return {"total": state["total"]}


@hs.job(history="stored", tables={"rates": "rates"})
def model(bids: hs.Data, rates: hs.Data):
    """The same of files, whose statistics say of themselves that they lie before T."""
    return bids.sql(EACH)


@model.combine
def merge_model(partials: hs.Data):
    return partials.sql(ALL)


@hs.simulation(calibrate=model, draws=2000, block_size=500)
def drawn(block: hs.Block, model):
    """A total of the past."""
    found = model["total"].to_numpy()
    return found[block.rng.integers(found.size, size=block.size)].astype(float)
'''
PROJECT = """
[compute]
workers = 1
[kafka.default]
"bootstrap.servers" = "{bootstrap}"
[history.bids]
topic = "{bids}"
time = "at"
slice_rows = 10
columns = {{ bidder = "int64", price = "int64", at = "timestamp[us, UTC]" }}
[history.stored]
parquet = "stored"
time = "at"
slice_rows = 10
[history.rates]
topic = "{rates}"
time = "at"
columns = {{ bidder = "int64", rate = "int64", at = "timestamp[us, UTC]" }}
"""


def day(number: float) -> dt.datetime:
    return dt.datetime(2020, 1, 1, tzinfo=dt.UTC) + dt.timedelta(days=number)


@pytest.fixture
def site(
    tmp_path: Path, kafka_cluster: KafkaCluster, topic: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """Give a project with forty bids of days 0 to 4 and rates of days 0 to 3, each in two partitions."""

    def drive_it(project: Project, run: str) -> None:
        with open_workshop(project) as workshop:
            driver.drive(workshop, run)

    monkeypatch.setattr(driver, "hand_over", drive_it)
    bids, rates = topic("bids", partitions=2), topic("rates", partitions=2)
    rows = [{"bidder": n % 4, "price": n, "at": day(n / 10)} for n in range(40)]
    (tmp_path / "stored").mkdir()
    table = pa.Table.from_pylist(rows).cast(
        pa.schema({"bidder": pa.int64(), "price": pa.int64(), "at": pa.timestamp("us", "UTC")})
    )
    pq.write_table(table, tmp_path / "stored" / "bids.parquet", row_group_size=10)
    producer = confluent_kafka.Producer({"bootstrap.servers": kafka_cluster.bootstrap})
    for n, row in enumerate(rows):
        producer.produce(bids, json.dumps(row, default=dt.datetime.isoformat).encode(), partition=n % 2)
    for n in range(4):
        producer.produce(rates, json.dumps({"bidder": n, "rate": n + 1, "at": day(n).isoformat()}), partition=n % 2)
    assert producer.flush(30) == 0
    (tmp_path / "hindscan.toml").write_text(
        PROJECT.format(bootstrap=kafka_cluster.bootstrap, bids=bids, rates=rates), encoding="utf-8"
    )
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "rated.py").write_text(JOBS, encoding="utf-8")
    return tmp_path


def done(site: Path, job: str, as_of: dt.datetime, **options: object) -> Result:
    run = hs.run(job, project=site, as_of=as_of, seed=7 if job == "drawn" else None, **options)
    return run.wait(100, progress=False).result


@pytest.mark.parametrize("job", ["totals", "split", "running", "drawn"])
def test_while_all_rows_of_the_table_lie_before_t_another_t_computes_nothing(job: str, site: Path) -> None:
    first = done(site, job, day(10))
    assert first.manifest.slices.computed == first.manifest.slices.total
    for as_of in (day(10), day(11), day(9)):
        again = done(site, job, as_of)
        assert (again.manifest.slices.computed, again.manifest.result.digest) == (0, first.manifest.result.digest)
    fresh = done(site, job, day(11), fresh=True)
    assert fresh.manifest.slices.computed == fresh.manifest.slices.total
    assert fresh.manifest.result.digest == first.manifest.result.digest


def test_where_t_cuts_the_table_another_t_computes_everything(site: Path) -> None:
    whole = done(site, "totals", day(10))
    for as_of, bidders in ((1.5, [0, 1]), (2.5, [0, 1, 2])):
        found = done(site, "totals", day(as_of))
        assert found.to_arrow()["bidder"].to_pylist() == bidders
        assert found.manifest.slices.computed == found.manifest.slices.total
        again = done(site, "totals", day(as_of), fresh=True)
        assert again.manifest.result.digest == found.manifest.result.digest
    assert done(site, "totals", day(2.5)).manifest.slices.computed == 0
    assert done(site, "totals", day(12)).manifest.result.digest == whole.manifest.result.digest


def test_a_run_that_was_cut_short_goes_on_with_the_keys_that_it_began_with(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Proofs of its tables may be there already, of another run or of its own."""
    names: list[str] = []

    def link(self: Partials, key: str, other: str) -> None:
        names.append(key)

    with monkeypatch.context() as patch:
        patch.setattr(Partials, "link", link)
        first = done(site, "totals", day(10))
    assert names
    again = done(site, "totals", day(10))
    assert (again.manifest.slices.computed, again.manifest.result.digest) == (0, first.manifest.result.digest)
