"""What a house's open auctions may fetch together, and how bad a bad day is: value at risk and expected shortfall."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Annotated

import msgspec
import numpy as np

import hindscan as hs

if TYPE_CHECKING:
    import pyarrow as pa

Level = Annotated[
    float, msgspec.Meta(gt=0.5, lt=1, description="Of the value at risk: 0.95 is the worst day of twenty.")
]


@hs.job(history="bids", tables={"auctions": "auctions"})
def bid_so_far(bids: hs.Data) -> pa.Table:
    """Highest bid of every auction."""
    return bids.sql("SELECT auction, max(price) AS price FROM bids GROUP BY ALL ORDER BY ALL")


@bid_so_far.combine
def highest(partials: hs.Data) -> pa.Table:
    """Keep the highest bid of an auction whose bids are in several slices."""
    return partials.sql("SELECT auction, max(price) AS price FROM partials GROUP BY ALL ORDER BY ALL")


@bid_so_far.finish
def open_and_closed(combined: hs.Data, auctions: hs.Data, day: date = date(2019, 6, 1)) -> pa.Table:  # noqa: ARG001 -- named in the SQL
    """Tell apart the auctions that are open at the beginning of a day and those that have closed."""
    return combined.sql(
        """
        SELECT auctions.category, price, expires >= $day AS is_open FROM combined JOIN auctions ON auctions.id = auction
        WHERE auctions.date_time < $day ORDER BY is_open, auctions.category, auction
        """,
        day=datetime(day.year, day.month, day.day, tzinfo=UTC),
    )


@hs.simulation(calibrate=bid_so_far, combine="concat", draws=100_000, block_size=10_000)
def portfolio_risk(block: hs.Block, model: pa.Table) -> dict[str, object]:
    """What all open auctions fetch together, each like a closed one of its category, but not less than is bid already; in cents."""
    price, is_open = model["price"].to_numpy(), model["is_open"].to_numpy(zero_copy_only=False)
    category = model["category"].to_numpy(zero_copy_only=False)
    total = np.zeros(block.size)
    for kind in np.unique(category[is_open]):
        bid = price[is_open & (category == kind)]
        past = price[~is_open & (category == kind)]
        if not past.size:
            raise ValueError(f"no auction of category {kind!r} has closed before; choose a later day")
        total += np.maximum(hs.bootstrap(block, past, bid.size), bid).sum(axis=1)
    return {"total": total}


@portfolio_risk.finish
def risk(combined: hs.Data, level: Level = 0.95) -> dict[str, object]:
    """Take the value at risk and the expected shortfall: how much less than expected it is on the best of the bad days, and on average over them."""
    totals = np.sort(combined.arrow()["total"].to_numpy())
    worst = totals[: max(1, int(np.ceil((1 - level) * totals.size)))]
    expected = totals.mean()
    return {
        "draws": totals.size,
        "expected": expected,
        "value_at_risk": expected - worst[-1],
        "expected_shortfall": expected - worst.mean(),
    }
