"""Who won each auction, and for how much."""

from __future__ import annotations

from typing import TYPE_CHECKING

import hindscan as hs

if TYPE_CHECKING:
    import pyarrow as pa

#: The highest bid of each auction; of equal ones the first, of equally early ones that of the lower bidder.
HIGHEST = """
    SELECT auction, unnest(arg_max(
        {bidder: bidder, price: price, date_time: date_time}, (price, -epoch_us(date_time), -bidder)
    ))
    FROM bids GROUP BY auction ORDER BY auction
"""


@hs.job(history="bids", tables={"auctions": "auctions"})
def winning_bids(bids: hs.Data) -> pa.Table:
    """Winning bid of every auction that has ended, and whether it reached the reserve.

    One row per auction with bids, ordered by auction: the winner, the price in cents, when it was bid, whether it is a sale.
    """
    return bids.sql(HIGHEST)


@winning_bids.combine
def merge(partials: hs.Data) -> pa.Table:
    """Take the highest of the highest."""
    return partials.sql(HIGHEST.replace("FROM bids", "FROM partials"))


@winning_bids.finish
def ended(
    combined: hs.Data,
    auctions: hs.Data,  # noqa: ARG001 (the query names it)
) -> pa.Table:
    """Keep the auctions that were over by the latest of the winning bids: the others may still get a higher one."""
    return combined.sql(
        """
        SELECT auction, item, category, seller, bidder, price, combined.date_time, price >= reserve AS sold
        FROM combined JOIN auctions ON auctions.id = combined.auction
        WHERE expires <= (SELECT max(date_time) FROM combined)
        ORDER BY auction
        """
    )
