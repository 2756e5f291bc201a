"""What every seller earned: the highest bid of each of their auctions, where it reached the reserve."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import msgspec

import hindscan as hs

if TYPE_CHECKING:
    import pyarrow as pa

Year = Annotated[int, msgspec.Meta(ge=1, le=9998, description="Calendar year in which the auctions end, in UTC.")]


@hs.job(history="bids", tables={"auctions": "auctions", "persons": "persons"})
def sellers_revenue(bids: hs.Data) -> pa.Table:
    """Revenue of every seller from the auctions that ended in one year; the best first.

    One row per seller with bids: auctions, sales, revenue and best sale in cents.
    """
    return bids.sql("SELECT auction, max(price) AS price FROM bids GROUP BY auction ORDER BY auction")


@sellers_revenue.combine
def merge(partials: hs.Data) -> pa.Table:
    """Take the highest of the highest."""
    return partials.sql("SELECT auction, max(price) AS price FROM partials GROUP BY auction ORDER BY auction")


# The year is named here alone: another year computes no slice again.
@sellers_revenue.finish
def per_seller(
    combined: hs.Data,
    auctions: hs.Data,  # noqa: ARG001 (the query names it)
    persons: hs.Data,  # noqa: ARG001 (the query names it)
    year: Year = 2018,
) -> pa.Table:
    """Add up the sales of each seller."""
    return combined.sql(
        """
        WITH ended AS (
            SELECT seller, price, price >= reserve AS sold
            FROM combined JOIN auctions ON auctions.id = combined.auction
            WHERE expires >= $since AND expires < $until
        )
        SELECT seller, any_value(name) AS name, count(*) AS auctions, count(*) FILTER (sold) AS sales,
               coalesce(sum(price) FILTER (sold), 0)::BIGINT AS revenue, max(price) FILTER (sold) AS best
        FROM ended LEFT JOIN persons ON persons.id = ended.seller
        GROUP BY seller ORDER BY revenue DESC, seller
        """,
        since=datetime(year, 1, 1, tzinfo=UTC),
        until=datetime(year + 1, 1, 1, tzinfo=UTC),
    )
