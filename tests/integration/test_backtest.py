"""A backtest over the committed sample: every forecast is what a plain loop over the rows before the event says."""

from __future__ import annotations

import datetime as dt
import shutil
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import hindscan as hs
from hindscan.backtesting import forecast_of
from hindscan.config_file import load_project
from hindscan.errors import UsageError
from hindscan.events.event import Event
from hindscan.runs.ledger import Entry, record
from hindscan.runs.store import open_store

CHECKOUT = Path(__file__).parents[2]

JOBS = '''
import hindscan as hs


@hs.job(history="bids")
def usual_price(bids: hs.Data, category: str):
    """Mean bid of a category so far."""
    return bids.sql("SELECT sum(price)::BIGINT AS total, count(*) AS bids FROM bids WHERE category = $category", category=category)


@usual_price.combine
def merge(partials: hs.Data):
    return partials.sql("SELECT sum(total)::BIGINT AS total, sum(bids)::BIGINT AS bids FROM partials")


@usual_price.finish
def mean(combined: hs.Data):
    return combined.sql("SELECT total / bids AS mean FROM combined")


@hs.job(history="bids", combine="concat")
def all_prices(bids: hs.Data, category: str):
    """Every bid of a category so far, one draw each."""
    return bids.sql("SELECT price FROM bids WHERE category = $category AND price > 0", category=category)


@hs.simulation(calibrate=all_prices, draws=4000, block_size=1000)
def drawn_price(block: hs.Block, model):
    """A bid as they were so far."""
    prices = model["price"].to_numpy()
    if prices.size < 1000:
        raise ValueError("too few bids so far")
    return prices[block.rng.integers(prices.size, size=block.size)]
'''

