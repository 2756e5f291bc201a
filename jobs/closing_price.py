"""What an auction will fetch: closing prices drawn again from comparable auctions of the past."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import msgspec
import numpy as np
import numpy.typing as npt

import hindscan as hs

if TYPE_CHECKING:
    import pyarrow as pa

Year = Annotated[int, msgspec.Meta(ge=1, le=9998, description="Calendar year, in UTC.")]
Bidders = Annotated[int, msgspec.Meta(ge=1, description="How many bidders the auction is expected to have.")]

#: Auctions to draw from at least: those whose number of bidders is nearest.
COMPARABLE = 100


@hs.job(history="bids")
def closing_prices(bids: hs.Data, category: str = "cars", year: Year = 2018) -> pa.Table:
    """Closing price and number of bidders of every auction of one category in one year."""
    return bids.sql(
        """
        SELECT auction, bidder, max(price) AS price FROM bids
        WHERE category = $category AND date_time >= $since AND date_time < $until
        GROUP BY ALL ORDER BY ALL
        """,
        category=category,
        since=datetime(year, 1, 1, tzinfo=UTC),
        until=datetime(year + 1, 1, 1, tzinfo=UTC),
    )


@closing_prices.combine
def merge(partials: hs.Data) -> pa.Table:
    """Keep the highest bid of the same bidder in the same auction."""
    return partials.sql("SELECT auction, bidder, max(price) AS price FROM partials GROUP BY ALL ORDER BY ALL")


@closing_prices.finish
def per_auction(combined: hs.Data) -> pa.Table:
    """Take the highest bid as the closing price, and count the bidders."""
    return combined.sql(
        "SELECT auction, max(price) AS price, count(*) AS bidders FROM combined GROUP BY auction ORDER BY auction"
    )


@hs.simulation(calibrate=closing_prices)
def closing_price(block: hs.Block, model: pa.Table, bidders: Bidders = 8) -> npt.NDArray[np.int64]:
    """What an auction with so many bidders will fetch, in cents."""
    prices: npt.NDArray[np.int64] = model["price"].to_numpy()
    if not prices.size:
        raise ValueError("no auction of this category and year has bids; choose others")
    distance = np.abs(model["bidders"].to_numpy() - bidders)
    nearest = np.sort(distance)[: max(COMPARABLE, int((distance == 0).sum()))][-1]
    pool: npt.NDArray[np.int64] = prices[distance <= nearest]
    return pool[block.rng.integers(pool.size, size=block.size)]
