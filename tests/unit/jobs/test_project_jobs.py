"""The jobs of this project against DuckDB over the same rows, however the rows are cut into slices."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from hindscan.data import Data, TableSource
from hindscan.history.snapshot import DrawPin, DrawSlice
from hindscan.jobs import statistics
from hindscan.jobs.code import load
from hindscan.jobs.registry import Registered, load_folder
from hindscan.jobs.returned import to_model, to_model_table, to_table
from hindscan.jobs.simulation import simulate

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def jobs() -> Registered:
    found = load_folder(ROOT, ROOT / "jobs")
    assert not found.faults
    return found


@pytest.fixture(scope="module")
def bids() -> pa.Table:
    """Random bids in no order of time, as slices of a topic are: so no auction or hour keeps to one slice."""
    rng = np.random.default_rng(5)
    n = 4_000
    times = np.datetime64("2017-12-20", "us") + rng.integers(0, 400 * 24 * 60, n) * np.timedelta64(
        60_000_001, "us"
    ) // rng.choice([1, 40], n)
    return pa.table(
        {
            "auction": rng.integers(1, 40, n),
            "bidder": rng.integers(1, 60, n),
            "price": rng.integers(100, 100_000, n),
            "channel": ["web"] * n,
            "category": rng.choice(["cars", "art"], n),
            "date_time": pa.array(times, pa.timestamp("us", "UTC")),
        }
    )


@pytest.fixture(scope="module")
def auctions() -> pa.Table:
    return pa.table({"id": list(range(1, 38)), "item": [f"item {i}" for i in range(1, 38)], "category": ["cars"] * 37})


def data(name: str, table: pa.Table, **others: pa.Table) -> Data:
    return Data(name, {n: TableSource(t) for n, t in {name: table, **others}.items()})


def scanned(steps: Any, prefix: str, table: pa.Table, cuts: int, combine: dict[str, Any], **values: Any) -> pa.Table:
    """Cut, compute each slice, combine pairwise from the left, as a tree of another shape would."""
    each, merge = (steps["slice"], steps["combine"]) if not prefix else (steps["calibrate"], steps["calibrate_combine"])
    edges = np.linspace(0, table.num_rows, cuts + 1).astype(int)
    partials = [
        to_table(each(data("bids", table.slice(a, b - a)), **values), "slice") for a, b in itertools.pairwise(edges)
    ]
    while len(partials) > 1:
        together = pa.concat_tables(partials[:2])
        partials = [to_table(merge(data("partials", together), **combine), "combine"), *partials[2:]]
        assert partials[0].schema == together.schema
    return partials[0]


def asked(query: str, **tables: pa.Table) -> pa.Table:
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for name, table in tables.items():
            connection.register(name, table)
        return to_table(connection.sql(query).to_arrow_table(), "oracle")


cut = pytest.mark.parametrize("cuts", [1, 2, 7])


@cut
def test_bidder_scan_is_what_one_query_over_all_rows_says(jobs: Registered, bids: pa.Table, cuts: int) -> None:
    steps = load(jobs.jobs["bidder_scan"][1])
    combined = scanned(steps, "", bids, cuts, {}, category="cars", year=2018)
    result = to_table(steps["finish"](data("combined", combined)), "finish")
    expected = asked(
        """SELECT bidder, count(*) AS bids, count(DISTINCT auction) AS auctions, sum(price)::BIGINT AS total, max(price) AS top,
                  min(date_time) AS first, max(date_time) AS last
           FROM bids WHERE category = 'cars' AND year(date_time) = 2018 GROUP BY bidder ORDER BY bidder""",
        bids=bids,
    )
    assert result.num_rows > 20
    assert result.equals(expected)
    assert [str(t) for t in result.schema.types] == ["int64"] * 5 + ["timestamp[us, tz=UTC]"] * 2


@cut
def test_hot_items_finds_windows_across_the_borders_of_slices(
    jobs: Registered, bids: pa.Table, auctions: pa.Table, cuts: int
) -> None:
    steps = load(jobs.jobs["hot_items"][1])
    combined = scanned(steps, "", bids, cuts, {}, step_minutes=10)
    result = to_table(
        steps["finish"](
            data("combined", combined, auctions=auctions),
            data("auctions", auctions),
            step_minutes=10,
            window_minutes=55,
            top=5,
        ),
        "finish",
    )
    # Every window of six steps that begins at some bid's step, by brute force.
    minutes = bids["date_time"].cast(pa.int64()).to_numpy() // 600_000_000
    auction = bids["auction"].to_numpy()
    best = []
    for one in np.unique(auction):
        mine = minutes[auction == one]
        counts = {int(s): int(((mine >= s) & (mine < s + 6)).sum()) for s in np.unique(mine)}
        most = max(counts.values())
        best.append((-most, int(one), min(s for s, c in counts.items() if c == most)))
    assert [
        (-row["bids"], row["auction"], int(row["start"].timestamp()) // 600) for row in result.to_pylist()
    ] == sorted(best)[:5]
    for row in result.to_pylist():
        assert (row["end"] - row["start"]).total_seconds() == 3600
        assert row["item"] == (f"item {row['auction']}" if row["auction"] <= 37 else None)


@cut
def test_closing_price_draws_from_the_auctions_with_nearest_bidders(
    jobs: Registered, bids: pa.Table, cuts: int
) -> None:
    spec, code = jobs.jobs["closing_price"]
    assert (spec.history, spec.combine, spec.calibrate_combine) == ("bids", "statistics", "function")
    steps = load(code)
    combined = scanned(steps, "calibrate", bids, cuts, {}, category="cars", year=2018)
    model = to_model(to_model_table(steps["calibrate_finish"](data("combined", combined)), "calibrate_finish"))
    expected = asked(
        """SELECT auction, max(price) AS price, count(DISTINCT bidder) AS bidders FROM bids
           WHERE category = 'cars' AND year(date_time) = 2018 GROUP BY auction ORDER BY auction""",
        bids=bids,
    )
    assert expected.equals(model)  # type: ignore[arg-type]

    each: Callable[..., Any] = steps["slice"]
    partial = simulate(
        lambda block: each(block, model, bidders=30), DrawSlice(position=0, start=0, end=200_000),
        DrawPin(draws=200_000, seed=3, block_size=spec.block_size), built_in=True, name="closing_price",
    )  # fmt: skip
    (row,) = statistics.finish(partial).to_pylist()
    prices = expected["price"].to_numpy()  # fewer than a hundred auctions: all of them are comparable
    assert row["name"] == "closing_price"
    assert abs(row["mean"] - prices.mean()) < 4 * row["standard_error"]
    assert row["std"] == pytest.approx(prices.std(), rel=0.02)
    assert (row["min"], row["max"]) == (prices.min(), prices.max())


def test_closing_price_takes_exactly_those_with_that_many_bidders_where_there_are_enough(jobs: Registered) -> None:
    each = load(jobs.jobs["closing_price"][1])["slice"]
    model = pa.table({"auction": range(400), "price": range(400), "bidders": [i % 2 + 1 for i in range(400)]})

    class Fixed:
        size = 1000
        rng = np.random.default_rng(0)

    assert set(np.asarray(each(Fixed(), model, bidders=2)) % 2) == {1}
    with pytest.raises(ValueError, match="no auction of this category"):
        each(Fixed(), model.slice(0, 0))


def test_editing_finish_changes_the_digest_of_no_other_step(jobs: Registered, tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    text = (ROOT / "jobs/bidder_scan.py").read_text()
    (tmp_path / "jobs/bidder_scan.py").write_text(
        "# moved\n" + text.replace("FROM combined GROUP BY ALL", "FROM combined GROUP BY bidder")
    )
    before, after = jobs.jobs["bidder_scan"][0], load_folder(tmp_path, tmp_path / "jobs").jobs["bidder_scan"][0]
    changed = {name for name in before.steps if before.steps[name].digest != after.steps[name].digest}
    assert changed == {"finish"}


def test_editing_close_or_the_start_changes_the_digest_of_no_other_step(jobs: Registered, tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    text = (ROOT / "jobs/bidder_sessions.py").read_text()
    before = jobs.jobs["bidder_sessions"][0]
    assert set(before.steps) == {"slice", "start", "close", "combine", "finish"}
    for old, new, changed in (
        ("return ended(state.arrow())", "return ended(state.arrow().slice(0))", {"close"}),
        ('"last": at}).empty_table()', '"last": at}).empty_table().slice(0)', {"start"}),
    ):
        assert text.count(old) == 1
        (tmp_path / "jobs/bidder_sessions.py").write_text(text.replace(old, new))
        after = load_folder(tmp_path, tmp_path / "jobs").jobs["bidder_sessions"][0]
        assert {name for name in before.steps if before.steps[name].digest != after.steps[name].digest} == changed


@cut
@pytest.mark.parametrize("order", ["time", "arrival"])
def test_price_jumps_are_those_over_the_bid_before_in_the_order_of_rows(
    jobs: Registered, bids: pa.Table, cuts: int, order: str
) -> None:
    steps = load(jobs.jobs["price_jumps"][1])
    table = bids.sort_by("date_time") if order == "time" else bids
    state, found = steps["start"](), []
    for a, b in itertools.pairwise(np.linspace(0, table.num_rows, cuts + 1).astype(int)):
        sources = {"bids": TableSource(table.slice(a, b - a)), "state": TableSource(state)}
        partial, state = steps["slice"](Data("bids", sources), Data("state", sources), least=30_000)
        found.append(partial)
    last: dict[int, int] = {}
    expected = []
    for row in table.to_pylist():
        jump = row["price"] - last.get(row["auction"], row["price"])
        if jump >= 30_000:
            expected.append({name: row[name] for name in ("auction", "bidder", "date_time", "price")} | {"jump": jump})
        last[row["auction"]] = row["price"]
    assert len(expected) > 300
    assert pa.concat_tables(found).to_pylist() == expected
    assert {row["auction"]: row["price"] for row in state.to_pylist()} == last
