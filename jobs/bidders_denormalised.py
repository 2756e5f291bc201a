"""Who bid on what: each bidder and auction of one category, joined with the item, its seller and the bidder's home."""

from __future__ import annotations

from typing import TYPE_CHECKING

import hindscan as hs

if TYPE_CHECKING:
    import pyarrow as pa


@hs.job(history="bids", tables={"auctions": "auctions", "persons": "persons"})
def bidders_denormalised(bids: hs.Data, category: str = "cars") -> pa.Table:
    """Bids of every bidder on every auction of one category, with names instead of numbers.

    One row per bidder and auction, ordered by both. Prices are in cents.
    """
    return bids.sql(
        """
        SELECT bidder, auction, count(*) AS bids, max(price) AS top, max(date_time) AS last
        FROM bids WHERE category = $category
        GROUP BY ALL ORDER BY ALL
        """,
        category=category,
    )


@bidders_denormalised.combine
def merge(partials: hs.Data) -> pa.Table:
    """Add up the same bidder and auction."""
    return partials.sql(
        """
        SELECT bidder, auction, sum(bids)::BIGINT AS bids, max(top) AS top, max(last) AS last
        FROM partials GROUP BY ALL ORDER BY ALL
        """
    )


# Joined at the end: the slices do not see the tables, so that a changed name recomputes none of them.
@bidders_denormalised.finish
def named(
    combined: hs.Data,
    auctions: hs.Data,  # noqa: ARG001 (the query names it)
    persons: hs.Data,  # noqa: ARG001 (the query names it)
) -> pa.Table:
    """Put names to the numbers; who or what is not known stays null."""
    return combined.sql(
        """
        SELECT bidder, who.name, who.city, who.state, auction, item, seller, owner.name AS seller_name, bids, top, last
        FROM combined
        LEFT JOIN auctions ON auctions.id = combined.auction
        LEFT JOIN persons AS who ON who.id = combined.bidder
        LEFT JOIN persons AS owner ON owner.id = auctions.seller
        ORDER BY bidder, auction
        """
    )
