"""What a reserve price earns: auctions of the past, sold again with one. Sweep it: -p reserve=0..200000..5000 --sweep."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec
import numpy as np
import numpy.typing as npt

import hindscan as hs

if TYPE_CHECKING:
    import pyarrow as pa

Reserve = Annotated[int, msgspec.Meta(ge=0, description="Least price the seller takes, in cents.")]


@hs.job(history="bids")
def top_two(bids: hs.Data, category: str = "art") -> pa.Table:
    """Highest bid of every bidder in every auction of a category."""
    return bids.sql(
        "SELECT auction, bidder, max(price) AS price FROM bids WHERE category = $category GROUP BY ALL ORDER BY ALL",
        category=category,
    )


@top_two.combine
def merge(partials: hs.Data) -> pa.Table:
    """Keep the highest bid of the same bidder in the same auction."""
    return partials.sql("SELECT auction, bidder, max(price) AS price FROM partials GROUP BY ALL ORDER BY ALL")


@top_two.finish
def two_of_each(combined: hs.Data) -> pa.Table:
    """Take what the two keenest bidders of each auction would pay; nothing for a second one who never came."""
    return combined.sql(
        """
        SELECT auction, list(price ORDER BY price DESC)[1] AS first, coalesce(list(price ORDER BY price DESC)[2], 0) AS second
        FROM combined GROUP BY auction ORDER BY auction
        """
    )


@hs.simulation(calibrate=top_two)
def reserve_revenue(block: hs.Block, model: pa.Table, reserve: Reserve = 0) -> dict[str, npt.NDArray[np.float64]]:
    """What an auction with a reserve earns, in cents, and whether it is sold: the second highest price, but not less than the reserve."""
    auctions = np.column_stack([model["first"].to_numpy(), model["second"].to_numpy()])
    first, second = hs.bootstrap(block, auctions, 1)[:, 0, :].T
    sold = first >= reserve
    return {
        "revenue": np.where(sold, np.maximum(second, reserve), 0).astype(np.float64),
        "sold": sold.astype(np.float64),
    }
