"""The leak test: clean jobs pass whatever lies in the future, and each way of seeing it is caught and named."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from pathlib import Path

import confluent_kafka
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hindscan as hs
from hindscan.cli.app import run_app
from hindscan.poison import poison
from hindscan.testing import KafkaCluster

T = dt.datetime(2020, 1, 6, 12, tzinfo=dt.UTC)

JOBS = '''
import pyarrow.parquet as pq

import hindscan as hs


@hs.job(history="bids", tables={"rates": "rates"})
def totals(bids: hs.Data, rates: hs.Data):
    """What was bid, by bidder, with rates."""
    return bids.sql("SELECT bidder, sum(price * rate) AS total, count(*) AS bids FROM bids JOIN rates USING (bidder) GROUP BY ALL ORDER BY ALL")


@totals.combine
def merge(partials: hs.Data):
    return partials.sql("SELECT bidder, sum(total) AS total, sum(bids)::BIGINT AS bids FROM partials GROUP BY ALL ORDER BY ALL")


@hs.job(history="bids")
def model(bids: hs.Data):
    """Prices."""
    return bids.sql("SELECT price FROM bids")


@model.combine
def together(partials: hs.Data):
    return partials.sql("SELECT price FROM partials")


@hs.simulation(calibrate=model, draws=2000, block_size=500)
def drawn(block: hs.Block, model):
    """A price of the past."""
    prices = model["price"].to_numpy()
    return prices[block.rng.integers(prices.size, size=block.size)]


@hs.job(history="bids", tables={"live": "live"}, combine="concat")
def careless(bids: hs.Data, live: hs.Data):
    """Uses a table that ignores as_of."""
    return bids.sql("SELECT max(live.price) AS top, count(DISTINCT bids.price) AS n FROM bids, live")


@hs.job(history="rates", combine="concat")
def sly(rates: hs.Data, place: str):
    """Opens a file of the history on its own."""
    return {"rows": pq.read_table(place)["price"].to_numpy().sum()}
'''

PROJECT = """
[compute]
workers = 1

[history.bids]
parquet = "data/bids"
time = "at"
slice_rows = 40

[history.rates]
parquet = "data/rates.parquet"
time = "at"

