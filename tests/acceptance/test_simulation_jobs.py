"""The simulation jobs of the project over the committed sample, against closed forms and plain numpy: within five standard errors."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest

import hindscan as hs
from hindscan import driver
from hindscan.config import Project
from hindscan.config_file import load_project
from hindscan.handle import Result
from hindscan.workshop import open_workshop

CHECKOUT = Path(__file__).parents[2]

PROJECT = """
[compute]
workers = 2

[history.bids]
parquet = "{data}/bids"
time = "date_time"

[history.auctions]
parquet = "{data}/auctions"
time = "date_time"
"""
BIDS = f"read_parquet('{CHECKOUT}/data/bids/**/*.parquet', hive_partitioning = false)"
AUCTIONS = f"read_parquet('{CHECKOUT}/data/auctions/*.parquet')"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(CHECKOUT / "jobs", folder / "jobs", ignore=shutil.ignore_patterns("__pycache__"))
    # A copy: the leak test sees whoever opens the files, and other tests read those of the checkout.
    shutil.copytree(CHECKOUT / "data", folder / "data")
    (folder / "hindscan.toml").write_text(PROJECT.format(data=folder / "data"))
    return folder


@pytest.fixture(scope="module", autouse=True)
def driven_here(site: Path):
    """Runs are handed over to one workshop of this process: a process for each would take most of the time."""
    with pytest.MonkeyPatch.context() as patch, open_workshop(load_project(site)) as workshop:

        def drive_it(_: Project, run: str) -> None:
            driver.drive(workshop, run)

        patch.setattr(driver, "hand_over", drive_it)
        yield


def run(site: Path, job: str, parameters: dict[str, Any] | None = None, **options: Any) -> Result:
    return hs.run(job, parameters, project=site, **options).wait(100, progress=False).result


def rows(query: str) -> np.ndarray:
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        return np.array(connection.sql(query).fetchall(), np.float64)


def test_revenue_is_that_of_theory_for_both_auctions(site: Path) -> None:
    result = run(site, "auction_theory", sweep={"bidders": [2, 3, 10]}, draws=200_000)
    found = {(row["bidders"], row["name"]): row for row in result.to_arrow().to_pylist()}
    assert len(found) == 9
    for n in (2, 3, 10):
        wanted = (n - 1) / (n + 1)
        scale = (n + 1) ** 2 * (n + 2)
        deviation = {"first_price": (n - 1) / n * math.sqrt(n / scale), "second_price": math.sqrt(2 * (n - 1) / scale)}
        for name, std in deviation.items():
            row = found[n, name]
            assert abs(row["mean"] - wanted) < 5 * std / math.sqrt(200_000), (n, name)
            assert row["std"] == pytest.approx(std, rel=0.02)
        difference = found[n, "difference"]
        assert abs(difference["mean"]) < 5 * difference["standard_error"]


def test_revenue_against_reserve_is_that_of_all_auctions_in_numpy(site: Path) -> None:
    reserves = [0, 2_000, 20_000, 200_000, 10**9]
    result = run(site, "reserve_revenue", {"category": "art"}, sweep={"reserve": reserves}, draws=100_000)
    found = {(row["reserve"], row["name"]): row for row in result.to_arrow().to_pylist()}
    best = rows(f"SELECT auction, bidder, max(price) AS price FROM {BIDS} WHERE category = 'art' GROUP BY ALL")
    first, second = [], []
    for auction in np.unique(best[:, 0]):
        prices = sorted(best[best[:, 0] == auction, 2], reverse=True)
        first.append(prices[0])
        second.append(prices[1] if len(prices) > 1 else 0.0)
    one, two = np.array(first), np.array(second)
    for reserve in reserves:
        revenue = np.where(one >= reserve, np.maximum(two, reserve), 0)
        row = found[reserve, "revenue"]
        assert abs(row["mean"] - revenue.mean()) <= 5 * revenue.std() / math.sqrt(100_000), reserve
        sold = (one >= reserve).mean()
        assert abs(found[reserve, "sold"]["mean"] - sold) <= 5 * 0.5 / math.sqrt(100_000)
    assert found[10**9, "revenue"]["mean"] == 0


def test_the_distribution_of_prices_is_that_of_the_past_and_has_a_chart(site: Path) -> None:
    result = run(site, "price_distribution", {"category": "cars"}, draws=200_000)
    table = result.to_arrow()
    prices = np.sort(rows(f"SELECT auction, max(price) FROM {BIDS} WHERE category = 'cars' GROUP BY ALL")[:, 1])
    assert sum(table["draws"].to_pylist()) == 200_000
    levels = np.linspace(0, 1, prices.size)
    for row in table.to_pylist():
        share = np.interp(row["high"], prices, levels) - np.interp(row["low"], prices, levels)
        assert abs(row["share"] - share) < 5 * math.sqrt(max(share, 1e-5) / 200_000), row
    assert result.manifest.charts == ("chart.vl.json",)
    chart = json.loads((result.folder / "chart.vl.json").read_text())
    assert chart["data"]["values"] == table.to_pylist()
    assert chart["mark"] == "bar"


def test_the_risk_of_a_portfolio_is_that_of_a_plain_loop(site: Path) -> None:
    day, level, draws = "2019-06-01", 0.95, 40_000
    (found,) = run(site, "portfolio_risk", {"day": day, "level": level}, as_of=day, draws=draws).to_arrow().to_pylist()
    auctions = rows(f"""
        SELECT dense_rank() OVER (ORDER BY a.category), max(b.price), any_value(a.expires >= TIMESTAMPTZ '{day}')::INT
        FROM {BIDS} b JOIN {AUCTIONS} a ON a.id = b.auction
        WHERE b.date_time < TIMESTAMPTZ '{day}' AND a.date_time < TIMESTAMPTZ '{day}' GROUP BY b.auction, a.category
    """)  # fmt: skip
    still_open = auctions[auctions[:, 2] == 1]
    assert len(still_open) > 3
    rng = np.random.default_rng(99)
    mean = variance = 0.0
    total = np.zeros(draws)
    for category, bid, _ in still_open:
        past = auctions[(auctions[:, 0] == category) & (auctions[:, 2] == 0), 1]
        fetched = np.maximum(past, bid)
        mean, variance = mean + fetched.mean(), variance + fetched.var()
        total += np.maximum(rng.choice(past, draws), bid)
    assert found["draws"] == draws
    assert abs(found["expected"] - mean) < 5 * math.sqrt(variance / draws)
    low = np.quantile(total, 1 - level)
    assert found["value_at_risk"] == pytest.approx(total.mean() - low, rel=0.05)
    assert found["expected_shortfall"] == pytest.approx(total.mean() - total[total <= low].mean(), rel=0.05)
    assert found["expected_shortfall"] > found["value_at_risk"] > 0


def test_the_risk_of_a_portfolio_sees_nothing_of_the_future(site: Path) -> None:
    found = hs.leaktest("portfolio_risk", as_of="2019-06-01", draws=20_000, project=site)
    assert found.clean, found
