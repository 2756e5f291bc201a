"""Accounts that bid up the auctions of one seller and never win them: a shill ring."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec

import hindscan as hs

if TYPE_CHECKING:
    import pyarrow as pa

Share = Annotated[float, msgspec.Meta(gt=0, le=1)]
Count = Annotated[int, msgspec.Meta(ge=2)]


@hs.job(history="bids", tables={"auctions": "auctions"})
def shill_ring(bids: hs.Data) -> pa.Table:
    """Bidders who bid mostly on one seller's auctions, on most of them, and win none; only where several do so together.

    One row per bidder, ordered by seller and bidder: in how many of the seller's auctions, how many bids, and which share of all they bid.

    Parameters
    ----------
    least_auctions
        Of the seller, with bids of the bidder: fewer show nothing.
    least_share
        Of the bidder's bids that go to the seller, and of the seller's auctions that the bidder bids on.
    least_bidders
        Who do so with the same seller.
    """
    return bids.sql(
        "SELECT auction, bidder, count(*) AS bids, max(price) AS top FROM bids GROUP BY ALL ORDER BY auction, bidder"
    )


@shill_ring.combine
def merge(partials: hs.Data) -> pa.Table:
    """Add up the same auction and bidder."""
    return partials.sql(
        """
        SELECT auction, bidder, sum(bids)::BIGINT AS bids, max(top) AS top
        FROM partials GROUP BY ALL ORDER BY auction, bidder
        """
    )


@shill_ring.finish
def suspicious(
    combined: hs.Data,
    auctions: hs.Data,  # noqa: ARG001 (the query names it)
    least_auctions: Count = 5,
    least_share: Share = 0.5,
    least_bidders: Count = 2,
) -> pa.Table:
    """Look at every pair of a seller and a bidder."""
    return combined.sql(
        """
        WITH placed AS (
            SELECT seller, auction, bidder, bids, top = max(top) OVER (PARTITION BY auction) AS won
            FROM combined JOIN auctions ON auctions.id = combined.auction
        ), pair AS (
            SELECT seller, bidder, count(*) AS auctions, sum(bids)::BIGINT AS bids, bool_or(won) AS has_won FROM placed GROUP BY ALL
        ), shares AS (
            SELECT *, bids / sum(bids) OVER (PARTITION BY bidder) AS share,
                   auctions / (SELECT count(DISTINCT auction) FROM placed WHERE placed.seller = pair.seller) AS coverage
            FROM pair
        )
        SELECT seller, bidder, auctions, bids, share
        FROM shares WHERE auctions >= $auctions AND NOT has_won AND share >= $share AND coverage >= $share
        QUALIFY count(*) OVER (PARTITION BY seller) >= $bidders
        ORDER BY seller, bidder
        """,
        auctions=least_auctions,
        share=least_share,
        bidders=least_bidders,
    )