PROJECT = """
[compute]
workers = 1

[history.bids]
parquet = "data/bids"
time = "date_time"

[history.auctions]
parquet = "data/auctions"
time = "date_time"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("backtest")
    shutil.copytree(CHECKOUT / "data", folder / "data")
    (folder / "jobs").mkdir()
    (folder / "jobs" / "prices.py").write_text(JOBS)
    (folder / "hindscan.toml").write_text(PROJECT)
    return folder


@pytest.fixture(scope="module")
def bids() -> pa.Table:
    return pq.read_table(CHECKOUT / "data" / "bids").select(["date_time", "category", "price"])


def closing(n: int) -> pa.Table:
    """Every n-th art auction that closed in the second half of 2018."""
    return duckdb.sql(f"""
        SELECT id, category, expires, reserve FROM '{CHECKOUT}/data/auctions/*.parquet'
        WHERE category = 'art' AND expires >= '2018-07-01' AND expires < '2019-01-01' ORDER BY expires
    """).to_arrow_table()[::n]  # fmt: skip


def prices_before(bids: pa.Table, time: dt.datetime) -> np.ndarray:
    keep = (bids["date_time"].to_numpy() < np.datetime64(time.replace(tzinfo=None), "us")) & (
        bids["category"].to_numpy(zero_copy_only=False) == "art"
    )
    return bids["price"].to_numpy()[keep]


def test_forecasts_scores_and_calibration_are_those_of_a_plain_loop(folder: Path, bids: pa.Table) -> None:
    happened = hs.events(table=closing(12), time="expires")
    assert len(happened) >= 5
    came = {event.id: 100.0 * (int(event.id) % 70) for event in happened}
    found = hs.backtest(
        "all_prices", happened, lambda event: came[event.id], parameters={"category": "art"}, level=0.8, project=folder
    )
    rows = found.table.to_pylist()
    inside, miss, squares = [], [], []
    for event, row in zip(happened, rows, strict=True):
        prices, y = prices_before(bids, event.time), came[event.id]
        low, median, high = np.quantile(prices, [0.1, 0.5, 0.9])
        assert (row["event"], row["time"], row["outcome"], row["error"]) == (event.id, event.time, y, None)
        assert [row[name] for name in ("forecast", "low", "median", "high")] == pytest.approx([prices.mean(), low, median, high])  # fmt: skip
        assert row["pit"] == pytest.approx(((prices < y).mean() + (prices <= y).mean()) / 2)
        inside.append(low <= y <= high)
        miss.append(abs(median - y))
        squares.append((prices.mean() - y) ** 2)
    assert found.calibration["inside"] == pytest.approx(np.mean(inside))
    assert found.scores["mae"] == pytest.approx(np.mean(miss))
    assert found.scores["rmse"] == pytest.approx(np.mean(squares) ** 0.5)
    assert f"{len(happened)} events" in repr(found)
    assert len({row["snapshot"] for row in rows}) == len(rows)


def test_from_event_to_event_only_the_slices_are_computed_that_the_time_cuts(folder: Path) -> None:
    happened = hs.events(table=closing(12), time="expires")
    found = hs.backtest("usual_price", happened, "reserve", parameters=lambda e: {"category": e["category"]}, project=folder)  # fmt: skip
    computed, reused = found.table["computed"].to_pylist(), found.table["reused"].to_pylist()
    assert reused[0] == 0
    # A file holds a month. Later events: the cut one, and what an earlier event had not reached or had cut.
    assert max(computed[1:]) <= 3, computed
    assert min(reused[1:]) >= 18, reused


def test_a_simulation_is_scored_by_its_quantiles_and_a_failed_run_by_nothing(folder: Path) -> None:
    when = [dt.datetime(2017, 1, 3, tzinfo=dt.UTC), dt.datetime(2018, 6, 1, tzinfo=dt.UTC)]
    table = pa.table({"id": ["early", "late"], "at": pa.array(when, pa.timestamp("us", "UTC")), "came": [100, 900]})
    found = hs.backtest("drawn_price", hs.events(table=table, time="at"), "came", parameters={"category": "art"}, project=folder)  # fmt: skip
    early, late = found.table.to_pylist()
    assert "too few bids" in early["error"] or "JobFailed" in early["error"]
    assert early["forecast"] is None
    assert late["low"] < late["median"] < late["high"]
    assert 0 < late["pit"] < 1
    assert found.scores["events"] == 1


def test_events_of_the_ledger_come_by_type_and_time(folder: Path) -> None:
    project = load_project(folder)
    kinds = ["auction.closed", "auction.opened", "auction.closed", "auction.closed"]
    received = [
        Event(id=f"e{i}", source="/t", type=kind, time=f"2018-0{i}-01T00:00:00Z", data={"n": i})
        for i, kind in enumerate(kinds, 1)
    ]
    with open_store(project.store_url, project.root) as store:
        record(store, [Entry(event=event, way="http", decisions=()) for event in received])
    found = hs.events("auction.closed", "2018-01-01", "2018-04-01", project=folder)
    assert [(event.id, event["n"], event.time.month) for event in found] == [("e1", 1, 1), ("e3", 3, 3)]
    assert len(hs.events(project=folder)) == 4
    with pytest.raises(UsageError, match="must be before until"):
        hs.events("auction.closed", "2018-04-01", "2018-01-01", project=folder)


def test_events_of_a_history_are_its_rows(folder: Path) -> None:
    found = hs.events(history="auctions", time="expires", since="2018-03-01", until="2018-03-02", project=folder)
    ids = duckdb.sql(
        f"SELECT id::VARCHAR FROM '{CHECKOUT}/data/auctions/*.parquet' WHERE expires >= '2018-03-01' AND expires < '2018-03-02' ORDER BY expires"
    ).fetchall()
    assert [(event.id,) for event in found] == ids
    assert ids
    with pytest.raises(UsageError, match="time= must name the column"):
        hs.events(history="auctions", project=folder)
    with pytest.raises(UsageError, match="more are given"):
        hs.events("auction.closed", history="auctions", time="expires", project=folder)


def test_a_result_without_one_forecast_is_refused_by_name() -> None:
    two = pa.table({"a": [1.0], "b": [2.0]})
    with pytest.raises(UsageError, match="there are a, b"):
        forecast_of(two)
    assert forecast_of(two, "b").mean == 2.0
    statistics = pa.table({"name": ["x"], "mean": [1.0], "p05": [0.0], "p95": [2.0], "min": [-1.0], "max": [3.0]})
    assert forecast_of(statistics).quantiles == {0.05: 0.0, 0.95: 2.0, 0.0: -1.0, 1.0: 3.0}


def test_a_declared_statistic_is_a_forecast_by_its_name() -> None:
    rows = [("price", "mean", 2.0), ("shape", "count", 9.0), ("shape", "mean", 3.0), ("shares", "share of [0, 1)", 0.1), ("shares", "share of [1, 2)", 0.9)]  # fmt: skip
    table = pa.table(dict(zip(("name", "statistic", "value"), zip(*rows, strict=True), strict=True)))
    for name, value in (("price", 2.0), ("shape", 3.0)):
        found = forecast_of(table, name)
        assert (found.mean, found.spread) == (value, False)
    # Values of different statistics are no draws of one number.
    for wrong in (None, "value", "shares"):
        with pytest.raises(UsageError, match="there are price, shape, shares"):
            forecast_of(table, wrong)
    assert forecast_of(table.slice(0, 1)).mean == 2.0


def test_what_is_no_forecast_and_no_outcome_is_said(folder: Path) -> None:
    happened = hs.events(table=closing(40), time="expires")[:1]

    def tried(outcome: Any, forecast: Any = None) -> hs.Backtest:
        return hs.backtest("usual_price", happened, outcome, forecast=forecast, parameters={"category": "art"}, project=folder)  # fmt: skip

    with pytest.raises(
        UsageError, match=f"'price' is none of {happened[0].id}; there are id, category, expires, reserve"
    ):
        tried("price")
    with pytest.raises(UsageError, match="an outcome must be a number"):
        tried("category")
    for wrong in ({"quantiles": {0.5: 1.0}}, "dear", {"mean": None}):
        with pytest.raises(UsageError, match="must be a number, draws, or a dict"):
            tried("reserve", lambda table, wrong=wrong: wrong)
    with pytest.raises(UsageError, match="must lie between 0 and 1"):
        tried("reserve", lambda table: {"mean": 1.0, "quantiles": {5: 0.0, 95: 2.0}})
    with pytest.raises(UsageError, match=r"such as hs\.events gives"):
        hs.backtest("usual_price", [{"id": "x"}], "reserve", project=folder)  # type: ignore[list-item]
    # What is not known is no outcome, and what is no number no forecast: of neither there is a score.
    found = tried(lambda event: float("nan"), lambda table: float("nan") if table["mean"][0].as_py() is None else 1.0)
    assert (found.scores, found.table["outcome"].null_count) == ({"events": 0}, 1)
    found = tried("reserve", lambda table: None)
    assert (found.scores, found.table["error"].to_pylist()) == ({"events": 0}, ["no forecast: it must be a number, and is nan"])  # fmt: skip
    found = tried("reserve", lambda table: {"draws": [1, 2, 6]})
    assert found.table["forecast"].to_pylist() == [3.0]
