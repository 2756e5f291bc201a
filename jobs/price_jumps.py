"""Bids that raised the price of their auction by much over the bid before: the order of events decides, so slices go one after another."""

from __future__ import annotations

from typing import Annotated

import msgspec
import pyarrow as pa

import hindscan as hs

Cents = Annotated[int, msgspec.Meta(ge=1, description="How much more than the bid before it, in cents.")]


def no_prices() -> pa.Table:
    """Before its first bid an auction has no price. One row per auction that has a bid; grows with the number of auctions."""
    return pa.schema({"auction": pa.int64(), "price": pa.int64()}).empty_table()


@hs.job(history="bids", order="partition", state=no_prices, combine="concat")
def price_jumps(
    bids: hs.Data,
    state: hs.Data,  # noqa: ARG001 (the query names it)
    least: Cents = 50_000,
) -> tuple[pa.Table, pa.Table]:
    """Bids that raised the price of their auction by at least so much over the bid before, in the order of their partition.

    One row per such bid. Right wherever the bids of one auction lie in one partition: in files, and in a topic whose key is the auction.
    """
    found = bids.sql(
        """
        WITH placed AS (
            SELECT 0 AS place, auction, NULL AS bidder, price, NULL AS date_time FROM state
            UNION ALL
            SELECT row_number() OVER () AS place, auction, bidder, price, date_time FROM bids
        ), raised AS (
            SELECT *, price - lag(price) OVER in_order AS jump, lead(place) OVER in_order IS NULL AS is_last
            FROM placed WINDOW in_order AS (PARTITION BY auction ORDER BY place)
        )
        SELECT *, place > 0 AND coalesce(jump >= $least, false) AS is_jump
        FROM raised WHERE is_jump OR is_last ORDER BY place, auction
        """,
        least=least,
    )
    jumps = found.filter(found["is_jump"]).select(["auction", "bidder", "date_time", "price", "jump"])
    return jumps, found.filter(found["is_last"]).select(["auction", "price"])