[history.live]
parquet = "data/bids"
time = "at"
as_of = "ignore"
"""


def bids(days: int, first: int = 0) -> pa.Table:
    n = days * 24
    at = [dt.datetime(2020, 1, 1, tzinfo=dt.UTC) + dt.timedelta(hours=first + i) for i in range(n)]
    rng = np.random.default_rng(first)
    return pa.table(
        {
            "at": pa.array(at, pa.timestamp("us", "UTC")),
            "bidder": rng.integers(0, 5, n),
            "price": rng.normal(100, 30, n),
            "won": rng.random(n) < 0.5,
            "channel": pa.array(rng.choice(["web", "app"], n)),
        }
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "hindscan.toml").write_text(PROJECT)
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "leaky.py").write_text(JOBS)
    (tmp_path / "data" / "bids").mkdir(parents=True)
    # T lies in a row group, in a file whose other row groups are before it and after it.
    for i, days in enumerate((3, 4, 3)):
        pq.write_table(bids(days, i * 96), tmp_path / "data" / "bids" / f"{i}.parquet", row_group_size=30)
    rates = {"at": pa.array([dt.datetime(2020, 1, 1, tzinfo=dt.UTC)] * 5), "bidder": range(5), "rate": [0.1 * i for i in range(5)]}  # fmt: skip
    pq.write_table(pa.table(rates), tmp_path / "data" / "rates.parquet")
    return tmp_path


def test_a_job_that_reads_its_histories_only_is_clean_to_the_bit(folder: Path) -> None:
    found = hs.leaktest("totals", as_of=T, project=folder)
    assert found.clean, found
    changed, added = found.poisoned["bids"] or (0, 0)
    every = [bids(days, i * 96)["at"].to_pylist() for i, days in enumerate((3, 4, 3))]
    assert changed == sum(at >= T for file in every for at in file)
    assert added > 0
    assert "nothing" in repr(found)


def test_a_simulation_keeps_its_seed_and_is_clean(folder: Path) -> None:
    found = hs.leaktest("drawn", as_of=T, project=folder)
    assert found.clean, found
    assert found.seed is not None
    assert found.rows == 1


def test_a_history_that_ignores_as_of_is_caught_by_name_and_column(folder: Path) -> None:
    found = hs.leaktest("careless", as_of=T, project=folder)
    assert not found.clean
    assert any("history live, column price" in leak and "top" in leak for leak in found.leaks)
    assert any("history live, rows added" in leak for leak in found.leaks)
    # The same files are declared as history bids too, and there they are cut.
    assert not any("history bids" in leak or "column channel" in leak for leak in found.leaks)


@pytest.mark.parametrize("absolute", [False, True])
def test_a_file_that_is_opened_behind_hindscans_back_is_caught(folder: Path, absolute: bool) -> None:
    place = "data/bids/2.parquet"
    found = hs.leaktest("sly", {"place": str(folder / place) if absolute else place}, as_of=T, project=folder)
    assert not found.clean
    expected = "behind hindscan's back" if absolute else "none of the job's tables"
    assert any(expected in leak for leak in found.leaks), found


def test_the_command_says_so_by_its_exit_code(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_app(["leaktest", "careless", "--as-of", T.isoformat(), "--project", str(folder)]) == 1
    assert "LEAK: history live, column price" in capsys.readouterr().out
    assert run_app(["leaktest", "totals", "--as-of", T.isoformat(), "--project", str(folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["clean"] is True
    assert told["poisoned"]["bids"]["changed"] > 0


def test_the_run_of_a_leaktest_leaves_nothing_behind(folder: Path) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*.parquet")}
    hs.leaktest("totals", as_of=T, project=folder)
    assert {path: path.read_bytes() for path in folder.rglob("*.parquet")} == before
    assert not list(folder.glob(".hindscan/partials/**/*.arrow"))


@settings(max_examples=30)
@given(st.lists(st.booleans(), min_size=1, max_size=30), st.integers(0, 100))
def test_poison_changes_every_value_of_late_rows_and_none_of_others(late: list[bool], seed: int) -> None:
    rng = np.random.default_rng(seed)
    n = len(late)
    table = pa.table(
        {
            "at": pa.array([T] * n),
            "whole": rng.integers(-5, 5, n),
            "small": rng.integers(0, 5, n).astype(np.uint8),
            "real": rng.normal(size=n),
            "yes": rng.random(n) < 0.5,
            "text": [f"t{i}" for i in range(n)],
            "day": pa.array([dt.date(2020, 1, 1)] * n),
        }
    )
    made = poison(table, np.array(late), time="at")
    assert made.schema == table.schema
    for name in table.column_names:
        same = pc.equal(made[name], table[name]).to_pylist()
        assert same == [True if name == "at" else not one for one in late], name


@pytest.mark.kafka
@pytest.mark.parametrize("time", ['time = "at"', ""])
def test_a_topic_is_poisoned_as_it_is_read(
    folder: Path, kafka_cluster: KafkaCluster, topic: Callable[..., str], time: str
) -> None:
    name = topic("leaks", partitions=2)
    producer = confluent_kafka.Producer({"bootstrap.servers": kafka_cluster.bootstrap})
    for i, row in enumerate(bids(8).to_pylist()):
        value = json.dumps({"at": row["at"].isoformat(), "bidder": row["bidder"], "price": row["price"]}).encode()
        producer.produce(name, value, partition=i % 2, timestamp=int(row["at"].timestamp() * 1000))
    assert producer.flush(30) == 0
    declared = 'columns = { at = "timestamp[us, UTC]", bidder = "int64", price = "float64" }'
    with (folder / "hindscan.toml").open("a") as file:
        file.write(f'\n[kafka.default]\n"bootstrap.servers" = "{kafka_cluster.bootstrap}"\n')
        file.write(f'[history.log]\ntopic = "{name}"\n{time}\n{declared}\nslice_rows = 30\n')
        file.write(f'[history.log_now]\ntopic = "{name}"\n{time}\n{declared}\nas_of = "ignore"\n')
    found = hs.leaktest("totals", as_of=T, histories={"bids": "log"}, project=folder)
    assert found.clean, found
    assert found.poisoned["log"] is None
    if time:
        leaky = hs.leaktest("totals", as_of=T, histories={"bids": "log_now"}, project=folder)
        assert any("history log_now, column price" in leak for leak in leaky.leaks), leaky
