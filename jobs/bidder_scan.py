"""Which bidders bid on one category in one year: how often, on how many auctions, how much."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import msgspec

import hindscan as hs

if TYPE_CHECKING:
    import pyarrow as pa

Year = Annotated[int, msgspec.Meta(ge=1, le=9998, description="Calendar year, in UTC.")]


@hs.job(history="bids")
def bidder_scan(bids: hs.Data, category: str = "cars", year: Year = 2018) -> pa.Table:
    """What every bidder bid on one category in one year.

    One row per bidder, ordered by bidder. Prices are in cents.
    """
    # By auction too: only then can the auctions of a bidder be counted across slices.
    return bids.sql(
        """
        SELECT bidder, auction, count(*) AS bids, sum(price)::BIGINT AS total, max(price) AS top,
               min(date_time) AS first, max(date_time) AS last
        FROM bids
        WHERE category = $category AND date_time >= $since AND date_time < $until
        GROUP BY ALL ORDER BY ALL
        """,
        category=category,
        since=datetime(year, 1, 1, tzinfo=UTC),
        until=datetime(year + 1, 1, 1, tzinfo=UTC),
    )


@bidder_scan.combine
def merge(partials: hs.Data) -> pa.Table:
    """Add up the same bidder and auction."""
    return partials.sql(
        """
        SELECT bidder, auction, sum(bids)::BIGINT AS bids, sum(total)::BIGINT AS total, max(top) AS top,
               min(first) AS first, max(last) AS last
        FROM partials GROUP BY ALL ORDER BY ALL
        """
    )


@bidder_scan.finish
def per_bidder(combined: hs.Data) -> pa.Table:
    """Count the auctions of each bidder."""
    return combined.sql(
        """
        SELECT bidder, sum(bids)::BIGINT AS bids, count(*) AS auctions, sum(total)::BIGINT AS total, max(top) AS top,
               min(first) AS first, max(last) AS last
        FROM combined GROUP BY ALL ORDER BY bidder
        """
    )
